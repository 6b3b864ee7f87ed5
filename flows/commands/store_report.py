"""`tinygptv store`: what is kept, whether it is whole, and what may go, in words."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.build import Store
from tasks.lease import unless_in_use
from tasks.quantities import size
from tasks.registering.registry import names, versions
from tasks.request import SHORT
from tasks.storing.inventory import ArtifactInventory, StoredArtifact, Sweep, clean, rebuilt_by, sweep
from tasks.storing.records import clock
from tinygptv_core.plain import ConfigError

SHOWN = 5
SHOWN_NAME = 32


def inventory(home: Path, tracking_uri: str, *, keep_data: bool, days: float, unregistered: bool) -> ArtifactInventory:
    """The artifacts of a home.

    Raises:
        ConfigError: there is none, or the registry cannot be read, which says what is needed.
    """
    check_store(home)
    registered = [version for name in names(tracking_uri) for version in versions(tracking_uri, name)]
    return ArtifactInventory(home, registered, keep_data=keep_data, days=days, unregistered=unregistered)


def check_store(home: Path) -> None:
    """Refuse a home without a store.

    Raises:
        ConfigError: it has none.
    """
    if not (home / "store").is_dir():
        raise ConfigError(f"there is no store in {home}; name the home of a run with --home DIR")


@contextmanager
def unused(home: Path) -> Iterator[None]:
    """Keep every run of this home from beginning: what one that goes on is about to read is known to nobody else.

    Raises:
        ConfigError: one goes on, or the file system cannot say; or there is no store.
    """
    check_store(home)
    with unless_in_use(Store(home / "store").lock) as is_alone:
        if not is_alone:
            raise ConfigError(
                f"a run goes on on {home}, or its file system has no locks that would say so. What a run reads is not "
                "known here, so nothing is removed.\n  run the same command again when the run has ended"
            )
        yield


def listed(found: ArtifactInventory) -> Iterator[str]:
    """A line for each artifact."""
    total = 0
    for item in found.artifacts:
        total += item.bytes
        steps = ", ".join(item.steps) or "no record"
        needed = "; ".join(item.needed[:2]) + (f"; and {len(item.needed) - 2} more" if len(item.needed) > 2 else "")
        yield f"{item.kind:11s} {item.digest[:SHORT]}  {size(item.bytes):>9s}  {clock(item.time)}  {steps}"
        yield f"{'':24s}  needed by {needed or 'nothing'}"
    yield f"{len(found.artifacts)} artifacts, {size(total)}, counting twice what two of them share"


def verified(found: ArtifactInventory) -> Iterator[str]:
    """A line for each artifact that is damaged, and the command that builds it anew; nothing if all are whole."""
    for item, damage in found.damage(_tell):
        yield f"{item.path} ({', '.join(item.steps) or 'no record'}) is damaged: {damage}"
        yield f"  to build it anew  {rebuilt_by(item)}"


def _tell(done: int, total: int, item: StoredArtifact) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total}: {item.kind} {item.digest[:SHORT]}  ", end="", file=sys.stderr)


def gone(found: ArtifactInventory) -> str:
    """How many artifacts records still name that are not there, in words; empty if none."""
    count = len({record.digest for record in found.missing()})
    return f"{count} artifacts are gone whose records are there; a run that needs one builds it anew" if count else ""


def swept(found: ArtifactInventory, *, really: bool) -> Iterator[str]:
    """What may go, and with `really` remove it.

    Raises:
        ConfigError: something is being built, and what that reads is not known here.
    """
    if found.holders and really:
        key, holder = next(iter(found.holders.items()))
        raise ConfigError(
            f"{holder} is building {key[:SHORT]} on this home. What that reads is not known, so nothing is removed.\n"
            "  run the same command again when it has ended"
        )
    may_go = sweep(found)
    yield from _told(may_go)
    if not really:
        yield f"nothing was removed; with --yes all of it is: {size(may_go.bytes)}"
        return
    clean(found, may_go)
    yield f"removed: {size(may_go.bytes)}"


def _told(may_go: Sweep) -> Iterator[str]:
    for item in may_go.folders:
        yield f"{item.kind:11s} {item.digest[:SHORT]}  {size(item.bytes):>9s}  {', '.join(item.steps) or 'no record'}"
    groups: Sequence[tuple[str, Sequence[Path]]] = (
        ("work folders of builds that were left", may_go.work),
        ("damaged folders that were put aside", may_go.graves),
        ("folders of notes about what is gone or goes", may_go.notes),
    )
    for what, paths in groups:
        if paths:
            shown = ", ".join(path.name[:SHOWN_NAME] for path in paths[:SHOWN])
            yield f"{len(paths)} {what}: {shown}{' ...' if len(paths) > SHOWN else ''}"
    yield f"{len(may_go.folders)} artifacts that nothing needs; the keys stay, and say what they were"
