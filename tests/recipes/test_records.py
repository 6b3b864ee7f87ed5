"""Every recipe on records in its data set's true form: what becomes of each, and that none is lost."""

import importlib
import json
import pickle
import pkgutil
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import data_recipes
from tasks.rows import rows
from tasks.tables import DROPPED_FILE, ROWS_FILE, Drop, TableRow, read_counts, read_table
from tests.recipes.records import CASES, CONVERSATION, Case
from tinygptv_core.recipe import Recipe

DRAWN = {"list"}
NAMES = sorted(module.name for module in pkgutil.iter_modules(data_recipes.__path__) if not module.ispkg)
BROUGHT = [name for name in NAMES if not name.startswith("scenes_") and name not in DRAWN]


def recipe(name: str) -> Recipe:
    return importlib.import_module(f"data_recipes.{name}").RECIPE


def write(path: Path, content: Any) -> None:
    """JSON, text as it stands, or a pickle as Python 2 wrote RefCOCO's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".p":
        path.write_bytes(pickle.dumps(content, protocol=0))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def table(name: str, case: Case, folder: Path) -> Path:
    """The table of a data set of these files."""
    for path, content in case.files.items():
        write(folder / "data" / path, content)
    found = recipe(name)
    out = folder / "out"
    out.mkdir()
    joined = {join.file: folder / "data" / join.file for join in found.layout.joins}
    source = next(iter(case.files)) if found.source == "instruct" else found.source
    rows(found, name, folder / "data" / source, SimpleNamespace(out=out), joined)  # type: ignore[arg-type]
    return out


@pytest.mark.parametrize(
    ("conversation", "detail"),
    [
        (
            [{"from": "system", "value": "Be kind."}, *CONVERSATION[:2]],
            "utterance 1 is from 'system', where human is to speak",
        ),
        ([*CONVERSATION[:2], CONVERSATION[1]], "utterance 3 is from 'gpt', where human is to speak"),
        (CONVERSATION[:3], "3 utterances; questions and answers come in pairs"),
        ([*CONVERSATION[:3], {"from": "gpt", "value": " "}], "the value of utterance 4 is empty"),
        ([CONVERSATION[0], {"from": "gpt", "value": 3}], "the value of utterance 2 is int, not a text"),
        ([], "0 utterances; questions and answers come in pairs"),
        ([{"from": "human", "value": "<image>"}, CONVERSATION[1]], "the first question is empty"),
    ],
)
def test_a_conversation_that_is_none_says_which_utterance_is_at_fault(conversation: list[Any], detail: str):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(detail)}$"):
        recipe("instruct").turns({"conversations": conversation})


def test_there_is_a_case_for_every_recipe():
    assert sorted(CASES) == BROUGHT


@pytest.mark.parametrize("name", CASES)
def test_records_become_what_is_said_and_no_row_is_lost(name: str, tmp_path: Path):
    case = CASES[name]
    out = table(name, case, tmp_path)
    found = list(read_table(out / ROWS_FILE, TableRow))
    assert [(row.url or row.file, json.loads(row.turns)) for row in found] == case.kept
    marks = case.marks or [(None, None)] * len(case.kept)
    assert [(row.split, row.group) for row in found] == marks
    assert Counter(drop.reason for drop in read_table(out / DROPPED_FILE, Drop)) == case.dropped
    rows_in = len(case.kept) + sum(case.dropped.values())
    assert read_counts(out) == {"rows": rows_in, "kept": len(case.kept), "dropped": dict(sorted(case.dropped.items()))}
    keys = [row.key for row in found] + [drop.key for drop in read_table(out / DROPPED_FILE, Drop)]
    assert sorted(keys) == [f"{position:09d}" for position in range(rows_in)]


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_says_whose_it_is_and_how_it_is_got(name: str):
    found = recipe(name)
    assert found.licence and found.citation
    if name != "instruct":
        assert found.files[0].path == found.source
        assert {join.file for join in found.layout.joins} <= {file.path for file in found.files}
        assert all(file.url.startswith("http") if file.direct else file.url for file in found.files)
    assert (found.how == "url") == (found.picture == "url") == (name in ("laion", "cc_sbu"))
    assert (not found.picture_sets) == (found.how == "url" or name == "unnatural_instruction")


@pytest.mark.parametrize("name", CASES)
def test_a_question_is_asked_in_so_many_ways(name: str):
    (begin, count), prompts = CASES[name].prompts, recipe(name).prompts
    assert all(prompt.startswith(begin) for prompt in prompts)
    assert len(set(prompts)) == len(prompts) == count
    asks = {turns[0][0] == "user" for _, turns in CASES[name].kept}
    is_shown_alone = recipe(name).how == "url"  # stages 1 and 2 ask for nothing
    assert {prompt.count("{}") for prompt in prompts} == ({1} if is_shown_alone else set(map(int, asks)))


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_has_the_version_that_its_records_were_worked_for(name: str):
    assert recipe(name).version == CASES[name].version


def test_the_pictures_of_coco_are_one_set_for_thirteen_data_sets_of_the_released_run():
    about = [name for name in BROUGHT if any(s.name == "coco_train2014" for s in recipe(name).picture_sets)]
    assert len([name for name in about if name != "coco_caption" and not name.endswith("_test")]) == 13
    sets = [pictures for name in about for pictures in recipe(name).picture_sets]
    assert len({id(pictures) for pictures in sets if pictures.name == "coco_train2014"}) == 1


def test_every_picture_of_coco_is_looked_for_in_the_set_that_its_name_says():
    named = set[str]()
    for name, case in CASES.items():
        sets = {pictures.name for pictures in recipe(name).picture_sets}
        years = {match[1] for picture, _ in case.kept if (match := re.match("COCO_(train|val)2014_", picture or ""))}
        assert {f"coco_{year}2014" for year in years} <= sets
        named |= years
    assert named == {"train", "val"}


def test_a_file_that_is_much_too_short_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    table("gqa", CASES["gqa"], tmp_path)
    assert "gqa: 3 rows, where about 943000 are expected" in caplog.text
