"""Weights that come from elsewhere and go elsewhere: `tinygptv weights`."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.choosing.choice import DEFAULT_PRESET, preset_named
from flows.home import home_option
from flows.provenance import noted
from flows.train import BACKBONES
from tasks.backbones_import import COVERAGE, files_as_inputs
from tasks.build import BuildResult, Store
from tasks.request import SHORT, Request, StepFolders
from tasks.stamps import remembered_digest
from tasks.typed_paths import typed_path
from tasks.weights import (
    CHECKPOINT,
    RESTORE_BACKBONES,
    RESTORE_CHECKPOINT,
    import_checkpoint,
    restore_backbones,
    restore_checkpoint,
)
from tinygptv_core.artifact import Artifact
from tinygptv_core.checkpoint_form import form_of, read_form
from tinygptv_core.plain import ConfigError, change, pairs_of
from tinygptv_core.presets import PAPER, PAPER_BACKBONES, starting_at, with_settings
from tinygptv_core.settings import BackboneSettings
from tinygptv_core.tensor_files.weight_folders import check_pins, files_of


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """What an import reads of a preset, so that settings have the names that they have in `tinygptv run`."""

    backbones: BackboneSettings


def backbones_to_import(
    preset: str | None, paths: Mapping[str, str | None], settings: Sequence[str]
) -> BackboneSettings:
    """The backbones of a preset, or the paper's, with the user's files.

    Args:
        paths: vision, qformer and llm -> where each lies, where it is named.

    Raises:
        ConfigError: the preset's backbones come with the package, or a setting is wrong.
    """
    own = preset_named(preset).backbones if preset else PAPER_BACKBONES
    if own.sources is None:
        raise ConfigError(
            f"the backbones of the preset {preset} come with the package; nothing has to be imported.\n"
            "  without --preset the sizes are the paper's; name others with --set backbones.sources.sizes...=N"
        )
    named = {f"backbones.sources.{role}.path": path for role, path in paths.items() if path}
    typed = dict(pairs_of(settings, "--set", "backbones.sources.dtype=bfloat16"))
    return change(ImportConfig(backbones=own), {**named, **typed}).backbones


def checkpoint_request(preset: str, stage: str, settings: Sequence[str], file: Path, store: Store) -> Request:
    """One of TinyGPT-V's checkpoints, as what `stage` of the preset trained.

    Raises:
        ConfigError: no such preset, stage or file, or the file is not the one that is pinned.
    """
    found = starting_at(with_settings(preset_named(preset), settings), stage)
    of, backbones = found.stages[0], found.backbones

    def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        import_checkpoint(file, of, backbones, folders)

    config = {"form": form_of(of), "sizes": backbones.sources.sizes if backbones.sources else backbones.digest}
    stamps = store.root / "stamps"
    pins = found.checkpoint_pins.get(stage, {})
    check_pins(files_of(file), pins, lambda path: remembered_digest(path, stamps))
    inputs = files_as_inputs("file", file, stamps)
    return Request(name=f"{stage}/import", step=CHECKPOINT, config=config, inputs=inputs, work=work)


def model_requests(folder: Path, store: Store) -> tuple[Request, Request]:
    """The backbones and the checkpoint in a folder that `weights export --to hf` wrote."""
    inputs = files_as_inputs("model", folder, store.root / "stamps")

    def backbones(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        restore_backbones(folder, folders)

    def checkpoint(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        restore_checkpoint(folder, folders)

    return (
        Request(name=BACKBONES, step=RESTORE_BACKBONES, config={}, inputs=inputs, work=backbones),
        Request(name="checkpoint/import", step=RESTORE_CHECKPOINT, config={}, inputs=inputs, work=checkpoint),
    )


def build(request: Request, store: Store) -> BuildResult:
    """Make it, or take it from the store; alone, without a flow around it.

    Raises:
        ConfigError: a file is not named or not there.
    """
    if request.lacks:
        raise ConfigError(request.lacks)
    inputs = {name: item for name, item in request.inputs.items() if isinstance(item, Artifact)}
    told = noted("import", None)
    return store.build(request, inputs, {}, noted=told, force=False, waiting=lambda text: None)


def words(built: BuildResult, store: Store, after: str) -> str:
    """What a person wants to know of an import: the account of every tensor, the digest, and what to do `after`."""
    coverage = (store.notes(built.key) / COVERAGE).read_text()
    artifact = built.artifact
    did = "imported" if built.action == "build" else "there already"
    return f"{coverage}\n{artifact.kind} {artifact.digest}\n  {did}, in {artifact.path}\n  {after}"


def run_with_backbones(preset: str | None, paths: Mapping[str, str | None], settings: Sequence[str], home: Path) -> str:
    """The command that trains on what `backbones_to_import` names, which is then found in the store of `home`.

    Args:
        preset, paths, settings: as typed.
    """
    named = [f"backbones.sources.{role}.path={typed_path(path)}" for role, path in paths.items() if path]
    words = [word for setting in (*named, *settings) for word in ("--set", setting)]
    run = ["tinygptv", "run", "--preset", preset or PAPER.name]
    return f"train on them: {shlex.join([*run, *words, *home_option(home)])}"


def run_with_checkpoint(preset: str, checkpoint: Artifact) -> str:
    """The command that goes on from a checkpoint, with the preset as whose stage it was imported."""
    run = ["tinygptv", "run", *([] if preset == DEFAULT_PRESET else ["--preset", preset])]
    init = f"{read_form(checkpoint.path).name}={checkpoint.digest[:SHORT]}"
    return f"go on from it: {shlex.join([*run, '--init', init, *_on_home_of(checkpoint)])}"


def trying(restored: Artifact) -> str:
    """What can be done with a part of a model that was restored."""
    if restored.kind != CHECKPOINT.kind:
        return "its checkpoint, restored with it, was trained on them"
    digest, home = restored.digest[:SHORT], _on_home_of(restored)
    ask, score = (["tinygptv", *words, *home] for words in (["ask", digest, "IMAGE", "QUESTION"], ["eval", digest]))
    asking = f"ask it: {shlex.join(ask)}\n  score it: {shlex.join(score)}"
    return f"{asking}\n  {run_with_checkpoint(DEFAULT_PRESET, restored)}"


def _on_home_of(artifact: Artifact) -> list[str]:
    """The option that names the home in whose store it lies."""
    return home_option(artifact.path.parents[2])
