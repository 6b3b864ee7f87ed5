"""Answers to a batch of questions: greedy, by beams or drawn, with a cache of what was read."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    Cache,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from tinygptv_core.answering.decoding import Decoding, Penalty, chooser
from tinygptv_core.batch import Batch
from tinygptv_core.model import TinyGPTV
from tinygptv_core.phi import Places

# Shape letters of this file: B batch (or beams), S positions with the picture in place, T tokens of an answer so far,
# Q image queries, D width of the LLM, V vocabulary.

ROOM = 64
"""Positions for which the cache makes room at once."""


@torch.no_grad()
def generate(
    model: TinyGPTV,
    batch: Batch,
    *,
    tokenizer: PreTrainedTokenizerBase,
    decoding: Decoding,
    image_BQD: Tensor | None = None,
) -> list[str]:
    """What the model says to each question.

    A row ends with the tokenizer's end of text, or where its text holds `decoding.stop`; neither is part of the answer.

    Args:
        model: in eval mode.
        batch: questions, padded on the LEFT, so that every row's next token is at the end.
        image_BQD: the projected pictures (`model.project`) where they are known already.

    Returns:
        A text per row. Padding is masked, positions count from a row's first token and numbers are drawn
        for each row by itself, so that a row's answer does not depend on the rows beside it.

    Raises:
        ValueError: the model is in training mode, the batch is padded on the right, or nothing at all is asked.
    """
    _check(model, batch)
    if decoding.beams > 1:
        tokens_BT = beam_tokens(model, batch, tokenizer=tokenizer, decoding=decoding, image_BQD=image_BQD)
        return [text_of(tokenizer, tokens).partition(decoding.stop)[0] for tokens in tokens_BT.tolist()]
    answers = [_Answer(tokenizer, decoding.stop) for _ in batch.keys]
    for _, next_B in islice(token_steps(model, batch, decoding, image_BQD), decoding.max_new_tokens):
        for answer, token in zip(answers, next_B.tolist(), strict=True):
            answer.add(token)
        if all(answer.ended for answer in answers):
            break
    return [answer.text for answer in answers]


def _check(model: TinyGPTV, batch: Batch) -> None:
    if model.training:
        raise ValueError("the model is in training mode, where dropout would decide the answer; call model.eval()")
    if not batch.mask_BT.shape[1]:
        raise ValueError("the questions are empty and have no pictures; there is nothing to answer")
    if not bool(batch.mask_BT[:, -1].all()):
        raise ValueError("the batch is padded on the right; questions to be answered are padded on the left")


@torch.no_grad()
def token_steps(
    model: TinyGPTV, batch: Batch, decoding: Decoding, image_BQD: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Token after token, without end: (scores_BV, next_B), the scores after the penalty. For `decoding.beams` of 1.

    Args:
        batch, image_BQD: as for `generate`.
    """
    embeds_BSD, mask_BS = model.embed(batch, model.images(batch) if image_BQD is None else image_BQD)
    penalty, choose = Penalty(decoding), chooser(batch, decoding.sampling)
    cache = new_cache()
    tokens_BT = batch.ids_BT.new_empty(len(batch.keys), 0)
    while True:
        scores_BV = penalty(tokens_BT, _next_scores(model, embeds_BSD, mask_BS, cache))
        next_B = choose(scores_BV)
        yield scores_BV, next_B
        tokens_BT = torch.cat([tokens_BT, next_B[:, None]], dim=1)
        embeds_BSD = model.llm.get_input_embeddings()(next_B[:, None])
        mask_BS = torch.cat([mask_BS, mask_BS.new_ones(len(next_B), 1)], dim=1)


def new_cache() -> Cache:
    """For the keys and values of what was read."""
    return Cache(layer_class_to_replicate=_RoomyLayer)


class _RoomyLayer(DynamicLayer):
    """Keys and values of a layer, with room for more: transformers' own copies all of them for every token.

    Rows stay where they are: it is no cache for beams.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The keys and values so far, (B, N, S, H), with these, (B, N, new S, H), at their end."""
        seen = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = [key_states[:, :, :0], value_states[:, :, :0]]
        end = seen + key_states.shape[-2]
        for place, (room, new) in enumerate(zip(self._room, (key_states, value_states), strict=True)):
            if end > room.shape[-2]:
                self._room[place] = functional.pad(room[:, :, :seen], (0, 0, 0, end + ROOM - seen))
            self._room[place][:, :, seen:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values


def _next_scores(model: TinyGPTV, embeds_BSD: Tensor, mask_BS: Tensor, cache: Cache) -> Tensor:
    """scores_BV of the next token. `embeds_BSD` are the positions that `cache` has not seen, the last of `mask_BS`."""
    position_BS = (mask_BS.long().cumsum(1) - 1).clamp(min=0)[:, -embeds_BSD.shape[1] :]
    out = model.llm.model(
        inputs_embeds=embeds_BSD,
        attention_mask=mask_BS.long(),
        position_ids=position_BS,
        past_key_values=cache,
        use_cache=True,
        wanted=_last(embeds_BSD),
    )
    return model.llm.lm_head(out.last_hidden_state)


def _last(embeds_BSD: Tensor) -> Places:
    """The last position of each row."""
    row_B = torch.arange(len(embeds_BSD), device=embeds_BSD.device)
    return row_B, torch.full_like(row_B, embeds_BSD.shape[1] - 1)


@torch.no_grad()
def beam_tokens(
    model: TinyGPTV,
    batch: Batch,
    *,
    tokenizer: PreTrainedTokenizerBase,
    decoding: Decoding,
    image_BQD: Tensor | None,
) -> Tensor:
    """tokens_BT of each row's best beam, filled up with padding after its end; by transformers' own search.

    Args:
        batch, image_BQD: as for `generate`.
    """
    embeds_BSD, mask_BS = model.embed(batch, model.images(batch) if image_BQD is None else image_BQD)
    found = model.llm.generate(  # pyright: ignore[reportAttributeAccessIssue] -- the mixin's protocol fits no model
        inputs_embeds=embeds_BSD,
        attention_mask=mask_BS.long(),
        num_beams=decoding.beams,
        do_sample=False,
        max_new_tokens=decoding.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        logits_processor=LogitsProcessorList([Penalty(decoding)]),
        stopping_criteria=StoppingCriteriaList([_Said(tokenizer, decoding.stop)]),
    )
    return torch.as_tensor(found)


class _Said(StoppingCriteria):
    """A row ends where its text holds the stop."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: str) -> None:
        self._tokenizer, self._stop = tokenizer, stop

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] -- torch has one class of tensors
        self, input_ids: Tensor, scores: object, **kwargs: object
    ) -> Tensor:
        """is_ended_B of the tokens so far, `input_ids` (B, T)."""
        is_ended = [self._stop in text_of(self._tokenizer, tokens) for tokens in input_ids.tolist()]
        return torch.tensor(is_ended, device=input_ids.device)


def text_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The text of an answer's tokens, what lies between them included.

    Boxes and captions are compared as they are spelled.
    """
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


class _Answer:
    """The tokens of one row so far, and their text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: str) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._tokens: list[int] = []
        self.text = ""
        self.ended = False

    def add(self, token: int) -> None:
        """Take the next token, unless the answer has ended."""
        if self.ended:
            return
        self._tokens.append(token)
        self.text, found, _ = text_of(self._tokenizer, self._tokens).partition(self._stop)
        self.ended = bool(found) or token == self._tokenizer.eos_token_id
