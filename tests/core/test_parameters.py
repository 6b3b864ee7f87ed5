import json
import math
import struct
import subprocess
import sys

import pytest

from tinygptv_core.parameters import parameters, sizes_in, trained_parameters
from tinygptv_core.settings import SHIPPED
from tinygptv_core.sizes import PAPER_SIZES
from tinygptv_core.stages import PAPER_STAGE1, PAPER_STAGE2

NANO = SHIPPED / "nano"


def stored(path):
    """How many numbers a file of weights holds, by its head."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    head = json.loads(data[8 : 8 + length])
    return sum(math.prod(item["shape"]) for name, item in head.items() if name != "__metadata__")


def test_the_papers_model_is_counted_as_published():
    """Of the tower's keys the published count leaves out the biases, which are always 0: 39 x 1,408."""
    counts = parameters(PAPER_SIZES)
    assert counts.vision == 985_894_528 + 2 * 1_408 + 39 * 1_408
    assert counts.qformer == 105_137_664 + 32 * 768
    assert (counts.projections, counts.llm) == (13_638_144, 2_779_683_840 + 92_160)
    assert counts.total == 3_884_473_728 + 39 * 1_408


def test_what_the_paper_trains_is_counted_as_published():
    assert trained_parameters(PAPER_SIZES, PAPER_STAGE1.lora) == 13_809_664
    assert trained_parameters(PAPER_SIZES, PAPER_STAGE2.lora) == 45_266_944


@pytest.mark.parametrize("part", ["vision", "qformer", "llm"])
def test_the_files_of_nano_hold_as_many(part):
    assert getattr(parameters(sizes_in(NANO)), part) == stored(NANO / part / "model.safetensors")


def test_counting_needs_no_torch():
    code = f"""import sys; from pathlib import Path; from tinygptv_core.parameters import parameters, sizes_in
parameters(sizes_in(Path({str(NANO)!r}))); print(sorted({{"torch", "numpy"}} & sys.modules.keys()))"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"
