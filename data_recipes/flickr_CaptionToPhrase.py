"""Captions of Flickr30k, and where each thing that they name is."""

from data_recipes.parts import forms, pictures, prompts
from tinygptv_core.columns import said_in
from tinygptv_core.recipe import Download, Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"image_id", "caption", "output"}` -> the caption, and its phrases with their boxes, both as they are."""
    return Turn("user", said_in(row, "caption")), Turn("assistant", said_in(row, "output"))


RECIPE = Recipe(
    version=1,
    source="flickr30k/captiontobbox.json",
    how="file",
    licence="the pictures by form, for research and teaching that earns nothing; BSD-3-Clause (MiniGPT-v2)",
    citation="Plummer et al., 2015, arXiv:1505.04870; Chen et al., 2023, arXiv:2310.09478",
    picture=None,
    turns=turns,
    prompts=prompts.DETECTION,
    files=(
        Download(
            path="flickr30k/captiontobbox.json",
            url="https://github.com/Vision-CAIR/MiniGPT-4/blob/main/dataset/README_MINIGPTv2_FINETUNE.md",
            direct=False,
            note="its section on Flickr30k has the file, on Google Drive",
        ),
    ),
    picture_sets=(pictures.FLICKR30K,),
    picture_name=forms.numbered_picture,
)
