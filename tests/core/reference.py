"""The reference at toy size: its weights as our model, and what its own code computed.

`Goldens` reads a folder of it, and takes everything from there: sizes, tokenizer, weights, cases. `tests/goldens` has
a copy made from random weights and texts written for the purpose; float32, one CPU, no dropout.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tinygptv_core.checkpoint import read_checkpoint
from tinygptv_core.checkpoint_form import form_of
from tinygptv_core.engine import BETAS
from tinygptv_core.formats.architectures import architecture
from tinygptv_core.formats.weight_import import WeightPaths, import_backbones, import_checkpoint
from tinygptv_core.model import TinyGPTV
from tinygptv_core.sizes import LlmSizes, ModelSizes, QFormerSizes, TowerSizes
from tinygptv_core.stage import PUBLISHED_QUESTION, Lora, Schedule, Share, Stage
from tinygptv_core.trainable import load_trainable, trainable_parameters
from tinygptv_core.weights import Architecture, Backbones, load_backbones, read_tokenizer

COPIES = Path(__file__).parents[1] / "goldens"

ENDING = re.compile(r"(\.(grads|inputs|final))?\.(safetensors|json|png|txt)$")
"""What stands behind a file's name, which may have dots of its own."""

TOLERANCE = 1e-4
"""The largest difference from a number of the reference, absolute. Ids and counts are identical."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison with the reference.

    Attributes:
        name: the test's.
        files: the files of the folder that it, with the other checks that name them, accounts for.
        run: raises AssertionError where they differ.
    """

    name: str
    files: tuple[str, ...]
    run: Callable[[], None]


def assert_near(found: Tensor | float, expected: Tensor | float) -> None:
    """Within `TOLERANCE`, and of the same shape."""
    found, expected = torch.as_tensor(found).detach().float(), torch.as_tensor(expected).float()
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0, equal_nan=False)


class Goldens:
    """A folder of goldens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors = cache(self._tensors)
        self.model = cache(self._model)
        self.imported = cache(self._imported)
        self.imported_checkpoint = cache(self._imported_checkpoint)

    def _tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of the file `name`, without its ending; not to be changed, for they are kept.

        Of pictures the whole patches: the reference's tower leaves out the rest, and ours refuses such a picture.
        """
        tensors = load_file(self.folder / f"{name}.safetensors")
        for key in tensors:
            if key.startswith("pixel_values"):
                side = tensors[key].shape[-1] - tensors[key].shape[-1] % self.patch_size
                tensors[key] = tensors[key][..., :side, :side]
        return tensors

    @property
    def patch_size(self) -> int:
        return self.tensors("weights/eva_vit_g")["patch_embed.proj.weight"].shape[-1]

    def told(self, name: str) -> Any:
        """What the JSON file `name` says."""
        return json.loads((self.folder / f"{name}.json").read_bytes())

    def files(self, group: str) -> list[str]:
        """The names of all files of `cases` or `misc`, with that folder in front."""
        return sorted(path.relative_to(self.folder).as_posix() for path in (self.folder / group).iterdir())

    def named(self, group: str) -> list[str]:
        """What the files of `cases` or `misc` are about: their names without any ending, each once."""
        return sorted({ENDING.sub("", Path(name).name) for name in self.files(group)})

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self.told("manifest")

    @property
    def spec(self) -> dict[str, Any]:
        return self.manifest["spec"]

    @cached_property
    def architecture(self) -> Architecture:
        """Of the sizes that the folder tells, without dropout: the goldens were made without."""
        spec, llm = self.spec, self.manifest["llm_config"]
        return architecture(
            ModelSizes(
                vision=TowerSizes(
                    width=spec["eva_embed_dim"],
                    mlp_width=int(spec["eva_embed_dim"] * 4.3637),
                    layers=spec["eva_depth"],
                    heads=spec["eva_heads"],
                    image_size=spec["src_image"],
                    patch_size=self.patch_size,
                ),
                qformer=QFormerSizes(
                    width=spec["q_hidden"],
                    mlp_width=spec["q_inter"],
                    layers=spec["q_layers"],
                    heads=spec["q_heads"],
                    cross_attention_every=2,
                    queries=spec["num_query_token"],
                ),
                llm=LlmSizes(
                    width=llm["hidden_size"],
                    mlp_width=llm["intermediate_size"],
                    layers=llm["num_hidden_layers"],
                    heads=llm["num_attention_heads"],
                    vocabulary=llm["vocab_size"],
                    positions=llm["max_position_embeddings"],
                    rotary_fraction=llm["partial_rotary_factor"],
                    dropout=0.0,
                    end_id=llm["eos_token_id"],
                ),
                projection_widths=(spec["q_hidden"], spec["proj_mid"], spec["hidden"]),
            )
        )

    @cached_property
    def _work(self) -> TemporaryDirectory[str]:
        """Where the imported weights lie, for as long as there is this object."""
        return TemporaryDirectory(prefix="goldens-")

    def _imported(self, *, fresh_norms: bool) -> Path:
        """The backbones as a person imports them; with `fresh_norms` on a Phi-2 as published, which lacks them."""
        weights, folder = self.folder / "weights", Path(self._work.name) / ("fresh" if fresh_norms else "backbones")
        depth, eva, phi = self.spec["eva_depth"], folder / "eva_vit_g.safetensors", folder / "phi_base"
        phi.mkdir(parents=True)
        for name in ("config.json", "tokenizer.json"):
            shutil.copyfile(weights / "phi_base" / name, phi / name)
        _copy_tensors(weights / "phi_base" / "model.safetensors", phi, lambda name: not (fresh_norms and _is_new(name)))
        # The public file has one block more than is used; a folder may have others.
        _copy_tensors(weights / eva.name, folder, lambda name: _block(name) <= depth)
        sources = WeightPaths(vision=eva, qformer=weights / "blip2_qformer.safetensors", llm=phi)
        import_backbones(folder / "made", sources, self.architecture, torch.float32)
        return folder / "made"

    def backbones(self, *, fresh_norms: bool = False) -> Backbones:
        """The reference's frozen parts, read anew, since a model takes them as its own."""
        return load_backbones(self.imported(fresh_norms=fresh_norms), torch.float32)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return self.new_tokenizer()

    def new_tokenizer(self) -> PreTrainedTokenizerFast:
        return read_tokenizer(self.imported(fresh_norms=False) / "tokenizer")

    def lora(self, stage: int) -> Lora | None:
        """The stage's adapters, without their dropout."""
        told = self.manifest["stages"][f"stage{stage}"]["cfg"]
        return Lora(rank=told["lora_r"], alpha=told["lora_alpha"], dropout=0.0) if told["lora_r"] else None

    def new_model(self, stage: int) -> TinyGPTV:
        """The reference's model after `stage`, in eval mode."""
        made = TinyGPTV.from_backbones(self.backbones(), self.lora(stage), seed=0)
        load_trainable(made, self.checkpoint(stage), new_lora=False)
        return made.eval()

    def _model(self, stage: int) -> TinyGPTV:
        """As `new_model`, made once: not to be changed."""
        return self.new_model(stage)

    def model_with_fresh_norms(self, stage: int) -> TinyGPTV:
        """The projections of `stage` on a Phi as published: its added norms are new and its own are untrained."""
        made = TinyGPTV.from_backbones(self.backbones(fresh_norms=True), self.lora(stage), seed=0)
        projections = {name: value for name, value in self.checkpoint(stage).items() if name.startswith("projections.")}
        untrained = {name: parameter.detach() for name, parameter in trainable_parameters(made).items()}
        load_trainable(made, untrained | projections, new_lora=False)
        return made.eval()

    def _imported_checkpoint(self, stage: int) -> Path:
        """What the reference trained in `stage`, as a person imports it."""
        name = f"stage{stage}"
        folder, file = Path(self._work.name) / name, self.folder / "checkpoints" / f"{name}.safetensors"
        import_checkpoint(folder, file, form_of(self.stage(stage)), self.architecture)
        return folder

    def checkpoint(self, stage: int) -> Mapping[str, Tensor]:
        return read_checkpoint(self.imported_checkpoint(stage)).tensors

    @property
    def stages(self) -> tuple[int, ...]:
        return tuple(int(name.removeprefix("stage")) for name in self.manifest["stages"])

    def stage(self, number: int, **changes: Any) -> Stage:
        """The stage as the reference had it, in the published dialect; its rates are in no manifest."""
        told = self.manifest["stages"][f"stage{number}"]
        decays = {group["weight_decay"] for group in told["adamw_groups"]}
        fields: dict[str, Any] = {
            "name": f"stage{number}",
            "mix": {"goldens": Share(weight=1, batch=1)},
            "image_size": told["cfg"]["image_size"],
            "max_tokens": told["effective_max_txt_len"],
            "precision": "float32",
            "schedule": Schedule(start=0.0, peak=1.0, end=0.0, warmup_steps=0, steps=1),
            "lora": self.lora(number),
            "prompt_template": told["effective_prompt_template"] or None,
            "eval_template": PUBLISHED_QUESTION,
            "end_symbol": told["effective_end_sym"],
            "weight_decay": max(decays),
            "clip_norm": None,
            "held_out_samples": 1,
            "seed": 42,
            "evals": (),
            "dialect": "published",
        }
        return Stage(**(fields | changes))


def as_published(run: Mapping[str, Any]) -> Schedule:
    """The schedule of a run of the reference."""
    assert run.get("lr_sched", "linear_warmup_cosine_lr") == "linear_warmup_cosine_lr", run
    assert run.get("beta2", BETAS[1]) == BETAS[1], run
    start = run.get("warmup_lr", -1)
    return Schedule(
        start=start if start >= 0 else run["init_lr"],
        peak=run["init_lr"],
        end=run["min_lr"],
        warmup_steps=run.get("warmup_steps", 0),
        steps=run["iters_per_epoch"] * run["max_epoch"],
        published_epoch_steps=run["iters_per_epoch"],
    )


def _copy_tensors(file: Path, folder: Path, is_wanted: Callable[[str], bool]) -> None:
    """Into `folder` a file of the same name with the tensors whose names are wanted."""
    tensors = load_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if is_wanted(name)}, folder / file.name)


def _is_new(name: str) -> bool:
    """Whether a tensor is of the norms that Phi-2 as published lacks."""
    return bool(re.search(r"\.(q|k|post)_layernorm\.", name))


def _block(name: str) -> int:
    """The number of the tower's block that a tensor is of; -1 for none."""
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found[1]) if found else -1


def without_space(text: str) -> str:
    return "".join(text.split())


def trainable_name(name: str) -> str:
    """What we call the reference's trained tensor `name`, with or without peft's wrapping."""
    if name.startswith("llama_proj"):
        return f"projections.{name}"
    return "llm." + name.removeprefix("llama_model.").removeprefix("base_model.model.")


def trainable_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same by our names."""
    return {trainable_name(name): tensor for name, tensor in tensors.items()}


GOLDENS = Goldens(COPIES)
