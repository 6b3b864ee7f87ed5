"""A home as a run would leave it, made in moments: data sets, two stages, scores, a model, and a registry in SQLite.

web    0 kept (picture A), 1 http_404, 2 kept (B), 3 the bytes of 0, 4 ... 11 kept
alt    0 kept (the bytes of web 2), 1 and 2 kept; their URLs have another host
test   0 kept: a picture that an evaluation asks about
"""

import json
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from tasks.build import Store
from tasks.evaluate import EVALUATE
from tasks.fetch import FETCH, write_shards
from tasks.fetching.outcomes import Outcome
from tasks.filter import FILTER
from tasks.register import REGISTER
from tasks.registering.registry import CHECKPOINT_TAG, MODEL_TAG
from tasks.request import Request, Step, StepFolders
from tasks.rows import ROWS
from tasks.screen import SCREEN, Against, screen
from tasks.tables import ROWS_FILE, TableRow, TableWriter, Tally
from tasks.train import TRAIN
from tests.tasks.shards import ALONE, encoded, picture
from tinygptv_core.artifact import Artifact, file_artifact
from tinygptv_core.presets import NANO
from tinygptv_core.settings import Screen
from tinygptv_core.stage import Schedule, Share, Stage

PICTURES = [encoded(picture(number, (48, 36))) for number in range(14)]
WEB = [0, None, 1, 0, *range(2, 10)]
"""Which picture each row of `web` gives; None: none."""
ALT = [1, 10, 11]
TEST = [12]
SCREENED = Screen(min_side=1, max_aspect=9, unique_bytes=True)
BACKBONES = Step(name="import", kind="backbones", version=1)
STAGE = replace(
    NANO.stages[0],
    name="stage1",
    mix={"web": Share(weight=3, batch=2), "alt": Share(weight=1, batch=1)},
    schedule=Schedule(start=0, peak=1, end=0, warmup_steps=0, steps=6),
    held_out_samples=1,
)
SECOND = replace(STAGE, name="stage2", mix={"alt": Share(weight=1, batch=1)})
SCORES = {"asked_vqa": {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 1, "control": None}}}
TABLES = """
CREATE TABLE registered_models (name TEXT);
CREATE TABLE model_versions (name TEXT, version INTEGER, current_stage TEXT, storage_location TEXT, source TEXT);
CREATE TABLE model_version_tags (name TEXT, version INTEGER, key TEXT, value TEXT);
CREATE TABLE registered_model_aliases (name TEXT, version INTEGER, alias TEXT);
INSERT INTO registered_models VALUES ('tinygptv');
"""
"""As much of MLflow's tables as is read without MLflow."""


def url(data: str, number: int) -> str:
    """The address of a row."""
    return f"http://{data}.example/{number}.jpg"


@dataclass(kw_only=True)
class MadeHome:
    """A home whose steps are built one after another.

    Attributes:
        run: what is noted of what is built next.
        made: step -> the newest artifact of that name.
    """

    root: Path
    run: str = "r1"
    time: float = 1000.0

    def __post_init__(self) -> None:
        self.store = Store(self.root / "store")
        self.made: dict[str, Artifact] = {}

    @property
    def uri(self) -> str:
        """Its registry."""
        return f"sqlite:///{self.root}/mlflow/mlflow.db"

    def build(self, name: str, step: Step, config: Any, inputs: Mapping[str, str | Artifact | None], work: Any) -> None:
        """Build a step from those that were built before it."""
        found = {role: self.made[source] if isinstance(source, str) else source for role, source in inputs.items()}
        noted = {
            "run": self.run,
            "time": self.time,
            "host": "a-box",
            "argv": ["run", "--set", "a=1"],
            "commit": "c" * 40,
        }
        request = Request(name=name, step=step, config=config, inputs=inputs, work=work)
        built = self.store.build(request, found, {}, noted=noted, force=False, waiting=lambda text: None)
        self.made[name] = built.artifact

    def data(self, name: str, pictures: Sequence[int | None]) -> None:
        """rows, filter, fetch and screen of a data set; the filter leaves out the last row of the list."""
        rows = [
            TableRow(key=f"{n:09d}", url=url(name, n), file=None, turns='[["assistant", "a"]]', split=None, group=None)
            for n in range(len(pictures) + 1)
        ]
        list_file = self.root / f"{name}.txt"
        list_file.parent.mkdir(exist_ok=True)
        list_file.write_text("\n".join(str(row.url) for row in rows))

        def table(kept: list[TableRow], folders: StepFolders) -> None:
            with TableWriter(folders.out / ROWS_FILE, TableRow) as file:
                for row in kept:
                    file.write(row)
            tally = Tally(kept=len(kept))
            tally.dropped.update({"too_few_words": len(rows) - len(kept)} if len(kept) < len(rows) else {})
            tally.write(folders.out, len(rows))

        def fetch(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
            found = (
                (row, _outcome(n), ("jpg", PICTURES[n]) if n is not None else None)
                for row, n in zip(rows[:-1], pictures, strict=True)
            )
            write_shards(found, 100, folders.out).write(folders.out, len(pictures))

        def look(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
            screen(SCREENED, inputs["shards"].path, Against(), folders, ALONE)

        source = {"source": file_artifact(list_file, "source")}
        self.build(f"{name}/rows", ROWS, {"data": name}, source, lambda i, folders: table(rows, folders))
        self.build(
            f"{name}/filter", FILTER, {}, {"table": f"{name}/rows"}, lambda i, folders: table(rows[:-1], folders)
        )
        self.build(f"{name}/fetch", FETCH, {}, {"table": f"{name}/filter"}, fetch)
        self.build(f"{name}/screen", SCREEN, {"min_side": 1}, {"shards": f"{name}/fetch"}, look)

    def stage(self, stage: Stage, init: str | None) -> None:
        """A checkpoint, and its scores on `test`."""
        data = {f"{kind}.{name}": f"{name}/{step}" for name in stage.mix for kind, step in READ.items()}
        trained, scored = f"{stage.name}/train", f"{stage.name}/evaluate"
        inputs = {"backbones": "backbones/import", "init": init, **data}
        self.build(trained, TRAIN, {"stage": stage}, inputs, _writes("trainable.safetensors", f"{stage}{self.run}"))
        asked = {"checkpoint": trained, **{f"{kind}.test": f"test/{step}" for kind, step in READ.items()}}
        self.build(scored, EVALUATE, {"seed": stage.seed}, asked, _writes("scores.json", json.dumps(SCORES)))

    def register(self, *aliases: str) -> None:
        """A model of everything, and its version."""
        made = {**{name: DATA for name in ("web", "alt")}, **{stage: STAGES for stage in ("stage1", "stage2")}}
        sources = {f"{role}.{name}": f"{name}/{step}" for name, steps in made.items() for role, step in steps.items()}
        sources["backbones"] = "backbones/import"
        checkpoint = self.made["stage2/train"].digest
        self.build("register", REGISTER, {"name": "tinygptv"}, sources, _writes("model.json", checkpoint))
        tags = {MODEL_TAG: self.made["register"].digest, CHECKPOINT_TAG: checkpoint}
        tags |= {f"tinygptv.{step}": self.made[step].digest for step in sources.values()}
        self.add_version(tags, aliases)

    def add_version(self, tags: Mapping[str, str], aliases: Sequence[str]) -> None:
        """A version with these tags, beside those that are there."""
        path = self.root / "mlflow" / "mlflow.db"
        is_new = not path.exists()
        path.parent.mkdir(exist_ok=True)
        with closing(sqlite3.connect(path)) as file, file:
            if is_new:
                file.executescript(TABLES)
            (count,) = file.execute("SELECT count(*) FROM model_versions").fetchone()
            version = count + 1
            file.execute("INSERT INTO model_versions VALUES ('tinygptv', ?, 'None', ?, '')", (version, str(self.root)))
            rows = [("tinygptv", version, key, value) for key, value in tags.items()]
            file.executemany("INSERT INTO model_version_tags VALUES (?, ?, ?, ?)", rows)
            for alias in aliases:
                file.execute("DELETE FROM registered_model_aliases WHERE alias = ?", (alias,))
                file.execute("INSERT INTO registered_model_aliases VALUES ('tinygptv', ?, ?)", (version, alias))

    def report(self, preset: str, *, whole: bool = True) -> None:
        """The report of the run."""
        folder = self.root / "runs" / self.run
        folder.mkdir(parents=True)
        steps = [{"step": name, "artifact": artifact.digest} for name, artifact in self.made.items()]
        model = {"name": "tinygptv"} if whole else None
        (folder / "report.json").write_text(
            json.dumps({"run": self.run, "preset": preset, "steps": steps, "model": model})
        )


READ = {"shards": "fetch", "index": "screen"}
DATA = {"rows": "rows", "table": "filter", **READ}
STAGES = {"checkpoint": "train", "scores": "evaluate"}


def _writes(name: str, text: str) -> Any:
    def work(inputs: Mapping[str, Artifact], folders: StepFolders) -> None:
        (folders.out / name).write_text(text)

    return work


def _outcome(number: int | None) -> Outcome:
    if number is None:
        return Outcome(fate="http_404", detail="")
    digest = sha256(PICTURES[number]).hexdigest()
    return Outcome(fate="ok", detail="", sha256=digest, width=48, height=36)


def copied(home: MadeHome, root: Path) -> MadeHome:
    """The same home at another place."""
    shutil.copytree(home.root, root)
    other = MadeHome(root=root, run=home.run, time=home.time)
    other.made = {name: replace(item, path=root / item.path.relative_to(home.root)) for name, item in home.made.items()}
    return other


def made_home(root: Path) -> MadeHome:
    """All of it, and one version: the champion."""
    home = MadeHome(root=root)
    home.build("backbones/import", BACKBONES, {"name": "toy"}, {}, _writes("backbones.json", "{}"))
    for name, pictures in (("web", WEB), ("alt", ALT), ("test", TEST)):
        home.data(name, pictures)
    home.stage(STAGE, None)
    home.stage(SECOND, "stage1/train")
    home.register("champion", "challenger")
    home.report("toy")
    return home
