"""The checks of `goldens/datasets` on another folder of that layout: passing where ours is right, failing where not."""

import json
from pathlib import Path

import pytest

from tests.core.golden_texts import dataset_checks
from tests.core.reference import Goldens

SLOT = "<Img><ImageHere></Img> "
WHERE = "[refer] give me the location of {}"
BRIEFLY = "[vqa] Based on the image, respond to this question with a short answer: {}"


def possible(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"instruction_input": asked, "answer": answer} for asked, answer in pairs]


def item(*pairs: tuple[str, str], has_image: bool = True) -> dict[str, object]:
    return {"has_image": has_image, "possible": possible(*pairs)}


def golden(
    annotation: str, items: list[dict[str, object]], pool: list[str] | None, **more: object
) -> dict[str, object]:
    return {"annotation": [annotation], "n": len(items), "items": items, "instruction_pool": pool, **more}


def identical(words: str, count: int) -> list[str]:
    """A pool of so many instructions, of which only the first matters here."""
    return [words, *(f"{words} ({number})" for number in range(1, count))]


def asked(pool: list[str], text: str) -> list[str]:
    return [f"{SLOT}{words.format(text)} " for words in pool]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two regions of 200 x 100 pixels, a question with three answers, a book with two, and one instruction."""
    root = tmp_path / "datasets"
    refer, vqa = identical(WHERE, 7), ["[vqa] {}", BRIEFLY]
    region = {"image_url": "https://x/VG_100K_2/5.png", "image_id": 5, "x": 20, "y": 50, "width": 127, "height": 50}
    files = {
        "vg/all.json": [{**region, "phrase": "Red: door"}, {**region, "phrase": "wall", "height": 130}],
        "vqa.json": [
            {"image": "a/9.jpg", "question": "Who?", "answer": ["He", "she", "he."]},
            {"image": "a/none.jpg", "question": "Why?", "answer": ["so"]},
        ],
        "books.json": {
            "b1": {
                "imageURL": "https://x/c.gif",
                "questions": ["Who?", "Price?"],
                "answers": ["Li", "$ 5"],
                "split": 1,
            },
            "b2": {"imageURL": "https://x/d.jpg", "questions": ["Who?"], "answers": ["Bo"], "split": 3},
        },
        "words.json": [
            {"instances": [{"instruction_with_input": "Count!", "constraints": "To 2.", "output": "1. 2."}]}
        ],
    }
    for name, records in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(records))
    for picture in ("5.png", "9.jpg", "b1.gif", "b2.jpg"):
        (root / picture).touch()
    items = {
        "refvg": golden(
            "vg/all.json",
            [item(*((question, "{<10><50><73><100>}") for question in asked(refer, "red door")))],
            refer,
            image_size=[200, 100],
        ),
        "coco_vqa": golden(
            "vqa.json",
            [item(*((question, answer) for question in asked(vqa, "who?") for answer in ("he", "she")))],
            vqa,
        ),
        "ocrvqa": golden(
            "books.json",
            [
                item(*((question, "li") for question in asked(vqa, "who?"))),
                item(*((question, "$ 5") for question in asked(vqa, "price?"))),
            ],
            vqa,
        ),
        "unnatural_instruction": golden("words.json", [item(("count to 2", "1 2"), has_image=False)], None),
    }
    (root / "items.json").write_text(json.dumps(items))
    return tmp_path


def failures(folder: Path) -> list[str]:
    found: list[str] = []
    for check in dataset_checks(Goldens(folder)):
        try:
            check.run()
        except AssertionError:
            found.append(check.name)
    return found


def test_other_records_pass(folder: Path):
    assert failures(folder) == []


@pytest.mark.parametrize(
    ("name", "right", "wrong", "failing"),
    [
        ("items.json", "<73>", "<74>", "datasets-refvg-says"),
        ("items.json", "red door", "red: door", "datasets-refvg-says"),
        ("items.json", '"answer": "she"', '"answer": "her"', "datasets-coco_vqa-says"),
        ("items.json", "count to 2", "count", "datasets-unnatural_instruction-says"),
        ("items.json", '"has_image": false', '"has_image": true', "datasets-unnatural_instruction-shows"),
        ("books.json", '"split": 3', '"split": 1', "datasets-ocrvqa-says"),
    ],
)
def test_what_the_reference_would_not_say_is_found(folder: Path, name: str, right: str, wrong: str, failing: str):
    path = folder / "datasets" / name
    path.write_text(path.read_text().replace(right, wrong))
    assert failing in failures(folder)
