"""A Ray cluster that is named but is not there."""

import time
from dataclasses import replace

import pytest

from flows.choosing.choice import prepare
from tasks.training.cluster import check_answers, connect
from tests.flows.choices import CHOICE
from tests.ports import kept_port
from tinygptv_core.plain import ConfigError


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "[::1]:{}"])
def test_an_address_on_which_nobody_listens_is_refused_at_once(address):
    named, before = address.format(kept_port()), time.monotonic()
    with pytest.raises(ConfigError, match="no Ray cluster answers at .*\n  if it asks for a token"):
        connect(named)
    assert time.monotonic() - before < 10


def test_a_port_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1:70000: Port out of range"):
        check_answers("127.0.0.1:70000")


@pytest.mark.parametrize("address", ["nope", "10.0.0.1", "[::1]", "autoo"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match="^--ray-address .* it must be HOST:PORT, as in 10.0.0.1:6379, or auto"):
        check_answers(address)


@pytest.mark.parametrize("address", ["auto", "local"])
def test_of_a_name_only_ray_knows_what_it_means(address):
    check_answers(address)


def test_a_run_is_refused_before_it_begins_and_a_plan_needs_no_cluster(tmp_path):
    choice = replace(CHOICE, home=tmp_path / "home", ray_address=f"127.0.0.1:{kept_port()}")
    with pytest.raises(ConfigError, match="no Ray cluster answers"):
        prepare(choice, writes=True)
    assert prepare(choice, writes=False).planned
