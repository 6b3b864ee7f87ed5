"""Why a step is built or reused, on a toy graph in a real store: numbers are added, each step's to those before it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flows.choosing.choice import Prepared, prepare
from flows.cli import main
from flows.commands.why import StepExplanation, explain, for_machines, in_words
from flows.plan import plan, resolve, select
from flows.provenance import noted
from tasks.request import Request, Step, difference
from tasks.storing.differences import in_short
from tests.flows.choices import CHOICE
from tinygptv_core.artifact import file_artifact

ADD = Step(name="add", kind="number", version=1)
THEN = {"run": "r1", "time": 0.0, "host": "a-box", "argv": ["run", "--set", "a=b c"], "commit": "1" * 40}
VERSIONS = {"python": "3.11.0", "versions": {"torch": "2.0"}, "engine": "ddp", "world_size": 4}


def adding(name, config, inputs, version=1):
    def work(artifacts, folders):
        numbers = [
            int(path.read_text()) for a in artifacts.values() for path in [a.path / "n" if a.path.is_dir() else a.path]
        ]
        (folders.out / "n").write_text(str(config["rule"]["add"] + sum(numbers)))

    return Request(name=name, step=replace(ADD, version=version), config=config, inputs=inputs, work=work)


def graph(list_file, *, add=1, version=1, rate=10):
    """A list -> a table -> shards and an index of both -> a stage."""
    source = file_artifact(list_file, "source")
    return (
        adding("web/rows", {"rule": {"add": 0}}, {"source": source}, version),
        adding("web/filter", {"rule": {"add": add}}, {"table": "web/rows"}),
        adding("web/fetch", {"rule": {"add": 0}}, {"table": "web/filter"}),
        adding("web/screen", {"rule": {"add": 100}}, {"shards": "web/fetch"}),
        adding(
            "stage1/train",
            {"rule": {"add": rate}},
            {"shards.web": "web/fetch", "index.web": "web/screen", "init": None},
        ),
    )


@pytest.fixture
def list_file(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("5")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("run")
    return prepare(replace(CHOICE, home=home, until=("scenes/draw",)), writes=False)


@pytest.fixture
def empty(run, tmp_path):
    """A run that is prepared on a home without anything, whose steps are to be replaced."""
    return replace(run, environment=replace(run.environment, home=tmp_path / "home"))


def prepared(empty: Prepared, requests) -> Prepared:
    selection = select(requests, only=None, start_from=None, until=())
    return replace(empty, selection=selection, planned=plan(empty.environment.store, selection))


def build(empty: Prepared, requests, **noted):
    made = {}
    for request in requests:
        told = {**THEN, **VERSIONS, **noted}
        one = empty.environment.store.build(
            request, resolve(request, made), {}, noted=told, force=False, waiting=lambda text: None
        )
        made[request.name] = one.artifact
    return made


def why(empty: Prepared, requests, step="stage1/train") -> StepExplanation:
    (found,) = explain(prepared(empty, requests), step)
    return found


def test_a_reused_step_says_from_where(empty, list_file):
    made = build(empty, graph(list_file))
    found = why(empty, graph(list_file))
    told = in_words(found)
    assert found.action == "reuse" and found.changes == ()
    assert f"digest {made['stage1/train'].digest[:12]}, key {str(found.key)[:12]}, step version 1" in told
    assert "made in run r1, begun 1970-01-01 00:00:00 UTC, on a-box" in told
    assert "by      tinygptv run --set 'a=b c'" in told and "commit  111111111111" in told
    assert "Python 3.11.0, torch 2.0; engine ddp, 4 processes" in told


def test_the_engine_of_the_run_is_noted_and_told(empty, list_file):
    environment = replace(empty.environment, options=replace(empty.environment.options, engine="zero2"))
    build(empty, graph(list_file), **noted("r2", environment.options))
    found = why(empty, graph(list_file))
    assert f"engine zero2, {environment.options.processes} processes" in in_words(found)
    assert [(change.before, change.now) for change in found.noted if change.name == "engine"] == [("zero2", "ddp")]
    assert why(replace(empty, environment=environment), graph(list_file)).noted == ()
    assert not {"engine", "world_size"} & noted("import", None).keys()


def test_what_bears_on_no_key_is_told_apart(empty, list_file):
    build(empty, graph(list_file))
    found = why(empty, graph(list_file))
    noted = {change.name: (change.before, change.now) for change in found.noted}
    assert noted["world size"] == (4, 2) and noted["torch"][0] == "2.0" and "host" in noted
    assert not {"run", "time", "argv"} & noted.keys()
    assert "noted, not in the key: host a-box -> " in in_words(found)


def test_a_change_is_followed_back_to_its_cause_and_told_once(empty, list_file):
    made = build(empty, graph(list_file))
    found = why(empty, graph(list_file, add=2, rate=20))
    shards, index = (made[name].digest[:12] for name in ("web/fetch", "web/screen"))
    inputs = f"web index {index} -> to be built, web shards {shards} -> to be built"
    assert in_short(found.changes) == f"rule.add 10 -> 20; {inputs} because rule.add 1 -> 2"
    told = in_words(found)
    assert told.count("rule.add 1 -> 2") == 2  # in the tree, and in short
    assert "because of web/fetch, as above" in told and found.key is None


def test_once_the_inputs_are_built_both_digests_are_told(empty, list_file):
    old = build(empty, graph(list_file))
    new = build(empty, graph(list_file, add=2)[:4], time=1.0)
    found = why(empty, graph(list_file, add=2))
    was, now = (made["web/fetch"].digest[:12] for made in (old, new))
    assert f"web shards {was} -> {now}" in in_short(found.changes)
    assert in_short(found.changes).endswith("because rule.add 1 -> 2")


def test_the_version_of_the_code_is_named_with_its_commits(empty, list_file):
    build(empty, graph(list_file))
    found = why(empty, graph(list_file, version=2))
    assert "because step version 1 -> 2 (commit 111111111111 -> " in in_short(found.changes)


def test_a_file_that_was_changed_is_named(empty, list_file):
    build(empty, graph(list_file))
    before = file_artifact(list_file, "source").digest[:12]
    list_file.write_text("6")
    after = file_artifact(list_file, "source").digest[:12]
    assert f"because source {before} -> {after} (the file {list_file})" in in_short(
        why(empty, graph(list_file)).changes
    )


def test_the_nearest_build_is_the_one_that_differs_least(empty, list_file):
    build(empty, graph(list_file, rate=10), run="near")
    build(empty, graph(list_file, add=7, rate=10), run="far", time=9.0)
    found = why(empty, graph(list_file, rate=11))
    assert found.record is not None and found.record.noted["run"] == "near"
    assert in_short(found.changes) == "rule.add 10 -> 11"


def test_an_input_that_is_gone_is_the_reason(empty, list_file):
    made = build(empty, graph(list_file))
    (made["web/screen"].path / "n").unlink()
    found = why(empty, graph(list_file))
    assert "is damaged: n is missing" in in_short(found.changes)
    assert why(empty, graph(list_file), "web/screen").why.endswith("n is missing")


def test_a_step_that_was_never_built_says_so_and_json_has_it_all(empty, list_file):
    found = why(empty, graph(list_file), "web/rows")
    assert in_words(found) == "web/rows: build\n  never built on this home"
    told = json.loads(json.dumps(for_machines(found)))
    assert (told["action"], told["record"], told["changes"], told["in_short"]) == ("build", None, [], "")


def test_the_command_answers_and_refuses_an_unknown_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    home = ["--home", str(tmp_path / "home")]
    assert main(["why", "scenes/draw", *home]) == 0
    assert capsys.readouterr().out == "scenes/draw: build\n  never built on this home\n"
    assert main(["why", "stge1", *home]) == 2
    assert "Did you mean stage1" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


def test_plan_and_why_name_the_same_earlier_build(empty, list_file):
    """Of the nearer one a value differs; of the newer one that value, and what was made of another."""
    build(empty, graph(list_file, rate=10, add=5), run="near")
    build(empty, graph(list_file, rate=12, add=6), run="newer", time=9.0)
    build(empty, graph(list_file, add=5, rate=10)[:4], run="data", time=10.0)
    found = why(empty, graph(list_file, add=5, rate=11))
    assert found.record is not None and found.record.noted["run"] == "near"
    assert found.why == "config.rule.add 10 -> 11" and in_short(found.changes) == "rule.add 10 -> 11"


def test_what_differs_much_is_told_in_a_line_of_bounded_length(empty, list_file):
    def many(**more):
        rule = {"add": 1, **{f"rule_{number}": "x" * 99 for number in range(40)}, **more}
        return (adding("web/rows", {"rule": rule}, {"source": file_artifact(list_file, "source")}),)

    build(empty, many())
    found = why(empty, many(**{f"rule_{number}": "y" * 99 for number in range(40)}), "web/rows")
    assert found.why.count("->") == 5 and found.why.endswith("; and 35 more")
    assert len(found.changes) == 40 and in_short(found.changes).endswith("; and 35 more")
    assert len(in_short(found.changes)) < 1_000


def test_a_group_of_values_that_is_gone_or_new_is_told_once():
    evals = {name: {"version": 1, "prompt": name, "split": None} for name in ("a", "b", "c")}
    asked = {"step": "evaluate", "version": 1, "config": {"evals": evals, "seed": 1}, "inputs": {}}
    fewer = {**asked, "config": {"evals": {"a": evals["a"]}, "seed": 2}}
    assert difference(asked, fewer) == "config.evals.b is gone; config.evals.c is gone; config.seed 1 -> 2"
    assert difference(fewer, asked) == "config.seed 2 -> 1; config.evals.b is new; config.evals.c is new"
