"""How much memory a run has held at most, in a process that has had others before."""

import subprocess
import sys

HELD = """
from tinygptv_core.memory import forget_peak_memory, peak_memory_bytes

def more_than_at_first(make):
    forget_peak_memory("cpu")
    start = peak_memory_bytes("cpu")
    made = make()
    return made, (peak_memory_bytes("cpu") - start) >> 20
"""


def measured(script: str) -> list[int]:
    """What a process of its own prints, whose heap nobody else has used."""
    command = [sys.executable, "-c", HELD + script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_the_peak_is_of_what_came_after_it_was_forgotten():
    large, small = measured("""
before, large = more_than_at_first(lambda: b"1" * (256 << 20))
del before
after, small = more_than_at_first(lambda: b"1" * (64 << 20))
print(large, small)
""")
    assert 250 < large < 300 and 60 < small < 100  # the kernel counts pages by the batch, and says some too few


def test_what_was_freed_in_small_pieces_is_no_part_of_the_next_peak():
    """Below the size that is mapped by itself; one at the end of the heap is held, so that free gives nothing back."""
    first, second = measured("""
before, first = more_than_at_first(lambda: [b"1" * (60_000 + number) for number in range(4_000)])
last = before[-1]
del before
after, second = more_than_at_first(lambda: [b"1" * (60_000 + number) for number in range(1_000)])
print(first, second)
""")
    assert 230 < first < 300 and 50 < second < 100
