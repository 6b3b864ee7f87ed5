"""`tinygptv lineage MODEL`: what a model came from, down to the lists."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from flows.recipes import recipe
from tasks.build import Store
from tasks.evaluate import EVALUATE
from tasks.quantities import cut
from tasks.registering.registry import Version
from tasks.request import SHORT
from tasks.storing.differences import short_commit
from tasks.storing.ledgers import urls_behind
from tasks.storing.lineage import REGISTERED, Link, chain, resolved, roots_of
from tasks.storing.records import Records
from tasks.train import TRAIN
from tinygptv_core.plain import ConfigError, leaves

SHOWN_CHARACTERS = 160
UNTOLD = ("prompts", "evals", "recipe", "rules", "evaluation")
"""Groups of a config that would fill pages; JSON has them."""


def lineage_of(model: str, store: Store, tracking_uri: str) -> tuple[str, tuple[Link, ...]]:
    """What is meant, in words, and everything that it came from.

    Raises:
        ConfigError: `model` names nothing, or the registry cannot be read.
    """
    found = resolved(model, store, tracking_uri)
    links = chain(Records(store), roots_of(found))
    if isinstance(found, Version):
        return f"{found.name}/{found.version} ({', '.join(found.aliases) or 'no alias'})", links
    return f"{found.kind} {found.digest}", links


def for_machines(link: Link) -> dict[str, Any]:
    """One artifact of a chain, for JSON."""
    told: dict[str, Any] = {"step": link.step, "kind": link.kind, "digest": link.digest, "missing": link.missing}
    if link.record:
        record = link.record
        noted = {name: record.noted.get(name) for name in ("run", "time", "host", "argv", "commit", "versions")}
        made = {"key": record.key, "version": record.version, "config": record.config, "inputs": dict(link.inputs)}
        told |= {**made, "noted": noted}
    told |= {"folder": str(link.folder) if link.folder else None, "counts": link.counts}
    return {**told, "scores": link.told("scores.json"), "licence": _licence(link.group)}


def _licence(data: str) -> str | None:
    try:
        return recipe(data).licence
    except ConfigError:  # a stage, or a data set whose recipe is gone
        return None


def in_words(title: str, links: Sequence[Link]) -> str:
    """A chain for people, from the version down to the lists."""
    sections: dict[str, list[str]] = {}
    for link in links:
        sections.setdefault(_section(link), []).extend(_lines(link))
    ordered = [name for name in _SECTIONS if name in sections]
    return "\n".join([title, *(line for name in ordered for line in (f"{name}:", *sections[name]))])


_SECTIONS = ("model", "scores", "checkpoints", "backbones and kept vision tokens", "data", "lists and files")


def _section(link: Link) -> str:
    work = link.step.partition("/")[2]
    if link.step == REGISTERED:
        return "model"
    if work == EVALUATE.name or link.kind == EVALUATE.kind:
        return "scores"
    if work == TRAIN.name or link.kind == TRAIN.kind:
        return "checkpoints"
    if link.kind in ("backbones", "features"):
        return "backbones and kept vision tokens"
    return "lists and files" if link.kind in (None, "source", "pictures") and link.counts is None else "data"


def _lines(link: Link) -> Iterator[str]:
    yield f"  {link.step:28s} {link.kind or '-':11s} {link.digest[:SHORT]}  {_by(link)}"
    if config := _config(link):
        yield f"      {config}"
    if counts := link.counts:
        dropped = ", ".join(f"{reason} {n}" for reason, n in counts["dropped"].items())
        licence = _licence(link.group)
        told = f"rows {counts['rows']}, kept {counts['kept']}; dropped: {dropped or 'none'}"
        yield f"      {told}{f'; licence: {licence}' if licence else ''}"
    for line in _scores(link):
        yield f"      {line}"
    if link.folder is None and link.record:
        yield "      its files are gone from this home; the run that made it builds it anew"


def _by(link: Link) -> str:
    """Who made it, or why that is not known."""
    if link.record is None:
        return str(link.missing)
    record = link.record
    commit = short_commit(record.noted.get("commit"))
    return f"key {record.key[:SHORT]}, version {record.version}, commit {commit}, run {record.noted['run']}"


def _config(link: Link) -> str:
    """The values that say most of how it was made, on one line."""
    told = leaves(link.record.config) if link.record else {}
    kept = {n: v for n, v in told.items() if n.partition(".")[0] not in UNTOLD and v not in (None, False, [], {})}
    line = ", ".join(f"{name.removeprefix('stage.')} {json.dumps(value)}" for name, value in kept.items())
    return cut(line, SHOWN_CHARACTERS, " ...")


def _scores(link: Link) -> Iterator[str]:
    for name, metrics in (link.told("scores.json") or {}).items():
        for metric, score in metrics.items():
            control = f", control {score['control']['value']:.3f}" if score["control"] else ""
            bounds = f"{score['low']:.3f} to {score['high']:.3f}"
            yield f"{name} {metric} {score['value']:.3f} ({bounds}, n {score['n']}{control})"


def url_lines(links: Sequence[Link], as_json: bool) -> Iterator[str]:
    """Every row of the ledgers of a chain: its URL, or with `as_json` all that is known of it."""
    for told in urls_behind(links):
        if as_json:
            yield json.dumps(told)
        elif told["url"] is not None:
            yield told["url"]
