"""Checkpoints and whole models that people bring, and models made into files for others."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.ask import ModelFiles, card_of, model_files
from tasks.backbones_import import note_coverage
from tasks.build import Store
from tasks.request import SHORT, Step, StepFolders
from tasks.sealed import MANIFEST
from tasks.shortages import has_no_room
from tasks.storing.lineage import GIVEN, REGISTERED, chain, of_digest
from tasks.storing.records import Records
from tinygptv_core.artifact import Artifact, digest_of, members_of
from tinygptv_core.plain import ConfigError
from tinygptv_core.settings import SHIPPED, BackboneSettings
from tinygptv_core.stage import Stage
from tinygptv_core.tensor_files.weight_folders import PICKLES

CHECKPOINT = Step(name="import_checkpoint", kind="checkpoint", version=1)
RESTORE_BACKBONES = Step(name="restore_backbones", kind="backbones", version=1)
RESTORE_CHECKPOINT = Step(name="restore_checkpoint", kind="checkpoint", version=1)


def import_checkpoint(file: Path, stage: Stage, backbones: BackboneSettings, folders: StepFolders) -> None:
    """Make the **checkpoint** artifact of one of TinyGPT-V's own files; the account goes to `folders.notes`.

    Args:
        stage: whose checkpoint it is: its adapters, picture size and prompts are not in the file.
        backbones: on which it was trained; their sizes say what it has to hold.

    Raises:
        ConfigError: it is cut off, hostile, or a checkpoint of another stage or model.
    """
    from tinygptv_core.checkpoint_form import form_of
    from tinygptv_core.formats import weight_import
    from tinygptv_core.formats.architectures import architecture
    from tinygptv_core.weights import read_architecture

    sources = backbones.sources
    sizes = architecture(sources.sizes) if sources else read_architecture(SHIPPED / backbones.name)
    note_coverage([weight_import.import_checkpoint(folders.out, file, form_of(stage), sizes)], folders)


def restore_backbones(folder: Path, folders: StepFolders) -> None:
    """The **backbones** artifact out of a folder that `weights export --to hf` wrote.

    Raises:
        ConfigError: it is no such folder, or lacks something.
    """
    from tinygptv_core.formats import weight_import

    note_coverage(weight_import.restore_backbones(folders.out, folder), folders)


def restore_checkpoint(folder: Path, folders: StepFolders) -> None:
    """The **checkpoint** artifact out of such a folder.

    Raises:
        ConfigError: it is no such folder, or lacks something.
    """
    from tinygptv_core.formats import weight_import

    note_coverage([weight_import.restore_checkpoint(folders.out, folder)], folders)


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is to be exported.

    Attributes:
        model: as `tinygptv ask` takes it.
        backbones: the beginning of the digest of backbones in the store, for a checkpoint which no run of it trained.
    """

    model: str
    backbones: str | None
    to: Literal["hf", "published"]
    out: Path


def export(wanted: Export, store: Store, tracking_uri: str) -> None:
    """Write a model's files to `wanted.out`.

    Raises:
        ConfigError: there is no such model, its backbones are not known, or something is in the way.
    """
    from tinygptv_core.formats.export import export_folder, export_published

    _check_out(wanted)
    with _find_files(wanted, store, tracking_uri) as files, _whole(wanted.out) as out:
        if wanted.to == "published":
            export_published(files.folder, out)
            return
        backbones = _backbones(wanted, store, files)
        export_folder(backbones.path, files.folder, out, made_from(store, files.folder, backbones))


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A place beside `out` to write to; renamed to `out` once all is written, gone if that fails.

    Raises:
        ConfigError: nothing can be written there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-")
    except OSError as error:
        if has_no_room(error):
            raise
        raise ConfigError(
            f"{out.parent} cannot be written to ({error.strerror}).\n  name another place than {out}"
        ) from None
    with made as beside:
        yield Path(beside) / out.name
        (Path(beside) / out.name).replace(out)


def _check_out(wanted: Export) -> None:
    out, published = wanted.out, wanted.to == "published"
    if os.path.exists(out) and (published or not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already; name a {'file' if published else 'folder'} that is not")
    if published and out.suffix not in PICKLES:
        raise ConfigError(f"{out} would be no file of weights: its name must end in {', '.join(PICKLES)}")


@contextmanager
def _find_files(wanted: Export, store: Store, tracking_uri: str) -> Iterator[ModelFiles]:
    """Where the model lies. Its backbones are looked for only where they are needed: an import's are not noted."""
    local = _local(wanted.model, store)
    if local is not None and (wanted.to == "published" or wanted.backbones is not None):
        yield ModelFiles(folder=local, backbones=())
        return
    with model_files(str(local or wanted.model), tracking_uri) as files:
        yield files


def _local(model: str, store: Store) -> Path | None:
    if Path(model).is_dir():
        return Path(model).resolve()
    found = of_digest(model, store)
    return found.path if found else None


def _backbones(wanted: Export, store: Store, files: ModelFiles) -> Artifact:
    if wanted.backbones is not None:
        return store.sealed.find("backbones", wanted.backbones)
    from tinygptv_core.answer import find_backbones

    card = card_of(files.folder)
    path = find_backbones(card.backbones, card.backbones_digest, files.backbones)
    return Artifact(kind="backbones", digest=card.backbones_digest, path=path)


def made_from(store: Store, model: Path, backbones: Artifact) -> dict[str, str]:
    """Everything that the store knows the model or checkpoint in `model` to be made from: name -> digest.

    Where a step is there twice, the second is told with the beginning of its digest.
    """
    digest = digest_of(tuple(member for member in members_of(model) if member.path != MANIFEST))
    found = {"model or checkpoint": digest, "backbones": backbones.digest}
    made_by = REGISTERED if (model / "model.json").exists() else "checkpoint"
    for link in chain(Records(store), {made_by: digest, "backbones": backbones.digest}):
        if link.record is None and (link.missing == GIVEN or link.digest in found.values()):
            continue  # a file or folder of the user's own, or one of the two that head the list
        is_first = found.get(link.step, link.digest) == link.digest
        found[link.step if is_first else f"{link.step} ({link.digest[:SHORT]})"] = link.digest
    return found
