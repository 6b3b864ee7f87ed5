"""What the MLflow registry holds, read without MLflow: its import alone takes longer than a plan may.

A registry is named by its tracking URI. `sqlite:///FILE` is read with the standard library's sqlite3,
`http(s)://` by MLflow's REST API, with the account or the token that MLflow's own client would send.
"""

import json
import os
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from tinygptv_core.plain import ConfigError, nearest

MODEL_TAG = "tinygptv.model"
CHECKPOINT_TAG = "tinygptv.checkpoint"
"""The tags that hold the digests of a version's model artifact and of its checkpoint."""

BACKBONES_TAG = "tinygptv.backbones_place"
"""The tag that says in which folder its backbones lay."""

PROCESS_TAG = "tinygptv.process"
"""The tag of a run that says which process keeps it open (`tasks.lease.Holder`, as JSON)."""

BUNDLE_TAG = "tinygptv.bundle"
"""The tag of a version that has a copy of its backbones among its files."""

USER, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"

TIMEOUT_SECONDS = 2.0
PAGE_ROWS = 200
SQLITE = "sqlite:///"
DELETED = "Deleted_Internal"
"""What MLflow writes as the stage of a version that was deleted: its row stays."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version in the registry.

    Attributes:
        version: its number, as MLflow writes it: "3".
        tags: all of them, with the digests of what it was made from.
        location: the URI of the folder with its files.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    location: str

    @property
    def has_files(self) -> bool:
        """Whether its files are where the registry says. Of a remote place that is not asked."""
        place = urlsplit(self.location)
        return place.scheme not in ("", "file") or Path(unquote(place.path)).is_dir()


def registered(tracking_uri: str, name: str, digest: str, *, bundled: bool = False) -> Version | None:
    """The newest version of `name`, with its files, made from the model artifact or the checkpoint with that digest.

    Args:
        bundled: only one that has its backbones among its files.

    Raises:
        ConfigError: the registry cannot be read.
    """
    known = [
        version
        for version in versions(tracking_uri, name)
        if version.has_files and (BUNDLE_TAG in version.tags or not bundled)
    ]
    same = [v for v in known if digest in (v.tags.get(MODEL_TAG), v.tags.get(CHECKPOINT_TAG))]
    return same[-1] if same else None


def find(tracking_uri: str, reference: str) -> Version:
    """The version that `NAME@ALIAS` or `NAME/NUMBER` names, with or without `models:/` in front.

    Raises:
        ConfigError: it has another form, or names nothing; says what there is.
    """
    short = reference.removeprefix("models:/")
    mark = "@" if "@" in short else "/"
    name, found_mark, choice = short.partition(mark)
    known = versions(tracking_uri, name)
    if not known:
        raise ConfigError(f"{reference} is neither a folder nor a registered model: {_no_model(tracking_uri, name)}")
    if not found_mark or not choice:
        raise ConfigError(f"{reference} does not say which version of {name} is meant. There are: {_choices(known)}.")
    chosen = [v for v in known if choice in (v.aliases if mark == "@" else (v.version,))]
    if not chosen:
        what = "alias" if mark == "@" else "version"
        raise ConfigError(f"the model {name} has no {what} {choice}. There are: {_choices(known)}.")
    return chosen[0]


def check_model(tracking_uri: str, name: str) -> None:
    """Refuse a name of which there is no version.

    Raises:
        ConfigError: says which models there are.
    """
    if not versions(tracking_uri, name):
        raise ConfigError(_no_model(tracking_uri, name))


def _no_model(tracking_uri: str, name: str) -> str:
    there = names(tracking_uri)
    listed = f"There are: {', '.join(there)}." if there else "It holds no model yet; tinygptv run registers one."
    return f"the registry at {tracking_uri} has no {name}. {nearest(name, list(there))}{listed}"


def _choices(known: tuple[Version, ...]) -> str:
    aliases = [f"{v.name}@{alias}" for v in known for alias in v.aliases]
    return ", ".join([*aliases, *(f"{v.name}/{v.version}" for v in known)])


def versions(tracking_uri: str, name: str) -> tuple[Version, ...]:
    """All versions of `name` in order of their numbers; none when there is no such model, or no registry yet.

    Raises:
        ConfigError: the registry cannot be read.
    """
    found = _versions_in_file(tracking_uri, name) if _is_file(tracking_uri) else _versions_at(tracking_uri, name)
    return tuple(sorted(found, key=lambda version: int(version.version)))


def names(tracking_uri: str) -> tuple[str, ...]:
    """The names of all registered models.

    Raises:
        ConfigError: the registry cannot be read.
    """
    if _is_file(tracking_uri):
        return tuple(row[0] for row in _rows(tracking_uri, "SELECT name FROM registered_models ORDER BY name", ()))
    found = _pages(tracking_uri, "registered-models/search", "registered_models", {})
    return tuple(sorted(model["name"] for model in found))


def _is_file(tracking_uri: str) -> bool:
    if tracking_uri.startswith(SQLITE):
        return True
    if urlsplit(tracking_uri).scheme in ("http", "https"):
        return False
    raise ConfigError(f"{tracking_uri} is no registry that can be read; it must begin with sqlite:/// or http(s)://")


def database_in(home: Path) -> str:
    """The URI of the registry that a home keeps where nobody names another."""
    return f"{SQLITE}{home / 'mlflow' / 'mlflow.db'}"


def database(tracking_uri: str) -> Path:
    """The file of a `sqlite:///` URI."""
    return Path(unquote(tracking_uri.removeprefix(SQLITE).partition("?")[0]))


def _versions_in_file(tracking_uri: str, name: str) -> list[Version]:
    tags: dict[int, dict[str, str]] = {}
    for number, key, value in _rows(
        tracking_uri, "SELECT version, key, value FROM model_version_tags WHERE name = ?", (name,)
    ):
        tags.setdefault(number, {})[key] = value
    aliases = _rows(
        tracking_uri, "SELECT version, alias FROM registered_model_aliases WHERE name = ? ORDER BY alias", (name,)
    )
    query = (
        "SELECT version, coalesce(storage_location, source) FROM model_versions WHERE name = ? AND current_stage != ?"
    )
    return [
        Version(
            name=name,
            version=str(number),
            aliases=tuple(alias for of, alias in aliases if of == number),
            tags=tags.get(number, {}),
            location=location,
        )
        for number, location in _rows(tracking_uri, query, (name, DELETED))
    ]


def _rows(tracking_uri: str, query: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """What the query gives; nothing from a registry that does not exist yet."""
    path = database(tracking_uri)
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=TIMEOUT_SECONDS)) as file:
            return file.execute(query, values).fetchall()
    except sqlite3.Error as error:
        if "no such table" in str(error):
            return []
        raise ConfigError(f"the MLflow registry in {path} cannot be read: {error}") from error


def _versions_at(address: str, name: str) -> list[Version]:
    model = _get(address, "registered-models/get", {"name": name})
    if model is None:
        return []
    aliases = model["registered_model"].get("aliases", [])
    quoted = name.replace("'", "''")
    rows = _pages(address, "model-versions/search", "model_versions", {"filter": f"name='{quoted}'"})
    return [
        Version(
            name=name,
            version=row["version"],
            aliases=tuple(sorted(item["alias"] for item in aliases if item["version"] == row["version"])),
            tags={tag["key"]: tag["value"] for tag in row.get("tags", [])},
            location=row["source"],
        )
        for row in rows
    ]


def _pages(address: str, method: str, field: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    token = ""
    while True:
        paging = {"max_results": str(PAGE_ROWS), **({"page_token": token} if token else {})}
        page = _get(address, method, {**query, **paging}) or {}
        rows += page.get(field, [])
        token = page.get("next_page_token", "")
        if not token:
            return rows


def _get(address: str, method: str, query: Mapping[str, str]) -> dict[str, Any] | None:
    """The answer of MLflow's REST API; None when what is asked for does not exist."""
    request = urllib.request.Request(f"{address.rstrip('/')}/api/2.0/mlflow/{method}?{urlencode(query)}")
    if account := _account():
        request.add_unredirected_header("Authorization", account)  # whoever is redirected to learns no password
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        if error.code == 404 and b"RESOURCE_DOES_NOT_EXIST" in error.read():
            return None
        way_out = f". Set {USER} and {PASSWORD}, or {TOKEN}, to what it knows." if error.code == 401 else ""
        raise ConfigError(f"the MLflow server at {address} refuses {method}: {error}{way_out}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"the MLflow server at {address} does not answer as one: {error}. Is it running?") from error


def _account() -> str | None:
    """What MLflow's own client would send as `Authorization`; None where the environment names neither of the two."""
    user, password, token = (os.environ.get(name) for name in (USER, PASSWORD, TOKEN))
    if user and password:
        return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
    token = (token or "").strip()
    if not (token.isascii() and token.isprintable()):  # and is not told: it is secret
        raise ConfigError(f"{TOKEN} has a line break, or something else that no token has")
    return f"Bearer {token}" if token else None
