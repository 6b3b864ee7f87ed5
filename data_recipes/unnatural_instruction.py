"""Instructions and answers without pictures, so that reading is not forgotten over seeing."""

from tinygptv_core.columns import cleaned, list_of, mapping_of, text_of
from tinygptv_core.recipe import Download, Recipe, Row, Turn


def turns(row: Row) -> tuple[Turn, ...]:
    """`{"instances": [{"instruction_with_input", "constraints", "output"}, ...]}` -> the first, both sides cleaned."""
    instances = list_of(row["instances"], "instances")
    if not instances:
        raise ValueError("there are no instances")
    first = mapping_of(instances[0], "an instance")
    wanted = text_of(first, "instruction_with_input")
    if first["constraints"] is not None:
        wanted = f"{wanted} {text_of(first, 'constraints')}"
    return Turn("user", cleaned({"instruction": wanted}, "instruction")), Turn("assistant", cleaned(first, "output"))


RECIPE = Recipe(
    version=1,
    source="unnatural_instruction/filtered_unnatural_instruction.json",
    how="file",
    licence="MIT, and OpenAI's terms of use, since GPT-3 wrote it",
    citation="Honovich et al., 2022, arXiv:2212.09689",
    picture=None,
    turns=turns,
    files=(
        Download(
            path="unnatural_instruction/filtered_unnatural_instruction.json",
            url="https://github.com/Vision-CAIR/MiniGPT-4/blob/main/dataset/README_MINIGPTv2_FINETUNE.md",
            direct=False,
            note="its section on Unnatural Instructions has the filtered file, on Google Drive",
        ),
    ),
)
