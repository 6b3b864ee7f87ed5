"""Fetch lists of URLs, and once more those that failed in passing.

python -m tasks.fetching.download_process SPEC.json [ray]

A process of its own because img2dataset spawns workers, and each of them imports the main module
again: so that module is this one, which is light and does nothing by itself.
"""

import sys
from types import ModuleType

# Only in this process and its workers, and before anything is imported there: img2dataset and what it uses import
# these if there are any, and need none of them here. They would be most of each worker's start.
if __name__ in ("__main__", "__mp_main__"):
    sys.modules["torch"] = None  # type: ignore[assignment]  # the documented way to have an import refused
    sys.modules["wandb"] = ModuleType("wandb")  # img2dataset insists on this one, and uses it where one asks for it
    if "ray" not in sys.argv:
        sys.modules["ray"] = None  # type: ignore[assignment]

if __name__ == "__main__":
    from tasks.fetching.download import main

    sys.exit(main(sys.argv[1]))
