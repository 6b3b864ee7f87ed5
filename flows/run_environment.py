"""Where and how a run happens: folders, addresses, processes. None of it bears on what is computed."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Thread

from tasks.build import Store
from tasks.evaluate import EVALUATE
from tasks.fetch import FetchOptions
from tasks.filtering.removals import NO_REMOVALS, Removals, read_removals
from tasks.lease import lease
from tasks.promote import Rule
from tasks.register import REGISTER, import_mlflow
from tasks.tars import Sharing
from tasks.track import Tracking, tracked_run
from tasks.train import TRAIN, Workers, ray_workers
from tasks.training.cluster import import_ray, ray_cluster
from tinygptv_core.compute import Compute, Progress
from tinygptv_core.importing import importing
from tinygptv_core.run import RunOptions

IMPORTS = "imports ahead"
WORTH_PROCESSES_BYTES = 200_000_000
"""Shards that hold less are looked at sooner by one process than several have started."""


def import_ahead(ray_address: str | None, builds: Iterable[str]) -> None:
    """Begin to import what is slow to import of what these steps take; `wait_for_imports` waits for the end of it."""
    kinds = {name.rpartition("/")[-1] for name in builds}

    @importing()
    def work() -> None:
        import tasks.reporting.report_page  # noqa: F401 -- every run ends with its report

        if TRAIN.name in kinds:
            import_ray(ray_address)
        if kinds & {TRAIN.name, REGISTER.name}:
            import_mlflow()
        if EVALUATE.name in kinds:
            import tinygptv_core.evaluate  # noqa: F401

    Thread(target=work, name=IMPORTS, daemon=True).start()


def wait_for_imports() -> None:
    """Wait for `import_ahead`, if it was called: threads that import the same modules may meet half of one."""
    for thread in threading.enumerate():
        if thread.name == IMPORTS:
            thread.join()


@dataclass(frozen=True, kw_only=True)
class RunEnvironment:
    """One home, and the means to work there.

    Attributes:
        home: the folder that holds everything a run writes.
        fetching: how pictures are fetched; which hosts are allowed although their address is not public.
        removal_list: the user's file of what is to be left out.
        own_lists: data set -> the user's own files in its place, paths or addresses: `list`, `instruct`.
        listed: data set -> how many records the user's own files hold, where all of them were read beforehand.
        images: where the pictures of `instruct` lie.
        data: the folder of what the user got by hand or from a URL, as the recipes say; None where none is named.
        ray_address: a running Ray cluster; None starts one on this machine.
        tracking_uri: MLflow's server or database.
        experiment: MLflow's name for runs of this preset.
        options: how training runs.
        promote: when the run's version becomes the champion.
        bundle: whether the version holds a copy of its backbones.
        progress: step name -> what is told of how far it has come.
        opened: what the steps opened and the end of the run closes.
    """

    home: Path
    fetching: FetchOptions
    removal_list: Path | None
    own_lists: Mapping[str, tuple[str, ...]]
    listed: Mapping[str, int]
    images: Path | None
    data: Path | None
    ray_address: str | None
    tracking_uri: str
    experiment: str
    options: RunOptions
    promote: Rule
    bundle: bool
    run: str
    progress: Callable[[str], Progress] = field(repr=False)
    opened: ExitStack = field(repr=False, default_factory=ExitStack)

    @cached_property
    def store(self) -> Store:
        """The artifacts on this home."""
        return Store(self.home / "store")

    @cached_property
    def removals(self) -> Removals:
        """What the removal list names, as it is when this is first asked for."""
        return read_removals(self.removal_list) if self.removal_list else NO_REMOVALS

    @property
    def stamps(self) -> Path:
        """Where the SHA-256 of the user's files are remembered."""
        return self.store.root / "stamps"

    @cached_property
    def tracking(self) -> Tracking:
        """Where MLflow keeps what is told of this run."""
        return Tracking(uri=self.tracking_uri, experiment=self.experiment, artifacts=self.home / "mlflow" / "artifacts")

    @cached_property
    def pipeline_run(self) -> str | None:
        """This run in MLflow, the parent of its stages'; opened when first asked for, and open until the run ends."""
        return self.opened.enter_context(tracked_run(self.tracking, self.run, {"home": str(self.home)}, None))

    @property
    def tracked(self) -> str | None:
        """`pipeline_run` where it was opened: a run that reuses everything opens none."""
        return vars(self).get("pipeline_run")

    @cached_property
    def cluster(self) -> None:
        """Ray; connected to or started when first asked for, and there until the run ends."""
        self.opened.enter_context(ray_cluster(self.home, self.ray_address))

    @property
    def sharing(self) -> Sharing:
        """Who does work over shards: the Ray cluster that was named, or processes of this machine."""
        return Sharing(
            processes=self.options.cores,
            least_bytes=WORTH_PROCESSES_BYTES,
            ray=(lambda: self.cluster) if self.ray_address else None,
        )

    @cached_property
    def _own_workers(self) -> Workers:
        return self.opened.enter_context(ray_workers(self.home, self.options))

    @contextmanager
    def workers(self) -> Iterator[Workers]:
        """What trains, on Ray.

        On a cluster of our own they are started once, and stay until the run ends. On one that was named they make room
        after each stage: a run that waits for what another is building must hold nothing that the other waits for.
        """
        _ = self.cluster
        if self.ray_address is None:
            yield self._own_workers
            return
        with ray_workers(self.home, self.options) as workers:
            yield workers

    def registry_alone(self) -> AbstractContextManager[object]:
        """What is held while a version gets its aliases, so that those of two runs on this home are not mixed."""
        return lease(self.home / "mlflow" / "registry.lease", lambda text: None)

    @property
    def compute(self) -> Compute:
        """Where the steps run that compute in this process: on as many threads as training has in all its own."""
        return Compute(device=self.options.device, threads=self.options.cores)

    @property
    def report_folder(self) -> Path:
        """Where this run's report goes."""
        return self.home / "runs" / self.run
