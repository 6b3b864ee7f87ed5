"""The step that draws the `nano` preset's own data: pictures, annotations, lists and what a server would answer."""

from tasks.request import Step, StepFolders
from tinygptv_core.settings import Scenes

DRAW = Step(name="draw", kind="source", version=2)


def draw(scenes: Scenes, folders: StepFolders) -> None:
    """Write the **source** artifact (docs/map.md) into `folders.out`: the same bytes for the same `scenes`."""
    from tasks.scene_files import write_source

    write_source(scenes, folders.out)
