"""Where and how a run happens: folders, addresses, processes. None of it bears on what is computed."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tasks.build import Store
from tinygptv_core.run import RunOptions

Progress = Callable[[int, int, str], None]
"""(done, total, text): how far a step has come."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One home, and the means to work there.

    Attributes:
        home: the folder that holds everything a run writes.
        allow_hosts: hosts that are fetched from although their address is not public.
        list_file: the user's own list of URLs and captions, in place of the pre-training lists.
        ray_address: a running Ray cluster; None starts one on this machine.
        tracking_uri: MLflow's server or database.
        options: how training runs.
        progress: step name -> what is told of how far it has come.
        opened: what the steps opened and the end of the run closes (Ray).
    """

    home: Path
    allow_hosts: tuple[str, ...]
    list_file: Path | None
    ray_address: str | None
    tracking_uri: str
    options: RunOptions
    run: str
    progress: Callable[[str], Progress] = field(repr=False)
    opened: ExitStack = field(repr=False, default_factory=ExitStack)

    @property
    def store(self) -> Store:
        """The artifacts on this home."""
        return Store(self.home / "store")

    @property
    def report_folder(self) -> Path:
        """Where this run's report goes."""
        return self.home / "runs" / self.run
