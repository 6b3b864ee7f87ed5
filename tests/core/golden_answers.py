"""Checks of what the model says: greedy, with an end, a penalty, beams; and how it ranks answers that are given."""

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from operator import mul
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tests.core.golden_forward import asked_and_answered, collated, stage_of
from tests.core.reference import Check, Goldens, assert_near, without_space
from tinygptv_core.answering.decoding import Decoding
from tinygptv_core.answering.rank import Ranking, rank
from tinygptv_core.batch import Batch
from tinygptv_core.generate import beam_tokens, generate, text_of, token_steps
from tinygptv_core.model import TinyGPTV
from tinygptv_core.prompt import IMAGE_MARK, Encoded, encode_choice, encode_question

NEVER = "\ud800"
"""A stop that no answer comes to, since it is half of a character: the goldens' answers are not cut."""


class Answers:
    """One generation of the reference, and ours for the same questions."""

    def __init__(self, goldens: Goldens, case: str) -> None:
        self._goldens, self._case = goldens, f"cases/{case}"
        self.told, self.expected = goldens.told(self._case), goldens.tensors(self._case)

    @cached_property
    def model(self) -> TinyGPTV:
        return self._goldens.model(stage_of(self._case))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The reference's, with the case's own end of text, which may be an id that the tokenizer has no words for."""
        tokenizer = self._goldens.new_tokenizer()
        if (end := self.told.get("eos_token_id")) is not None:
            tokenizer.add_tokens([f"<id {number}>" for number in range(len(tokenizer), end + 1)])
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
        return tokenizer

    @property
    def decoding(self) -> Decoding:
        """As the case's; the reference's first token is a beginning of its own making, which its penalty counts."""
        wanted: dict[str, Any] = {"num_beams": 1, "repetition_penalty": 1.0} | self.told["generate_kwargs"]
        beams, penalty = wanted.pop("num_beams"), wanted.pop("repetition_penalty")
        unknown = {name: value for name, value in wanted.items() if not _is_without_effect(name, value, beams)}
        assert not unknown, f"no check knows what to do with {unknown}"
        return Decoding(
            max_new_tokens=self.told["max_new_tokens"],
            stop=NEVER,
            beams=beams,
            repetition_penalty=penalty,
            said=(self._goldens.tokenizer.bos_token_id,),
            sampling=None,
        )

    @cached_property
    def encoded(self) -> list[Encoded]:
        return [
            encode_question(self._goldens.tokenizer, text, has_image=IMAGE_MARK in text, dialect="published")
            for text in self.told["texts"]
        ]

    @cached_property
    def batch(self) -> Batch:
        return collated(self.encoded, self.expected.get("pixel_values"), self._goldens.tokenizer.pad_token_id, "left")

    @cached_property
    def images(self) -> Tensor | None:
        with torch.no_grad():
            return self.model.images(self.batch)

    @cached_property
    def embedded(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self.model.embed(self.batch, self.images)

    @cached_property
    def steps(self) -> list[tuple[Tensor, Tensor]]:
        return list(islice(token_steps(self.model, self.batch, self.decoding, self.images), self.num_steps))

    @property
    def num_steps(self) -> int:
        return self.expected["generated_ids"].shape[1]

    def until_end(self, ids_BT: Tensor) -> list[list[int]]:
        """Each row as far as its end, which belongs to it."""
        end = self.tokenizer.eos_token_id
        return [ids[: ids.index(end) + 1] if end in ids else ids for ids in ids_BT.tolist()]

    @cached_property
    def found_ids(self) -> list[list[int]]:
        """What ours says, each row as far as its end."""
        if self.decoding.beams == 1:
            return self.until_end(torch.stack([next_B for _, next_B in self.steps], dim=1))
        return self.until_end(
            beam_tokens(self.model, self.batch, tokenizer=self.tokenizer, decoding=self.decoding, image_BQD=self.images)
        )

    def check_ids(self) -> None:
        assert self.found_ids == self.until_end(self.expected["generated_ids"])
        assert self.told["generated_ids"] == self.expected["generated_ids"].tolist()

    def check_raw_ids(self) -> None:
        """The same behind what counts as said from the start, which is the reference's own beginning."""
        raw = self.expected["generated_ids_raw"]
        assert {(begin,) for begin in self.told["raw_first_token_is_bos"]} == {self.decoding.said}
        assert raw[:, 0].tolist() == self.told["raw_first_token_is_bos"]
        assert self.found_ids == self.until_end(raw[:, 1:])

    def check_scores(self) -> None:
        """Of every step until the row's end; none are there for beams."""
        scores = self.expected["step_scores"]
        if self.decoding.beams > 1:
            assert scores.numel() == 0
            return
        for row, ids in enumerate(self.until_end(self.expected["generated_ids"])):
            for step, _ in enumerate(ids):
                assert_near(self.steps[step][0][row], scores[row, step])

    def check_mask(self) -> None:
        assert torch.equal(self.embedded[1].long(), self.expected["attention_mask"])

    def check_embeds(self) -> None:
        real = self.embedded[1]
        assert_near(self.embedded[0][real], self.expected["inputs_embeds"][real])

    def check_question_ids(self) -> None:
        calls = [*self.told["embed_calls_token_ids"], [[] for _ in self.encoded], [[] for _ in self.encoded]]
        assert [list(encoded.ids) for encoded in self.encoded] == asked_and_answered(calls, len(self.encoded))

    def check_texts(self) -> None:
        """What `generate` says is what the tokens say, until the end."""
        found = generate(
            self.model, self.batch, tokenizer=self.tokenizer, decoding=self.decoding, image_BQD=self.images
        )
        assert found == [text_of(self.tokenizer, ids) for ids in self.until_end(self.expected["generated_ids"])]

    def check_answers(self) -> None:
        """All tokens as text. The reference's tokenizer writes other white space around added tokens."""
        found = [text_of(self._goldens.tokenizer, ids) for ids in self.told["generated_ids"]]
        assert list(map(without_space, found)) == list(map(without_space, self.told["answers"]))


def _is_without_effect(name: str, value: Any, beams: int) -> bool:
    """Whether an argument of the reference's `generate` changes nothing: nothing is drawn here."""
    if name == "length_penalty":
        return beams == 1 or value == 1
    if name == "min_length":  # its own beginning is the first token
        return value <= 1
    return name in ("top_p", "temperature") or (name == "do_sample" and not value)


def answer_checks(goldens: Goldens, case: str) -> Iterator[Check]:
    answers = Answers(goldens, case)
    known: dict[str, Callable[[], None]] = {
        "generated_ids": answers.check_ids,
        "generated_ids_raw": answers.check_raw_ids,
        "step_scores": answers.check_scores,
        "attention_mask": answers.check_mask,
        "inputs_embeds": answers.check_embeds,
        "image_tokens": lambda: assert_near(torch.as_tensor(answers.images), answers.expected["image_tokens"]),
    }
    more = {
        "question_ids": answers.check_question_ids,
        "texts": answers.check_texts,
        "answers": answers.check_answers,
    }
    files = (f"cases/{case}.json", f"cases/{case}.safetensors")
    for name in sorted(answers.expected.keys() - {"pixel_values"}):
        yield Check(name=f"{case}-{name}", files=files, run=lambda name=name: known[name]())
    for name, run in more.items():
        yield Check(name=f"{case}-{name}", files=files, run=run)


class Choices:
    """One ranking of the reference, and ours."""

    def __init__(self, goldens: Goldens, case: str) -> None:
        self._goldens, self._case = goldens, f"cases/{case}"
        self.told = goldens.told(self._case)

    @cached_property
    def rankings(self) -> list[Ranking]:
        """Of all that the reference lists: for a row with fewer choices it fills the list up."""
        number, tokenizer = stage_of(self._case), self._goldens.tokenizer
        model, stage = self._goldens.model(number), self._goldens.stage(number)
        choices = [
            [
                encode_choice(tokenizer, text, of_all[row], end_symbol=stage.end_symbol, has_image=True)
                for of_all in self.told["answers"]
            ]
            for row, text in enumerate(self.told["texts"])
        ]
        with torch.no_grad():
            image_BQD = model.project(
                model.encode_images(self._goldens.tensors(self._case)["pixel_values"])
            )  # fmt: skip
        return rank(model, choices, image_BQD, pad_id=tokenizer.pad_token_id)

    def check_losses(self) -> None:
        assert_near(
            torch.tensor([of_one.losses for of_one in self.rankings]), torch.tensor(self.told["per_sample_losses"])
        )

    def check_ranks(self) -> None:
        """Of each row's own choices. The reference puts what it filled up with behind them."""
        for of_one, expected, num in zip(
            self.rankings, self.told["per_sample_ranks"], self.told["num_cand"], strict=True
        ):
            assert [choice for choice in of_one.order if choice < num] == [
                choice for choice in expected if choice < num
            ]

    @cached_property
    def batch_means(self) -> list[float]:
        """Of each choice the mean over the batch by which the reference ranked all rows alike, weighted by tokens."""
        tokenizer, end = self._goldens.tokenizer, self._goldens.stage(stage_of(self._case)).end_symbol
        means = []
        for place, answers in enumerate(self.told["answers"]):
            counts = [len(tokenizer(text + end)["input_ids"]) for text in answers]
            losses = [of_one.losses[place] for of_one in self.rankings]
            means.append(sum(map(mul, losses, counts)) / sum(counts))
        return means

    def check_batch_means(self) -> None:
        assert_near(torch.tensor(self.batch_means), torch.tensor(self.told["reference_losses_batch_mean"]))

    def check_batch_ranks(self) -> None:
        """Of the choices of the batch's first row, the only row whose number of choices the reference heeds here."""
        (expected,), num = self.told["reference_ranks"], self.told["num_cand"][0]
        order = sorted(range(num), key=lambda choice: self.batch_means[choice])
        assert order == [choice for choice in expected if choice < num]


def choice_checks(goldens: Goldens, case: str) -> Iterator[Check]:
    choices = Choices(goldens, case)
    files = (f"cases/{case}.json", f"cases/{case}.safetensors")
    for name, run in (
        ("per_sample_losses", choices.check_losses),
        ("per_sample_ranks", choices.check_ranks),
        ("reference_losses_batch_mean", choices.check_batch_means),
        ("reference_ranks", choices.check_batch_ranks),
    ):
        yield Check(name=f"{case}-{name}", files=files, run=run)
