"""What the model reads: one builder of token sequences for training and for evaluation.

    [BOS] [question, with the picture's slot in it | the slot alone] [answer, end symbol]
    and for each later turn [BOS] [question] [answer, end symbol]

Answers and end symbols are targets; BOS, questions and the picture are not. Each part is tokenized by
itself, so that a question has the same ids whether or not an answer follows it.

TinyGPT-V, arXiv:2312.16862. Every token is attended to, and only padding is not.

That is our dialect. The published weights were trained and are asked in another, "published": there the
BOS of later turns is masked out of the attention, because the reference's BOS is its padding; `max_tokens`
counts all that follows the first question, later questions among it; and a question to be answered
begins without BOS.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch

from tinygptv_core.batch import IGNORED, Batch
from tinygptv_core.recipe import Turn, check_alternation, check_place
from tinygptv_core.stage import Dialect, Stage

IMAGE_MARK = "<ImageHere>"
IMAGE_SLOT = f"<Img>{IMAGE_MARK}</Img> "
PLACEHOLDER_ID = 0
"""Stands at the slot until the picture's embeddings take its place. Any id of the vocabulary would do."""

Tokenizer = Any
"""A transformers tokenizer: called on a text it gives `input_ids`; it has `bos_token_id`."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample as tokens.

    Attributes:
        ids: token ids, `PLACEHOLDER_ID` at the slot.
        labels: the target at each position (not shifted), `IGNORED` where there is none.
        slot: where the placeholder stands, 0 <= slot < len(ids); None for text alone.
        unseen: positions that no other attends to, though they are no padding.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    slot: int | None
    unseen: tuple[int, ...] = ()


def with_slot_at_end(sample: Encoded) -> Encoded:
    """`sample`, of text alone, with a slot behind it, where no target sees the picture: for a batch with pictures."""
    return replace(sample, ids=(*sample.ids, PLACEHOLDER_ID), labels=(*sample.labels, IGNORED), slot=len(sample.ids))


def question(text: str, prompt: str, template: str, has_image: bool) -> str:
    """What the user says, as the model reads it.

    Args:
        text: the sample's own words; nothing for a caption, which the prompt itself asks for.
        prompt: the words around `text`, which takes the place of its `{}`.
        template: the words around all of it, `{}` in the place. One of `Stage`'s.
        has_image: puts the picture's slot in front.

    Raises:
        ConfigError: there is a text, and `prompt` has no place for it.
    """
    before, _, after = template.partition("{}")
    return f"{before}{IMAGE_SLOT if has_image else ''}{_filled(prompt, text)}{after}"


def _filled(prompt: str, text: str) -> str:
    check_place(prompt, text)
    before, place, after = prompt.partition("{}")
    return f"{before}{text}{after}" if place else prompt


def chat(system: str, turns: Sequence[Turn], template: str, has_image: bool) -> str:
    """A conversation so far as one question, the picture shown in its first: what a chat goes on from.

    Args:
        system: stands before everything.
        turns: questions and answers in turn, a question last.
        template: goes around each question; the reference's is `stage.PUBLISHED_QUESTION`.
    """
    spoken = [
        turn.text if turn.role == "assistant" else question(turn.text, "{}", template, has_image and position == 0)
        for position, turn in enumerate(turns)
    ]
    return system + "".join(spoken)


def encode_question(tokenizer: Tokenizer, asked: str, *, has_image: bool, dialect: Dialect) -> Encoded:
    """`[BOS] [asked]` for the model to go on from, without BOS in the published dialect.

    Args:
        asked: what `question` or `chat` returned.
    """
    encoded = _begun(tokenizer, asked, has_image)
    if dialect == "tinygptv":
        return encoded
    slot = None if encoded.slot is None else encoded.slot - 1
    return Encoded(ids=encoded.ids[1:], labels=encoded.labels[1:], slot=slot)


def encode_choice(tokenizer: Tokenizer, asked: str, choice: str, *, end_symbol: str, has_image: bool) -> Encoded:
    """`[BOS] [asked] [choice, end symbol]`, the choice's tokens the targets, to be ranked (`answering/rank.py`).

    In both dialects, since the reference ranks as it trains.

    Args:
        asked: what `question` or `chat` returned.
    """
    target = _ids(tokenizer, choice + end_symbol)
    return _joined([(_begun(tokenizer, asked, has_image), target)], max_tokens=len(target))


def _begun(tokenizer: Tokenizer, asked: str, has_image: bool) -> Encoded:
    """`[BOS] [asked]`."""
    ids, slot = _with_slot(tokenizer, asked) if has_image else (_ids(tokenizer, asked), None)
    ids = [tokenizer.bos_token_id, *ids]
    return Encoded(ids=tuple(ids), labels=(IGNORED,) * len(ids), slot=None if slot is None else slot + 1)


def encode_training(
    tokenizer: Tokenizer, turns: Sequence[Turn], *, prompt: str, stage: Stage, has_image: bool
) -> Encoded:
    """A sample to learn from, as the head of this file shows it.

    Args:
        turns: questions and answers in turn; a first answer without a question is asked for by `prompt`.
        prompt: goes around the first question. Later ones stand in the stage's template alone.
        stage: gives the template (None: nothing is asked, a picture stands alone), the end symbol,
            and `max_tokens`, at which each answer's targets are cut on the right, end symbol and all. Its
            dialect decides on the BOS of later turns and what is cut, as the head of this file says.

    Raises:
        ValueError: the turns do not alternate, end with a question, or ask where the stage has no template.
    """
    parts: list[tuple[Encoded, list[int]]] = []
    for position, (asked, answer) in enumerate(_exchanges(turns)):
        shows_image = has_image and position == 0
        first_prompt = prompt if position == 0 else "{}"
        before = _before_answer(tokenizer, _asked(asked, first_prompt, stage, shows_image), shows_image)
        parts.append((before, _ids(tokenizer, answer + stage.end_symbol)))
    return _joined(parts, stage.max_tokens) if stage.dialect == "tinygptv" else _published(parts, stage.max_tokens)


def _joined(parts: Sequence[tuple[Encoded, list[int]]], max_tokens: int) -> Encoded:
    """Questions and answers one after another, each answer cut at `max_tokens`."""
    ids = [token for before, answer in parts for token in (*before.ids, *answer[:max_tokens])]
    labels = [label for before, answer in parts for label in (*before.labels, *answer[:max_tokens])]
    return Encoded(ids=tuple(ids), labels=tuple(labels), slot=parts[0][0].slot)


def _published(parts: Sequence[tuple[Encoded, list[int]]], max_tokens: int) -> Encoded:
    """As `_joined`, but cut at `max_tokens` after the first question; later turns begin unseen."""
    uncut = _joined(parts, max_tokens=max(len(answer) for _, answer in parts))
    length = min(len(uncut.ids), len(parts[0][0].ids) + max_tokens)
    ends = accumulate(len(before.ids) + len(answer) for before, answer in parts)
    unseen = tuple(end for end in ends if end < length)
    return Encoded(ids=uncut.ids[:length], labels=uncut.labels[:length], slot=uncut.slot, unseen=unseen)


def _exchanges(turns: Sequence[Turn]) -> Iterator[tuple[str | None, str]]:
    """(question, answer) pairs; the first question may be missing."""
    check_alternation([turn.role for turn in turns])
    padded = ([None] if turns[0].role == "assistant" else []) + [turn.text for turn in turns]
    for asked, answer in zip(padded[::2], padded[1::2], strict=True):
        yield asked, str(answer)


def _asked(text: str | None, prompt: str, stage: Stage, has_image: bool) -> str | None:
    if stage.prompt_template is not None:
        return question(text or "", prompt, stage.prompt_template, has_image)
    if text is None:
        return None
    raise ValueError(f"{stage.name} has no prompt_template, so it cannot ask {text!r}; train it on captions")


def _before_answer(tokenizer: Tokenizer, asked: str | None, has_image: bool) -> Encoded:
    if asked is not None:
        return _begun(tokenizer, asked, has_image)
    ids = (tokenizer.bos_token_id, *([PLACEHOLDER_ID] if has_image else []))
    return Encoded(ids=ids, labels=(IGNORED,) * len(ids), slot=1 if has_image else None)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def _with_slot(tokenizer: Tokenizer, asked: str) -> tuple[list[int], int]:
    """Token ids with the placeholder where the first mark is; a later one is the user's own words."""
    before, mark, after = asked.partition(IMAGE_MARK)
    if not mark:
        raise ValueError(f"{asked!r} has no {IMAGE_MARK} for the picture")
    left = _ids(tokenizer, before)
    return [*left, PLACEHOLDER_ID, *_ids(tokenizer, after)], len(left)


def collate(
    encoded: Sequence[Encoded],
    images_B3HW: torch.Tensor | None,
    *,
    queries_BQE: torch.Tensor | None = None,
    keys: Sequence[str],
    pad_id: int,
    side: Literal["left", "right"],
) -> Batch:
    """One batch of samples, padded with `pad_id` on `side` to the longest of them.

    Args:
        encoded: at least one sample.
        images_B3HW: the samples' pictures, as `Batch` has them; None for text alone.
        queries_BQE: in the pictures' place, where they are kept (`Features.of`).

    Raises:
        ValueError: some samples have a slot and some do not, or the pictures are not one for each slot.
    """
    slots = [sample.slot for sample in encoded]
    pictures = queries_BQE if images_B3HW is None else images_B3HW
    if len({slot is None for slot in slots}) != 1 or (slots[0] is None) != (pictures is None):
        raise ValueError(
            f"{sum(slot is not None for slot in slots)} of {len(slots)} samples have a slot and there are "
            f"{'no' if pictures is None else len(pictures)} pictures; a batch has one for each sample or none"
        )
    length = max(len(sample.ids) for sample in encoded)
    starts = [length - len(sample.ids) if side == "left" else 0 for sample in encoded]
    ids_BT = np.full((len(encoded), length), pad_id, dtype=np.int64)
    labels_BT = np.full((len(encoded), length), IGNORED, dtype=np.int64)
    mask_BT = np.zeros((len(encoded), length), dtype=bool)
    for row, (sample, start) in enumerate(zip(encoded, starts, strict=True)):
        here = slice(start, start + len(sample.ids))
        ids_BT[row, here], labels_BT[row, here], mask_BT[row, here] = sample.ids, sample.labels, True
        mask_BT[row, [start + position for position in sample.unseen]] = False
    slot_B = [slot + start for slot, start in zip(slots, starts, strict=True) if slot is not None]
    return Batch(
        images_B3HW=images_B3HW,
        ids_BT=torch.from_numpy(ids_BT),
        labels_BT=torch.from_numpy(labels_BT),
        mask_BT=torch.from_numpy(mask_BT),
        slot_B=torch.tensor(slot_B) if slot_B else None,
        keys=tuple(keys),
        queries_BQE=queries_BQE,
    )
