"""`python -m tasks.download_process SPEC.json`: fetch a list of URLs, and once more those that failed in passing.

A process of its own because img2dataset spawns workers, and each of them imports the main module
again: so that module is this one, which is light and does nothing by itself.
"""

import sys

# Only in this process and its workers, and before anything is imported there: WebDataset's writer, which
# img2dataset uses, imports torch if there is one and does not need it. It would be most of each worker's start.
if __name__ in ("__main__", "__mp_main__"):
    sys.modules["torch"] = None  # type: ignore[assignment]  # the documented way to have an import refused

if __name__ == "__main__":
    from tasks.download import main

    sys.exit(main(sys.argv[1]))
