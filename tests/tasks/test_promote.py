"""Promotion, on a real registry, and the paired comparison worked by hand."""

import json

import pytest

from tasks.build import Store
from tasks.evaluate import EVALUATE
from tasks.promote import (
    compare,
    events,
    in_words,
    is_better,
    promote,
    promote_by_rule,
    rollback,
    verdict_words,
)
from tasks.register import CHAMPION, mlflow_at
from tasks.registering.registry import CHECKPOINT_TAG, Version, find
from tasks.request import Request
from tasks.sealed import USERS_FOLDER
from tasks.storing.records import Records
from tinygptv_core.artifact import Artifact
from tinygptv_core.plain import ConfigError

FIRST = (1.0, 0.0, 0.0, 1.0)
SECOND = (1.0, 1.0, 0.0, 1.0)
"""The scores of four questions: the second is better at one, worse at none."""


def scored(store, scores, *, data="a", keys="0123", evals=("toy_vqa",)):
    """The digest of scores of questions about `data`."""

    def work(inputs, folders):
        lines = [
            json.dumps({"eval": name, "key": key, "question": f"what is {key}?", "score": score})
            for name in evals
            for key, score in zip(keys, scores, strict=True)
        ]
        (folders.out / "answers.jsonl").write_text("\n".join(lines))

    asked = {"shards.toy": Artifact(kind=USERS_FOLDER, digest=data * 64, path=store.root)}
    request = Request(
        name="stage1/evaluate",
        step=EVALUATE,
        config={"of": scores, "keys": keys, "evals": evals},
        inputs=asked,
        work=work,
    )
    noted = {"run": "r", "time": 0.0}
    return store.build(request, asked, {}, noted=noted, force=False, waiting=lambda text: None).artifact.digest


def tags(number, digest):
    return {CHECKPOINT_TAG: f"c{number}", "tinygptv.stage1/train": f"c{number}", "tinygptv.stage1/evaluate": digest}


def version(number, digest):
    return Version(name="tinygptv", version=str(number), aliases=(), tags=tags(number, digest), location="")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def compared(store, old, new):
    return compare(version(1, old), version(2, new), Records(store))


def test_two_versions_are_compared_question_by_question(store):
    found = compared(store, scored(store, FIRST), scored(store, SECOND))
    (only,) = found.differences
    assert (only.evaluation, only.n, only.before, only.now, only.difference) == ("toy_vqa", 4, 0.5, 0.75, 0.25)
    assert only.low == 0.0 and only.high == 0.75 and found.untold == ""
    assert compared(store, scored(store, FIRST), scored(store, SECOND)) == found  # seeded


def test_a_version_like_the_one_before_differs_by_exactly_nothing(store):
    (only,) = compared(store, scored(store, FIRST), scored(store, FIRST)).differences
    assert (only.difference, only.low, only.high) == (0.0, 0.0, 0.0)


def test_what_cannot_be_compared_is_said(store):
    old = scored(store, FIRST)
    assert compared(store, old, "f" * 64).untold == "not compared: the answers of tinygptv/2 are not on this home"
    elsewhere = compared(store, old, scored(store, SECOND, data="b"))
    assert elsewhere.untold == "not compared: they were asked about different data (shards.toy)"
    fewer = compared(store, old, scored(store, SECOND[1:], keys="123"))
    assert fewer.untold == "put to one of them alone: 1 question" and fewer.differences[0].n == 3


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three versions, of which the first is the champion; (store, registry)."""
    root = tmp_path_factory.mktemp("home")
    store, uri = Store(root / "store"), f"sqlite:///{root}/mlflow/mlflow.db"
    with mlflow_at(uri) as mlflow:
        client = mlflow.MlflowClient(uri, uri)
        client.create_registered_model("tinygptv")
        for number, scores in enumerate((FIRST, SECOND, FIRST), start=1):
            client.create_model_version("tinygptv", str(root), tags=tags(number, scored(store, scores)))
        client.set_registered_model_alias("tinygptv", CHAMPION, "1")
    return store, uri


def champion(uri):
    return find(uri, "tinygptv@champion")


def test_the_champion_goes_forth_and_back_and_all_of_it_is_kept(home):
    store, uri = home
    with pytest.raises(ConfigError, match="no promotion of tinygptv is on record"):
        rollback(uri, "tinygptv", "")
    assert promote(uri, "tinygptv/1", "", Records(store)) is None
    event = promote(uri, "tinygptv/2", "it sees better", Records(store))
    assert event is not None and champion(uri).version == "2"
    assert champion(uri).tags["tinygptv.champion_because"] == "it sees better"
    assert "tinygptv/2 is the champion; before: tinygptv/1 (promote, by " in in_words("tinygptv", event)
    assert "toy_vqa                  0.500 -> 0.750: +0.250 (+0.000 to +0.750), n 4" in in_words("tinygptv", event)
    promote(uri, "models:/tinygptv/3", "", Records(store))
    assert rollback(uri, "tinygptv", "it does not").version == "2"
    assert rollback(uri, "tinygptv", "").version == champion(uri).version == "1"
    told = [(item.action, item.before, item.version, item.because) for item in events(uri, "tinygptv")]
    assert told == [
        ("promote", "1", "2", "it sees better"),
        ("promote", "2", "3", ""),
        ("rollback", "3", "2", "it does not"),
        ("rollback", "2", "1", ""),
    ]
    assert events(uri, "tinygptv")[0] == event
    with pytest.raises(ConfigError, match=r"was taken back already .*no champion came before tinygptv/1"):
        rollback(uri, "tinygptv", "")


def test_a_digest_is_no_champion_and_its_versions_are_named(home):
    store, uri = home
    with pytest.raises(ConfigError, match=r"c1 is the beginning of a digest.*That is tinygptv/1\.\n  name a version"):
        promote(uri, "c1", "", Records(store))
    with pytest.raises(ConfigError, match="No version was made from it"):
        promote(uri, "c0ffee", "", Records(store))


def test_a_model_that_is_not_there_is_refused_with_those_that_are(home, tmp_path):
    _, uri = home
    with pytest.raises(ConfigError, match=r"has no tinygpt\. Did you mean tinygptv\? There are: tinygptv\."):
        rollback(uri, "tinygpt", "")
    with pytest.raises(ConfigError, match="It holds no model yet; tinygptv run registers one"):
        rollback(f"sqlite:///{tmp_path}/none.db", "tinygptv", "")


def test_an_alias_that_was_moved_by_other_means_is_not_moved_back(home):
    store, uri = home
    promote(uri, "tinygptv/2", "", Records(store))
    with mlflow_at(uri) as mlflow:
        mlflow.MlflowClient(uri, uri).set_registered_model_alias("tinygptv", CHAMPION, "3")
    with pytest.raises(ConfigError, match=r"the champion is tinygptv/2, but it is 3: somebody moved it"):
        rollback(uri, "tinygptv", "")
    assert champion(uri).version == "3"


def test_a_long_comparison_and_a_long_reason_fit_into_the_tags_of_postgresql(home):
    """A tag of a model holds 5,000 characters there; SQLite would take any number."""
    store, uri = home
    evals = tuple(f"evaluation_{number}_vqa" for number in range(30))
    with mlflow_at(uri) as mlflow:
        client = mlflow.MlflowClient(uri, uri)
        for number, scores in enumerate((FIRST, SECOND), start=4):
            digest = scored(store, scores, evals=evals)
            client.create_model_version("tinygptv", str(store.root), tags=tags(number, digest))
    promote(uri, "tinygptv/4", "", Records(store))
    event = promote(uri, "tinygptv/5", '"\u00e4\n\t' * 250, Records(store))
    assert event is not None and event.comparison is not None and events(uri, "tinygptv")[-1] == event
    assert [item.evaluation for item in event.comparison.differences] == sorted(evals)
    with mlflow_at(uri) as mlflow:
        kept = mlflow.MlflowClient(uri, uri).get_registered_model("tinygptv").tags
    assert max(map(len, kept.values())) < 5_000
    for change in (
        lambda: promote(uri, "tinygptv/1", "x" * 1_001, Records(store)),
        lambda: rollback(uri, "tinygptv", "x" * 1_001),
    ):
        with pytest.raises(ConfigError, match="--because has 1,001 characters; 1,000 are kept at most"):
            change()
    assert champion(uri).version == "5"


@pytest.fixture
def fresh(tmp_path):
    """Two versions and no champion; (what a rule makes of version N, the registry)."""
    store, uri = Store(tmp_path / "store"), f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    with mlflow_at(uri) as mlflow:
        client = mlflow.MlflowClient(uri, uri)
        client.create_registered_model("tinygptv")
        for number, scores in enumerate((FIRST, SECOND), start=1):
            client.create_model_version("tinygptv", str(tmp_path), tags=tags(number, scored(store, scores)))

    def judged(rule, number, compares=False):
        asked = find(uri, f"tinygptv/{number}")
        return promote_by_rule(rule, uri, asked, Records(store), compares=compares, run="r7")

    return judged, uri


def test_by_the_rule_first_a_run_promotes_where_there_is_no_champion(fresh):
    judged, uri = fresh
    assert judged("never", 1).event is None and events(uri, "tinygptv") == ()
    verdict = judged("first", 1)
    assert champion(uri).version == "1" and events(uri, "tinygptv") == (verdict.event,)
    with pytest.raises(ConfigError, match=r"tinygptv/1 was the first champion of tinygptv: none came before it"):
        rollback(uri, "tinygptv", "")
    assert verdict.event.because == "by the rule `first`: there was no champion; run r7"
    later = judged("first", 2, compares=True)
    assert later.event is None and champion(uri).version == "1"
    assert "tinygptv/2: by the rule `first` tinygptv/1 stays the champion" in verdict_words(later)
    assert "0.500 -> 0.750: +0.250" in verdict_words(later)
    assert judged("first", 1).why == "it is the champion already"
    assert judged("first", 2).comparison is None


def test_by_the_rule_better_a_run_promotes_what_is_lower_on_nothing(fresh):
    judged, uri = fresh
    judged("first", 1)
    assert judged("better", 2).event is not None and champion(uri).version == "2"
    worse = judged("better", 1)
    assert worse.event is None and worse.why.endswith("tinygptv/2 stays the champion: lower on toy_vqa")
    assert rollback(uri, "tinygptv", "").version == "1"


@pytest.mark.parametrize(
    ("old", "new", "better"),
    [((0, 1), (1, 1), True), ((0, 1), (1, 0), False), ((1, 1), (0, 1), False), ((1, 1), (1, 1), False)],
)
def test_better_is_higher_on_the_same_questions(store, old, new, better):
    assert is_better(compared(store, scored(store, old, keys="01"), scored(store, new, keys="01"))) is better


def test_what_was_asked_something_else_is_not_better(store):
    assert not is_better(compared(store, scored(store, FIRST), scored(store, SECOND, data="b")))
    assert not is_better(compared(store, scored(store, FIRST), scored(store, SECOND[1:], keys="123")))
