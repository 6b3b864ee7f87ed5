"""The reference's way through the same weights.

Prompts are put together and tokenized inside the model, one sample after another; the language model gives logits at
every position; the tower looks at a picture as often as there are questions about it. Source: TinyGPT-V,
arXiv:2312.16862, and its public repository. Only attention is not as there: it is the one that our model has.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers.activations import ACT2FN

from tinygptv_core.batch import IGNORED
from tinygptv_core.model import TinyGPTV
from tinygptv_core.prompt import IMAGE_MARK, Tokenizer, question
from tinygptv_core.recipe import Turn
from tinygptv_core.stage import Stage

# Shape letters of this file: B batch, H = W side in pixels, Q image queries, D width of the LLM, C positions before an
# answer, A positions of the answer and all that follows it, S = 1 + C + A, T tokens of a text or of an answer,
# R = S - 1 positions that predict one, V vocabulary.


class Conventional:
    """A model trained and asked the reference's way.

    Args:
        model: taken over where it is; its activation is made the reference's, the same function in eight kernels.
        stage: gives template, end symbol and `max_tokens`; of the published dialect.
    """

    def __init__(self, model: TinyGPTV, tokenizer: Tokenizer, stage: Stage) -> None:
        self.model, self._tokenizer, self._stage = model, tokenizer, stage
        self._device = next(model.parameters()).device
        for layer in model.llm.model.layers:
            layer.mlp.activation_fn = ACT2FN["gelu_new"]  # pyright: ignore[reportAttributeAccessIssue] -- an MLP of Phi

    def loss(self, images_B3HW: Tensor, turns: Sequence[Sequence[Turn]]) -> Tensor:
        """The mean cross-entropy of the batch's targets, in nats.

        Args:
            turns: of each picture, a question first, or one answer alone where the stage asks nothing.
        """
        image_BQD = self._look(images_B3HW)
        before_BCD, seen_BC = self._padded(
            [self._before(image_QD, said) for image_QD, said in zip(image_BQD, turns, strict=True)]
        )
        ids_BA, labels_BA = self._answers(turns)
        after_BAD, seen_BA = self._embed(ids_BA), (ids_BA != self._tokenizer.pad_token_id).long()
        lengths = seen_BC.sum(dim=1).tolist()
        embeds_BSD = torch.cat([self._begin(len(turns)), _joined(before_BCD, after_BAD, lengths)], dim=1)
        mask_BS = torch.cat([seen_BC[:, :1], _joined(seen_BC, seen_BA, lengths)], dim=1)
        ignored_BC = torch.full_like(seen_BC, IGNORED)
        labels_BS = torch.cat([ignored_BC[:, :1], _joined(ignored_BC, labels_BA, lengths)], dim=1)
        logits_BSV = self.model.llm(inputs_embeds=embeds_BSD, attention_mask=mask_BS, use_cache=False).logits
        # The reference's Phi moves logits against labels by a copy of all of them.
        predicting_BRV = logits_BSV.float()[:, :-1].contiguous()
        return functional.cross_entropy(predicting_BRV.flatten(0, 1), labels_BS[:, 1:].flatten())

    @torch.no_grad()
    def answers(self, images_B3HW: Tensor, asked: Sequence[str], max_new_tokens: int) -> Tensor:
        """tokens_BT of the greedy answers, a picture and a text with its slot for each."""
        image_BQD = self._look(images_B3HW)
        rows = [self._mixed(text, image_QD) for text, image_QD in zip(asked, image_BQD, strict=True)]
        length = max(len(row) for row in rows)
        embeds_BSD = torch.stack([torch.cat([row.new_zeros(length - len(row), row.shape[1]), row]) for row in rows])
        mask_BS = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=self._device)
        tokens_BT = self.model.llm.generate(  # pyright: ignore[reportAttributeAccessIssue] -- the mixin's protocol
            inputs_embeds=embeds_BSD,
            attention_mask=mask_BS,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            logits_to_keep=0,  # all of them
            pad_token_id=self._tokenizer.pad_token_id,
            eos_token_id=self._tokenizer.eos_token_id,
        )
        return torch.as_tensor(tokens_BT)

    def _look(self, images_B3HW: Tensor) -> Tensor:
        with torch.no_grad():
            queries_BQE = self.model.qformer(self.model.vision.encode(images_B3HW))
        return self.model.project(queries_BQE)

    def _before(self, image_QD: Tensor, said: Sequence[Turn]) -> Tensor:
        """What stands between BOS and the first answer: the question around the picture, or the picture alone."""
        template = self._stage.prompt_template
        return image_QD if template is None else self._mixed(question(said[0].text, "{}", template, True), image_QD)

    def _mixed(self, text: str, image_QD: Tensor) -> Tensor:
        """The embeddings of `text` with the picture in the place of its slot, each piece tokenized by itself."""
        left, right = (self._embed(self._tokens(piece)) for piece in text.split(IMAGE_MARK))
        return torch.cat([left, image_QD, right])

    def _answers(self, turns: Sequence[Sequence[Turn]]) -> tuple[Tensor, Tensor]:
        """(ids_BA, labels_BA) of the first answers and all that follows, padded on the right."""
        answers = [self._answer(said) for said in turns]
        return (
            pad_sequence([ids for ids, _ in answers], batch_first=True, padding_value=self._tokenizer.pad_token_id),
            pad_sequence([labels for _, labels in answers], batch_first=True, padding_value=IGNORED),
        )

    def _answer(self, said: Sequence[Turn]) -> tuple[Tensor, Tensor]:
        """(ids, labels) of one sample's: answers are targets, later questions and their BOS are not."""
        ids, labels = [], []
        begin = torch.tensor([self._tokenizer.bos_token_id], device=self._device)
        for position, turn in enumerate(said):
            if turn.role == "assistant":
                answer = self._tokens(turn.text + self._stage.end_symbol)
                ids, labels = [*ids, answer], [*labels, answer]
            elif position:
                text = question(turn.text, "{}", self._stage.prompt_template or "{}", False)
                asked = torch.cat([begin, self._tokens(text)])
                ids, labels = [*ids, asked], [*labels, torch.full_like(asked, IGNORED)]
        most = self._stage.max_tokens
        return torch.cat(ids)[:most], torch.cat(labels)[:most]

    def _padded(self, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(embeds_BCD, seen_BC) of rows of different lengths, padded on the right."""
        length = max(len(row) for row in rows)
        pad_1D = self._embed(torch.tensor([self._tokenizer.pad_token_id], device=self._device))
        embeds_BCD = torch.stack([torch.cat([row, pad_1D.expand(length - len(row), -1)]) for row in rows])
        seen = [torch.ones(len(row), dtype=torch.long, device=self._device) for row in rows]
        return embeds_BCD, pad_sequence(seen, batch_first=True)

    def _begin(self, count: int) -> Tensor:
        return self._embed(torch.full((count, 1), self._tokenizer.bos_token_id, device=self._device))

    def _embed(self, ids: Tensor) -> Tensor:
        return self.model.llm.get_input_embeddings()(ids)

    def _tokens(self, text: str) -> Tensor:
        ids: Tensor = self._tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
        return ids.to(self._device, torch.long)


def _joined(before_BC: Tensor, after_BA: Tensor, lengths: Sequence[int]) -> Tensor:
    """Each row's own part of `before`, then `after`, then the padding of `before`."""
    return torch.stack(
        [
            torch.cat([before[:length], after, before[length:]])
            for before, after, length in zip(before_BC, after_BA, lengths, strict=True)
        ]
    )
