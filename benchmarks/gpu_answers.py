"""What a question takes of one GPU's memory at full size, with large weights in 16, 8 and 4 bit.

python -m benchmarks.gpu_answers
python -m benchmarks.gpu_answers --toy

It needs the core and bitsandbytes, and no weights: they are random. What is asked is what `memory.py` computes for: a
picture of 448 px and 64 tokens, and an answer of 64. The model is made as a trained one is loaded: each large Linear is
quantized as soon as it is there. Memory is torch's own count of what was held, so without the driver's part. Without a
GPU, or with --toy, everything is small and only said to have run.
"""

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.gpu_work import FULL, TOY, Scale, new_model, new_tokenizer, work_of_stage
from benchmarks.memory import PAPER_QUESTION, batch_of
from tinygptv_core.answer import narrow_linears
from tinygptv_core.answering.decoding import greedy
from tinygptv_core.generate import generate
from tinygptv_core.plain import ConfigError
from tinygptv_core.quantize import lowering

GOALS_GB = {16: 8.0, 8: 5.0, 4: 3.5}
NEVER_SAID = "<|never|>"


@dataclass(frozen=True, kw_only=True)
class Took:
    """In bytes, of a GPU; and the seconds of one answer, which is not the first.

    Attributes:
        made: the most that was held while the model was made.
        weights: what the model holds.
        peak: the most that was held while it answered.
    """

    made: int
    weights: int
    peak: int
    seconds: float


def measured(bits: int, scale: Scale, device: torch.device) -> Took:
    """One question, asked twice of a model that was just made.

    Raises:
        ConfigError: bitsandbytes is not installed.
        torch.OutOfMemoryError: the GPU has not enough.
    """
    work, is_cuda = work_of_stage(4, 1, 1, scale, "float16"), device.type == "cuda"
    made = weights = peak = 0
    convert = lowering(bits, device.type) if bits == 8 or bits == 4 else None
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    model = new_model(work, device, convert).eval()
    narrow_linears(model, torch.float16)
    if is_cuda:
        made, weights = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    load = replace(PAPER_QUESTION, image_size=work.stage.image_size, targets=0)
    batch, tokenizer = batch_of(load).to(device), new_tokenizer()
    decoding = greedy(PAPER_QUESTION.targets, stop=NEVER_SAID)

    @torch.inference_mode()
    def seconds() -> float:
        began = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.float16):
            image_BQD = model.images(batch)
            generate(model, batch, tokenizer=tokenizer, decoding=decoding, image_BQD=image_BQD)
        return time.perf_counter() - began

    seconds()
    again = seconds()
    if is_cuda:
        peak = torch.cuda.max_memory_allocated()
    return Took(made=made, weights=weights, peak=peak, seconds=again)


def main(arguments: Sequence[str]) -> int:
    """Print the table, row by row. Returns 0, or 2 without bitsandbytes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_answers")
    parser.add_argument("--toy", action="store_true", help="small sizes on the CPU; so without a GPU in any case")
    is_toy = parser.parse_args(arguments).toy or not torch.cuda.is_available()
    device, scale = torch.device("cpu" if is_toy else "cuda"), TOY if is_toy else FULL
    print("TOY SIZES ON THE CPU: memory is not measured" if is_toy else torch.cuda.get_device_name())
    print("| weights in | while made | weights | peak | goal | seconds |", "| --- " * 6 + "|", sep="\n", flush=True)
    for bits, goal in GOALS_GB.items():
        try:
            took = measured(bits, scale, device)
            told = [f"{part / 1e9:.2f} GB" if part else "" for part in (took.made, took.weights, took.peak)]
            cells = [*told, f"{goal:g} GB", f"{took.seconds:.2f}"]
        except torch.OutOfMemoryError:
            cells = ["out of memory", "", "", f"{goal:g} GB", ""]
        except ConfigError as error:
            print(error, file=sys.stderr)
            return 2
        gc.collect()
        print(f"| {bits} bit | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
