import gc

import pytest

from tinygptv_core.importing import importing


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_left_lying_meanwhile_and_then_collected_if_it_was(collects):
    was = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        with pytest.raises(ImportError), importing():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == collects
    finally:
        (gc.enable if was else gc.disable)()
