"""The whole pre-training: a tokenizer, a tower that sees and a language model that reads, each without the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tinygptv_core.plain import plain
from tinygptv_core.pretrain.language import language_config, train_language_model
from tinygptv_core.pretrain.settings import Pretraining
from tinygptv_core.pretrain.tokens import train_tokenizer
from tinygptv_core.pretrain.tower import qformer_config, train_tower, vision_config
from tinygptv_core.scenes.scene import GRID
from tinygptv_core.weights import Architecture, new_backbones, save_backbones

DTYPE_ON_DISK = torch.float16


def pretrain_backbones(settings: Pretraining, folder: Path, log: Callable[[str], None]) -> None:
    """Train the backbones and write the **backbones** artifact (docs/map.md) into `folder`.

    On one thread, whatever the machine has, so that the same machine writes the same bytes. Weights are kept in
    float16; nothing is trained on after that.
    """
    sizes = settings.sizes
    tokenizer = train_tokenizer(sizes.vocabulary, settings.seed, settings.prompts)
    architecture = Architecture(
        vision=vision_config(sizes),
        qformer=qformer_config(sizes),
        num_queries=GRID**2,
        llm=language_config(sizes),
        projection_widths=(sizes.width, sizes.projection, sizes.width),
    )
    with _one_thread():
        backbones = new_backbones(architecture, tokenizer, settings.seed)
        train_tower(backbones.vision, backbones.qformer, settings.tower, log)
        train_language_model(backbones.llm, tokenizer, settings.language, log)
    save_backbones(backbones, folder, DTYPE_ON_DISK, note={"pretraining": plain(settings)})


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
