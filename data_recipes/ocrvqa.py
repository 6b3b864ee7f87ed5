"""Questions about the covers of books, whose answers are written on them: OCR-VQA. Off in the released run."""

from pathlib import PurePosixPath

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.columns import list_of, said_in, text_of
from tinygptv_core.recipe import AnnotationLayout, Download, Recipe, Row, Turn

TRAIN = 1


def questions(row: Row) -> list[Row]:
    """`{"questions": [...], "answers": [...]}` -> a record for each pair."""
    asked, answers = list_of(row["questions"], "questions"), list_of(row["answers"], "answers")
    if len(asked) != len(answers):
        raise ValueError(f"{len(asked)} questions and {len(answers)} answers")
    return [{**row, "question": one, "answer": other} for one, other in zip(asked, answers, strict=True)]


def picture_name(row: Row) -> str:
    """The record's name with its address's ending: a few covers are GIF or PNG."""
    return f"{text_of(row, 'key')}{PurePosixPath(said_in(row, 'imageURL')).suffix}"


def turns(row: Row) -> tuple[Turn, ...]:
    """A pair of split 1, which is for training -> question and answer, cleaned."""
    forms.only_split(row, TRAIN)
    return forms.short_answer(row)


RECIPE = Recipe(
    version=1,
    source="ocr_vqa/dataset.json",
    how="file",
    licence="for research and teaching that earns nothing",
    citation="Mishra, Shekhar, Singh and Chakraborty, 2019, ICDAR",
    picture=None,
    turns=turns,
    prompts=prompts.VQA,
    expected_rows=1_002_146,
    files=(
        Download(
            path="ocr_vqa/dataset.json",
            url="https://ocr-vqa.github.io/",
            direct=False,
            note="on Google Drive, with loadDataset.py, which fetches the pictures into ocr_vqa/images/",
        ),
    ),
    layout=AnnotationLayout(keyed=True),
    picture_sets=(pictures.OCR_VQA,),
    picture_name=picture_name,
    samples=questions,
)
