"""Whether it is worth its disk to keep the vision tokens of some pictures."""

from dataclasses import dataclass

from tasks.quantities import counted, size
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
        is_bound: all that is known of the count is that no more are fetched; there may be far fewer.
        reads: how often one is looked at by all that would share its tokens, on average, at least.
        bytes: what all of them take on disk, in every size in which they are looked at.
        is_kept: those of all these data sets are kept, as their settings say or as was chosen.
    """

    pictures: str
    datasets: tuple[str, ...]
    count: int | None
    is_bound: bool
    reads: float | None
    bytes: int | None
    is_kept: bool

    @property
    def is_worth_it(self) -> bool | None:
        """Whether they should be kept; None where that is not known."""
        if self.reads is None or (self.is_bound and self.reads < WORTH_READS):
            return None
        return self.reads >= WORTH_READS


def picture_bytes(qformer: QFormerSizes, precision: str) -> int:
    """What one picture's tokens take: 48 KiB at the paper's size in 16 bits, and which picture they are of."""
    return qformer.queries * qformer.width * (4 if precision == "float32" else 2) + DIGEST_BYTES


def in_words(advice: CacheAdvice) -> str:
    """What to do, and why."""
    kept, of = "kept" if advice.is_kept else "not kept", f"vision tokens of {advice.pictures}"
    if advice.count is None or advice.bytes is None:
        return f"{of}: {kept}; how many pictures there will be is not known yet{_to_keep(advice)}"
    told = f"at most {counted(advice.count, 'picture')}, {_looks(advice)}, {size(advice.bytes)}"
    if advice.is_worth_it is None:
        return f"{of}: {told}; {kept}; how many there will be is not known yet{_to_keep(advice)}"
    if advice.is_worth_it == advice.is_kept:
        return f"{of}: {told}; {kept}, as is best"
    return f"{of}: {told}; {kept}, but better is {_setting(advice, 'on' if advice.is_worth_it else 'off')}"


def _looks(advice: CacheAdvice) -> str:
    """How often a picture is looked at."""
    assert advice.reads is not None, "known with the number of pictures"
    if advice.reads >= 1:
        return f"each looked at {advice.reads:.1f} times or more"
    return f"of which {'at least ' * advice.is_bound}{advice.reads:.0%} are looked at"


def _to_keep(advice: CacheAdvice) -> str:
    return "" if advice.is_kept else f"; to keep them {_setting(advice, 'on')}"


def _setting(advice: CacheAdvice, value: str) -> str:
    return " ".join(f"--set data.{name}.cached_vision={value}" for name in advice.datasets)
