"""Plain JSON and back, canonical bytes, and strict changes by dotted name."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from tinygptv_core.plain import (
    IDENTITY_UNLESS_DEFAULT,
    NOT_IDENTITY,
    ConfigError,
    canonical_json,
    change,
    from_plain,
    leaves,
    plain,
    sha256_of,
)
from tinygptv_core.presets import NANO, named, with_list, with_settings
from tinygptv_core.run import DataFolders
from tinygptv_core.stage import Schedule


@dataclass(frozen=True, kw_only=True)
class Leaf:
    name: str
    rate: float
    note: str = field(default="", metadata=NOT_IDENTITY)


@dataclass(frozen=True, kw_only=True)
class Tree:
    leaves: tuple[Leaf, ...]
    sizes: Mapping[str, int]
    maybe: Leaf | None


TREE = Tree(leaves=(Leaf(name="a", rate=0.5), Leaf(name="b", rate=2)), sizes={"z": 1, "y": 2}, maybe=None)


def test_there_and_back_is_the_same():
    assert from_plain(Tree, plain(TREE)) == TREE and from_plain(type(NANO), plain(NANO)) == NANO


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (tuple[str, int], ["a", 1], ("a", 1)),
        (tuple[str, ...], ["a", "b", "c"], ("a", "b", "c")),
        (int | str, "x", "x"),
        (int | str | None, None, None),
        (Leaf | int, {"name": "a", "rate": 1}, Leaf(name="a", rate=1.0)),
    ],
)
def test_tuples_of_a_fixed_length_and_unions_are_read(kind, value, read):
    assert from_plain(kind, value) == read


def test_what_is_not_of_that_length_or_of_no_kind_of_a_union_is_refused():
    with pytest.raises(ConfigError, match=r"^x is \['a', 'b', 'c'\]; it must be a list of 2$"):
        from_plain(tuple[str, str], ["a", "b", "c"], "x")
    with pytest.raises(ConfigError, match=r"^x is 0\.5; it must be a text$"):
        from_plain(int | str, 0.5, "x")


def test_a_kind_that_has_no_plain_form_is_a_mistake_of_ours():
    with pytest.raises(TypeError, match="x is to be a frozenset, which is not read from JSON"):
        from_plain(frozenset[str], ["a"], "x")


def test_the_canonical_spelling_is_sorted_and_leaves_out_what_does_not_bear_on_a_result():
    noted = replace(TREE.leaves[0], note="seen")
    assert canonical_json(noted) == '{"name":"a","rate":0.5}'
    assert canonical_json({"b": 1, "a": (2, 3)}) == '{"a":[2,3],"b":1}'
    assert sha256_of(noted) == sha256_of(TREE.leaves[0])


def test_a_whole_float_and_an_int_have_one_spelling():
    assert canonical_json(Leaf(name="a", rate=16.0)) == canonical_json(Leaf(name="a", rate=16))


@pytest.mark.parametrize("value", [print, {1, 2}, math.nan, math.inf, {1: "x"}, b"x"])
def test_what_has_no_stable_bytes_is_refused(value):
    with pytest.raises(ConfigError, match="may not hold|names are strings"):
        canonical_json({"x": value})


def test_leaves_are_named_by_their_way():
    assert leaves({"a": {"b": 1, "c": [2]}, "d": {}}) == {"a.b": 1, "a.c": [2], "d": {}}


def test_a_leaf_is_changed_by_its_dotted_name():
    changed_tree = change(TREE, {"leaves.b.rate": "3", "sizes.y": "7"})
    assert changed_tree.leaves[1].rate == 3.0 and changed_tree.sizes == {"z": 1, "y": 7}
    assert changed_tree.leaves[0] == TREE.leaves[0]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("leafs.b.rate", "3", "there is no leafs. Did you mean leaves"),
        ("leaves.c.rate", "3", "there is no leaves.c. There are: a, b"),
        ("leaves.a.rate", "fast", "leaves.a.rate is 'fast'; it must be a number"),
        ("leaves.a.rate", "true", "leaves.a.rate is True; it must be a number"),
        ("leaves.a.rate.x", "1", "leaves.a.rate is 0.5, which holds no names"),
        ("sizes.y", "1.5", "sizes.y is 1.5; it must be a whole number"),
        ("leaves", "1", "leaves is 1; it must be a list"),
        ("leaves.a", "5", "leaves.a is 5; it must be a group of values"),
        ("leaves.a", '{"speed": 1}', "there is no leaves.a.speed"),
        ("leaves.a.rate", "NaN", "leaves.a.rate is nan; it must be a number"),
        ("leaves.a.rate", "1e999", "leaves.a.rate is inf; it must be a number"),
    ],
)
def test_a_wrong_change_says_what_there_is(name, text, said):
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        change(TREE, {name: text})


def test_values_that_must_fit_each_other_are_changed_together():
    settings = ["stage1.schedule.steps=10", "stage1.schedule.warmup_steps=5"]
    assert with_settings(NANO, settings).stages[0].schedule.steps == 10
    with pytest.raises(ConfigError, match=r"^stage1\.schedule: warmup_steps is 20; it must lie in 0\.\.10"):
        with_settings(NANO, settings[:1])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "stage9.schedule.peak=1",
            "there is no stage9. Did you mean stage4? There are: stage1, stage2, stage3, stage4, ",
        ),
        ("seed=1", "Did you mean scenes.seed, stage1.seed or stage2.seed?"),
        ("stage3.steps=5", "there is no stage3.steps. Did you mean stage3.schedule.steps? There are: name, mix, "),
        ("stages.stage3.seed.x=5", "stage3.seed is 42, which holds no names, so there is no stage3.seed.x"),
        ("data.scenes_web.wanted=5", "Did you mean data.scenes_web.fetch.wanted?"),
        ("stage3.schedule.peek=1", "Did you mean peak?"),
        ("stage3=5", "stage3 is 5; it must be a group of values"),
        ('stage3.schedule={"peek": 1}', "there is no stage3.schedule.peek. Did you mean peak?"),
        ("model_name=", "model_name is ''; a registry takes none that is empty"),
        ("model_name=me/mine", "model_name is 'me/mine'; a registry takes none that is empty or has"),
        ("stage3.evals=scenes_vqa", """evals is 'scenes_vqa'; it must be a list of texts, as in ["scenes_vqa"]"""),
        ("stage3.without=qk_norm", """without is 'qk_norm'; it must be a list of texts, as in ["qk_norm"]"""),
    ],
)
def test_a_wrong_setting_of_a_preset_says_what_to_type(setting, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        with_settings(NANO, [setting])


def test_a_rate_that_rises_is_refused():
    with pytest.raises(ConfigError, match="a rate that rises is refused"):
        Schedule(start=0, peak=1e-5, end=8e-5, warmup_steps=1, steps=2)


def test_a_users_list_takes_the_place_of_the_pretraining_lists():
    preset = with_list(NANO)
    assert [list(stage.mix) for stage in preset.stages[:2]] == [["list"], ["list"]]
    assert preset.stages[2:] == NANO.stages[2:]
    assert "scenes_web" not in preset.data and "scenes_vqa" in preset.data


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="there is no preset nanoo. Did you mean nano"):
        named("nanoo")


def test_a_choice_that_came_later_is_left_out_of_keys_while_it_has_its_default():
    @dataclass(frozen=True)
    class Later:
        rate: float
        way: str = field(default="ours", metadata=IDENTITY_UNLESS_DEFAULT)

    assert canonical_json(Later(1.5)) == '{"rate":1.5}'
    assert canonical_json(Later(1.5, way="theirs")) == '{"rate":1.5,"way":"theirs"}'
    assert plain(Later(1.5)) == {"rate": 1.5, "way": "ours"}


def test_the_published_ways_are_in_keys_and_nanos_keys_do_not_speak_of_them():
    stage = NANO.stages[3]
    assert "published" not in canonical_json(NANO) and "dialect" not in canonical_json(NANO)
    for change_of in ({"dialect": "published"}, {"published_accumulation": 2}):
        assert sha256_of(replace(stage, **change_of)) != sha256_of(stage)
    with pytest.raises(ConfigError, match="published_accumulation is 0"):
        replace(stage, published_accumulation=0)


@pytest.mark.parametrize(("steps", "epoch_steps"), [(8, None), (8, 20), (20, 8)])
def test_an_accumulation_over_more_than_an_epoch_would_train_nothing_and_is_refused(steps, epoch_steps):
    schedule = Schedule(start=0, peak=1, end=0, warmup_steps=0, steps=steps, published_epoch_steps=epoch_steps)
    stage = replace(NANO.stages[3], schedule=schedule, published_accumulation=8)
    with pytest.raises(ConfigError, match="published_accumulation is 9; above 8, the steps of an epoch"):
        replace(stage, published_accumulation=9)


def test_a_missing_name_is_said():
    with pytest.raises(ConfigError, match="index is missing"):
        from_plain(DataFolders, {"shards": "x"})
