"""What a change builds, on a toy graph with a real store."""

import shlex
from dataclasses import replace

import pytest

from flows.plan import check_present, plan, probed, select
from tasks import build
from tasks.build import Store
from tasks.request import Estimate, Request, Step, TrainingEstimate
from tinygptv_core.plain import ConfigError

ADD = Step(name="add", kind="number", version=1)


def adding(name, value, *inputs):
    def work(artifacts, folders):
        total = value + sum(int((artifact.path / "n").read_text()) for artifact in artifacts.values())
        (folders.out / "n").write_text(str(total))

    return Request(name=name, step=ADD, config={"add": value}, inputs=dict(zip("abc", inputs, strict=False)), work=work)


def graph(a=1, b=2):
    return (
        adding("x/rows", a),
        adding("y/rows", b),
        adding("stage1/train", 10, "x/rows"),
        adding("stage2/train", 20, "stage1/train", "y/rows"),
        adding("stage2/evaluate", 0, "stage2/train"),
    )


def everything(requests, **options):
    return select(requests, **{"only": None, "start_from": None, "until": (), **options})


def run(store, requests, **options):
    artifacts = {}
    built = []
    selection = everything(requests, **options)
    for request in selection.walked:
        inputs = {n: artifacts[s] for n, s in request.inputs.items()}
        noted = {"run": "r", "time": 1.0}
        force = request.name in selection.forced
        one = store.build(request, inputs, {}, noted=noted, force=force, waiting=lambda text: None)
        artifacts[request.name] = one.artifact
        built += [request.name] if one.action == "build" else []
    return built


def to_build(store, requests, **options):
    return [item.step for item in plan(store, everything(requests, **options)) if item.action == "build"]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    run(store, graph())
    return store


def test_a_fresh_home_builds_everything_and_builds_nothing_by_planning(tmp_path):
    assert len(to_build(Store(tmp_path / "none"), graph())) == 5
    assert not (tmp_path / "none").exists()


def test_nothing_changed_builds_nothing(store):
    assert to_build(store, graph()) == [] and run(store, graph()) == []


def test_a_change_builds_its_step_and_those_after_it(store):
    assert to_build(store, graph(b=3)) == ["y/rows", "stage2/train", "stage2/evaluate"]
    assert run(store, graph(b=3)) == ["y/rows", "stage2/train", "stage2/evaluate"]


def test_the_reason_is_in_words(store):
    why = {item.step: item.why for item in plan(store, everything(graph(b=3)))}
    assert why["y/rows"] == "config.add 2 -> 3"
    assert why["stage2/train"].startswith("its input y/rows is still to be built")
    assert why["x/rows"] == "same request and inputs as in run r"


def test_a_change_that_alters_no_byte_stops_there(store):
    """The sum 1 + 2 = 2 + 1: what is made of both is not made again."""
    both = (adding("one", 1), adding("two", 2), adding("sum", 0, "one", "two"))
    assert run(store, both) == ["sum"]  # "one" and "two" ask for the same as x/rows and y/rows did
    same = (*both[:1], adding("two", 1, "one"), both[2])
    assert to_build(store, same) == ["two", "sum"] and run(store, same) == ["two"]


def test_from_builds_a_step_and_what_follows_from_it_anew(store):
    assert to_build(store, graph(), start_from="y") == ["y/rows", "stage2/train", "stage2/evaluate"]
    assert run(store, graph(), start_from="stage2/train") == ["stage2/train", "stage2/evaluate"]


def test_what_a_step_takes_is_told_where_it_is_to_be_built(store):
    def costly(request):
        def estimate(inputs):
            known = sum(artifact is not None for artifact in inputs.values())
            return Estimate(rows=known, is_bound=False, bytes=0, seconds=0.0, is_measured=False)

        return replace(request, estimate=estimate)

    requests = tuple(costly(request) for request in graph(b=3))
    rows = {item.step: item.estimate and item.estimate.rows for item in plan(store, everything(requests))}
    assert rows == {"x/rows": None, "y/rows": 0, "stage1/train": None, "stage2/train": 1, "stage2/evaluate": 0}


def test_what_can_be_tried_is_tried_where_it_is_to_be_built(store):
    measured = TrainingEstimate(seconds=1.0, memory_bytes=2.0, disk_bytes=3, by="probe", note="")

    def trying(request):
        return replace(request, probe=lambda inputs: measured if all(inputs.values()) else None)

    selection, told = everything(tuple(trying(request) for request in graph(b=3))), []
    tried = {item.step: item.estimate for item in probed(selection, plan(store, selection), told.append)}
    # y/rows has no inputs; those after it lack what it makes; x/rows and stage1 are there.
    assert {name for name, estimate in tried.items() if estimate == measured} == {"y/rows"}
    assert told == [f"trying {name} for a moment" for name in ("y/rows", "stage2/train", "stage2/evaluate")]


def test_until_walks_to_a_step_and_no_further(tmp_path):
    assert run(Store(tmp_path), graph(), until=("stage1",)) == ["x/rows", "stage1/train"]


def test_only_builds_one_step_and_refuses_without_what_comes_before_it(store, tmp_path):
    requests = (*graph()[:4], adding("stage2/evaluate", 7, "stage2/train"))
    assert run(store, requests, only="stage2/evaluate") == ["stage2/evaluate"]
    empty = Store(tmp_path / "empty")
    selection = everything(requests, only="stage2/train")
    with pytest.raises(
        ConfigError, match=r"stage2/train is to be built alone, but x/rows .* and 2 other steps"
    ) as told:
        check_present(selection, plan(empty, selection), ["--set", "a=b c"])
    first, second = (line.split("tinygptv")[1] for line in str(told.value).splitlines()[1:])
    assert (first, second) == (" data y --set 'a=b c'", " train stage1 --set 'a=b c'")  # which builds x/rows, too


def test_what_no_other_command_builds_is_built_alone_after_what_it_is_made_from(tmp_path):
    requests = (*graph()[:3], adding("stage1/evaluate", 0, "stage1/train"), adding("register", 0, "stage1/evaluate"))
    empty, selection = Store(tmp_path / "empty"), everything(requests, only="register")
    with pytest.raises(ConfigError, match=r"train stage1\n +tinygptv run --only stage1/evaluate$"):
        check_present(selection, plan(empty, selection), [])


def selected(requests, words):
    """The steps that a command of `tinygptv` means, with that of them which it builds alone."""
    command, *rest = words
    if command == "run":
        return everything(requests, only=rest[1]), {"only": rest[1]}
    until = (f"{rest[0]}/{'train' if command == 'train' else 'rows'}",)
    return everything(requests, until=until), {"until": until}


@pytest.mark.parametrize("target", ["register", "stage2/evaluate", "stage1/evaluate"])
def test_the_commands_that_a_refusal_names_work_in_their_order_and_then_so_does_what_was_refused(tmp_path, target):
    """Only trainings build backbones and checkpoints, and what evaluations read is made from both."""
    requests = (
        adding("test/rows", 1),
        adding("x/rows", 2),
        adding("backbones/import", 3),
        adding("evaluation-stage1/features", 4, "backbones/import", "test/rows"),
        adding("stage1/train", 10, "backbones/import", "x/rows"),
        adding("stage1/evaluate", 11, "stage1/train", "evaluation-stage1/features", "test/rows"),
        adding("stage2/train", 20, "stage1/train", "x/rows"),
        adding("stage2/evaluate", 21, "stage2/train", "evaluation-stage1/features", "test/rows"),
        adding("register", 30, "stage2/train", "stage1/evaluate", "stage2/evaluate"),
    )
    store, selection = Store(tmp_path), everything(requests, only=target)
    with pytest.raises(ConfigError) as told:
        check_present(selection, plan(store, selection), [])
    commands = [shlex.split(line.partition("tinygptv ")[2]) for line in str(told.value).splitlines()[1:]]
    for words in [*commands, ["run", "--only", target]]:
        chosen, options = selected(requests, words)
        check_present(chosen, plan(store, chosen), [])
        assert run(store, requests, **options), f"{words} builds nothing"


def test_a_plan_looks_up_and_times_steps_by_one_reading_of_each_record(store, monkeypatch):
    """Beside the look for that of a request's own key, which for a new one is not there."""
    read = []
    seen = build.read_record
    monkeypatch.setattr(build, "read_record", lambda path: (read.append(path.stem), seen(path))[1])
    assert len(to_build(store, graph(a=7, b=8))) == 5
    there = {path.stem for path in (store.root / "keys").glob("*/*.json")}
    assert len(there) == 5 and sorted(key for key in read if key in there) == sorted(there)


def test_how_long_a_step_took_is_asked_where_its_estimate_is_not_about_all_of_it(store):
    whole = Estimate(rows=1, is_bound=False, bytes=0, seconds=5.0, is_measured=True)
    costly, *rest = graph(a=7, b=8)
    requests = (replace(costly, estimate=lambda inputs: whole), *rest)
    last = {item.step: item.last_seconds for item in plan(store, everything(requests))}
    assert last["x/rows"] is None and last["y/rows"] is not None


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("stge2", "Did you mean stage2 or stage1?"),
        ("stage2/trian", "Did you mean stage2/train, stage1/train or stage2/evaluate?"),
        ("train", "Did you mean stage1/train or stage2/train?"),
        ("none", "A step is named as in stage3/train or stage3."),
    ],
)
def test_an_unknown_step_is_refused_with_the_nearest_names_and_what_lists_all(step, said):
    with pytest.raises(ConfigError) as told:
        everything(graph(), only=step)
    assert str(told.value) == f"there is no step {step}. {said}\n  to list all steps  tinygptv plan"


def test_only_and_from_exclude_each_other():
    with pytest.raises(ConfigError, match="exclude each other"):
        everything(graph(), only="stage1", start_from="stage2")
