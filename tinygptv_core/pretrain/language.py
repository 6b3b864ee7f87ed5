"""The nano language model learns to read and to answer, from text alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PhiConfig, PreTrainedTokenizerFast

from tinygptv_core.batch import IGNORED
from tinygptv_core.phi import TinyPhi
from tinygptv_core.pretrain.optimize import optimize
from tinygptv_core.pretrain.reading import Passage, document
from tinygptv_core.pretrain.settings import Optimization, PretrainingSizes
from tinygptv_core.pretrain.tokens import END_OF_TEXT_ID

# Shape letters of this file: B batch, T positions, D width, X positions with a target.

# Documents of about the same length go into one batch: so many batches are drawn at once and sorted.
SORTED_BATCHES = 16

# Attention's norm gives values of about 1; beside them embeddings of transformers' own start (0.02) would be lost.
EMBEDDING_STD = 1.0
# What the norms of queries and keys start at: at 1 attention is so even that it is slow to choose.
ATTENTION_GAIN = 1.5


@dataclass(frozen=True)
class Tokens:
    """A document as ids, and as labels: the id itself where it is learned, else `IGNORED`."""

    ids: list[int]
    labels: list[int]


def language_config(sizes: PretrainingSizes) -> PhiConfig:
    """Phi-2's shape at these sizes, without its dropout, of which so small a model has no need.

    It has no pad id, as Phi-2: the embedding of a pad id is never trained, and bos is the same token.
    """
    return PhiConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.feed_forward,
        num_hidden_layers=sizes.language_layers,
        num_attention_heads=sizes.width // sizes.head_width,
        max_position_embeddings=sizes.context,
        initializer_range=sizes.width**-0.5 / 2,
        qk_layernorm=True,
        bos_token_id=END_OF_TEXT_ID,
        eos_token_id=END_OF_TEXT_ID,
        pad_token_id=None,
    )


def train_language_model(
    llm: TinyPhi, tokenizer: PreTrainedTokenizerFast, optimization: Optimization, log: Callable[[str], None]
) -> None:
    """Train `llm` in place on `optimization.steps` batches of documents, each document new.

    The norms that TinyGPT-V adds to Phi-2 (on queries, keys and attention's output) are there from the start and
    learn with the rest, while Phi-2 gets them later, at one.
    """
    torch.manual_seed(optimization.seed)
    batches = _batches(tokenizer, optimization)
    _start_well(llm)
    llm.requires_grad_(True).train()

    def loss() -> Tensor:
        ids_BT, labels_BT = next(batches)
        hidden_BTD = llm.model(input_ids=ids_BT).last_hidden_state
        target_BT = labels_BT[:, 1:] != IGNORED
        logits_XV = llm.lm_head(hidden_BTD[:, :-1][target_BT])
        return functional.cross_entropy(logits_XV, labels_BT[:, 1:][target_BT])

    optimize(llm, loss, optimization, lambda line: log(f"language {line}"))
    llm.requires_grad_(False).eval()


def _start_well(llm: TinyPhi) -> None:
    with torch.no_grad():
        llm.model.embed_tokens.weight.normal_(std=EMBEDDING_STD)
        for name, parameter in llm.named_parameters():
            if name.endswith(("q_layernorm.weight", "k_layernorm.weight")):
                parameter.fill_(ATTENTION_GAIN)


def _batches(tokenizer: PreTrainedTokenizerFast, optimization: Optimization) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches (ids_BT, labels_BT), padded on the right with the end of text, which nothing attends to."""
    random = Random(optimization.seed)
    while True:
        drawn = [document(random) for _ in range(SORTED_BATCHES * optimization.batch)]
        documents = sorted((tokens_of(passages, tokenizer) for passages in drawn), key=lambda tokens: len(tokens.ids))
        starts = list(range(0, len(documents), optimization.batch))
        random.shuffle(starts)
        for start in starts:
            yield _padded(documents[start : start + optimization.batch], END_OF_TEXT_ID)


def tokens_of(passages: Sequence[Passage], tokenizer: PreTrainedTokenizerFast) -> Tokens:
    """Bos, the passages, eos. Passages are tokenized one by one, as questions and answers are later."""
    ids, labels = [END_OF_TEXT_ID], [IGNORED]
    for passage in passages:
        pieces = tokenizer.encode(passage.text, add_special_tokens=False)
        ids += pieces
        labels += pieces if passage.learned else [IGNORED] * len(pieces)
    return Tokens([*ids, END_OF_TEXT_ID], [*labels, END_OF_TEXT_ID])


def _padded(documents: Sequence[Tokens], pad: int) -> tuple[Tensor, Tensor]:
    longest = max(len(tokens.ids) for tokens in documents)
    ids_BT = torch.tensor([tokens.ids + [pad] * (longest - len(tokens.ids)) for tokens in documents])
    labels_BT = torch.tensor([tokens.labels + [IGNORED] * (longest - len(tokens.labels)) for tokens in documents])
    return ids_BT, labels_BT
