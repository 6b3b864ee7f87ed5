"""Whether it is worth its disk to keep the vision tokens of some pictures."""

from dataclasses import dataclass

from tasks.quantities import size
from tinygptv_core.sizes import QFormerSizes

WORTH_READS = 1.25
"""So often a picture has to be looked at for its tokens to be kept: then a fifth of the tower's work is spared."""
DIGEST_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class CacheAdvice:
    """What keeping the vision tokens of some pictures takes and spares.

    Attributes:
        pictures: where they come from, a data set of their own or a set that several are about.
        datasets: those that are about them, and have the setting.
        count: how many pictures there are or will be, at most; None where that is not known yet.
        reads: how often one is looked at by all that would share its tokens, on average, at least.
        bytes: what all of them take on disk, in every size in which they are looked at.
        is_kept: the settings of all these data sets keep them.
    """

    pictures: str
    datasets: tuple[str, ...]
    count: int | None
    reads: float | None
    bytes: int | None
    is_kept: bool

    @property
    def is_worth_it(self) -> bool | None:
        """Whether they should be kept; None where that is not known."""
        return None if self.reads is None else self.reads >= WORTH_READS


def picture_bytes(qformer: QFormerSizes, precision: str) -> int:
    """What one picture's tokens take: 48 KiB at the paper's size in 16 bits, and which picture they are of."""
    return qformer.queries * qformer.width * (4 if precision == "float32" else 2) + DIGEST_BYTES


def in_words(advice: CacheAdvice) -> str:
    """What to do, and why."""
    kept, of = "kept" if advice.is_kept else "not kept", f"vision tokens of {advice.pictures}"
    if advice.count is None or advice.bytes is None:
        return f"{of}: {kept}; how many pictures there will be is not known yet"
    told = f"{advice.count:,} pictures, each looked at {advice.reads:.1f} times, {size(advice.bytes)}"
    if advice.is_worth_it == advice.is_kept:
        return f"{of}: {told}; {kept}, as is best"
    better = str(advice.is_worth_it).lower()
    change = " ".join(f"--set data.{name}.cached_vision={better}" for name in advice.datasets)
    return f"{of}: {told}; {kept}, but better is {change}"
