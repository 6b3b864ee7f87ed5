"""A user's preset: the goldens' sizes, in the published dialect, on few scenes. The files are named with `--set`."""

from dataclasses import replace

from tinygptv_core.presets import NANO, UNSET
from tinygptv_core.settings import BackboneSettings, BackboneSources, Scenes
from tinygptv_core.sizes import LlmSizes, ModelSizes, QFormerSizes, TowerSizes
from tinygptv_core.stage import Lora, Stage

SIZES = ModelSizes(
    vision=TowerSizes(width=64, mlp_width=279, layers=3, heads=4, image_size=28, patch_size=14),
    qformer=QFormerSizes(width=48, mlp_width=192, layers=4, heads=4, cross_attention_every=2, queries=8),
    llm=LlmSizes(
        width=64,
        mlp_width=256,
        layers=3,
        heads=4,
        vocabulary=352,
        positions=2048,
        rotary_fraction=0.5,
        dropout=0.1,
        end_id=330,
    ),
    projection_widths=(48, 128, 64),
)


def published(stage: Stage) -> Stage:
    return replace(
        stage,
        dialect="published",
        image_size=56 if stage.name == "stage4" else 28,
        lora=stage.lora and Lora(rank=4, alpha=16, dropout=0.05),
        schedule=replace(stage.schedule, warmup_steps=1, steps=2),
    )


TOY = replace(
    NANO,
    name="toy",
    scenes=Scenes(seed=7, pretraining_pictures=64, instruction_pictures=64, held_out_pictures=48),
    backbones=BackboneSettings(
        name="toy",
        digest=None,
        sources=BackboneSources(vision=UNSET, qformer=UNSET, llm=UNSET, sizes=SIZES, dtype="float32"),
    ),
    stages=tuple(map(published, NANO.stages)),
)
