"""Questions that need common sense and knowledge, about COCO's pictures: A-OKVQA, its training split.

That split asks about pictures of COCO's release of 2017, whose training part has many of `val2014`.
"""

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.recipe import Download, Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image", "question", "direct_answers": [...]}` -> the question and people's answers, cleaned."""
    return forms.short_answers(row, "question", "direct_answers")


RECIPE = Recipe(
    version=1,
    source="aok_vqa/aokvqa_v1p0_train.json",
    how="file",
    licence="Apache-2.0",
    citation="Schwenk, Khandelwal, Clark, Marino and Mottaghi, 2022, arXiv:2206.01718",
    picture=None,
    turns=turns,
    prompts=prompts.VQA,
    expected_rows=17_056,
    files=(
        Download(
            path="aok_vqa/aokvqa_v1p0_train.json",
            url="https://storage.googleapis.com/sfr-vision-language-research/LAVIS/datasets/aokvqa/aokvqa_v1p0_train.json",
            direct=True,
            note="in the form that LAVIS gave it",
        ),
    ),
    picture_sets=(pictures.COCO_TRAIN2014, pictures.COCO_VAL2014),
    picture_name=forms.picture_file,
)
