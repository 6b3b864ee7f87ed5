"""How the next token of an answer is chosen: penalties, the likeliest, or drawn among the likely."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor
from transformers import LogitsProcessor

from tinygptv_core.batch import Batch
from tinygptv_core.seeds import seed_of

# Shape letters of this file: B batch (or beams), T tokens of an answer so far, V vocabulary.

LEAST_TEMPERATURE = 1e-6
"""Long before it the likeliest token is all but sure, and divided by less scores are no numbers any more."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Tokens are drawn: from the scores divided by `temperature`, among the likeliest that together reach `top_p`."""

    temperature: float
    top_p: float
    seed: int

    def __post_init__(self) -> None:
        if not (LEAST_TEMPERATURE <= self.temperature < inf and 0 < self.top_p <= 1):
            raise ValueError(
                f"temperature is {self.temperature} and top_p is {self.top_p}; "
                f"the one must be at least {LEAST_TEMPERATURE} and finite, the other above 0 and at most 1"
            )


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How the next token of an answer is chosen, and where the answer ends.

    Attributes:
        max_new_tokens: the most tokens of an answer, at least 1.
        stop: what ends an answer, such as the stage's end symbol; spelled as the tokenizer spells it.
        beams: how many answers are followed side by side, of which the likeliest per token is given; 1 is greedy.
        repetition_penalty: what the scores of tokens that were said before are divided by (multiplied, below 0).
            Source: CTRL, arXiv:1909.05858, section 4.1. 1 is none.
        said: tokens that count as said from the start. The reference's penalty has its end of text there.
        sampling: None takes the likeliest token.
    """

    max_new_tokens: int
    stop: str
    beams: int
    repetition_penalty: float
    said: tuple[int, ...]
    sampling: Sampling | None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if not self.stop:
            raise ValueError("stop is empty; every text holds that")
        if self.beams < 1 or not 0 < self.repetition_penalty < inf:
            raise ValueError(
                f"beams is {self.beams} and repetition_penalty is {self.repetition_penalty}; "
                "they must be at least 1, and above 0 and finite"
            )
        if self.beams > 1 and self.sampling is not None:
            raise ValueError(f"beams is {self.beams} and sampling is {self.sampling}; choose one of them")


def greedy(max_new_tokens: int, stop: str) -> Decoding:
    """The likeliest token each time."""
    return Decoding(max_new_tokens=max_new_tokens, stop=stop, beams=1, repetition_penalty=1.0, said=(), sampling=None)


class Penalty(LogitsProcessor):
    """transformers' own, given embeddings, would leave out as many of the first tokens as a row has padding."""

    def __init__(self, decoding: Decoding) -> None:
        self._penalty, self._said = decoding.repetition_penalty, decoding.said

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores (B, V) with those of what was said, `input_ids` (B, T), made smaller."""
        if self._penalty == 1:
            return scores
        said_BT = torch.cat([input_ids, input_ids.new_tensor(self._said).expand(len(input_ids), -1)], dim=1)
        old_BT = scores.gather(1, said_BT)
        return scores.scatter(1, said_BT, torch.where(old_BT < 0, old_BT * self._penalty, old_BT / self._penalty))


def chooser(batch: Batch, sampling: Sampling | None) -> Callable[[Tensor], Tensor]:
    """scores_BV -> next_B. A row is drawn by the seed and its own question, whatever is beside it."""
    if sampling is None:
        return lambda scores_BV: scores_BV.argmax(-1)
    rows = zip(batch.ids_BT.tolist(), batch.mask_BT.tolist(), strict=True)
    questions = [[token for token, is_seen in zip(ids, mask, strict=True) if is_seen] for ids, mask in rows]
    generators = [torch.Generator().manual_seed(seed_of(sampling.seed, *tokens)) for tokens in questions]

    def draw(scores_BV: Tensor) -> Tensor:
        likely_BV = nucleus((scores_BV.float() / sampling.temperature).softmax(-1), sampling.top_p).cpu()
        drawn = [
            torch.multinomial(likely_V, 1, generator=generator)
            for likely_V, generator in zip(likely_BV, generators, strict=True)
        ]
        return torch.cat(drawn).to(scores_BV.device)

    return draw


def nucleus(likely_BV: Tensor, top_p: float) -> Tensor:
    """The probabilities with 0 for all but the likeliest, as many as it takes to reach `top_p`; the first stays.

    Source: A. Holtzman and others, arXiv:1904.09751.
    """
    sorted_BV, order_BV = likely_BV.sort(dim=-1, descending=True, stable=True)
    is_kept_BV = sorted_BV.cumsum(-1) - sorted_BV < top_p
    return torch.zeros_like(likely_BV).scatter(-1, order_BV, sorted_BV * is_kept_BV)
