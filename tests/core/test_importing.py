import gc
from contextlib import ExitStack

import pytest

from tinygptv_core.importing import importing


@pytest.fixture(autouse=True)
def collecting():
    was = gc.isenabled()
    yield
    (gc.enable if was else gc.disable)()


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_left_lying_meanwhile_and_then_collected_if_it_was(collects):
    (gc.enable if collects else gc.disable)()
    with pytest.raises(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() == collects


def test_it_is_collected_again_when_the_last_of_several_has_left_in_any_order():
    gc.enable()
    first, second, third = ExitStack(), ExitStack(), ExitStack()
    first.enter_context(importing())
    second.enter_context(importing())
    first.close()
    assert not gc.isenabled()
    third.enter_context(importing())
    second.close()
    assert not gc.isenabled()
    third.close()
    assert gc.isenabled()
