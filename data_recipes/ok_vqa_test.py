"""OK-VQA's validation questions, on which it is scored, each answered by ten people."""

from data_recipes.parts import forms, pictures
from tinygptv_core.columns import list_of, mapping_of, said_in, scalar_of
from tinygptv_core.recipe import AnnotationLayout, Download, Join, Recipe, Row, Turn


def picture_name(row: Row) -> str:
    """`{"image_id": 9}` -> `COCO_val2014_000000000009.jpg`."""
    return forms.coco_name("val2014", scalar_of(row, "image_id"))


def turns(row: Row) -> tuple[Turn, ...]:
    """A question of COCO's pictures beside its annotation -> the question and all answers, as they are."""
    answers = list_of(mapping_of(row["annotation"], "annotation")["answers"], "answers")
    return Turn("user", said_in(row, "question")), forms.official_answers(answers)


RECIPE = Recipe(
    version=1,
    source="ok_vqa/OpenEnded_mscoco_val2014_questions.json",
    how="file",
    licence="CC-BY-4.0",
    citation="Marino, Rastegari, Farhadi and Mottaghi, 2019, arXiv:1906.00067",
    picture=None,
    turns=turns,
    expected_rows=5_046,
    files=(
        Download(
            path="ok_vqa/OpenEnded_mscoco_val2014_questions.json",
            url="https://okvqa.allenai.org/static/data/OpenEnded_mscoco_val2014_questions.json.zip",
            direct=True,
            note="unpack it",
        ),
        Download(
            path="ok_vqa/mscoco_val2014_annotations.json",
            url="https://okvqa.allenai.org/static/data/mscoco_val2014_annotations.json.zip",
            direct=True,
            note="unpack it",
        ),
    ),
    layout=AnnotationLayout(
        at="questions",
        joins=(
            Join(
                file="ok_vqa/mscoco_val2014_annotations.json",
                at="annotations",
                on="question_id",
                by="question_id",
                column="annotation",
            ),
        ),
    ),
    picture_sets=(pictures.COCO_VAL2014,),
    picture_name=picture_name,
)
