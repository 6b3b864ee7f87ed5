"""How much memory a run has held at most, in a process that has had others before."""

import torch

from tinygptv_core.memory import forget_peak_memory, peak_memory_bytes

MIB = 1 << 20


def test_the_peak_is_of_what_came_after_it_was_forgotten():
    before = torch.ones(256 * MIB, dtype=torch.uint8)
    assert peak_memory_bytes("cpu") > 256 * MIB
    del before
    forget_peak_memory("cpu")
    start = peak_memory_bytes("cpu")
    after = torch.ones(64 * MIB, dtype=torch.uint8)
    assert 48 * MIB < peak_memory_bytes("cpu") - start < 128 * MIB
    del after


def test_what_was_freed_in_small_pieces_is_no_part_of_the_next_peak():
    """malloc keeps such pieces unless it is told to give them back."""
    forget_peak_memory("cpu")
    start = peak_memory_bytes("cpu")
    before = [bytes(60_000 + number % 7) for number in range(4_000)]  # 240 MB, in part where others were
    assert peak_memory_bytes("cpu") - start > 150 * MIB
    last = before[-1]  # holds the end of the heap, so that free alone gives nothing back
    del before
    forget_peak_memory("cpu")
    assert peak_memory_bytes("cpu") - start < 100 * MIB
    del last
