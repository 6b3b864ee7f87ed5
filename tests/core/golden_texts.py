"""Checks of what goes into the model: pictures, captions, tokens, prompts, and what data sets say."""

import importlib
import io
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.core.reference import Check, Goldens, assert_near, without_space
from tinygptv_core.annotations import partners_in, picture_of, records_in, samples_of, with_partners
from tinygptv_core.boxes import published_overlap
from tinygptv_core.columns import clean_caption, list_of, mapping_of
from tinygptv_core.draws import drawn_places
from tinygptv_core.generate import text_of
from tinygptv_core.image import squashed
from tinygptv_core.prompt import IMAGE_MARK, IMAGE_SLOT, chat, question
from tinygptv_core.recipe import Recipe, Row, Turn, UnfitError
from tinygptv_core.stage import PUBLISHED_QUESTION
from tinygptv_core.vision import normalised


def picture_checks(goldens: Goldens, name: str) -> Iterator[Check]:
    for key in sorted(goldens.tensors(f"misc/{name}")):
        picture, _, size = key.partition(".")
        files = (f"misc/{name}.safetensors", f"misc/{picture}.png")

        def run(key: str = key, file: str = files[1], size: int = int(size)) -> None:
            bytes_B3HW = torch.from_numpy(squashed([as_rgb(goldens.folder / file)], size))
            assert_near(normalised(bytes_B3HW)[0], goldens.tensors(f"misc/{name}")[key])

        yield Check(name=f"{name}-{key}", files=files, run=run)


def as_rgb(path: Path) -> bytes:
    """A picture as the reference reads it: without its transparency, for which ours has white."""
    with Image.open(path) as picture, io.BytesIO() as file:
        picture.convert("RGB").save(file, "PNG")
        return file.getvalue()


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
        for key in sorted(one.keys() - {"system"}, key=lambda key: int(re.sub(r"\D", "", key))):
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
    """What each recipe makes of the data sets' records, but for the wording of instructions, which is our own."""
    if not (goldens.folder / "datasets" / "items.json").is_file():
        return
    for name, told in goldens.told("datasets/items").items():
        dataset = Dataset(goldens=goldens, name=name, told=told)
        for check in (dataset.says, dataset.draws_by_frequency, dataset.shows, dataset.asks_in_as_many_ways):
            yield Check(name=f"datasets-{name}-{check.__name__}", files=(), run=check)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One data set of the goldens: its annotation files, and each (instruction, answer) that the reference makes."""

    goldens: Goldens
    name: str
    told: dict[str, Any]

    @cached_property
    def recipe(self) -> Recipe:
        return importlib.import_module(f"data_recipes.{self.name}").RECIPE

    @cached_property
    def samples(self) -> list[Row]:
        """The records of samples of which the recipe makes something and whose pictures are there."""
        there = {path.name for path in (self.goldens.folder / "datasets").rglob("*")}
        found: list[Row] = []
        for record in self._records():
            with suppress(UnfitError):
                for sample in samples_of(self.recipe, record):
                    with suppress(UnfitError):
                        self.recipe.turns(sample)
                        picture = picture_of(self.recipe, sample)
                        found += [sample] if picture is None or picture in there else []
        return found

    def _records(self) -> Iterator[Row]:
        layout, (path,) = self.recipe.layout, self.told["annotation"]
        if self.name == "refvg":  # the reference's library had put Visual Genome's regions into one list
            width, height = self.told["image_size"]
            for region in self.goldens.told(f"datasets/{path.removesuffix('.json')}"):
                picture = {"url": region["image_url"], "width": width, "height": height}
                yield {"regions": [region], "image": picture}
        elif layout.joins:
            folder = self.goldens.folder / "datasets" / path.strip("/")
            (references,) = folder.glob("refs_*_as_json.json")
            joined = json.loads((folder / "instances.json").read_text())
            partners = {join.column: partners_in(joined, join) for join in layout.joins}
            for record in json.loads(references.read_text()):
                yield with_partners(record, layout.joins, partners)
        else:
            for record in records_in(self.goldens.told(f"datasets/{path.removesuffix('.json')}"), layout):
                yield mapping_of(record)

    @property
    def _instructions(self) -> list[str]:
        """The reference's, `{}` in the question's place; captions' lack their task word in the goldens."""
        task = self.recipe.prompts[0].partition("]")[0] + "] "
        told = self.told["instruction_pool"] or ["{}"]
        return [text if text.startswith("[") or text == "{}" else task + text for text in told]

    def _possible(self, sample: Row) -> set[tuple[str | None, str]]:
        """Every (instruction, answer) of a sample, as the reference would spell them."""
        turns = self.recipe.turns(sample)
        shown = picture_of(self.recipe, sample) is not None
        asked, answers = turns[::2], turns[1::2]
        if turns[0].role == "assistant":
            asked, answers = (Turn("user", ""),), turns
        if len(turns) > 2 or "conv_q" in self.told["items"][0]["possible"][0]:
            first, *later = (turn.text for turn in asked)
            spoken = [question(first, "{}", "{} ", has_image=shown), *(f"{text} " for text in later)]
            return {(CONNECTED.join(spoken), CONNECTED.join(turn.text for turn in answers))}
        (ask,), (answer,) = asked, answers
        after = " " if shown else ""
        return {
            (question(text, prompt, "{}" + after, has_image=shown), reply)
            for prompt, text, reply in product(self._instructions, ask.texts, answer.texts)
        }

    def says(self) -> None:
        """The same questions and answers, in the same order."""
        assert len(self.samples) == self.told["n"] == len(self.told["items"])
        for sample, item in zip(self.samples, self.told["items"], strict=True):
            told = {_spoken(possible) for possible in item["possible"]}
            found = self._possible(sample)
            assert (found if None not in {asked for asked, _ in told} else {(None, a) for _, a in found}) == told

    def draws_by_frequency(self) -> None:
        """Each answer is drawn as often as people gave it, each sentence as often as every other."""
        for sample in self.samples:
            given = _given(sample)
            drawn = [turn.texts for turn in self.recipe.turns(sample) if turn.also]
            assert [_shares(texts) for texts in drawn] == (
                [_shares([clean_caption(text) for text in given])] if len(given) > 1 else []
            )

    def shows(self) -> None:
        """A picture where the reference shows one."""
        found = [picture_of(self.recipe, sample) is not None for sample in self.samples]
        assert found == [item["has_image"] for item in self.told["items"]]

    def asks_in_as_many_ways(self) -> None:
        """Our pool of instructions is as large, and has those that published weights know."""
        pool = self.told["instruction_pool"]
        ours = self.recipe.prompts
        assert len(set(ours)) == len(ours) == (len(pool) if pool else len(ours))
        for text in pool or []:
            assert text.count("{}") == ours[0].count("{}")
            if text in KNOWN_INSTRUCTIONS:
                assert text in ours


CONNECTED = "!@#"
KNOWN_INSTRUCTIONS = (
    "[vqa] Based on the image, respond to this question with a short answer: {}",
    "[refer] give me the location of {}",
)


def _spoken(possible: dict[str, str]) -> tuple[str | None, str]:
    return possible.get("conv_q", possible.get("instruction_input")), possible.get("conv_a", possible.get("answer", ""))


def _shares(texts: Sequence[str]) -> dict[str, float]:
    return {text: count / len(texts) for text, count in Counter(texts).items()}


def _given(sample: Row) -> list[str]:
    """What several people said of a record, as it stands there."""
    if "sentences" in sample:
        return [str(sentence["raw"]) for sentence in list_of(sample["sentences"], "sentences")]  # type: ignore[index]
    given = sample.get("direct_answers", sample.get("answer"))
    return [str(answer) for answer in given] if isinstance(given, list) else []
