"""The reference at toy size: its weights as our model, and what its own code computed.

`Goldens` reads a folder of it, and takes everything from there: sizes, tokenizer, weights, cases. `tests/goldens` has
a copy made from random weights and texts written for the purpose; float32, one CPU, no dropout.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Blip2QFormerConfig, Blip2VisionConfig, PhiConfig, PreTrainedTokenizerFast

from tests.core.reference_weights import NEW_NORMS, llm_tensors, qformer_tensors, trainable_tensors, vision_tensors
from tinygptv_core.model import TinyGPTV
from tinygptv_core.stages import PUBLISHED_QUESTION, Lora, Schedule, Share, Stage
from tinygptv_core.trainable import load_trainable, trainable_parameters
from tinygptv_core.weights import Architecture, Backbones, fill, new_backbones

COPIES = Path(__file__).parents[1] / "goldens"

PHI_NAMES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "layer_norm_eps",
    "bos_token_id",
    "eos_token_id",
)
"""What is taken over from the reference's config. Its dropout is not: the goldens were made without."""


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

    def _tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of the file `name`, without its ending; not to be changed, for they are kept."""
        return load_file(self.folder / f"{name}.safetensors")

    def told(self, name: str) -> Any:
        """What the JSON file `name` says."""
        return json.loads((self.folder / f"{name}.json").read_text())

    def files(self, group: str) -> list[str]:
        """The names of all files of `cases` or `misc`, with that folder in front."""
        return sorted(path.relative_to(self.folder).as_posix() for path in (self.folder / group).iterdir())

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self.told("manifest")

    @property
    def spec(self) -> dict[str, Any]:
        return self.manifest["spec"]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return self.new_tokenizer()

    def new_tokenizer(self) -> PreTrainedTokenizerFast:
        folder = self.folder / "weights" / "phi_base"
        end = json.loads((folder / "special_tokens_map.json").read_text())["eos_token"]
        special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), end)
        return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)

    @cached_property
    def architecture(self) -> Architecture:
        spec, llm, eva = self.spec, self.manifest["llm_config"], self.tensors("weights/eva_vit_g")
        return Architecture(
            vision=Blip2VisionConfig(
                hidden_size=spec["eva_embed_dim"],
                intermediate_size=int(spec["eva_embed_dim"] * 4.3637),
                num_hidden_layers=spec["eva_depth"],
                num_attention_heads=spec["eva_heads"],
                image_size=spec["src_image"],
                patch_size=eva["patch_embed.proj.weight"].shape[-1],
                layer_norm_eps=1e-6,
            ),
            qformer=Blip2QFormerConfig(
                hidden_size=spec["q_hidden"],
                num_hidden_layers=spec["q_layers"],
                num_attention_heads=spec["q_heads"],
                intermediate_size=spec["q_inter"],
                encoder_hidden_size=spec["eva_embed_dim"],
                layer_norm_eps=1e-12,
            ),
            num_queries=spec["num_query_token"],
            llm=PhiConfig(
                **{name: llm[name] for name in PHI_NAMES},
                qk_layernorm=True,
                resid_pdrop=0.0,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": llm["rope_theta"],
                    "partial_rotary_factor": llm["partial_rotary_factor"],
                },
            ),
            projection_widths=(spec["q_hidden"], spec["proj_mid"], spec["hidden"]),
        )

    def backbones(self, *, fresh_norms: bool = False) -> Backbones:
        """The reference's frozen parts. With `fresh_norms` the LLM's added norms are new, as Phi-2 lacks them."""
        made = new_backbones(self.architecture, self.tokenizer, seed=0)
        # Read anew, since the model takes them as its own and they are trained.
        eva, blip2 = self._tensors("weights/eva_vit_g"), self._tensors("weights/blip2_qformer")
        phi = self._tensors("weights/phi_base/model")
        if fresh_norms:
            phi = {name: tensor for name, tensor in phi.items() if not any(f".{norm}." in name for norm in NEW_NORMS)}
        vision, llm = self.architecture.vision, self.architecture.llm
        width, heads = llm.hidden_size, llm.num_attention_heads
        tower = vision_tensors(eva, blip2, num_blocks=vision.num_hidden_layers)
        phi = llm_tensors(phi, num_layers=llm.num_hidden_layers, head_width=width // heads, width=width)
        fill(made.vision.tower, tower, torch.float32, "eva")
        fill(made.qformer, qformer_tensors(blip2), torch.float32, "blip2")
        fill(made.llm, phi, torch.float32, "phi")
        return made

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

    def checkpoint(self, stage: int) -> dict[str, Tensor]:
        """What the reference trained in `stage`, by our names."""
        return trainable_tensors(self.tensors(f"checkpoints/stage{stage}"))

    @property
    def stages(self) -> tuple[int, ...]:
        return tuple(int(name.removeprefix("stage")) for name in self.manifest["stages"])

    def stage(self, number: int, schedule: Schedule, **changes: Any) -> Stage:
        """The stage as the reference had it, in the published dialect."""
        told = self.manifest["stages"][f"stage{number}"]
        decays = {group["weight_decay"] for group in told["adamw_groups"]}
        fields: dict[str, Any] = {
            "name": f"stage{number}",
            "mix": {"goldens": Share(weight=1, batch=1)},
            "image_size": told["cfg"]["image_size"],
            "max_tokens": told["effective_max_txt_len"],
            "precision": "float32",
            "schedule": schedule,
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
    return Schedule(
        start=run.get("warmup_lr", run["init_lr"]),
        peak=run["init_lr"],
        end=run["min_lr"],
        warmup_steps=run.get("warmup_steps", 0),
        steps=run["iters_per_epoch"] * run["max_epoch"],
        published_epoch_steps=run["iters_per_epoch"],
    )


GOLDENS = Goldens(COPIES)
