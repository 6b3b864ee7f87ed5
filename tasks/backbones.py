"""The step that trains the `nano` backbones: the tower without the language model, and that from text alone.

They come with the package, so that a run starts from them; this is how they were made and can be made again.
"""

import logging

from tasks.request import Step, StepFolders
from tinygptv_core.pretrain.settings import Optimization, Pretraining, PretrainingSizes

LOGGER = logging.getLogger(__name__)

PRETRAIN = Step(name="pretrain", kind="backbones", version=1)

NANO = Pretraining(
    sizes=PretrainingSizes(
        width=128,
        head_width=32,
        feed_forward=512,
        patch_pixels=8,
        vision_layers=4,
        qformer_layers=2,
        language_layers=4,
        projection=256,
        context=1024,
        vocabulary=704,
    ),
    seed=1,
    prompts=(
        "[vqa] <Img><ImageHere></Img> [vqa] Based on the image, respond to this question with a short answer: ",
        "[refer] give me the location of the, [identify] name what is in, [caption] Describe the picture briefly.",
        "[grounding] Describe the picture with a box for every thing. <p>large red circle</p>",
        "[INST] [/INST]",
        "###Human: ###Assistant: ###",
    ),
    tower=Optimization(seed=2, steps=1_200, warmup_steps=50, batch=40, peak=3e-3, weight_decay=0.05),
    language=Optimization(seed=3, steps=2_400, warmup_steps=50, batch=24, peak=1e-2, weight_decay=0.05),
)


def pretrain(config: Pretraining, folders: StepFolders) -> None:
    """Write the **backbones** artifact (docs/map.md) into `folders.out`; progress goes to `folders.notes/pretrain.log`.

    One thread throughout; the same bytes on the same kind of machine.
    """
    from tinygptv_core.pretrain.backbones import pretrain_backbones

    with (folders.notes / "pretrain.log").open("a", buffering=1) as notes:

        def log(line: str) -> None:
            LOGGER.info(line)
            notes.write(f"{line}\n")

        pretrain_backbones(config, folders.out, log)
