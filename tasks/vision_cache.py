"""Whether it is worth its disk to keep the vision tokens of a data set's pictures."""

from dataclasses import dataclass

from tinygptv_core.sizes import QFormerSizes

WORTH_READS = 1.5
"""So often a picture has to be read for its tokens to be kept: then a third of the tower's work is spared."""
DIGEST_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class CacheAdvice:
    """What keeping the vision tokens of a data set takes and brings.

    Attributes:
        pictures: how many it has, or will have.
        reads: how often each is looked at by all that would share its tokens, on average.
        bytes: on disk, of all of them.
        is_kept: whether the settings keep them.
    """

    dataset: str
    pictures: int
    reads: float
    bytes: int
    is_kept: bool

    @property
    def is_worth_it(self) -> bool:
        """Whether they should be kept."""
        return self.reads >= WORTH_READS


def picture_bytes(qformer: QFormerSizes, precision: str) -> int:
    """What one picture's tokens take: 48 KiB at the paper's size in 16 bits, and which picture they are of."""
    return qformer.queries * qformer.width * (4 if precision == "float32" else 2) + DIGEST_BYTES
