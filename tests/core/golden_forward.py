"""Checks of what the model computes: the tower, the Q-Former, the sequence, every layer, the loss and its gradients."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from tests.core.reference import Check, Goldens, assert_near, trainable_tensors
from tinygptv_core.batch import Batch
from tinygptv_core.model import TinyGPTV
from tinygptv_core.prompt import IMAGE_SLOT, Encoded, collate, encode_training
from tinygptv_core.recipe import Turn
from tinygptv_core.splice import splice_labels
from tinygptv_core.stage import Stage
from tinygptv_core.trainable import trainable_parameters

PICTURE_PARTS = ("visual_encoder", "ln_vision", "qformer", "llama_proj", "image_tokens")


@dataclass(frozen=True, kw_only=True)
class Said:
    """A batch as the reference's data sets give it, in our words."""

    turns: tuple[tuple[Turn, ...], ...]
    prompt: str
    stage: Stage

    def encoded(self, goldens: Goldens, has_image: bool) -> list[Encoded]:
        tokenizer, prompt, stage = goldens.tokenizer, self.prompt, self.stage
        return [
            encode_training(tokenizer, turns, prompt=prompt, stage=stage, has_image=has_image) for turns in self.turns
        ]


def said(samples: dict[str, Any], stage: Stage, chosen_prompt: str | None, has_image: bool) -> Said:
    """The turns of `samples`, and the words that ask for a caption, which the reference draws with its template."""
    prompt = "{}"
    if chosen_prompt is not None:
        before, _, after = (stage.prompt_template or "{}").partition("{}")
        assert chosen_prompt.startswith(before) and chosen_prompt.endswith(after)
        prompt = without_slot(chosen_prompt[len(before) : len(chosen_prompt) - len(after)])
    if "conv_q" in samples:
        between = samples["connect_sym"][0]  # the reference takes the first row's for all
        asked = [q.split(between) for q in samples["conv_q"]]
        answers = [a.split(between) for a in samples["conv_a"]]
    else:
        answers = [[answer] for answer in samples["answer"]]
        asked = [[words] for words in samples.get("instruction_input", [])]
    if not asked:
        return Said(turns=tuple((Turn("assistant", answer),) for (answer,) in answers), prompt=prompt, stage=stage)
    if has_image:
        asked = [[without_slot(first), *later] for first, *later in asked]
    turns = tuple(
        tuple(turn for q, a in zip(qs, as_, strict=True) for turn in (Turn("user", q), Turn("assistant", a)))
        for qs, as_ in zip(asked, answers, strict=True)
    )
    return Said(turns=turns, prompt=prompt, stage=stage)


def without_slot(text: str) -> str:
    """What is said after the picture."""
    assert text.startswith(IMAGE_SLOT), f"{text!r} does not begin with the picture's slot"
    return text.removeprefix(IMAGE_SLOT)


def collated(encoded: Sequence[Encoded], pixels_B3HW: Tensor | None, pad_id: int, side: Any) -> Batch:
    return collate(encoded, pixels_B3HW, keys=[str(row) for row in range(len(encoded))], pad_id=pad_id, side=side)


def picture_parts(model: TinyGPTV, pixels_B3HW: Tensor) -> dict[str, Tensor]:
    """What each part makes of the pictures, by the goldens' names."""
    before_norm: list[Tensor] = []
    hook = model.vision.tower.post_layernorm.register_forward_pre_hook(lambda _, given: before_norm.append(given[0]))
    with torch.no_grad():
        ln_vision = model.vision(pixels_B3HW)
        hook.remove()
        qformer = model.qformer(ln_vision)
        parts = [before_norm[0], ln_vision, qformer, model.projections[0](qformer), model.project(qformer)]
    return dict(zip(PICTURE_PARTS, parts, strict=True))


class Forward:
    """One training step of the reference, and ours on the same batch."""

    def __init__(self, goldens: Goldens, case: str) -> None:
        self._goldens, self.case = goldens, f"cases/{case}"
        self.told, self.expected = goldens.told(self.case), goldens.tensors(self.case)
        self.pixels_B3HW = self.expected.get("pixel_values")

    @cached_property
    def number(self) -> int:
        return stage_of(self.case)

    @cached_property
    def model(self) -> TinyGPTV:
        is_fresh = "fresh_norms" in self.case
        return self._goldens.model_with_fresh_norms(self.number) if is_fresh else self._goldens.model(self.number)

    @cached_property
    def encoded(self) -> list[Encoded]:
        told = self.told
        stage = self._goldens.stage(
            self.number,
            max_tokens=told["max_txt_len"],
            end_symbol=told["end_sym"],
            prompt_template=self._template,
        )
        has_image = self.pixels_B3HW is not None
        return said(told["samples"], stage, told["chosen_prompt"], has_image).encoded(self._goldens, has_image)

    @property
    def _template(self) -> str | None:
        """What stands around a question: in a prompt that was drawn the stage's, in a dialogue the model's."""
        if self.told["chosen_prompt"] is not None:
            return self._goldens.stage(self.number).prompt_template
        if self.told["chat_template"] or "conv_q" in self.told["samples"]:
            return self.told["prompt_template"]
        return "{}" if "instruction_input" in self.told["samples"] else None

    @cached_property
    def batch(self) -> Batch:
        return collated(self.encoded, self.pixels_B3HW, self._goldens.tokenizer.pad_token_id, "right")

    @cached_property
    def lengths(self) -> list[int]:
        """Of each row without its padding, the picture in place."""
        image = 0 if self.pixels_B3HW is None else self._goldens.spec["num_query_token"] - 1
        return [len(encoded.ids) + image for encoded in self.encoded]

    @cached_property
    def found(self) -> dict[str, Tensor]:
        """All that the reference's file may hold, as we have it."""
        parts = {} if self.pixels_B3HW is None else picture_parts(self.model, self.pixels_B3HW)
        image_BQD, layers = parts.get("image_tokens"), list[Tensor]()
        hooks = [
            layer.register_forward_hook(lambda _, __, out: layers.append(out)) for layer in self.model.llm.model.layers
        ]
        labels_BS = self.batch.labels_BT
        if image_BQD is not None:
            labels_BS = splice_labels(labels_BS, self.batch.slot_B, image_BQD.shape[1])
        with torch.no_grad():
            embeds_BSD, mask_BS = self.model.embed(self.batch, image_BQD)
            logits_BSV = self.model.llm(inputs_embeds=embeds_BSD, attention_mask=mask_BS.long()).logits
        for hook in hooks:
            hook.remove()
        named = {f"llm_layer{number}": hidden_BSD for number, hidden_BSD in enumerate(layers)}
        whole = {"inputs_embeds": embeds_BSD, "attention_mask": mask_BS.long(), "labels": labels_BS}
        return {**parts, **named, **whole, "logits": logits_BSV}

    @cached_property
    def loss_and_gradients(self) -> tuple[float, int, dict[str, Tensor | None]]:
        loss_sum, num_targets = self.model(self.batch)
        parameters = trainable_parameters(self.model)
        loss = loss_sum / num_targets
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return loss.item(), int(num_targets), dict(zip(parameters, gradients, strict=True))

    def rows(self, tensor_BS: Tensor) -> Tensor:
        """The positions that are no padding, row after row."""
        return torch.cat([row[:length] for row, length in zip(tensor_BS, self.lengths, strict=True)])

    def check_sequence(self, name: str) -> None:
        found, expected = self.found[name], self.expected[name]
        real = self.rows(self.found["attention_mask"]).bool()
        if name in ("attention_mask", "labels"):
            assert torch.equal(self.rows(found), self.rows(expected))
            padding = 0 if name == "attention_mask" else -100
            tails = [row[length:] for row, length in zip(expected, self.lengths, strict=True)]
            assert all((tail == padding).all() for tail in tails)
        elif name == "inputs_embeds":  # what is not attended to is there all the same
            assert_near(self.rows(found), self.rows(expected))
        else:
            assert_near(self.rows(found)[real], self.rows(expected)[real])

    def check_ids(self) -> None:
        pad = self._goldens.tokenizer.pad_token_id
        expected = asked_and_answered(self.told["embed_calls_token_ids"], len(self.encoded))
        found = [without_padding(list(encoded.ids), pad) for encoded in self.encoded]
        assert found == [without_padding(ids, pad) for ids in expected]

    def check_num_targets(self) -> None:
        assert self.loss_and_gradients[1] == self.told["n_target_tokens"]

    def check_gradients(self) -> None:
        expected = trainable_tensors(self._goldens.tensors(f"{self.case}.grads"))
        self._assert_reached(set(expected))
        for name, gradient in expected.items():
            assert_near(self.gradient(name), gradient)

    def check_norms(self) -> None:
        expected = trainable_tensors({name: torch.tensor(v) for name, v in self.told["grad_norms"].items()})
        self._assert_reached(set(expected))
        norms = {name: self.gradient(name).norm() for name in expected}
        for name, norm in expected.items():
            assert_near(norms[name], norm)
        assert_near(torch.stack(list(norms.values())).norm(), self.told["total_grad_norm"])

    def gradient(self, name: str) -> Tensor:
        """Zeros where none reaches the parameter, as the reference's file has it."""
        gradient = self.loss_and_gradients[2][name]
        return torch.zeros_like(trainable_parameters(self.model)[name]) if gradient is None else gradient

    def _assert_reached(self, names: set[str]) -> None:
        """All that has a gradient is among `names`, and all of them are trained."""
        gradients = self.loss_and_gradients[2]
        assert {name for name, value in gradients.items() if value is not None} <= names <= gradients.keys()

    def check_untouched(self) -> None:
        expected = trainable_tensors(dict.fromkeys(self.told["no_grad_params"], torch.zeros(())))
        assert {name for name, value in self.loss_and_gradients[2].items() if value is None} == expected.keys()


def stage_of(case: str) -> int:
    """The stage that the name of a case's file begins with."""
    found = re.match(r"(?:cases/|misc/trajectory_)stage(\d+)", case)
    assert found, f"{case} names no stage"
    return int(found[1])


def without_padding(ids: list[int], pad: int) -> list[int]:
    while ids and ids[-1] == pad:
        ids.pop()
    return ids


def asked_and_answered(calls: list[Any], num_rows: int) -> list[list[int]]:
    """Each row's ids, 0 for the picture, from the ids that the reference embedded one call after another.

    It embeds the pieces around each row's picture, or all questions at once where there is none, then all answers,
    then all beginnings; single ids are its padding.
    """
    *asked, answers, begins = [call for call in calls if isinstance(call, list)]
    if not asked:
        questions = [[0]] * num_rows
    elif len(asked) == 1 and len(asked[0]) == num_rows:
        questions = [without_padding(list(ids), begins[0][0]) for ids in asked[0]]
    else:
        questions = [[*before[0], 0, *after[0]] for before, after in zip(asked[::2], asked[1::2], strict=True)]
    return [[*begin, *q, *a] for begin, q, a in zip(begins, questions, answers, strict=True)]


def forward_checks(goldens: Goldens, case: str) -> Iterator[Check]:
    forward = Forward(goldens, case)
    files = (f"cases/{case}.json", f"cases/{case}.safetensors")

    def named(name: str, run: Callable[[], None], files: tuple[str, ...] = files) -> Check:
        return Check(name=f"{case}-{name}", files=files, run=run)

    for name in sorted(forward.expected):
        if name in PICTURE_PARTS:
            yield named(name, lambda name=name: assert_near(forward.found[name], forward.expected[name]))
        elif name != "pixel_values":
            yield named(name, partial(forward.check_sequence, name))
    yield named("token_ids", partial(check_token_ids, goldens, forward.told["token_ids"]))
    yield named("sequence_ids", forward.check_ids)
    yield named("n_target_tokens", forward.check_num_targets)
    yield named("loss", lambda: assert_near(forward.loss_and_gradients[0], forward.told["loss"]))
    yield named("grads", forward.check_gradients, files=(f"cases/{case}.grads.safetensors",))
    yield named("grad_norms", forward.check_norms)
    yield named("no_grad_params", forward.check_untouched)


def check_token_ids(goldens: Goldens, ids: dict[str, list[int]]) -> None:
    assert {text: goldens.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ids} == ids


def told_stages(goldens: Goldens, case: str, told: dict[str, Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The stages after which a case without a stage in its name may be, and its files.

    Where nothing beside its tensors says which stage, it has to be one of them.
    """
    files = (f"cases/{case}.safetensors",)
    if told.keys() - {"stage", "case", "name"}:  # more than is known here, so that it has no check
        return goldens.stages, files
    stages = (int(str(told["stage"]).removeprefix("stage")),) if "stage" in told else goldens.stages
    return stages, (*files, f"cases/{case}.json") if told else files


def mask_check(goldens: Goldens, case: str, told: dict[str, Any]) -> Check:
    """The LLM alone under a mask."""
    expected = goldens.tensors(f"cases/{case}")
    stages, files = told_stages(goldens, case, told)

    def run() -> None:
        ids_BS, mask_BS = expected["input_ids"], expected["attention_mask"]
        with torch.no_grad():
            logits = [goldens.model(n).llm(input_ids=ids_BS, attention_mask=mask_BS).logits for n in stages]
        assert_near(nearest(logits, expected["logits"], mask_BS.bool()), expected["logits"][mask_BS.bool()])

    return Check(name=f"{case}-logits", files=files, run=run)


def nearest(candidates: Sequence[Tensor], expected: Tensor, where: Tensor) -> Tensor:
    """The one of `candidates` that is nearest to `expected`."""
    return min((one[where] for one in candidates), key=lambda one: (one - expected[where]).abs().max().item())


def vision_checks(goldens: Goldens, case: str, told: dict[str, Any]) -> Iterator[Check]:
    """A picture of another size."""
    expected = goldens.tensors(f"cases/{case}")
    stages, files = told_stages(goldens, case, told)
    everywhere = torch.ones((), dtype=torch.bool)

    def part(name: str) -> None:
        found = [picture_parts(goldens.model(n), expected["pixel_values"])[name] for n in stages]
        assert_near(nearest([one[None] for one in found], expected[name][None], everywhere[None]), expected[name][None])

    def positions() -> None:
        embeddings = goldens.model(goldens.stages[0]).vision.tower.embeddings
        side = expected["pixel_values"].shape[-1]
        with torch.no_grad():
            found = embeddings.interpolate_pos_encoding(torch.empty_like(expected["pos_embed"]), side, side)
        assert_near(found, expected["pos_embed"])

    for name in sorted(expected.keys() - {"pixel_values"}):
        run = positions if name == "pos_embed" else partial(part, name)
        yield Check(name=f"{case}-{name}", files=files, run=run)
