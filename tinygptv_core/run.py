"""What crosses the border to a training process: `RUN.json`, and nothing else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tinygptv_core.plain import ConfigError, from_plain, plain, require
from tinygptv_core.stage import Stage

EngineName = Literal["ddp", "zero1", "zero2", "zero3"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how training runs. None of it bears on what is computed, but for the last bits and what dropout draws.

    Attributes:
        processes: training processes; the batch is split among them.
        threads: CPU threads of each.
        loader_workers: processes that read ahead, for each training process; 0 reads in line.
        micro_batch: the most samples of one forward pass in one process; None takes all at once.
        packed: samples in one row without padding (`packing.py`), which is faster the more their lengths differ.
        gradient_checkpointing: keep the input of each layer of the language model alone, and compute the rest
            again on the way back: less memory for about a third more time, and the same numbers.
        compile: let torch compile the layers (`training/compiling.py`); needs a compiler on the machine, and minutes
            at first. A run that was stopped then ends in the same numbers to rounding.
        save_every_steps: steps between the states that a killed run goes on from.
        save_every_seconds: save by the clock too: whatever the steps, about so often.
        keep_states: how many of the newest are kept.
        stop_seconds: how long one that is told to stop may take for the step at hand and for saving its state.
        engine: what steps: torch's DDP, or DeepSpeed's ZeRO, which divides among the processes the optimizer's moments
            (1), and the gradients (2), and all weights (3).
    """

    processes: int
    threads: int
    device: Literal["cpu", "cuda"]
    loader_workers: int
    micro_batch: int | None
    log_every_steps: int
    save_every_steps: int
    packed: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    save_every_seconds: int | None = None
    keep_states: int = 2
    stop_seconds: int = 60
    engine: EngineName = "ddp"

    @property
    def cores(self) -> int:
        """The CPU threads of all processes together: what steps have that do not train."""
        return self.processes * self.threads

    def __post_init__(self) -> None:
        for name in ("processes", "threads", "log_every_steps", "save_every_steps", "keep_states", "stop_seconds"):
            require(getattr(self, name), name, at_least=1)
        require(self.loader_workers, "loader_workers", at_least=0)
        for name in ("micro_batch", "save_every_seconds"):
            if getattr(self, name) is not None:
                require(getattr(self, name), name, at_least=1)
        if self.compile and self.engine == "zero3":
            raise ConfigError("compile=true and engine=zero3 do not go together: weights come and go between layers")


@dataclass(frozen=True, kw_only=True)
class DataFolders:
    """The artifacts that a data set is read from.

    Attributes:
        shards: a folder, or the URL of one, of any kind that fsspec reads (`s3://bucket/shards`).
        pictures: picture set -> its artifact, likewise, for a data set whose pictures are shared with others.
    """

    shards: str | Path  # in this order, for a path would lose a slash of the URL that RUN.json says
    index: Path
    pictures: Mapping[str, str | Path] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One training run.

    Attributes:
        prompts: data set -> the user's words, `{}` for the text (see `Recipe.prompts`).
        data: every data set of the stage's mix -> its folders.
        init: the folder of the checkpoint that the stage starts from; None starts from fresh projections.
        out: where the finished checkpoint goes.
        work: optimizer, random state and position, to go on from.
        notes: metrics.jsonl and messages.
        seen: data set -> about how many of its samples earlier stages have drawn: its order goes on from there.
        features: the kept vision tokens of some of the data sets (`features.py`); None looks at every picture anew.
    """

    stage: Stage
    prompts: Mapping[str, tuple[str, ...]]
    data: Mapping[str, DataFolders]
    backbones: Path
    init: Path | None
    options: RunOptions
    out: Path
    work: Path
    notes: Path
    seen: Mapping[str, int]
    features: Path | None = None


def write_spec(spec: RunSpec, path: Path) -> None:
    """`spec` as JSON at `path`."""
    path.write_text(json.dumps(plain(spec), indent=1))


def read_spec(path: Path) -> RunSpec:
    """The spec that `write_spec` wrote.

    Raises:
        ConfigError: it is no JSON, a name is missing or unknown, or a value is of another type.
    """
    try:
        told = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    return from_plain(RunSpec, told, "RUN.json")
