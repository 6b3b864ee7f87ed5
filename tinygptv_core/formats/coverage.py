"""Accounting for every tensor: what of a file becomes what of ours, and what is left over."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tinygptv_core.plain import ConfigError
from tinygptv_core.tensor_files.weight_files import CODES, Stored, counted, in_memory, some_of

FLOATS = tuple(dtype for dtype in CODES if dtype.is_floating_point)
"""What weights are numbers of."""

TOLD_FLOATS = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True, kw_only=True)
class TensorSource:
    """Where one of our tensors comes from: names in the file, and how those tensors are made into one."""

    names: tuple[str, ...]
    join: Callable[..., Tensor] = _same


@dataclass(frozen=True, kw_only=True)
class WeightLayout:
    """How a published file names the tensors of one part.

    Attributes:
        name: the layout in words.
        origin: our name -> where in the file it comes from.
        left: (pattern of names in the file, why they are not wanted).
        new: pattern of our names that a file may lack altogether, as norms that TinyGPT-V added: they start as 1 and 0.
        meanings: (pattern of a name that is missing or unexpected, what that usually means).
    """

    name: str
    origin: Callable[[str], TensorSource]
    left: tuple[tuple[str, str], ...] = ()
    new: str | None = None
    meanings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What became of every tensor of one part.

    Attributes:
        part: what was looked for: "vision", "qformer", "llm", "checkpoint".
        layout: in which layout the file is, in words.
        found: names in the file that were taken.
        new: our names that no file has, and that start as norms start.
        left: name in the file -> why it is not wanted.
        missing: names that the file should have.
        unexpected: names in the file that nothing is known of.
        unfit: names with the shape or dtype that was found and the one that was wanted.
        meanings: what these faults usually mean.
    """

    part: str
    layout: str
    found: tuple[str, ...]
    new: tuple[str, ...]
    left: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    unfit: tuple[str, ...]
    meanings: tuple[str, ...]

    def check(self, where: str) -> None:
        """Stop unless every tensor is accounted for.

        Raises:
            ConfigError: one is missing, unexpected, or of another shape or kind of number; names it, and says what
                that usually means.
        """
        faults = {"missing": self.missing, "unexpected": self.unexpected, "of another shape or dtype": self.unfit}
        told = [f"  {line}" for line in counted(faults)]
        if told:
            means = [f"  this usually means: {meaning}" for meaning in self.meanings]
            raise ConfigError(
                "\n".join([f"{where} is not the {self.part} that is wanted ({self.layout})", *told, *means])
            )


def match_tensors(
    part: str, wanted: Mapping[str, torch.Size], files: Mapping[str, Stored], layout: WeightLayout
) -> tuple[dict[str, Stored], Coverage]:
    """Our tensors, as far as `files` have them, and the account. Reads no tensor.

    Args:
        wanted: our names and shapes: all of the part's, and no other.
        files: all tensors of the part's files, by their names there.
    """
    tensors: dict[str, Stored] = {}
    new, missing, unfit = [], [], []
    used: dict[str, None] = {}
    can_be_new = layout.new is not None and not any(re.search(layout.new, name) for name in files)
    for name, shape in wanted.items():
        origin = layout.origin(name)
        lacking = [source for source in origin.names if source not in files]
        used |= dict.fromkeys(source for source in origin.names if source in files)
        if lacking and can_be_new and re.search(layout.new or "", name):
            new.append(name)
            tensors[name] = in_memory((torch.zeros if name.endswith(".bias") else torch.ones)(shape))
        elif lacking:
            missing += lacking
        else:
            sources = [files[source] for source in origin.names]
            tensors[name] = _joined(origin, sources, shape)
            fault = _fault(origin, sources, shape)
            unfit += [f"{origin.names[0]} {fault}"] if fault else []
    left, unexpected = _rest([name for name in files if name not in used], layout)
    return tensors, Coverage(
        part=part,
        layout=layout.name,
        found=tuple(used),
        new=tuple(new),
        left=left,
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        unfit=tuple(unfit),
        meanings=_meanings([*missing, *unexpected, *unfit], layout),
    )


def _joined(origin: TensorSource, sources: Sequence[Stored], shape: torch.Size) -> Stored:
    return Stored(
        shape=shape,
        dtype=sources[0].dtype,
        read=lambda: origin.join(*[source.read() for source in sources]),
        place=" and ".join(source.place for source in sources),
    )


def _fault(origin: TensorSource, sources: Sequence[Stored], shape: torch.Size) -> str:
    """What `sources` are and should not be, in words; empty when they are as they should be."""
    odd = [source.dtype for source in sources if source.dtype not in FLOATS]
    if odd:
        return f"{str(odd[0]).removeprefix('torch.')} instead of {TOLD_FLOATS}"
    try:
        made = origin.join(*[torch.empty(source.shape, dtype=source.dtype, device="meta") for source in sources])
    except RuntimeError:  # they cannot even be put together
        made = None
    if made is not None and made.shape == shape:
        return ""
    return f"{' and '.join(str(tuple(source.shape)) for source in sources)} instead of {tuple(shape)}"


def _rest(names: Sequence[str], layout: WeightLayout) -> tuple[dict[str, str], list[str]]:
    """The names that are left by design, each with the reason, and those that nothing is known of."""
    reasons = {
        name: next((reason for pattern, reason in layout.left if re.fullmatch(pattern, name)), "") for name in names
    }
    return {name: why for name, why in reasons.items() if why}, [name for name, why in reasons.items() if not why]


def _meanings(faults: Sequence[str], layout: WeightLayout) -> tuple[str, ...]:
    found = [meaning for pattern, meaning in layout.meanings if any(re.search(pattern, fault) for fault in faults)]
    return tuple(dict.fromkeys(found))


def table(coverages: Sequence[Coverage]) -> str:
    """The accounts as a person reads them: a line per part, then what was new and what was left, and why."""
    head = f"{'part':12s}{'found':>8s}{'new':>8s}{'left':>8s}{'missing':>9s}{'unexpected':>12s}  layout"
    lines = [head]
    for one in coverages:
        missing = len(one.missing) + len(one.unfit)
        lines.append(
            f"{one.part:12s}{len(one.found):8d}{len(one.new):8d}{len(one.left):8d}{missing:9d}"
            f"{len(one.unexpected):12d}  {one.layout}"
        )
    for one in coverages:
        lines += [f"  {one.part}: new, and not in any file: {some_of(one.new)}"] if one.new else []
        reasons: defaultdict[str, list[str]] = defaultdict(list)
        for name, why in one.left.items():
            reasons[why].append(name)
        lines += [f"  {one.part}: left, {why}: {some_of(names)}" for why, names in reasons.items()]
    return "\n".join(lines)
