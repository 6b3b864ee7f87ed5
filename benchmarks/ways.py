"""Both ways through a piece of work, as things that can be run, compared and measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Literal

import torch
from torch import Tensor
from torch.optim import AdamW

from benchmarks.conventional import Conventional
from benchmarks.work import Samples, Width, captions, conversations, noise, questions
from tinygptv_core.answering.decoding import greedy
from tinygptv_core.batch import Batch
from tinygptv_core.engine import BETAS, EPSILON
from tinygptv_core.generate import generate, token_steps
from tinygptv_core.model import TinyGPTV
from tinygptv_core.prepack import prepack
from tinygptv_core.prompt import Encoded, Tokenizer, collate, encode_question, encode_training, question
from tinygptv_core.stage import PUBLISHED_QUESTION
from tinygptv_core.stages import NANO_STAGE4
from tinygptv_core.trainable import parameter_groups, trainable_parameters

# Shape letters of this file: B batch, H = W side in pixels, Q image queries, E width of the Q-Former, D of the LLM,
# T tokens of an answer.

NEW_TOKENS = 20
"""Of an answer; none ends before."""

NEVER_SAID = "<|never|>"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way through a piece of work.

    Attributes:
        run: does it once; this is what is timed.
        result: does it without changing anything and gives by name what must be the same both ways.
    """

    model: TinyGPTV
    run: Callable[[], object]
    result: Callable[[], Mapping[str, Tensor]]


Side = Literal["left", "right"]

Make = Callable[[Width, int], Way]
"""(width, samples or questions at once) -> the way, with a model of its own."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A piece of work, the conventional way and ours.

    Attributes:
        at_once: samples of a step, or questions.
        is_exact: the results must be identical; else they may differ by rounding.
    """

    conventional: Make
    ours: Mapping[str, Make]
    at_once: int
    is_exact: bool


def _training(model: TinyGPTV, loss: Callable[[], Tensor]) -> Way:
    """A way that learns; `loss` begins with texts, since tokenizing is part of the work."""
    model.train()
    optimizer = AdamW(parameter_groups(model, NANO_STAGE4.weight_decay), lr=1e-5, betas=BETAS, eps=EPSILON)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    def result() -> dict[str, Tensor]:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        parameters = trainable_parameters(model).items()
        gradients = {name: item.grad.clone() for name, item in parameters if item.grad is not None}
        return {"the loss": value.detach(), **gradients}

    return Way(model=model, run=step, result=result)


def conventional_training(draw: Callable[[int, int], Samples], width: Width, at_once: int) -> Way:
    """The reference's step on the samples that `draw` gives."""
    (model, tokenizer), samples = width.model(), draw(at_once, width.side)
    way = Conventional(model, tokenizer, samples.stage)
    return _training(model, lambda: way.loss(samples.images_B3HW, samples.turns))


def our_training(draw: Callable[[int, int], Samples], width: Width, at_once: int, *, packed: bool, cached: bool) -> Way:
    """Our step on the same samples.

    Args:
        packed: without padding.
        cached: what the tower and the Q-Former make of the pictures is known before.
    """
    (model, tokenizer), samples = width.model(), draw(at_once, width.side)
    prepack(model)
    queries_BQE = model.encode_images(samples.images_B3HW) if cached else None
    images_B3HW = None if cached else samples.images_B3HW

    def loss() -> Tensor:
        stage = samples.stage
        encoded = [encode_training(tokenizer, said, prompt="{}", stage=stage, has_image=True) for said in samples.turns]
        batch = replace(_collated(encoded, tokenizer, images_B3HW, "right"), queries_BQE=queries_BQE)
        loss_sum, num_targets = model(batch, packed=packed)
        return loss_sum / num_targets

    return _training(model, loss)


def _collated(encoded: Sequence[Encoded], tokenizer: Tokenizer, images_B3HW: Tensor | None, side: Side) -> Batch:
    no_pixels = torch.zeros(len(encoded), 3, 0, 0)  # there is a slot, wherever its picture comes from
    keys = [str(row) for row in range(len(encoded))]
    batch = collate(encoded, no_pixels, keys=keys, pad_id=tokenizer.pad_token_id, side=side)
    return replace(batch, images_B3HW=images_B3HW)


def _asked(at_once: int) -> list[str]:
    return [question(text, "[vqa] {}", PUBLISHED_QUESTION, has_image=True) for text in questions(at_once)]


def _answering(width: Width) -> tuple[TinyGPTV, Tokenizer]:
    """A model in eval mode that never ends an answer, so that all answers are equally long."""
    model, tokenizer = width.model()
    with torch.no_grad():
        model.llm.lm_head.bias[tokenizer.eos_token_id] = -1e4
    return model.eval(), tokenizer


def conventional_answers(num_pictures: int, width: Width, at_once: int) -> Way:
    """The reference's answers to questions about so many pictures, each looked at for each question."""
    model, tokenizer = _answering(width)
    way = Conventional(model, tokenizer, NANO_STAGE4)
    images_P3HW, picture_B = noise(num_pictures, width.side), _picture_of(at_once, num_pictures)

    def answer() -> Tensor:
        return way.answers(images_P3HW[picture_B], _asked(at_once), NEW_TOKENS)

    return Way(model=model, run=answer, result=lambda: {"the tokens": answer()})


def our_answers(num_pictures: int, width: Width, at_once: int, *, cached: bool) -> Way:
    """Ours to the same questions, each picture looked at once, or before (`cached`)."""
    model, tokenizer = _answering(width)
    images_P3HW, picture_B = noise(num_pictures, width.side), _picture_of(at_once, num_pictures)
    prepack(model)
    known_PQE = model.encode_images(images_P3HW) if cached else None
    decoding = greedy(NEW_TOKENS, stop=NEVER_SAID)

    def given() -> tuple[Batch, Tensor]:
        encoded = [encode_question(tokenizer, text, has_image=True, dialect="published") for text in _asked(at_once)]
        queries_PQE = model.encode_images(images_P3HW) if known_PQE is None else known_PQE
        return _collated(encoded, tokenizer, None, "left"), model.project(queries_PQE)[picture_B]

    @torch.no_grad()
    def answer() -> list[str]:
        batch, image_BQD = given()
        return generate(model, batch, tokenizer=tokenizer, decoding=decoding, image_BQD=image_BQD)

    @torch.no_grad()
    def tokens() -> Tensor:
        steps = islice(token_steps(model, given()[0], decoding, given()[1]), NEW_TOKENS)
        return torch.stack([next_B for _, next_B in steps], dim=1)

    return Way(model=model, run=answer, result=lambda: {"the tokens": tokens()})


def _picture_of(at_once: int, num_pictures: int) -> Tensor:
    return torch.arange(at_once) % num_pictures


CASES: Mapping[str, Case] = {
    "stage 2 step": Case(
        conventional=partial(conventional_training, captions),
        ours={
            "padded": partial(our_training, captions, packed=False, cached=False),
            "padded, cached vision": partial(our_training, captions, packed=False, cached=True),
        },
        at_once=32,
        is_exact=False,
    ),
    "stage 4 step": Case(
        conventional=partial(conventional_training, conversations),
        ours={
            "padded": partial(our_training, conversations, packed=False, cached=False),
            "packed": partial(our_training, conversations, packed=True, cached=False),
            "packed, cached vision": partial(our_training, conversations, packed=True, cached=True),
        },
        at_once=32,
        is_exact=False,
    ),
    "16 questions on 16 pictures": Case(
        conventional=partial(conventional_answers, 16),
        ours={
            "from pixels": partial(our_answers, 16, cached=False),
            "cached vision": partial(our_answers, 16, cached=True),
        },
        at_once=16,
        is_exact=True,
    ),
    "16 questions on 4 pictures": Case(
        conventional=partial(conventional_answers, 4),
        ours={"from pixels": partial(our_answers, 4, cached=False)},
        at_once=16,
        is_exact=True,
    ),
}
