"""What training leaves on disk: the finished checkpoint, as safetensors and JSON, which hold no code."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tinygptv_core.checkpoint_form import CheckpointForm, form_of, read_form
from tinygptv_core.plain import ConfigError, canonical_json
from tinygptv_core.stage import Stage
from tinygptv_core.tensor_files.weight_files import Stored, in_memory, write_tensors


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A finished checkpoint: the trained tensors by their stable names (`trainable.py`), and their form."""

    form: CheckpointForm
    tensors: Mapping[str, Tensor]


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], stage: Stage) -> None:
    """What `stage` has trained, written into `folder` with the same bytes for the same values."""
    save_checkpoint(folder, Checkpoint(form=form_of(stage), tensors=tensors))


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """`trainable.safetensors` and `stage.json` in `folder`.

    Raises:
        ConfigError: as `save_stored`.
    """
    save_stored(folder, checkpoint.form, {name: in_memory(tensor) for name, tensor in checkpoint.tensors.items()})


def save_stored(folder: Path, form: CheckpointForm, tensors: Mapping[str, Stored]) -> None:
    """The same from tensors that are read one at a time.

    Raises:
        ConfigError: a tensor holds a value that is not finite; names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "trainable.safetensors", tensors)
    (folder / "stage.json").write_text(canonical_json(form) + "\n")


def read_checkpoint(folder: Path) -> Checkpoint:
    """What `save_checkpoint` wrote.

    Raises:
        ConfigError: there is no checkpoint in `folder`, or it is damaged.
    """
    form = read_form(folder)
    try:
        tensors = load_file(folder / "trainable.safetensors")
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} holds no checkpoint: there is no {Path(str(error.filename)).name}") from error
    except SafetensorError as error:
        raise ConfigError(f"the checkpoint in {folder} is damaged: {error}") from error
    return Checkpoint(form=form, tensors=tensors)
