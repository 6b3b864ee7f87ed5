"""Checks of how the model is trained: what is trained, by which rates, to which weights; and how large it is."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Blip2QFormerConfig, Blip2VisionConfig, PhiConfig

from tests.core.golden_forward import ANY_SCHEDULE, collated, said, stage_of
from tests.core.reference import Check, Goldens, as_published, assert_near
from tests.core.reference_weights import trainable_name, trainable_tensors
from tinygptv_core.batch import Batch
from tinygptv_core.engine import BETAS, EPSILON, DDPEngine
from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError
from tinygptv_core.run import RunOptions
from tinygptv_core.schedule import rate
from tinygptv_core.stages import Lora
from tinygptv_core.trainable import is_lora, load_trainable, parameter_groups, trainable_parameters
from tinygptv_core.vision import VisionTower
from tinygptv_core.weights import Architecture, new_backbones

RELATIVE = 1e-9
"""Of rates, which are float64."""

OPTIONS = RunOptions(
    processes=1,
    threads=1,
    device="cpu",
    loader_workers=0,
    micro_batch=None,
    log_every_steps=1,
    save_every_steps=1,
)

PAPER = Architecture(
    vision=Blip2VisionConfig(
        hidden_size=1408,
        intermediate_size=int(1408 * 4.3637),
        num_hidden_layers=39,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
        layer_norm_eps=1e-6,
    ),
    qformer=Blip2QFormerConfig(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        encoder_hidden_size=1408,
        cross_attention_frequency=2,
    ),
    num_queries=32,
    llm=PhiConfig(
        vocab_size=51200,
        hidden_size=2560,
        intermediate_size=10240,
        num_hidden_layers=32,
        num_attention_heads=32,
        qk_layernorm=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4},
    ),
    projection_widths=(768, 4096, 2560),
)


def check_rates(run: dict[str, Any], expected: list[tuple[int, int, float]]) -> None:
    schedule = as_published(run)
    for epoch, step, lr in expected:
        found = rate(schedule, epoch * run["iters_per_epoch"] + step)
        assert found == pytest.approx(lr, rel=RELATIVE), f"epoch {epoch}, step {step}"


def check_own_rates(run: dict[str, Any], expected: list[tuple[int, int, float]]) -> None:
    """Our own schedule is the published one but for its oddities: a rate may not rise, and it warms up once."""
    published = as_published(run)
    if published.end > published.peak or published.warmup_steps > published.steps:
        with pytest.raises(ConfigError, match=r"a rate that rises is refused|must lie in 0"):
            replace(published, published_epoch_steps=None)
        return
    own, length = replace(published, published_epoch_steps=None), run["iters_per_epoch"]
    for epoch, step, lr in expected:
        total = epoch * length + step
        warms_again = length <= total < own.warmup_steps
        assert (rate(own, total) == pytest.approx(lr, rel=RELATIVE)) != warms_again, f"epoch {epoch}, step {step}"


def schedule_checks(goldens: Goldens, name: str) -> Iterator[Check]:
    for run, told in goldens.told(f"misc/{name}").items():
        files, arguments = (f"misc/{name}.json",), (told["run"], told["epoch_step_lr"])
        yield Check(name=f"{name}-{run}", files=files, run=partial(check_rates, *arguments))
        yield Check(name=f"{name}-{run}-own", files=files, run=partial(check_own_rates, *arguments))


class Trajectory:
    """Some steps of the reference's training loop, and ours on the same batches."""

    def __init__(self, goldens: Goldens, name: str) -> None:
        self._goldens, self._name = goldens, name
        self.told = goldens.told(f"misc/{name}")
        self.number = stage_of(name)
        self.schedule = as_published(self.told["run"])

    @cached_property
    def trained(self) -> tuple[list[float], dict[str, Tensor]]:
        """The loss of each step, and the weights after the last."""
        decay, accumulation = self.told["run"]["weight_decay"], self.told["accum_grad_iters"]
        stage = self._goldens.stage(self.number, self.schedule, weight_decay=decay, published_accumulation=accumulation)
        engine = DDPEngine(self._goldens.new_model(self.number), stage, OPTIONS, rank=0, world_size=1)
        batches = [self.batch(place) for place in range(len(self.told["batches"]))]
        losses = []
        for step, expected in enumerate(self.told["steps"]):
            batch = batches[expected["iter"] % len(batches)]
            result = engine.step(batch, step=step, rate=rate(self.schedule, step), dataset=f"batch {step}")
            losses.append(result.loss)
        state = engine.state()
        return losses, {name.removeprefix("parameter/"): state[name] for name in state if name.startswith("parameter/")}

    def batch(self, place: int) -> Batch:
        pixels_B3HW = self._goldens.tensors(f"misc/{self._name}.inputs").get(f"pixel_values.{place}")
        has_image = pixels_B3HW is not None
        stage = self._goldens.stage(self.number, self.schedule)
        encoded = said(self.told["batches"][place], stage, None, has_image).encoded(self._goldens, has_image)
        return collated(encoded, pixels_B3HW, self._goldens.tokenizer.pad_token_id, "right")

    def check_losses(self) -> None:
        assert_near(torch.tensor(self.trained[0]), torch.tensor([step["loss"] for step in self.told["steps"]]))

    def check_rates(self) -> None:
        for step, expected in enumerate(self.told["steps"]):
            assert divmod(step, self.told["run"]["iters_per_epoch"]) == (expected["epoch"], expected["iter"])
            for lr in expected["lr"]:
                assert rate(self.schedule, step) == pytest.approx(lr, rel=RELATIVE)

    def check_weights(self) -> None:
        expected = trainable_tensors(self._goldens.tensors(f"misc/{self._name}.final"))
        found = self.trained[1]
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_near(found[name], value)


def trajectory_checks(goldens: Goldens, name: str) -> Iterator[Check]:
    trajectory = Trajectory(goldens, name)
    told, inputs, final = (f"misc/{name}{ending}" for ending in (".json", ".inputs.safetensors", ".final.safetensors"))
    yield Check(name=f"{name}-loss", files=(told, inputs), run=trajectory.check_losses)
    yield Check(name=f"{name}-lr", files=(told,), run=trajectory.check_rates)
    yield Check(name=f"{name}-weights", files=(final,), run=trajectory.check_weights)


def check_trainable(goldens: Goldens, number: int) -> None:
    told = goldens.manifest["stages"][f"stage{number}"]
    found = trainable_parameters(goldens.model(number))
    expected = {trainable_name(name): tuple(shape) for name, shape in told["trainable"].items()}
    assert {name: tuple(parameter.shape) for name, parameter in found.items()} == expected
    assert sum(parameter.numel() for parameter in found.values()) == told["n_trainable"]


def check_groups(goldens: Goldens, number: int) -> None:
    model, told = goldens.model(number), goldens.manifest["stages"][f"stage{number}"]["adamw_groups"]
    names = {id(parameter): name for name, parameter in trainable_parameters(model).items()}
    groups = parameter_groups(model, goldens.stage(number, ANY_SCHEDULE).weight_decay)
    found = {group["weight_decay"]: {names[id(parameter)] for parameter in group["params"]} for group in groups}
    assert found == {group["weight_decay"]: {trainable_name(name) for name in group["names"]} for group in told}
    assert {(tuple(group["betas"]), group["eps"]) for group in told} == {(BETAS, EPSILON)}


def check_checkpoint(goldens: Goldens, number: int) -> None:
    """The file has what the manifest says, and that is what we train."""
    told, tensors = goldens.manifest["stages"][f"stage{number}"], goldens.tensors(f"checkpoints/stage{number}")
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == told["checkpoint_model_keys"]
    assert trainable_tensors(tensors).keys() == trainable_parameters(goldens.model(number)).keys()


def check_total(goldens: Goldens, number: int) -> None:
    told = goldens.manifest["stages"][f"stage{number}"]
    assert parts_of(goldens.model(number), told["cfg"]["image_size"])["total"]["total"] == told["n_total"]


def check_first_into_second(goldens: Goldens) -> None:
    """Where the reference lost every norm of stage 1 without a word, ours loads them all, or refuses."""
    told = goldens.manifest["stage1_ckpt_into_stage2_model"]
    first, model = goldens.checkpoint(1), goldens.new_model(2)
    with pytest.raises(ValueError, match="missing: .*lora_A"):
        load_trainable(model, first, new_lora=False)
    load_trainable(model, first, new_lora=True)
    found = {name: value for name, value in trainable_parameters(model).items() if not is_lora(name)}
    assert found.keys() == first.keys()
    assert {trainable_name(n) for n in [*told["unexpected_keys_silently_dropped"], *told["changed"]]} == found.keys()
    assert all(torch.equal(value, first[name]) for name, value in found.items())


def parts_of(model: TinyGPTV, image_size: int) -> dict[str, dict[str, int]]:
    """How many values each part has and how many of them are trained, counted as the reference has them.

    It has no bias for the tower's keys, where ours are zeros, and position embeddings for `image_size`, where ours are
    interpolated.
    """
    tower = model.vision.tower
    last = {id(parameter) for parameter in tower.post_layernorm.parameters()}
    parts = {
        "query_tokens": [model.qformer.query_tokens],
        "llama_model": list(model.llm.parameters()),
        "visual_encoder": [parameter for parameter in tower.parameters() if id(parameter) not in last],
        "ln_vision": list(tower.post_layernorm.parameters()),
        "Qformer": list(model.qformer.qformer.parameters()),
    }
    parts |= {name: list(linear.parameters()) for name, linear in model.projections.named_children()}
    counts = {
        name: {"total": sum(p.numel() for p in found), "trainable": sum(p.numel() for p in found if p.requires_grad)}
        for name, found in parts.items()
    }
    counts["visual_encoder"]["total"] += _more_in_the_reference(model.vision, image_size)
    counts["total"] = {kind: sum(part[kind] for part in counts.values()) for kind in ("total", "trainable")}
    return counts


def _more_in_the_reference(vision: VisionTower, image_size: int) -> int:
    config, patch = vision.config, vision.patch_size
    positions = (image_size // patch) ** 2 - (vision.image_size // patch) ** 2
    return config.hidden_size * (positions - config.num_hidden_layers)


def paper_model(goldens: Goldens, has_lora: bool) -> TinyGPTV:
    """The model of the paper, with nothing allocated for its backbones."""
    with torch.device("meta"):
        backbones = new_backbones(PAPER, goldens.tokenizer, seed=0)
    return TinyGPTV.from_backbones(backbones, Lora(rank=64, alpha=16, dropout=0.05) if has_lora else None, seed=0)


def check_full_size(goldens: Goldens, name: str, told: dict[str, Any]) -> None:
    has_lora = any(".lora_A." in pattern for pattern in told["trainable_patterns"])
    model = paper_model(goldens, has_lora)
    found = parts_of(model, 448 if name == "stage4" else 224)
    total, trained = found.pop("total"), trainable_parameters(model)
    assert found == told["components"]
    assert total == {"total": told["total"], "trainable": told["trainable"]}
    assert 100 * total["trainable"] / total["total"] == pytest.approx(told["trainable_percent"], rel=RELATIVE)
    assert len(trained) == told["trainable_tensors"]
    # The reference has two biases, of queries and values, where ours has one for all three.
    assert sum(1 for _ in model.parameters()) + PAPER.vision.num_hidden_layers == told["n_parameter_tensors"]
    patterns: dict[str, dict[str, Any]] = {}
    for own_name, parameter in trained.items():
        pattern = ".".join("*" if part.isdigit() else part for part in own_name.split("."))
        of_one = patterns.setdefault(pattern, {"tensors": 0, "params": 0, "shape": list(parameter.shape)})
        of_one["tensors"] += 1
        of_one["params"] += parameter.numel()
    assert patterns == {trainable_name(pattern): of_one for pattern, of_one in told["trainable_patterns"].items()}


def full_size_checks(goldens: Goldens, name: str) -> Iterator[Check]:
    for stage, told in goldens.told(f"misc/{name}").items():
        run = partial(check_full_size, goldens, stage, told)
        yield Check(name=f"{name}-{stage}", files=(f"misc/{name}.json",), run=run)


def manifest_checks(goldens: Goldens) -> Iterator[Check]:
    for number in goldens.stages:
        for name, run in (
            ("trainable", check_trainable),
            ("adamw_groups", check_groups),
            ("checkpoint_model_keys", check_checkpoint),
            ("n_total", check_total),
        ):
            yield Check(name=f"stage{number}-{name}", files=(), run=partial(run, goldens, number))
    yield Check(name="stage1_ckpt_into_stage2_model", files=(), run=partial(check_first_into_second, goldens))
