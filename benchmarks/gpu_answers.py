"""What a question takes of one GPU's memory at full size, with large weights in 16, 8 and 4 bit.

python -m benchmarks.gpu_answers
python -m benchmarks.gpu_answers --toy

It needs the core and bitsandbytes, and no weights: they are random. What is asked is what `memory.py` computes for: a
picture of 448 px and 64 tokens, and an answer of 64. Memory is torch's own count of what was held, so without the
driver's part. Without a GPU, or with --toy, everything is small and only said to have run.
"""

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.gpu_work import FULL, TOY, Scale, new_model, new_tokenizer, work_of_stage
from benchmarks.memory import GIB, PAPER_QUESTION, batch_of
from tinygptv_core.generate import generate, greedy
from tinygptv_core.model import TinyGPTV
from tinygptv_core.quantize import Bits, large_linears, lowering

GOALS_GIB = {16: 8.0, 8: 5.0, 4: 3.5}
NEVER_SAID = "<|never|>"


@dataclass(frozen=True, kw_only=True)
class Took:
    """In bytes, of a GPU; and the seconds of one answer, which is not the first."""

    weights: int
    peak: int
    seconds: float


def lower(model: TinyGPTV, bits: Bits, device: torch.device) -> None:
    """Give the large Linears weights of so many bits. They are quantized on their way from the CPU to the device."""
    convert = lowering(bits, device.type)
    for name, linear in large_linears(model).items():
        model.set_submodule(name, convert(name, linear.cpu()))


def measured(bits: int, scale: Scale, device: torch.device) -> Took:
    """One question, asked twice of a model that was just made."""
    work = work_of_stage(4, 1, 1, scale, "float16")
    model = new_model(work, device).eval()
    if bits == 8 or bits == 4:
        lower(model, bits, device)
    load = replace(PAPER_QUESTION, image_size=work.stage.image_size, targets=0)
    batch, tokenizer = batch_of(load).to(device), new_tokenizer()
    decoding = greedy(PAPER_QUESTION.targets, stop=NEVER_SAID)

    @torch.inference_mode()
    def answer() -> None:
        with torch.autocast(device.type, dtype=torch.float16):
            image_BQD = model.images(batch, None)
            generate(model, batch, tokenizer=tokenizer, decoding=decoding, image_BQD=image_BQD)

    answer()
    is_cuda = device.type == "cuda"
    if is_cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    weights = torch.cuda.memory_allocated() if is_cuda else 0
    began = time.perf_counter()
    answer()
    seconds = time.perf_counter() - began
    return Took(weights=weights, peak=torch.cuda.max_memory_allocated() if is_cuda else 0, seconds=seconds)


def main(arguments: Sequence[str]) -> int:
    """Print the table, row by row. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_answers")
    parser.add_argument("--toy", action="store_true", help="small sizes on the CPU; so without a GPU in any case")
    is_toy = parser.parse_args(arguments).toy or not torch.cuda.is_available()
    device, scale = torch.device("cpu" if is_toy else "cuda"), TOY if is_toy else FULL
    print("TOY SIZES ON THE CPU: memory is not measured" if is_toy else torch.cuda.get_device_name())
    print("| weights in | weights | the rest | peak | goal | seconds |", "| --- " * 6 + "|", sep="\n", flush=True)
    for bits, goal in GOALS_GIB.items():
        took = measured(bits, scale, device)
        gc.collect()
        parts = (took.weights, took.peak - took.weights, took.peak)
        told = " | ".join("" if is_toy else f"{part / GIB:.2f} GiB" for part in parts)
        print(f"| {bits} bit | {told} | {goal:g} GiB | {took.seconds:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
