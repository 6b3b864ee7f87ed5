"""shards x backbones -> the vision tokens of every picture, for those who read the pictures more than once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.request import Step, StepFolders
from tinygptv_core.compute import Compute, Precision, Progress
from tinygptv_core.run import DataFolders

FEATURES = Step(name="features", kind="features", version=2)


@dataclass(frozen=True, kw_only=True)
class FeaturesSpec:
    """Whose pictures are looked at, and how: side of the tower's square in pixels, and its precision."""

    backbones: Path
    data: Mapping[str, DataFolders]
    image_size: int
    precision: Precision


def write_vision_tokens(spec: FeaturesSpec, compute: Compute, folders: StepFolders, progress: Progress) -> None:
    """Write pictures.npy, queries.npy and datasets.json into `folders.out`. Runs in this process.

    Raises:
        ConfigError: there is no picture in any of the data sets.
    """
    from tinygptv_core.features import EncodingSettings, write_features
    from tinygptv_core.shards import ShardSet

    settings = EncodingSettings(image_size=spec.image_size, precision=spec.precision)
    data = {name: ShardSet(found) for name, found in spec.data.items()}
    write_features(spec.backbones, data, settings, compute, folders.out, progress)
