"""A batch in parts that agree in all processes: with ZeRO they reduce the same gradients in the same order."""

from dataclasses import dataclass, replace

import torch
import torch.distributed as distributed
from torch.nn import functional

from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.engine import micro_batches

# Shape letters of this file: B batch, T text positions.


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all processes agree on about a batch.

    Attributes:
        parts: as many on every process; those beyond a process's own have no targets.
        num_targets: of all processes.
        has_pictures: any of them has some. One of text alone then has black ones, behind its tokens.
    """

    parts: list[Batch]
    num_targets: int
    has_pictures: bool


def share(batch: Batch, micro_batch: int | None, device: torch.device) -> Shared:
    """This process's batch in parts of at most `micro_batch` samples. All processes of the default group call it."""
    parts = micro_batches(batch, micro_batch)
    pictures = () if batch.images_B3HW is None else batch.images_B3HW.shape[-1:]
    queries = () if batch.queries_BQE is None else batch.queries_BQE.shape[1:]
    told = torch.tensor(
        [int((batch.labels_BT != IGNORED).sum()), len(parts), *(pictures or (0,)), *(queries or (0, 0))], device=device
    )
    all_told = [torch.empty_like(told) for _ in range(distributed.get_world_size())]
    distributed.all_gather(all_told, told)
    most = torch.stack(all_told).amax(0).tolist()
    parts += [_without_targets(parts[0])] * (most[1] - len(parts))
    if any(most[2:]) and batch.slot_B is None:
        parts = [_with_black_pictures(part, side=most[2], queries=tuple(most[3:])) for part in parts]
    num_targets = int(torch.stack(all_told)[:, 0].sum())
    return Shared(parts=parts, num_targets=num_targets, has_pictures=any(most[2:]))


def _without_targets(part: Batch) -> Batch:
    """Its first sample, which adds nothing to loss and gradients."""
    first = micro_batches(part, 1)[0]
    return replace(first, layout=None, labels_BT=torch.full_like(first.labels_BT, IGNORED))


def _with_black_pictures(part: Batch, *, side: int, queries: tuple[int, ...]) -> Batch:
    """Text alone with a picture behind each sample, which no target sees, so that it uses what others do.

    Args:
        side: of the pictures that others have, in pixels; 0 where they have `queries` (Q, E) instead.
    """
    B, T = part.ids_BT.shape
    return replace(
        part,
        ids_BT=functional.pad(part.ids_BT, (0, 1)),
        labels_BT=functional.pad(part.labels_BT, (0, 1), value=IGNORED),
        mask_BT=functional.pad(part.mask_BT, (0, 1), value=False),
        slot_B=torch.full((B,), T, device=part.ids_BT.device),
        images_B3HW=part.ids_BT.new_zeros((B, 3, side, side), dtype=torch.uint8) if side else None,
        queries_BQE=None if side else torch.zeros((B, *queries), device=part.ids_BT.device),
        layout=None,
    )
