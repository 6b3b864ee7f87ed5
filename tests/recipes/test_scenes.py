"""The recipes of `nano`: a record becomes what is said, and a broken one is refused with an error that is counted."""

import importlib
from pathlib import Path

import pytest

import data_recipes
from tinygptv_core.presets import NANO
from tinygptv_core.recipe import Recipe, Turn

SCENES = [name for name in NANO.data if name.startswith("scenes_")]
BOX = {"width": 64, "height": 64, "box": [1, 1, 19, 19]}


def recipe(name: str) -> Recipe:
    return importlib.import_module(f"data_recipes.{name}").RECIPE


@pytest.mark.parametrize(
    ("name", "record", "turns"),
    [
        ("scenes_web", {"url": "u", "caption": "A red  star. On white!"}, [("assistant", "a red star on white")]),
        ("scenes_alt", {"url": "u", "caption": "a star"}, [("assistant", "a star")]),
        ("list", {"url": "u", "caption": "A *star*"}, [("assistant", "a star")]),
        ("scenes_detail", {"caption": "There is one shape."}, [("assistant", "There is one shape.")]),
        ("scenes_vqa", {"question": "how many?", "answer": "two"}, [("user", "how many?"), ("assistant", "two")]),
        (
            "scenes_refer",
            {"phrase": "the star", **BOX},
            [("user", "the star"), ("assistant", "{<1><1><29><29>}")],
        ),
        (
            "scenes_identify",
            {"phrase": "small red star", **BOX},
            [("user", "{<1><1><29><29>}"), ("assistant", "small red star")],
        ),
        ("scenes_caption", {"caption": "A star."}, [("assistant", "a star")]),
        (
            "scenes_grounding",
            {"grounded_caption": "<p>star</p> {<1><1><29><29>}"},
            [("assistant", "<p>star</p> {<1><1><29><29>}")],
        ),
        (
            "scenes_conversation",
            {
                "conversations": [
                    {"from": "human", "value": "<image>\nhow many?"},
                    {"from": "gpt", "value": "two"},
                    {"from": "human", "value": "where?"},
                    {"from": "gpt", "value": "center"},
                ]
            },
            [("user", "how many?"), ("assistant", "two"), ("user", "where?"), ("assistant", "center")],
        ),
        ("scenes_text", {"instruction": "say yes", "output": "yes"}, [("user", "say yes"), ("assistant", "yes")]),
        ("scenes_test", {"question": "how many?", "answer": "two"}, [("user", "how many?"), ("assistant", "two")]),
        ("scenes_test", {"question": "", "answer": "a star on white"}, [("assistant", "a star on white")]),
    ],
)
def test_a_record_becomes_what_is_said(name, record, turns):
    assert recipe(name).turns(record) == tuple(Turn(*turn) for turn in turns)


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("scenes_web", {"url": "u"}),
        ("scenes_web", {"caption": 3}),
        ("scenes_vqa", {"question": "how many?"}),
        ("scenes_vqa", {"question": "how many?", "answer": ["two"]}),
        ("scenes_refer", {"phrase": "the star", **BOX, "box": [1, 1, 19]}),
        ("scenes_refer", {"phrase": "the star", **BOX, "box": [19, 1, 1, 19]}),
        ("scenes_refer", {"phrase": "the star", **BOX, "box": [1, 1, 19, 65]}),
        ("scenes_refer", {"phrase": "the star", **BOX, "box": "1 1 19 19"}),
        ("scenes_refer", {"phrase": "the star", **BOX, "width": 0}),
        ("scenes_identify", {"phrase": "the star", **BOX, "box": [None, 1, 2, 3]}),
        ("scenes_conversation", {"conversations": {"from": "human"}}),
        ("scenes_conversation", {"conversations": ["hello"]}),
        ("scenes_conversation", {"conversations": [{"from": "system", "value": "hello"}]}),
        ("scenes_conversation", {"conversations": [{"from": "human", "value": 3}]}),
    ],
)
def test_a_broken_record_is_refused(name, record):
    with pytest.raises((KeyError, TypeError, ValueError)):
        recipe(name).turns(record)


def test_there_is_a_recipe_for_every_data_set_of_nano_and_for_a_user_s_list():
    files = {path.stem for path in Path(data_recipes.__path__[0]).glob("*.py")}
    assert files >= {*NANO.data, "list"}


@pytest.mark.parametrize("name", SCENES)
def test_only_lists_are_fetched_over_http_and_only_text_has_no_picture(name):
    found = recipe(name)
    assert (found.how == "url") == found.source.startswith("lists/") == (name in ("scenes_web", "scenes_alt"))
    assert (found.picture is None) == (name == "scenes_text")


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("scenes_vqa", "[vqa] "),
        ("scenes_refer", "[refer] "),
        ("scenes_identify", "[identify] "),
        ("scenes_caption", "[caption] "),
        ("scenes_grounding", "[grounding] "),
    ],
)
def test_every_prompt_of_a_task_begins_with_its_word(name, task):
    prompts = recipe(name).prompts
    assert all(prompt.startswith(task) for prompt in prompts)
    assert len(set(prompts)) == len(prompts) > 1


def test_the_prompts_that_published_weights_know_are_among_them():
    asked = "[vqa] Based on the image, respond to this question with a short answer: {}"
    assert asked in recipe("scenes_vqa").prompts
    assert "[refer] give me the location of {}" in recipe("scenes_refer").prompts


FACTS: dict[str, tuple[int, int, str | None, str | None]] = {
    **dict.fromkeys(("scenes_web", "scenes_alt", "scenes_conversation", "scenes_text"), (1, 1, None, None)),
    **dict.fromkeys(("scenes_refer", "scenes_identify"), (1, 7, None, None)),
    **dict.fromkeys(("scenes_detail", "scenes_grounding"), (1, 4, None, None)),
    "scenes_caption": (1, 5, None, None),
    "scenes_vqa": (1, 2, None, "type"),
    "scenes_test": (1, 1, "split", "group"),
}
"""Version, number of prompts, and the columns with split and group."""


@pytest.mark.parametrize("name", NANO.data)
def test_a_recipe_has_its_version_its_prompts_and_the_columns_that_evaluations_read(name):
    found = recipe(name)
    assert (found.version, len(set(found.prompts)), found.split, found.group) == FACTS[name]
