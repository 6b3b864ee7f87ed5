"""What large imports take, as Python does them and with garbage left lying meanwhile (`tinygptv_core.importing`).

python -m benchmarks.importing
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping
from statistics import median

IMPORTS: Mapping[str, tuple[str, str]] = {
    "a training process, after Ray's own": ("import ray.train.torch", "import tasks.zero"),
    "what trains, in the command": ("import flows.walk", "import ray.train.torch, mlflow"),
    "evaluation, in the command": ("import flows.walk", "import tinygptv_core.evaluate"),
    "Prefect's server": ("import flows.serving.server", "import prefect.server.api.server"),
}
"""What -> what its process has imported before, and what is timed."""
TIMED = """
import time
from tinygptv_core.importing import importing
{before}
began = time.process_time()
{timed}
print(time.process_time() - began)
"""


def processor_seconds(before: str, timed: str) -> float:
    """Of a new Python, for `timed`."""
    command = [sys.executable, "-c", TIMED.format(before=before, timed=timed)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table; the ways take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="of each way (%(default)s)")
    times = parser.parse_args().times
    print("Processor seconds, medians.\n\n| import of | usual | paused | |\n| --- | ---: | ---: | ---: |")
    for name, (before, code) in IMPORTS.items():
        paused = f"with importing():\n    {code}"
        turns = [(processor_seconds(before, code), processor_seconds(before, paused)) for _ in range(times)]
        usual, short = (median(took) for took in zip(*turns, strict=True))
        print(f"| {name} | {usual:.1f} | {short:.1f} | {usual / short:.2f} x |", flush=True)


if __name__ == "__main__":
    main()
