"""A registry on a server that wants an account, as those of compose and Kubernetes do."""

import json
from base64 import b64encode

import pytest

from tasks.registering.registry import versions
from tests.tasks.web import Handler, serving
from tinygptv_core.plain import ConfigError

USER = "\u00e4"
BASIC = f"Basic {b64encode(f'{USER}:p:ss'.encode()).decode()}"
ROW = {"name": "m", "version": "1", "source": "s3://mlflow/1", "tags": [{"key": "k", "value": "v"}]}


class Registry(Handler):
    """MLflow's, of one model: who does not say `wanted` gets nothing."""

    def respond(self, name):
        self.told.append(self.headers["Authorization"])
        if self.told[-1] != self.wanted:
            self.answer(401, b"You are not authenticated.")
        elif name.startswith("api/2.0/mlflow/registered-models/get?"):
            self.answer(200, b'{"registered_model": {"aliases": [{"alias": "champion", "version": "1"}]}}')
        else:
            self.answer(200, json.dumps({"model_versions": [ROW]}).encode())


class Elsewhere(Handler):
    """Sends everybody on to another address."""

    def respond(self, name):
        self.answer(302, b"", Location=f"{self.to}/{name}")


@pytest.fixture
def account(monkeypatch):
    """Sets what the environment names, and nothing else of the three."""

    def set_to(**named):
        for name in ("USERNAME", "PASSWORD", "TOKEN"):
            monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
        for name, value in named.items():
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name.upper()}", value)

    set_to()
    return set_to


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        ({"username": USER, "password": "p:ss"}, BASIC),
        ({"token": "a-token\n"}, "Bearer a-token"),
        ({"username": USER, "password": "p:ss", "token": "a-token"}, BASIC),
        ({"username": USER, "token": "a-token"}, "Bearer a-token"),
        ({"username": USER}, None),
    ],
)
def test_a_server_is_told_the_account_that_mlflows_client_would_tell_it(account, named, wanted):
    account(**named)
    with serving(Registry, wanted=wanted, told=[]) as (server, url):
        (found,) = versions(url, "m")
    assert (found.aliases, found.tags, server.told) == (("champion",), {"k": "v"}, [wanted, wanted])


@pytest.mark.parametrize("named", [{}, {"username": USER, "password": "wrong"}])
def test_who_has_no_account_is_told_how_to_name_one(account, named):
    account(**named)
    way_out = "401: .* Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    with serving(Registry, wanted=BASIC, told=[]) as (_, url), pytest.raises(ConfigError, match=way_out) as raised:
        versions(url, "m")
    assert "wrong" not in str(raised.value)


@pytest.mark.parametrize("token", ["sEcReT\nmore", "sEcReT\u2028more"])
def test_a_token_that_is_none_is_refused_and_not_told(account, token):
    account(token=token)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_TOKEN has a line break") as raised:
        versions("http://127.0.0.1:9", "m")
    assert "sEcReT" not in str(raised.value)


def test_whoever_a_server_sends_on_to_learns_no_password(account):
    account(username=USER, password="p:ss")
    with serving(Registry, wanted=None, told=[]) as (server, url), serving(Elsewhere, to=url) as (_, first):
        assert len(versions(first, "m")) == 1
    assert server.told == [None, None]
