"""The step that brings the frozen backbones into the store, and checks that they are those that were asked for."""

import shutil
from pathlib import Path

from tasks.build import Site, Step
from tinygptv_core.artifact import digest_of, members_of
from tinygptv_core.plain import ConfigError, unknown
from tinygptv_core.presets import SHIPPED, Backbones

IMPORT = Step(name="import", kind="backbones", version=1)


def import_backbones(backbones: Backbones, site: Site) -> None:
    """Copy the backbones that come with the package into `site.out`.

    Raises:
        ConfigError: as `shipped` does.
    """
    shutil.copytree(shipped(backbones), site.out, dirs_exist_ok=True)


def shipped(backbones: Backbones) -> Path:
    """The folder of the package that holds them.

    Raises:
        ConfigError: there are none of that name, or their digest is not the one that the preset asks for.
    """
    folder = SHIPPED / backbones.name
    if not folder.is_dir():
        names = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())
        raise ConfigError(unknown("backbones ", backbones.name, names))
    digest = digest_of(members_of(folder))
    if digest != backbones.digest:
        raise ConfigError(
            f"the backbones {backbones.name} in {folder} are not those that the preset asks for\n"
            f"  found   {digest}\n  wanted  {backbones.digest}\n"
            "  set backbones.digest to take them, or install the package again if they should not differ"
        )
    return folder
