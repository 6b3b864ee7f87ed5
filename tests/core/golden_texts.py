"""Checks of what goes into the model: pictures, captions, tokens, prompts, and what data sets say."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tests.core.reference import Check, Goldens, assert_near, without_space
from tinygptv_core.evals.scenes_refer import published_overlap
from tinygptv_core.generate import text_of
from tinygptv_core.image import preprocess
from tinygptv_core.loader import drawn_places
from tinygptv_core.prompt import IMAGE_MARK, IMAGE_SLOT, chat, question
from tinygptv_core.recipe import Turn, answer_shares, clean_caption, spelled_box
from tinygptv_core.stages import PUBLISHED_QUESTION


def picture_checks(goldens: Goldens, name: str) -> Iterator[Check]:
    for key in sorted(goldens.tensors(f"misc/{name}")):
        picture, _, size = key.partition(".")
        files = (f"misc/{name}.safetensors", f"misc/{picture}.png")

        def run(key: str = key, file: str = files[1], size: int = int(size)) -> None:
            found = preprocess((goldens.folder / file).read_bytes(), size)
            assert_near(torch.from_numpy(found), goldens.tensors(f"misc/{name}")[key])

        yield Check(name=f"{name}-{key}", files=files, run=run)


def caption_checks(goldens: Goldens, name: str) -> Iterator[Check]:
    for place, told in enumerate(goldens.told(f"misc/{name}")):

        def run(told: dict[str, str] = told) -> None:
            assert clean_caption(told["text"]) == told["out"]

        yield Check(name=f"{name}-{place}", files=(f"misc/{name}.json",), run=run)


def tokenizer_checks(goldens: Goldens, name: str) -> Iterator[Check]:
    """Ids, and back to text: as it was, where the reference's tokenizer wrote other white space around added tokens."""
    for place, told in enumerate(goldens.told(f"misc/{name}")):

        def run(told: dict[str, Any] = told) -> None:
            tokenizer = goldens.tokenizer
            assert tokenizer(told["text"], add_special_tokens=False)["input_ids"] == told["ids"]
            assert tokenizer(told["text"])["input_ids"] == told["ids_default"]
            found = text_of(tokenizer, told["ids"])
            assert found == told["text"].replace(tokenizer.eos_token, "")
            assert without_space(found) == without_space(told["decoded"])

        yield Check(name=f"{name}-{place}", files=(f"misc/{name}.json",), run=run)


def sampling_checks(goldens: Goldens, name: str) -> Iterator[Check]:
    told, files = goldens.told(f"misc/{name}"), (f"misc/{name}.json",)
    weights, count = told["ratios"], len(told["picks"])

    def normalised() -> None:
        """The shares of a fine grid of numbers are those of the weights."""
        grid = (np.arange(100_000) + 0.5) / 100_000
        shares = np.bincount(drawn_places(weights, grid), minlength=len(weights)) / len(grid)
        assert shares.tolist() == pytest.approx(told["normalised"], abs=1e-4)

    def picks() -> None:
        generator = random.Random(told["seed"])
        uniform = np.array([generator.random() for _ in range(count)])
        assert drawn_places(weights, uniform).tolist() == told["picks"]

    yield Check(name=f"{name}-normalised", files=files, run=normalised)
    yield Check(name=f"{name}-picks", files=files, run=picks)


def conversation_checks(goldens: Goldens, name: str) -> Iterator[Check]:
    told, files = goldens.told(f"misc/{name}"), (f"misc/{name}.json",)

    def conversation(one: dict[str, str]) -> None:
        """So far, after each question."""
        turns, before = list[Turn](), one["system"]
        for key in sorted(one.keys() - {"system"}):
            answer, _, asked = one[key].removeprefix(before).partition("###Human: ")
            turns += [Turn("assistant", answer)] if turns else []
            turns += [Turn("user", asked.removeprefix(IMAGE_SLOT).removesuffix("###Assistant: "))]
            assert chat(one["system"], turns, PUBLISHED_QUESTION, has_image=True) == one[key]
            before = one[key]

    def prepared() -> None:
        found = [question(text, "{}", PUBLISHED_QUESTION, has_image=True) for text in told["prepare_texts"]["inp"]]
        assert found == told["prepare_texts"]["out"]

    def overlaps() -> None:
        for one in told["iou"]:
            assert published_overlap(tuple(one["a"]), tuple(one["b"])) == pytest.approx(one["iou"], abs=1e-6)

    for place, one in enumerate(told["conversations"]):
        yield Check(name=f"{name}-{place}", files=files, run=partial(conversation, one))
    yield Check(name=f"{name}-prepare_texts", files=files, run=prepared)
    yield Check(name=f"{name}-iou", files=files, run=overlaps)


def prompt_check(goldens: Goldens, name: str) -> Check:
    """Stage 3's prompts are the file's lines that have the picture's slot, each in the stage's template."""

    def run() -> None:
        stage = goldens.manifest["stages"]["stage3"]
        lines = (goldens.folder / "misc" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        words = [line.removeprefix(IMAGE_SLOT) for line in lines if IMAGE_MARK in line]
        template = stage["effective_prompt_template"]
        assert [question("", prompt, template, has_image=True) for prompt in words] == stage["prompt_list"]

    return Check(name=name, files=(f"misc/{name}.txt",), run=run)


def dataset_checks(goldens: Goldens) -> Iterator[Check]:
    """What the data sets' questions and answers look like, as far as the project spells them: slots, answers, boxes."""
    if not (goldens.folder / "datasets" / "items.json").is_file():
        return
    items: dict[str, Any] = goldens.told("datasets/items")
    kinds: dict[str, Callable[[Goldens, dict[str, Any]], None]] = {
        "coco_caption": _cleaned_captions,
        "textcaps_caption": _cleaned_captions,
        "cc_sbu_align": _raw_captions,
        "coco_vqa": _weighted_answers,
        "ok_vqa": _weighted_answers,
        "aok_vqa": _weighted_answers,
        "gqa": _single_answers,
        "refvg": _region_boxes,
        "refcoco": _referred_boxes,
        "invrefcoco": _referred_boxes,
    }
    for name, told in items.items():
        yield Check(name=f"datasets-{name}-slot", files=(), run=partial(_slots, told))
        if name in kinds:
            yield Check(name=f"datasets-{name}-answers", files=(), run=partial(kinds[name], goldens, told))


def _records(goldens: Goldens, told: dict[str, Any]) -> Any:
    (path,) = told["annotation"]
    return goldens.told(f"datasets/{path.removesuffix('.json')}")


def _answers(told: dict[str, Any]) -> list[set[str]]:
    return [{possible["answer"] for possible in item["possible"]} for item in told["items"]]


def _slots(told: dict[str, Any]) -> None:
    """A question begins with our slot where there is a picture, and ends with the space before the template's rest."""
    for item in told["items"]:
        for possible in item["possible"]:
            asked = possible.get("instruction_input", possible.get("conv_q"))
            if asked is not None:
                words = asked.removeprefix(IMAGE_SLOT)
                assert (question(words, "{}", "{}", has_image=item["has_image"]) == asked) and IMAGE_MARK not in words
                assert asked.endswith(" ") == item["has_image"]


def _kept(goldens: Goldens, told: dict[str, Any], column: str) -> list[Any]:
    """That column of the records which the data set keeps: those of pictures that are there come first."""
    records = _records(goldens, told)
    rows = records["data"] if isinstance(records, dict) and "data" in records else records
    rows = rows["annotations"] if isinstance(rows, dict) else rows
    return [row[column] for row in rows][: told["n"]]


def _cleaned_captions(goldens: Goldens, told: dict[str, Any]) -> None:
    column = "caption_str" if told["cls"].startswith("TextCap") else "caption"
    assert _answers(told) == [{clean_caption(caption)} for caption in _kept(goldens, told, column)]


def _raw_captions(goldens: Goldens, told: dict[str, Any]) -> None:
    assert _answers(told) == [{caption} for caption in _kept(goldens, told, "caption")]


def _weighted_answers(goldens: Goldens, told: dict[str, Any]) -> None:
    column = "direct_answers" if told["cls"].startswith("AOK") else "answer"
    shares = [answer_shares(answers) for answers in _kept(goldens, told, column)]
    assert _answers(told) == [set(of_one) for of_one in shares]
    assert [sum(of_one.values()) for of_one in shares] == pytest.approx([1.0] * len(shares))


def _single_answers(goldens: Goldens, told: dict[str, Any]) -> None:
    assert _answers(told) == [{clean_caption(answer)} for answer in _kept(goldens, told, "answer")]


def _region_boxes(goldens: Goldens, told: dict[str, Any]) -> None:
    """Regions of less than 16,384 square pixels."""
    width, height = told["image_size"]
    rows = [row for row in _records(goldens, told) if row["width"] * row["height"] < 16_384]
    assert _answers(told) == [{_spelled((r["x"], r["y"], r["width"], r["height"]), width, height)} for r in rows]


def _referred_boxes(goldens: Goldens, told: dict[str, Any]) -> None:
    """Each training reference's box, in the answer or in the question, and its phrases, in the other."""
    folder = told["annotation"][0].strip("/")
    instances = goldens.told(f"datasets/{folder}/instances")
    references = goldens.told(f"datasets/{folder}/refs_unc_as_json")
    boxes = {one["id"]: (one["bbox"], one["image_id"]) for one in instances["annotations"]}
    sides = {one["id"]: (one["width"], one["height"]) for one in instances["images"]}
    kept = [reference for reference in references if reference["split"] == "train"]
    for item, reference in zip(told["items"], kept, strict=True):
        corners, picture = boxes[reference["ann_id"]]
        box = _spelled(corners, *sides[picture])
        phrases = {clean_caption(sentence["raw"]) for sentence in reference["sentences"]}
        for possible in item["possible"]:
            answer, asked = possible["answer"], possible["instruction_input"]
            assert (answer == box and any(phrase in asked for phrase in phrases)) or (
                answer in phrases and box in asked
            )


def _spelled(box: Any, width: float, height: float) -> str:
    """Of a box with its left upper corner and its sides, as annotations have it."""
    left, top, across, down = box
    return spelled_box((left, top, left + across, top + down), width, height)
