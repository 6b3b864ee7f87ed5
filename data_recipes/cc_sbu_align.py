"""MiniGPT-4's 3,500 pictures of CC and SBU with captions of several sentences, checked by people."""

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.columns import said_in
from tinygptv_core.recipe import AnnotationLayout, Download, Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image_id", "caption"}` -> the caption as it is; what asks for it is the prompt."""
    return (Turn("assistant", said_in(row, "caption")),)


RECIPE = Recipe(
    version=1,
    source="cc_sbu_align/filter_cap.json",
    how="file",
    licence="Google's terms for Conceptual Captions and those of SBU; BSD-3-Clause (MiniGPT-4)",
    citation="Zhu et al., 2023, arXiv:2304.10592",
    picture=None,
    turns=turns,
    prompts=prompts.DETAIL,
    expected_rows=3_439,
    files=(
        Download(
            path="cc_sbu_align/filter_cap.json",
            url="https://drive.google.com/file/d/1nJXhoEcy3KTExr17I7BXqY5Y9Lx_-n-9/view",
            direct=False,
            note="it is inside cc_sbu_align.zip: unpack that so that cc_sbu_align/image/ lies beside it",
            megabytes=2,
        ),
    ),
    layout=AnnotationLayout(at="annotations"),
    picture_sets=(pictures.CC_SBU_ALIGN,),
    picture_name=forms.numbered_picture,
)
