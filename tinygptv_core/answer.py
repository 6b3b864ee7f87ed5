"""A trained model answers questions about pictures: one way of asking, for evaluations and for people.

Also the folder that a registered model is served from: `model.json`, `stage.json` and `trainable.safetensors`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tinygptv_core import prompt
from tinygptv_core.answering.decoding import Decoding, greedy
from tinygptv_core.answering.rank import Ranking, rank
from tinygptv_core.artifact import digest_of, members_of
from tinygptv_core.checkpoint import read_checkpoint
from tinygptv_core.checkpoint_form import CheckpointForm, form_of
from tinygptv_core.compute import Precision, Progress
from tinygptv_core.features import PICTURES_AT_ONCE, EncodingSettings, Features, encode_pictures
from tinygptv_core.generate import generate
from tinygptv_core.model import TinyGPTV
from tinygptv_core.plain import ConfigError, from_plain
from tinygptv_core.precision import autocast, dtype_of
from tinygptv_core.quantize import Bits, lowering
from tinygptv_core.settings import SHIPPED
from tinygptv_core.stage import Stage
from tinygptv_core.trainable import load_trainable
from tinygptv_core.weights import load_backbones, narrowing

# Shape letters of this file: P distinct pictures, B batch, Q image tokens, D width of the LLM, H = W side in pixels.

# Fixed, and not an option: the last bits of a sum depend on the shape of a batch.
QUESTIONS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model in eval mode, its tokenizer, and what its checkpoint says of how it is asked."""

    model: TinyGPTV
    tokenizer: prompt.Tokenizer
    form: CheckpointForm
    precision: Precision


@dataclass(frozen=True, kw_only=True)
class PictureQuestion:
    """One question, the words around it (`{}` in its place), and the position of the picture it is about."""

    text: str
    prompt: str
    picture: int


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """`model.json`: what a served model is made of.

    Attributes:
        backbones: their name; those shipped with the package lie in its folder of that name.
        backbones_digest, checkpoint_digest: of those artifacts.
        prompt: the words around a person's question, `{}` in its place.
        max_new_tokens: where an answer is cut.
        precision: what it was trained and scored in.
    """

    backbones: str
    backbones_digest: str
    checkpoint_digest: str
    prompt: str
    max_new_tokens: int
    precision: Precision


def load_fresh(backbones: Path, stage: Stage, device: str) -> Trained:
    """The model that `stage` starts from when no stage was before it: with fresh projections."""
    parts = load_backbones(backbones, dtype_of(stage.precision))
    parts.llm.leave_out(stage.without)
    model = TinyGPTV.from_backbones(parts, stage.lora, stage.seed)
    return _trained(model, parts.tokenizer, form_of(stage), stage.precision, device)


def load_trained(
    backbones: Path, checkpoint: Path, precision: Precision, device: str, bits: Bits | None = None
) -> Trained:
    """The model of a checkpoint.

    Args:
        bits: of the large weights (`quantize.py`), each of which is quantized as soon as it is read; None leaves them.

    Raises:
        ConfigError: there is no checkpoint in that folder, or it is damaged.
        ValueError: it was made with other backbones or adapters; says which tensors differ.
    """
    found = read_checkpoint(checkpoint)
    parts = load_backbones(backbones, dtype_of(precision), lowering(bits, device) if bits else None)
    parts.llm.leave_out(found.form.without)
    model = TinyGPTV.from_backbones(parts, found.form.lora, seed=0)  # all that is drawn is loaded over
    load_trainable(model, found.tensors, new_lora=False)
    return _trained(model, parts.tokenizer, found.form, precision, device)


def _trained(
    model: TinyGPTV, tokenizer: prompt.Tokenizer, form: CheckpointForm, precision: Precision, device: str
) -> Trained:
    narrow_linears(model, dtype_of(precision))
    return Trained(model=model.to(device).eval(), tokenizer=tokenizer, form=form, precision=precision)


def narrow_linears(model: TinyGPTV, dtype: torch.dtype) -> None:
    """Bring those that were trained, in float32, to what autocast would bring them to each time."""
    narrow = narrowing(dtype)
    for name, linear in model.named_modules():
        if type(linear) is nn.Linear:
            narrow(name, linear)


def picture_tokens(trained: Trained, pictures: Sequence[bytes], features: Features | None = None) -> Tensor:
    """The pictures (encoded files) as the language model sees them: image_PQD.

    Args:
        features: the kept vision tokens of all of them, where there are some.

    Raises:
        ValueError: one of them is no picture which can be read.
    """
    device = next(trained.model.parameters()).device
    settings = EncodingSettings(image_size=trained.form.image_size, precision=trained.precision)
    seen: list[Tensor] = []
    with torch.inference_mode(), autocast(trained.precision, device):
        for start in range(0, len(pictures), PICTURES_AT_ONCE):
            chunk = pictures[start : start + PICTURES_AT_ONCE]
            queries_BQE = features.of(chunk).to(device) if features else encode_pictures(trained.model, chunk, settings)
            seen.append(trained.model.project(queries_BQE))
    return torch.cat(seen)


def answer(
    trained: Trained, asked: Sequence[PictureQuestion], image_PQD: Tensor, decoding: Decoding, progress: Progress
) -> list[str]:
    """The model's answers in the order of `asked`. The same question is answered once."""
    distinct = dict.fromkeys(asked)
    encoded = {question: _encode(trained, question) for question in distinct}
    # Like with like, so that little is padding and a batch's answers end at about the same time.
    order = sorted(distinct, key=lambda question: (len(encoded[question].ids), question.text, question.picture))
    answers: dict[PictureQuestion, str] = {}
    for start in range(0, len(order), QUESTIONS_AT_ONCE):
        batch = order[start : start + QUESTIONS_AT_ONCE]
        texts = _answer_batch(trained, [(question, encoded[question]) for question in batch], image_PQD, decoding)
        answers |= zip(batch, texts, strict=True)
        progress(len(answers), len(order), "questions answered")
    return [answers[question] for question in asked]


def ranked(
    trained: Trained,
    asked: Sequence[PictureQuestion],
    choices: Sequence[Sequence[str]],
    image_PQD: Tensor,
    progress: Progress,
) -> list[Ranking]:
    """How likely the model finds each question's choices, in the order of `asked`."""
    found: list[Ranking] = []
    for start in range(0, len(asked), QUESTIONS_AT_ONCE):
        questions = asked[start : start + QUESTIONS_AT_ONCE]
        encoded = [
            [_encode_choice(trained, question, choice) for choice in of_one]
            for question, of_one in zip(questions, choices[start : start + QUESTIONS_AT_ONCE], strict=True)
        ]
        device = image_PQD.device
        image_BQD = image_PQD[torch.tensor([question.picture for question in questions], device=device)]
        with torch.inference_mode(), autocast(trained.precision, device):
            found += rank(trained.model, encoded, image_BQD, pad_id=trained.tokenizer.pad_token_id)
        progress(len(found), len(asked), "questions answered")
    return found


def _encode_choice(trained: Trained, asked: PictureQuestion, choice: str) -> prompt.Encoded:
    text = prompt.question(asked.text, asked.prompt, trained.form.asks, has_image=True)
    return prompt.encode_choice(trained.tokenizer, text, choice, end_symbol=trained.form.end_symbol, has_image=True)


def _encode(trained: Trained, asked: PictureQuestion) -> prompt.Encoded:
    text = prompt.question(asked.text, asked.prompt, trained.form.asks, has_image=True)
    return prompt.encode_question(trained.tokenizer, text, has_image=True, dialect=trained.form.dialect)


def _answer_batch(
    trained: Trained, batch: Sequence[tuple[PictureQuestion, prompt.Encoded]], image_PQD: Tensor, decoding: Decoding
) -> list[str]:
    device = image_PQD.device
    collated = prompt.collate(
        [encoded for _, encoded in batch],
        torch.zeros(len(batch), 3, 0, 0),  # the pictures come as `image_BQD`
        keys=["" for _ in batch],
        pad_id=trained.tokenizer.pad_token_id,
        side="left",
    ).to(device)
    image_BQD = image_PQD[torch.tensor([question.picture for question, _ in batch], device=device)]
    with torch.inference_mode(), autocast(trained.precision, device):
        texts = generate(
            trained.model,
            collated,
            tokenizer=trained.tokenizer,
            decoding=decoding,
            image_BQD=image_BQD,
        )
    return [text.strip() for text in texts]


def read_card(folder: Path) -> ModelCard:
    """What `model.json` of a model's folder says.

    Raises:
        ConfigError: it is no JSON, or not that of a model.
    """
    try:
        told = json.loads((folder / "model.json").read_text())
    except ValueError as error:
        raise ConfigError(f"{folder / 'model.json'} is no JSON: {error}") from None
    return from_plain(ModelCard, told, "model.json")


def load_served(
    folder: Path, card: ModelCard, places: Sequence[Path], device: str, bits: Bits | None = None
) -> Trained:
    """The model in `folder`, on the backbones that its card names, wherever they lie.

    Args:
        places: folders in which the backbones may lie, besides the copy shipped with the package.
        bits: as for `load_trained`.

    Raises:
        ConfigError: they are in none of the places; says what lay there instead.
    """
    backbones = find_backbones(card.backbones, card.backbones_digest, places)
    return load_trained(backbones, folder, card.precision, device, bits)


def ask_each(
    trained: Trained, card: ModelCard, asked: Sequence[tuple[bytes, str]], decoding: Decoding | None = None
) -> list[str]:
    """The answers to (picture, question) pairs; a picture is an encoded file, looked at once for all its questions.

    A question that begins with a task word in brackets, such as [caption], is asked as it stands.

    Args:
        decoding: None is `as_served`.
    """
    if not asked:
        return []
    positions = {picture: position for position, picture in enumerate(dict.fromkeys(picture for picture, _ in asked))}
    questions = [
        PictureQuestion(
            text=question, prompt="{}" if question.startswith("[") else card.prompt, picture=positions[picture]
        )
        for picture, question in asked
    ]
    image_PQD = picture_tokens(trained, list(positions))
    return answer(trained, questions, image_PQD, decoding or as_served(trained, card), lambda done, total, what: None)


def as_served(trained: Trained, card: ModelCard) -> Decoding:
    """The likeliest token each time, until the stage's end symbol or as long as the card says."""
    return greedy(card.max_new_tokens, stop=trained.form.end_symbol)


def find_backbones(name: str, digest: str, places: Sequence[Path]) -> Path:
    """The folder that holds exactly the backbones with that digest; every file is hashed.

    Raises:
        ConfigError: none of the places does; says where it looked and what was there.
    """
    found: dict[Path, str] = {}
    for place in dict.fromkeys([*places, SHIPPED / name]):
        if not place.is_dir():
            found[place] = "no such folder"
            continue
        there = digest_of(tuple(member for member in members_of(place) if member.path != "manifest.json"))
        if there == digest:
            return place
        found[place] = f"holds {there[:12]}"
    looked = "\n".join(f"  looked in  {place}: {what}" for place, what in found.items())
    raise ConfigError(
        f"the backbones {name} ({digest[:12]}) are missing, and the model cannot answer without them.\n{looked}\n"
        "  to have them again  tinygptv run, in the home that they come from"
    )
