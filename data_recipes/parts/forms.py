"""Forms of records that several data sets share, and what is said in them. Pure functions of one record."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from tinygptv_core.columns import (
    any_of,
    clean_caption,
    cleaned,
    list_of,
    mapping_of,
    number_of,
    region_box,
    said_in,
    scalar_of,
    text_of,
)
from tinygptv_core.recipe import AnnotationLayout, Download, Join, Row, Turn, UnfitError

LLAVA_ROLES = ("human", "gpt")
REFER_LICENCE = "Apache-2.0 (the REFER toolbox); COCO's pictures under the terms of Flickr's users"
REFER_ARCHIVES = "https://web.archive.org/web/20220413011718/https://bvisionweb1.cs.unc.edu/licheng/referit/data"


def file_name(row: Row, column: str) -> str:
    """The last part of the path in `column`: lists name pictures below folders of their authors' machines."""
    return PurePosixPath(said_in(row, column)).name


def picture_file(row: Row) -> str:
    """`{"image": "train2014/COCO_train2014_000000000009.jpg"}` -> the file's name."""
    return file_name(row, "image")


def numbered_picture(row: Row) -> str:
    """`{"image_id": "1000092795"}` -> `1000092795.jpg`."""
    return f"{scalar_of(row, 'image_id')}.jpg"


def coco_picture(row: Row) -> str:
    """`{"id": "000000000009"}` -> `COCO_train2014_000000000009.jpg`, LLaVA's way to name a picture."""
    return coco_name("train2014", scalar_of(row, "id"))


def coco_name(part: str, number: int | str) -> str:
    """What COCO calls a picture of that part of its release of 2014: `COCO_val2014_000000000009.jpg`."""
    return f"COCO_{part}_{number:0>12}.jpg"


def conversation(row: Row) -> tuple[Turn, ...]:
    """`{"conversations": [{"from", "value"}, ...]}` -> all of it, as LLaVA has it.

    `<image>` and line breaks in the first question are dropped, as in the reference; all else stays as it is.

    Raises:
        KeyError, TypeError: it has another form.
        ValueError: human and gpt do not speak by turns, an answer is lacking, or something is empty.
    """
    said = [mapping_of(one, "an utterance") for one in list_of(row["conversations"], "conversations")]
    for number, one in enumerate(said, start=1):
        if one["from"] != (role := LLAVA_ROLES[(number - 1) % 2]):
            raise ValueError(f"utterance {number} is from {one['from']!r:.40}, where {role} is to speak")
    if not said or len(said) % 2:
        raise ValueError(f"{len(said)} utterances; questions and answers come in pairs")
    values = [_value(one, number) for number, one in enumerate(said, start=1)]
    asked = values[0].replace("<image>", "").replace("\n", "").strip()
    if not asked:
        raise ValueError("the first question is empty")
    later = enumerate(values[1:])
    return (Turn("user", asked), *(Turn("user" if place % 2 else "assistant", text) for place, text in later))


def _value(utterance: Row, number: int) -> str:
    """What is said in the utterance of that number."""
    value = utterance["value"]
    if not isinstance(value, str):
        raise TypeError(f"the value of utterance {number} is {type(value).__name__}, not a text")
    if not value.strip():
        raise ValueError(f"the value of utterance {number} is empty")
    return value


def first_exchange(row: Row) -> tuple[Turn, ...]:
    """The same, but its first question and answer alone; the question cleaned as captions are."""
    asked, answer = conversation(row)[:2]
    return Turn("user", clean_caption(asked.text)), answer


def short_answers(row: Row, question: str, answers: str) -> tuple[Turn, ...]:
    """A question and the answers of several people, cleaned as captions are; training draws them by frequency."""
    given = [clean_caption(_text(answer)) for answer in list_of(row[answers], answers)]
    return Turn("user", cleaned(row, question)), any_of("assistant", given)


def answered(row: Row) -> tuple[Turn, ...]:
    """`{"question", "answer": [...]}`, as LAVIS has VQA and OK-VQA -> the same."""
    return short_answers(row, "question", "answer")


def official_answers(answers: Sequence[object]) -> Turn:
    """`[{"answer": ...}, ...]`, as in VQA's own annotations -> the ten answers as they are."""
    return any_of("assistant", [text_of(mapping_of(one, "an answer"), "answer") for one in answers])


def of_two(row: Row, column: str, names: tuple[str, str]) -> str:
    """The name of a label that is 0 or 1.

    Raises:
        KeyError, TypeError: there is none.
        ValueError: it is another number, or a text.
    """
    label = scalar_of(row, column)
    if label not in (0, 1):
        raise ValueError(f"{column} is {label!r}; it must be 0 or 1")
    return names[int(label)]


def short_answer(row: Row) -> tuple[Turn, ...]:
    """`{"question", "answer"}` -> both, cleaned as captions are."""
    return Turn("user", cleaned(row, "question")), Turn("assistant", cleaned(row, "answer"))


def caption(row: Row) -> tuple[Turn, ...]:
    """`{"caption"}` -> the caption, cleaned; the prompt asks for it."""
    return (Turn("assistant", cleaned(row, "caption")),)


def refer_files(folder: str, split: str) -> tuple[Download, ...]:
    """RefCOCO's references, cut as `split` says, and their boxes: one archive has both."""
    return tuple(
        Download(
            path=f"{folder}/{name}",
            url=f"{REFER_ARCHIVES}/{folder}.zip",
            direct=False,
            note="the archive has it; unpack it",
        )
        for name in (f"refs({split}).p", "instances.json")
    )


def refer_layout(folder: str) -> AnnotationLayout:
    """RefCOCO's references, each with its box and its picture, which stand in COCO's form beside them."""
    instances = f"{folder}/instances.json"
    return AnnotationLayout(
        joins=(
            Join(file=instances, at="annotations", on="ann_id", by="id", column="annotation"),
            Join(file=instances, at="images", on="image_id", by="id", column="image"),
        )
    )


def reference_picture(row: Row) -> str:
    """A reference's picture: `COCO_train2014_000000581857.jpg`."""
    return coco_name("train2014", scalar_of(row, "image_id"))


def reference_box(row: Row) -> str:
    """A reference's box as the model spells it."""
    picture = mapping_of(row["image"], "image")
    box = list_of(mapping_of(row["annotation"], "annotation")["bbox"], "bbox")
    return region_box(box, number_of(picture, "width"), number_of(picture, "height"))


def reference_sentences(row: Row) -> list[str]:
    """A reference's sentences as people wrote them."""
    return [text_of(mapping_of(one, "a sentence"), "raw") for one in list_of(row["sentences"], "sentences")]


def only_split(row: Row, split: object) -> None:
    """Leave out the records of other splits.

    Raises:
        UnfitError: this is one.
    """
    if row["split"] != split:
        raise UnfitError("other_split", f"of split {row['split']}")


def refer(row: Row) -> tuple[Turn, ...]:
    """A training reference -> one of its sentences, and its box."""
    only_split(row, "train")
    asked = any_of("user", [clean_caption(sentence) for sentence in reference_sentences(row)])
    return asked, Turn("assistant", reference_box(row))


def identify(row: Row) -> tuple[Turn, ...]:
    """A training reference -> its box, and one of its sentences."""
    asked, box = refer(row)
    return Turn("user", box.text), any_of("assistant", asked.texts)


def expressions(row: Row) -> list[Row]:
    """A reference of the evaluation -> a record for each of its sentences. Raises UnfitError for one to train on."""
    if row["split"] == "train":
        raise UnfitError("other_split", "of split train")
    return [{**row, "phrase": sentence} for sentence in reference_sentences(row)]


def expression(row: Row) -> tuple[Turn, ...]:
    """One of these records -> the sentence, and the box."""
    return Turn("user", cleaned(row, "phrase")), Turn("assistant", reference_box(row))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"an answer is {type(value).__name__}, not a text")
    return value
