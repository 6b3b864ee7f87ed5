"""Checks of how the model is trained: by which rates, to which losses and weights."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.core.golden_forward import collated, said, stage_of
from tests.core.reference import Check, Goldens, as_published, assert_near, trainable_tensors
from tinygptv_core.batch import Batch
from tinygptv_core.plain import ConfigError
from tinygptv_core.run import RunOptions
from tinygptv_core.schedule import rate
from tinygptv_core.stage import Schedule
from tinygptv_core.training.ddp import DDPEngine

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
        if length <= total < own.warmup_steps:  # where the reference begins anew
            lr = own.start + (own.peak - own.start) * total / own.warmup_steps
        assert rate(own, total) == pytest.approx(lr, rel=RELATIVE), f"epoch {epoch}, step {step}"


def schedule_checks(goldens: Goldens, name: str) -> Iterator[Check]:
    for run, told in goldens.told(f"misc/{name}").items():
        files, arguments = (f"misc/{name}.json",), (told["run"], told["epoch_step_lr"])
        yield Check(name=f"{name}-{run}", files=files, run=partial(check_rates, *arguments))
        yield Check(name=f"{name}-{run}-own", files=files, run=partial(check_own_rates, *arguments))


class Trajectory:
    """Some steps of the reference's training loop, and ours on the same batches."""

    def __init__(self, goldens: Goldens, name: str) -> None:
        self._goldens, self._name = goldens, f"misc/{name}"
        self.told = goldens.told(self._name)

    @cached_property
    def number(self) -> int:
        return stage_of(self._name)

    @cached_property
    def schedule(self) -> Schedule:
        return as_published(self.told["run"])

    @cached_property
    def places(self) -> list[int]:
        """Of each step the batch that it takes: from the first one in every epoch, or on from where one ended.

        The folder does not say which, and where an epoch has a multiple of the batches it is the same.
        """
        num, steps = len(self.told["batches"]), self.told["steps"]
        anew, on = [step["iter"] % num for step in steps], [step % num for step in range(len(steps))]
        if anew == on:
            return on
        expected = torch.tensor([step["loss"] for step in steps])
        return min(anew, on, key=lambda places: (torch.tensor(self.train(places)[0]) - expected).abs().max().item())

    @cached_property
    def trained(self) -> tuple[list[float], dict[str, Tensor]]:
        return self.train(self.places)

    def train(self, places: Sequence[int]) -> tuple[list[float], dict[str, Tensor]]:
        """The loss of each step, and the weights after the last, when the steps take the batches at `places`."""
        decay, accumulation = self.told["run"]["weight_decay"], self.told["accum_grad_iters"]
        stage = self._goldens.stage(
            self.number, schedule=self.schedule, weight_decay=decay, published_accumulation=accumulation
        )
        engine = DDPEngine(self._goldens.new_model(self.number), stage, OPTIONS, rank=0, world_size=1)
        losses = []
        for step, (place, prompt) in enumerate(zip(places, self.prompts, strict=True)):
            batch = self.batch(place, prompt)
            result = engine.step(batch, step=step, rate=rate(self.schedule, step), dataset=f"batch {step}")
            losses.append(float(result.loss))
        state = engine.state()
        return losses, {name.removeprefix("parameter/"): state[name] for name in state if name.startswith("parameter/")}

    @property
    def prompts(self) -> list[str | None]:
        """Of each step the prompt that the reference draws, where its stage has some to draw from."""
        prompts, seed = self._goldens.manifest["stages"][self.told["stage"]]["prompt_list"], self.told["prompt_seed"]
        assert seed is not None or not prompts
        generator = random.Random(seed)
        return [generator.choice(prompts) if prompts else None for _ in self.told["steps"]]

    def batch(self, place: int, prompt: str | None) -> Batch:
        pixels_B3HW = self._goldens.tensors(f"{self._name}.inputs").get(f"pixel_values.{place}")
        has_image = pixels_B3HW is not None
        samples, stage = self.told["batches"][place], self._goldens.stage(self.number)
        encoded = said(samples, stage, prompt, has_image).encoded(self._goldens, has_image)
        return collated(encoded, pixels_B3HW, self._goldens.tokenizer.pad_token_id, "right")

    def check_losses(self) -> None:
        assert_near(torch.tensor(self.trained[0]), torch.tensor([step["loss"] for step in self.told["steps"]]))

    def check_rates(self) -> None:
        for step, expected in enumerate(self.told["steps"]):
            assert divmod(step, self.told["run"]["iters_per_epoch"]) == (expected["epoch"], expected["iter"])
            for lr in expected["lr"]:
                assert rate(self.schedule, step) == pytest.approx(lr, rel=RELATIVE)

    def check_weights(self) -> None:
        expected = trainable_tensors(self._goldens.tensors(f"{self._name}.final"))
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
