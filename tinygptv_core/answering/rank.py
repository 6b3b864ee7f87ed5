"""Which of several answers a model finds the likeliest: for questions whose choices are given."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tinygptv_core.batch import IGNORED
from tinygptv_core.model import TinyGPTV
from tinygptv_core.prompt import Encoded, collate

# Shape letters of this file: B questions, C choices of all questions together, Q image queries, D width of the LLM.


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The choices of one question.

    Attributes:
        losses: of each choice the mean cross-entropy of its tokens, in nats.
        sums: of each choice the sum over its tokens: minus the logarithm of its probability.
        order: the choices' positions, the likeliest first; of two with equal losses the earlier first.
    """

    losses: tuple[float, ...]
    sums: tuple[float, ...]
    order: tuple[int, ...]


@torch.no_grad()
def rank(
    model: TinyGPTV, choices: Sequence[Sequence[Encoded]], image_BQD: Tensor | None, *, pad_id: int
) -> list[Ranking]:
    """Rank each question's choices among themselves.

    Args:
        model: in eval mode.
        choices: for each question at least one choice, encoded with its question (`prompt.encode_choice`);
            questions may have different numbers of them.
        image_BQD: the questions' projected pictures (`model.project`); None for text alone.

    Raises:
        ValueError: the model is in training mode, a question has no choices, or a choice has no tokens.

    Source: the mean loss ranks choices in IconQA's evaluation by the reference, which means over the whole
    batch as well and so ranks all of a batch's questions alike.
    """
    _check(model, choices)
    flat = [choice for of_one in choices for choice in of_one]
    question_C = [question for question, of_one in enumerate(choices) for _ in of_one]
    batch = collate(
        flat,
        None if image_BQD is None else torch.zeros(len(flat), 3, 0, 0),  # the pictures come as `image_BQD`
        keys=["" for _ in flat],
        pad_id=pad_id,
        side="right",
    ).to(next(model.parameters()).device)
    image_CQD = None if image_BQD is None else image_BQD[torch.tensor(question_C, device=image_BQD.device)]
    losses = iter(model.row_losses(replace(batch, images_B3HW=None), image_CQD).tolist())
    return [_ranking([next(losses) for _ in of_one], of_one) for of_one in choices]


def _check(model: TinyGPTV, choices: Sequence[Sequence[Encoded]]) -> None:
    if model.training:
        raise ValueError("the model is in training mode, where dropout would decide the ranks; call model.eval()")
    for question, of_one in enumerate(choices):
        if not of_one or any(set(choice.labels) == {IGNORED} for choice in of_one):
            raise ValueError(f"question {question} has no choices, or one without tokens; there is nothing to rank")


def _ranking(losses: Sequence[float], choices: Sequence[Encoded]) -> Ranking:
    order = sorted(range(len(losses)), key=lambda choice: losses[choice])
    tokens = [sum(label != IGNORED for label in choice.labels) for choice in choices]
    sums = [loss * count for loss, count in zip(losses, tokens, strict=True)]
    return Ranking(losses=tuple(losses), sums=tuple(sums), order=tuple(order))
