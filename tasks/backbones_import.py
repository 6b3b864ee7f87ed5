"""The steps that bring the frozen backbones into the store: those of the package, or made from a user's files."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.request import Step, StepFolders
from tasks.stamps import remembered_digest
from tasks.typed_paths import typed_path
from tasks.whole_files import write_json
from tinygptv_core.artifact import Artifact, digest_of, members_of
from tinygptv_core.plain import ConfigError, plain, unknown
from tinygptv_core.settings import SHIPPED, BackboneSettings, BackboneSources, Source
from tinygptv_core.tensor_files.weight_folders import check_pins, files_of

if TYPE_CHECKING:
    from tinygptv_core.formats.coverage import Coverage

IMPORT = Step(name="import", kind="backbones", version=1)
CONVERT = Step(name="convert", kind="backbones", version=1)

ROLES = ("vision", "qformer", "llm")
WANTED = {
    "vision": "eva_vit_g.pth, or the folder of a BLIP-2 of Hugging Face",
    "qformer": "blip2_pretrained_flant5xxl.pth, or the folder of a BLIP-2 of Hugging Face",
    "llm": "the folder of microsoft/phi-2, with its tokenizer",
}
BLIP2 = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2"
PUBLISHED_AT = {
    "vision": f"(about 2.0 GB)  {BLIP2}/eva_vit_g.pth",
    "qformer": f"(about 0.4 GB)  {BLIP2}/blip2_pretrained_flant5xxl.pth",
    "llm": "(about 5.6 GB)  https://huggingface.co/microsoft/phi-2",
}
"""What TinyGPT-V is made of, which may not be what a preset of other sizes wants."""

COVERAGE = "coverage.txt"


def import_backbones(backbones: BackboneSettings, folders: StepFolders) -> None:
    """Copy the backbones that come with the package into `folders.out`.

    Raises:
        ConfigError: as `shipped` does.
    """
    shutil.copytree(shipped(backbones), folders.out, dirs_exist_ok=True)


def shipped(backbones: BackboneSettings) -> Path:
    """The folder of the package that holds them.

    Raises:
        ConfigError: there are none of that name, or their digest is not the one that the preset asks for.
    """
    folder = SHIPPED / backbones.name
    if not folder.is_dir():
        names = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())
        raise ConfigError(unknown("backbones ", backbones.name, names))
    check_digest(backbones, folder)
    return folder


def check_digest(backbones: BackboneSettings, folder: Path) -> None:
    """Compare what came out with the digest that the preset asks for, if it asks for one.

    Raises:
        ConfigError: it is another one.
    """
    digest = digest_of(members_of(folder))
    if backbones.digest not in (None, digest):
        raise ConfigError(
            f"the backbones {backbones.name} in {folder} are not those that the preset asks for\n"
            f"  found   {digest}\n  wanted  {backbones.digest}\n"
            "  set backbones.digest to take them; else install the package again, or fetch the files again"
        )


def convert_backbones(sources: BackboneSources, folders: StepFolders) -> None:
    """Make the **backbones** artifact of the user's files; the account of every tensor goes to `folders.notes`.

    Raises:
        ConfigError: a file is missing, cut off, hostile or another one than is wanted; says which and what helps.
    """
    from tinygptv_core.formats import weight_import
    from tinygptv_core.formats.architectures import architecture
    from tinygptv_core.precision import dtype_of

    paths = weight_import.WeightPaths(**{role: source_path(role, getattr(sources, role)) for role in ROLES})
    coverages = weight_import.import_backbones(folders.out, paths, architecture(sources.sizes), dtype_of(sources.dtype))
    note_coverage(coverages, folders)


def note_coverage(coverages: "Sequence[Coverage]", folders: StepFolders) -> None:
    """Keep the account: `coverage.txt` for people, `coverage.json` for machines."""
    from tinygptv_core.formats.coverage import table

    (folders.notes / COVERAGE).write_text(table(coverages) + "\n")
    write_json(folders.notes / "coverage.json", plain(list(coverages)))


def source_files(sources: BackboneSources, stamps: Path) -> dict[str, Artifact]:
    """Every file that the backbones are made of, as inputs (`files_as_inputs`).

    Raises:
        ConfigError: a source is not named or not there, or a file is not the one that is pinned.
    """
    found: dict[str, Artifact] = {}
    lacking: list[str] = []
    for role in ROLES:
        source: Source = getattr(sources, role)
        try:
            path = source_path(role, source)
            check_pins(files_of(path), source.pins, lambda file: remembered_digest(file, stamps))
            found |= files_as_inputs(role, path, stamps)
        except ConfigError as error:
            lacking.append(str(error))
    if lacking:
        raise ConfigError("\n".join(lacking))
    return found


def files_as_inputs(role: str, source: Path, stamps: Path) -> dict[str, Artifact]:
    """The files of one source: `llm/config.json`, ...; `vision` for a lone file, whose name bears on nothing.

    Args:
        stamps: a folder that remembers the SHA-256 of files, so that one which nobody touched is hashed once.

    Raises:
        ConfigError: it is not there.
    """
    return {
        f"{role}/{name}" if source.is_dir() else role: Artifact(
            kind="file", digest=remembered_digest(path, stamps), path=path
        )
        for name, path in files_of(source).items()
    }


def source_path(role: str, source: Source) -> Path:
    """Where a source lies.

    Raises:
        ConfigError: it is not named.
    """
    if source.path is None:
        raise ConfigError(
            f"these backbones are made of files of yours, and {role} is not named: {WANTED[role]}.\n"
            f"  to get the paper's {PUBLISHED_AT[role]}\n"
            f"  name it with --set backbones.sources.{role}.path=PATH"
        )
    return typed_path(source.path)
