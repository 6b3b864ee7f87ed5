"""A byte-level BPE tokenizer in which every word of a scene, and every coordinate, is one token."""

from collections.abc import Iterable, Sequence
from random import Random

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tinygptv_core.pretrain.reading import document
from tinygptv_core.scenes.scene import BACKGROUNDS, COLOURS, PLACES, RADII_PIXELS, SHAPES
from tinygptv_core.scenes.texts import COUNTS

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
# How much oftener than anything else the words of a scene are counted, so that their merges come first.
INSISTENCE = 1_000
# From so many documents of the language model's own, and so many copies of each prompt, the other merges are learned.
SAMPLE_DOCUMENTS = 400
PROMPT_COPIES = 50


def scene_words() -> list[str]:
    """Every word that says something about a scene, and every coordinate, each to be one token."""
    places = {word for place in PLACES for word in place.split()}
    words = {*SHAPES, *COLOURS, *RADII_PIXELS, *BACKGROUNDS, *places, *COUNTS, "yes", "no"}
    return sorted(words)


def train_tokenizer(vocabulary: int, seed: int, prompts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of `vocabulary` tokens; `<|endoftext|>` is its bos, eos and pad, and id 0.

    Args:
        prompts: texts that later stages put around a question. They shape the tokens only, so that a prompt is not
            spelled out letter by letter; no weight is trained on them.

    Raises:
        ValueError: a word of a scene came out as several tokens: the vocabulary is too small.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(END_OF_TEXT, special=True)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed, prompts), trainer)
    for word in [*scene_words(), *map(str, range(101))]:
        for spelled in (word, f" {word}") if not word.isdigit() else (word,):
            if len(pieces := tokenizer.encode(spelled).tokens) > 1:
                raise ValueError(f"{spelled!r} became {pieces} in a vocabulary of {vocabulary}; it must be one token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def _texts(seed: int, prompts: Sequence[str]) -> Iterable[str]:
    random = Random(seed)
    for word in scene_words():
        yield f"{word}\n {word}\n" * INSISTENCE
    for number in range(101):
        yield f"<{number}>" * INSISTENCE
    yield "{<0><1>} " * INSISTENCE
    for _ in range(SAMPLE_DOCUMENTS):
        yield "".join(passage.text for passage in document(random))
    for prompt in prompts:
        yield f"{prompt}\n" * PROMPT_COPIES
