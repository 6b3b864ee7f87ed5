"""Questions about drawings with a few texts to choose from: IconQA, choose_txt, its validation split."""

from data_recipes.parts import pictures
from tinygptv_core.columns import list_of, said_in, scalar_of, text_of
from tinygptv_core.recipe import AnnotationLayout, Download, Join, Recipe, Row, Turn


def picture_name(row: Row) -> str:
    """A problem's drawing lies in a folder of its own."""
    return f"{text_of(row, 'key')}/image.png"


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"question", "choices": [...], "answer": place among them}` -> the question, all choices, and the right one."""
    choices = list_of(row["choices"], "choices")
    answer = scalar_of(row, "answer")
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise ValueError(f"answer is {answer!r}; it must be the place of one of {len(choices)} choices")
    texts = [said_in({"choice": choice}, "choice") for choice in choices]
    return (
        Turn("user", said_in(row, "question")),
        *(Turn("choice", text) for text in texts),
        Turn("assistant", texts[answer]),
    )


RECIPE = Recipe(
    version=1,
    source="iconqa/iconqa_data/problems.json",
    how="file",
    licence="CC-BY-NC-SA-4.0",
    citation="Lu et al., 2021, arXiv:2110.13214",
    picture=None,
    turns=turns,
    files=(
        Download(
            path="iconqa/iconqa_data/problems.json",
            url="https://iconqa.github.io/",
            direct=False,
            note="the archive has it; unpack it",
        ),
        Download(
            path="iconqa/iconqa_data/pid_splits.json",
            url="https://iconqa.github.io/",
            direct=False,
            note="the archive has it; unpack it",
        ),
    ),
    layout=AnnotationLayout(
        keyed=True,
        joins=(
            Join(
                file="iconqa/iconqa_data/pid_splits.json",
                at="choose_txt_val",
                on="key",
                by=None,
                column="chosen",
                missing="other_split",
            ),
        ),
    ),
    picture_sets=(pictures.ICON_QA,),
    picture_name=picture_name,
)
