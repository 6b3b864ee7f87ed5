"""Answers: greedy decoding of a batch of questions, one token a step."""

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from tinygptv_core.batch import Batch
from tinygptv_core.model import TinyGPTV

# Shape letters of this file: B batch, S positions with the picture in place, Q image queries, D width of the LLM.


@torch.no_grad()
def generate(
    model: TinyGPTV,
    batch: Batch,
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    stop: str,
    image_BQD: Tensor | None = None,
) -> list[str]:
    """What the model says to each question, the most probable token each time.

    A row ends with the tokenizer's end of text, or where its text holds `stop`; neither is part of the answer.

    Args:
        model: in eval mode.
        batch: questions, padded on the LEFT, so that every row's next token is at the end.
        max_new_tokens: the most tokens of an answer, at least 1.
        stop: what ends an answer, such as the stage's end symbol; spelled as the tokenizer spells it.
        image_BQD: the projected pictures (`model.project`) where they are known already.

    Returns:
        A text per row. Padding is masked and positions count from a row's first token, so a row's
        answer does not depend on the rows beside it.

    Raises:
        ValueError: the model is in training mode, the batch is padded on the right, or `stop` is empty.
    """
    _check(model, batch, stop)
    embeds_BSD, mask_BS = model.embed(batch, model.images(batch, None) if image_BQD is None else image_BQD)
    answers = [_Answer(tokenizer, stop) for _ in batch.keys]
    cache = DynamicCache(config=model.llm.config)
    for _ in range(max_new_tokens):
        next_B = _next_token(model, embeds_BSD, mask_BS, cache)
        for answer, token in zip(answers, next_B.tolist(), strict=True):
            answer.add(token)
        if all(answer.ended for answer in answers):
            break
        embeds_BSD = model.llm.get_input_embeddings()(next_B[:, None])
        mask_BS = torch.cat([mask_BS, mask_BS.new_ones(len(next_B), 1)], dim=1)
    return [answer.text for answer in answers]


def _check(model: TinyGPTV, batch: Batch, stop: str) -> None:
    if model.training:
        raise ValueError("the model is in training mode, where dropout would decide the answer; call model.eval()")
    if not bool(batch.mask_BT[:, -1].all()):
        raise ValueError("the batch is padded on the right; questions to be answered are padded on the left")
    if not stop:
        raise ValueError("stop is empty; every text holds that")


def _next_token(model: TinyGPTV, embeds_BSD: Tensor, mask_BS: Tensor, cache: DynamicCache) -> Tensor:
    """next_B, int64. `embeds_BSD` are the positions that `cache` has not seen, the last ones of `mask_BS`."""
    position_BS = (mask_BS.long().cumsum(1) - 1).clamp(min=0)[:, -embeds_BSD.shape[1] :]
    out = model.llm.model(
        inputs_embeds=embeds_BSD,
        attention_mask=mask_BS.long(),
        position_ids=position_BS,
        past_key_values=cache,
        use_cache=True,
    )
    return model.llm.lm_head(out.last_hidden_state[:, -1]).argmax(-1)


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
        # What lies between tokens is part of the answer: boxes and captions are compared as they are spelled.
        text = self._tokenizer.decode(self._tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self.text, found, _ = str(text).partition(self._stop)
        self.ended = bool(found) or token == self._tokenizer.eos_token_id
