"""What imports take, as Python does them and with garbage left lying (`tinygptv_core.importing`).

python -m benchmarks.importing
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Mapping
from statistics import median

IMPORTS: Mapping[str, str] = {
    "training": "import tinygptv_core.train",
    "Prefect's server": "import prefect.server.api.server",
    "Ray Train": "import ray.train.torch",
}
PAUSED = "from tinygptv_core.importing import importing\nwith importing():\n    {}"


def processor_seconds(code: str) -> float:
    """Of a new Python that does `code`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table; the ways take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="of each way (%(default)s)")
    times = parser.parse_args().times
    print("| what | as ever | with garbage left lying | |\n| --- | --- | --- | --- |")
    for name, code in IMPORTS.items():
        turns = [(processor_seconds(code), processor_seconds(PAUSED.format(code))) for _ in range(times)]
        usual, paused = (median(took) for took in zip(*turns, strict=True))
        print(f"| {name} | {usual:.1f} s | {paused:.1f} s | {usual / paused:.2f} x |", flush=True)


if __name__ == "__main__":
    main()
