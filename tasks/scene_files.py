"""Scenes as the files of a source: what annotators and the web would have given.

Every file is drawn from a random generator of its own, seeded with the preset's seed and the file's name, so that
one more question changes no picture and no other file.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from tinygptv_core.scenes import texts
from tinygptv_core.scenes.draw import draw, jpeg
from tinygptv_core.scenes.scene import SIDE_PIXELS, Scene, Split, draw_scene
from tinygptv_core.settings import SCENES_HOST, Scenes

Record = dict[str, Any]

# Of the held-out pictures, so many show only colours and shapes that were met together in training.
SEEN_SHARE = Fraction(3, 5)
# Each kind of fault, as a share of the larger list; there is at least one of each.
FAULT_SHARE = Fraction(7, 1000)
SMALL_PIXELS = (16, 16)
ELONGATED_PIXELS = (4 * SIDE_PIXELS, SIDE_PIXELS)
HTML = b"<!DOCTYPE html><html><head><title>Gone</title></head><body>This picture has moved.</body></html>\n"

# What is asked about an unseen thing; counts and backgrounds would be about something else.
UNSEEN_GROUPS = {group: weight for group, weight in texts.GROUP_WEIGHTS.items() if group not in ("count", "background")}


@dataclass(frozen=True, kw_only=True)
class SceneFile:
    """A scene and the name of its file."""

    name: str
    scene: Scene


Telling = Callable[[Random, SceneFile], Record | None]
"""A record about a picture; None when there is nothing of the kind to say about it."""


def write_source(scenes: Scenes, out: Path) -> None:
    """Write images/, served/, annotations/ and lists/ into `out`."""
    for folder in ("images", "served", "annotations", "lists"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    _write_lists(scenes, out)
    _write_annotations(scenes, out)
    _write_test(scenes, out)


def _random(scenes: Scenes, name: str) -> Random:
    return Random(f"{scenes.seed} {name}")


def _pictures(scenes: Scenes, name: str, count: int, split: Split) -> list[SceneFile]:
    """`count` pictures of different scenes."""
    random, found = _random(scenes, name), dict[str, Scene]()
    while len(found) < count:
        scene = draw_scene(random, split)
        found.setdefault(scene.content, scene)
    return [SceneFile(name=f"{name}_{i:05}.jpg", scene=scene) for i, scene in enumerate(found.values())]


def _write_json(path: Path, records: Sequence[Record]) -> None:
    """One JSON array, a record a line."""
    path.write_text("[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]\n")


# Lists of addresses, and what is behind them


def _write_lists(scenes: Scenes, out: Path) -> None:
    for name, count in scenes.listed.items():
        pictures = _pictures(scenes, name, count, "train")
        random = _random(scenes, f"{name} captions")
        records = [_web_record(random, picture) for picture in pictures]
        served = {picture.name: jpeg(draw(picture.scene)) for picture in pictures}
        if name == "scenes_web":
            _spoil(_random(scenes, "faults"), records, served)
        _write_json(out / "lists" / f"{name}.json", records)
        for file, data in served.items():
            (out / "served" / file).write_bytes(data)


def _web_record(random: Random, picture: SceneFile) -> Record:
    """The caption as people would write it: some begin with a capital and end with a full stop."""
    caption = texts.caption(random, picture.scene)
    if random.random() < 1 / 3:
        caption = f"{caption[0].upper()}{caption[1:]}."
    return {"url": f"http://{SCENES_HOST}/{picture.name}", "caption": caption}


def _spoil(random: Random, records: list[Record], served: dict[str, bytes]) -> None:
    """Put every kind of fault that the web has into `records` and `served`, in place.

    The faulty records are drawn without repetition, so that each has one fault; what a fault needs of
    another record, it takes from a sound one.
    """
    each = max(1, int(len(records) * FAULT_SHARE))
    kinds = (*SERVED_FAULTS, "duplicate", "repeated_url", "no_caption", "no_url")
    spoiled = random.sample(range(len(records)), each * len(kinds))
    sound = sorted(set(range(len(records))) - set(spoiled))
    names = list(served)
    for position, kind in zip(spoiled, cycle(kinds), strict=False):
        record, name, other = records[position], names[position], random.choice(sound)
        if kind in SERVED_FAULTS:
            _spoil_served(kind, name, served)
        elif kind == "duplicate":
            served[name] = served[names[other]]
        elif kind == "repeated_url":
            record["url"] = records[other]["url"]
            del served[name]
        elif kind == "no_caption":
            record["caption"] = ""
        else:
            del record["url"], served[name]


SERVED_FAULTS: Mapping[str, Callable[[bytes], bytes | None]] = {
    "not_found": lambda data: None,
    "html": lambda data: HTML,
    "truncated": lambda data: data[: len(data) // 2],
    "too_small": lambda data: _resized(data, SMALL_PIXELS),
    "too_long": lambda data: _resized(data, ELONGATED_PIXELS),
}


def _spoil_served(kind: str, name: str, served: dict[str, bytes]) -> None:
    spoiled = SERVED_FAULTS[kind](served.pop(name))
    if spoiled is not None:
        served[name] = spoiled


def _resized(data: bytes, pixels: tuple[int, int]) -> bytes:
    return jpeg(Image.open(io.BytesIO(data)).resize(pixels))


# Annotations


def _detail(random: Random, picture: SceneFile) -> Record:
    return {"image": picture.name, "caption": texts.detailed_caption(picture.scene)}


def _vqa(random: Random, picture: SceneFile) -> Record:
    asked = texts.question(random, picture.scene, texts.GROUP_WEIGHTS)
    return {"image": picture.name, "question": asked.text, "answer": asked.answer, "type": asked.group}


def _refer(random: Random, picture: SceneFile) -> Record | None:
    if not (found := texts.referred(random, picture.scene)):
        return None
    thing, words = found
    box, side = list(thing.corners), SIDE_PIXELS
    return {"image": picture.name, "width": side, "height": side, "phrase": f"the {words}", "box": box}


def _identify(random: Random, picture: SceneFile) -> Record:
    thing = random.choice(picture.scene.things)
    box, side = list(thing.corners), SIDE_PIXELS
    return {"image": picture.name, "width": side, "height": side, "phrase": texts.described(thing), "box": box}


def _caption(random: Random, picture: SceneFile) -> Record:
    return {"image": picture.name, "caption": texts.short_caption(picture.scene)}


def _grounding(random: Random, picture: SceneFile) -> Record:
    return {"image": picture.name, "grounded_caption": texts.grounded_caption(picture.scene)}


def _conversation(random: Random, picture: SceneFile) -> Record:
    turns: list[Record] = []
    for asked in texts.dialogue(random, picture.scene):
        shown = "" if turns else "<image>\n"
        turns += [{"from": "human", "value": f"{shown}{asked.text}"}, {"from": "gpt", "value": asked.answer}]
    return {"image": picture.name, "conversations": turns}


def _text(random: Random, picture: SceneFile) -> Record:
    asked = texts.text_question(random, picture.scene)
    return {"instruction": asked.text, "output": asked.answer}


ANNOTATIONS: Mapping[str, tuple[Telling, Fraction]] = {
    "scenes_detail": (_detail, Fraction(1, 2)),
    "scenes_vqa": (_vqa, Fraction(1)),
    "scenes_refer": (_refer, Fraction(1, 2)),
    "scenes_identify": (_identify, Fraction(1, 4)),
    "scenes_caption": (_caption, Fraction(1, 4)),
    "scenes_grounding": (_grounding, Fraction(1, 4)),
    "scenes_conversation": (_conversation, Fraction(1, 4)),
    "scenes_text": (_text, Fraction(1, 4)),
}
"""Annotation file -> what it says about a picture, and its records as a share of the instruction pictures."""


def _write_annotations(scenes: Scenes, out: Path) -> None:
    pictures = _pictures(scenes, "train", scenes.instruction_pictures, "train")
    _write_images(pictures, out)
    for name, (telling, share) in ANNOTATIONS.items():
        random = _random(scenes, name)
        shown = random.sample(pictures, len(pictures))
        records = _told(random, telling, shown, max(1, int(len(pictures) * share)))
        _write_json(out / "annotations" / f"{name}.json", records)


def _told(random: Random, telling: Telling, pictures: Sequence[SceneFile], count: int) -> list[Record]:
    """`count` records about the pictures in turn, round and round if they are fewer."""

    def records() -> Iterator[Record]:
        for picture in cycle(pictures):
            if record := telling(random, picture):
                yield record

    endless = records()
    return [next(endless) for _ in range(count)]


def _write_images(pictures: Sequence[SceneFile], out: Path) -> None:
    for picture in pictures:
        (out / "images" / picture.name).write_bytes(jpeg(draw(picture.scene)))


# What the evaluations ask


def _test_question(split: str, groups: Mapping[str, float]) -> Telling:
    def telling(random: Random, picture: SceneFile) -> Record:
        asked = texts.question(random, picture.scene, groups)
        return _test_record(picture, asked.text, asked.answer, split, asked.group)

    return telling


def _test_refer(random: Random, picture: SceneFile) -> Record | None:
    if not (found := texts.referred(random, picture.scene)):
        return None
    thing, words = found
    return _test_record(picture, f"the {words}", texts.box_text(thing), "refer", "refer")


def _test_caption(random: Random, picture: SceneFile) -> Record:
    return _test_record(picture, "", texts.short_caption(picture.scene), "caption", "caption")


def _test_record(picture: SceneFile, question: str, answer: str, split: str, group: str) -> Record:
    return {"image": picture.name, "question": question, "answer": answer, "split": split, "group": group}


def _write_test(scenes: Scenes, out: Path) -> None:
    seen_count = int(scenes.held_out_pictures * SEEN_SHARE)
    seen = _pictures(scenes, "held_out", seen_count, "held_out")
    unseen = _pictures(scenes, "unseen", scenes.held_out_pictures - seen_count, "unseen")
    _write_images([*seen, *unseen], out)
    wanted: tuple[tuple[Telling, list[SceneFile], Fraction], ...] = (
        (_test_question("vqa", texts.GROUP_WEIGHTS), seen, Fraction(2)),
        (_test_question("vqa_unseen", UNSEEN_GROUPS), unseen, Fraction(3, 2)),
        (_test_refer, seen, Fraction(1)),
        (_test_caption, seen, Fraction(1, 3)),
    )
    random = _random(scenes, "scenes_test")
    records = [
        record
        for telling, pictures, share in wanted
        for record in _told(random, telling, pictures, int(len(pictures) * share))
    ]
    _write_json(out / "annotations" / "scenes_test.json", records)
