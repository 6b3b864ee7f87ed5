"""A run at toy size: random backbones of width 16, a handful of hand-written samples, and a `RunSpec` for them."""

import io
import json
import resource
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Blip2QFormerConfig, Blip2VisionConfig, PhiConfig, PreTrainedTokenizerFast

from tinygptv_core.model import TinyGPTV
from tinygptv_core.run import DataFolders, RunOptions, RunSpec
from tinygptv_core.stage import Lora, Schedule, Share, Stage
from tinygptv_core.weights import Architecture, new_backbones, save_backbones

END = "<|endoftext|>"
WIDTH = 16
COLUMNS = np.dtype(
    [("row", "i8"), ("shard", "i4"), ("image", "i8"), ("image_bytes", "i8"), ("text", "i8"), ("text_bytes", "i8")]
)
STAGE = Stage(
    name="tiny",
    mix={"shapes": Share(weight=2, batch=5), "words": Share(weight=1, batch=3)},
    image_size=8,
    max_tokens=12,
    precision="float32",
    schedule=Schedule(start=1e-3, peak=1e-2, end=1e-3, warmup_steps=2, steps=8),
    lora=Lora(rank=2, alpha=4, dropout=0.05),
    prompt_template="Q: {} A: ",
    eval_template="Q: {} A: ",
    end_symbol="\n",
    weight_decay=0.05,
    clip_norm=1.0,
    held_out_samples=2,
    seed=11,
    evals=(),
)
OPTIONS = RunOptions(
    processes=1, threads=1, device="cpu", loader_workers=0, micro_batch=None, log_every_steps=1, save_every_steps=3
)
PROMPTS = {"shapes": ("what is {}?", "tell: {}"), "words": ("{}",)}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A token per byte; `<|endoftext|>` is begin, end and padding, with the highest id, 256."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate([*bytes_, END])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


def write_backbones(folder: Path, dropout: float = 0.0) -> Path:
    """A **backbones** artifact of width 16: 8 px pictures in patches of 4, 2 queries, one Phi layer."""
    architecture = Architecture(
        vision=Blip2VisionConfig(
            hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=8,
            patch_size=4, layer_norm_eps=1e-6, initializer_range=0.02,
        ),
        qformer=Blip2QFormerConfig(
            hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            encoder_hidden_size=WIDTH, cross_attention_frequency=1,
        ),
        num_queries=2,
        llm=PhiConfig(
            vocab_size=257, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            qk_layernorm=True, resid_pdrop=dropout, bos_token_id=256, eos_token_id=256,
        ),
        projection_widths=(WIDTH, 8, WIDTH),
    )  # fmt: skip
    save_backbones(new_backbones(architecture, tiny_tokenizer(), seed=3), folder, torch.float32, note={})
    return folder


def only_letters(model: TinyGPTV) -> None:
    """Let a random model say a to z and nothing else, so that what it says is text and of one byte a token."""
    letters = tiny_tokenizer()("abcdefghijklmnopqrstuvwxyz")["input_ids"]
    bias = model.llm.lm_head.bias
    with torch.no_grad():
        bias[[token for token in range(len(bias)) if token not in letters]] = -1e4


def picture(number: int, size: int = 8) -> bytes:
    """A PNG of one colour, which `number` decides."""
    data = io.BytesIO()
    Image.new("RGB", (size, size), (number * 37 % 256, number * 91 % 256, number * 13 % 256)).save(data, "PNG")
    return data.getvalue()


def write_dataset(folder: Path, samples: Sequence[Mapping[str, Any]], per_shard: int) -> DataFolders:
    """Shards and an index of `samples`: {"key", "turns", "picture": bytes or None}, perhaps "split" and "group"."""
    shards, index = folder / "shards", folder / "index"
    shards.mkdir(parents=True)
    index.mkdir()
    records, names = [], []
    for start in range(0, len(samples), per_shard):
        names.append(f"{len(names):05d}.tar")
        path = shards / names[-1]
        with tarfile.open(path, "w") as tar:
            for sample in samples[start : start + per_shard]:
                for ending, data in _members(sample):
                    member = tarfile.TarInfo(f"{sample['key']}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        records += [(start + place, *record) for place, record in enumerate(_records(path, len(names) - 1))]
    (index / "shards.json").write_text(json.dumps(names))
    np.save(index / "samples.npy", np.array(records, dtype=COLUMNS))
    return DataFolders(shards=shards, index=index)


def _members(sample: Mapping[str, Any]) -> list[tuple[str, bytes]]:
    told = {"split": None, "group": None, "url": None, **sample}
    told.pop("picture")
    picture_member = [("png", sample["picture"])] if sample["picture"] else []
    return [*picture_member, ("json", json.dumps(told).encode())]


def _records(path: Path, shard: int) -> list[tuple[int, int, int, int, int]]:
    found: dict[str, dict[str, tuple[int, int]]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, ending = member.name.partition(".")
            found.setdefault(key, {})[ending] = (member.offset_data, member.size)
    return [(shard, *parts.get("png", (0, 0)), *parts["json"]) for parts in found.values()]


def shape_samples(count: int) -> list[dict[str, Any]]:
    """Pictures with a question each."""
    return [
        {
            "key": f"{number:09d}",
            "turns": [["user", f"thing {number}"], ["assistant", f"it is {number}"]],
            "picture": picture(number),
        }
        for number in range(count)
    ]


def word_samples(count: int) -> list[dict[str, Any]]:
    """Questions without pictures, of different lengths."""
    return [
        {"key": f"{number:09d}", "turns": [["user", "x" * number], ["assistant", "y" * number]], "picture": None}
        for number in range(count)
    ]


def tiny_spec(folder: Path, *, dropout: float = 0.0, stage: Stage = STAGE, options: RunOptions = OPTIONS) -> RunSpec:
    """A run of `stage` in `folder`, with its backbones and 23 + 12 samples in shards of 4."""
    lora = replace(stage.lora, dropout=dropout) if stage.lora else None
    return RunSpec(
        seen={},
        stage=replace(stage, lora=lora),
        prompts=PROMPTS,
        data={
            "shapes": write_dataset(folder / "shapes", shape_samples(23), per_shard=4),
            "words": write_dataset(folder / "words", word_samples(12), per_shard=4),
        },
        backbones=write_backbones(folder / "backbones", dropout),
        init=None,
        options=options,
        out=folder / "out",
        work=folder / "work",
        notes=folder / "notes",
    )


@contextmanager
def no_room(most_bytes: int = 1000) -> Iterator[None]:
    """As on a disk that is full: no file of this process grows beyond so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def elsewhere(spec: RunSpec, folder: Path) -> RunSpec:
    """The same run, writing below `folder`."""
    return replace(spec, out=folder / "out", work=folder / "work", notes=folder / "notes")
