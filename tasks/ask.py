"""One question about one picture, for a person: the model by its name in the registry, or by its folder."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from tasks.build import Store
from tasks.registering.registry import BACKBONES_TAG, Version, find
from tasks.sealed import MANIFEST
from tasks.storing.lineage import of_digest
from tasks.storing.records import Record, Records
from tinygptv_core.artifact import sha256_of_file
from tinygptv_core.plain import ConfigError, plain

if TYPE_CHECKING:
    from tinygptv_core.answer import ModelCard, Trained
    from tinygptv_core.answering.decoding import Decoding
    from tinygptv_core.quantize import Bits

SEED = 0
"""Of drawn answers, unless another is named: the same question gets the same answer again."""
COLDEST = 0.01
"""Below this temperature what is drawn is all but always the likeliest."""
CHECKPOINT_ANSWER_TOKENS = 64
"""Where the answer of a bare checkpoint is cut; a registered model says that itself."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Where a model lies: its folder, and where its backbones may be."""

    folder: Path
    backbones: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """How an answer is chosen: by the likeliest token each time, unless something is said here.

    Attributes:
        most_tokens: where an answer is cut; None where the model says.
        beams: how many answers are followed side by side, of which the likeliest is given.
        repetition_penalty: above 1 what was said already is less likely, below 1 more.
        temperature: tokens are drawn, from their scores divided by this; None for 1, or where nothing is drawn.
        top_p: tokens are drawn, among the likeliest that together reach this; None for 1, or where nothing is drawn.
        seed: of what is drawn; None is `SEED`.
    """

    most_tokens: int | None = None
    beams: int = 1
    repetition_penalty: float = 1.0
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.most_tokens is not None and self.most_tokens < 1:
            raise ConfigError(f"--most-tokens {self.most_tokens}: an answer has at least 1 token")
        if self.beams < 1:
            raise ConfigError(f"--beams {self.beams}: at least 1 answer is followed")
        if not 0 < self.repetition_penalty < inf:
            raise ConfigError(f"--repetition-penalty {self.repetition_penalty}: it must be above 0; 1 is none")
        if self.temperature is not None and not COLDEST <= self.temperature < inf:
            raise ConfigError(
                f"--temperature {self.temperature}: it must be at least {COLDEST}.\n"
                "  for the likeliest answer leave out --temperature and --top-p"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"--top-p {self.top_p}: it must be above 0 and at most 1")
        if self.is_drawn and self.beams > 1:
            raise ConfigError(f"--beams {self.beams} looks for the likeliest answer: no --temperature or --top-p")
        if self.seed is not None and not self.is_drawn:
            raise ConfigError(f"--seed {self.seed}: nothing is drawn without --temperature or --top-p")

    @property
    def is_drawn(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature is not None or self.top_p is not None

    def of(self, usual: "Decoding") -> "Decoding":
        """`usual`, changed as this says."""
        from tinygptv_core.answering.decoding import Sampling

        temperature, top_p = (1.0 if value is None else value for value in (self.temperature, self.top_p))
        seed = SEED if self.seed is None else self.seed
        return replace(
            usual,
            max_new_tokens=self.most_tokens or usual.max_new_tokens,
            beams=self.beams,
            repetition_penalty=self.repetition_penalty,
            sampling=Sampling(temperature=temperature, top_p=top_p, seed=seed) if self.is_drawn else None,
        )


USUAL = DecodingOptions()


def ask(
    model: str,
    image: Path,
    question: str,
    tracking_uri: str,
    low_resource: "Bits | None" = None,
    decoding_options: DecodingOptions = USUAL,
) -> str:
    """The model's answer, computed on the CPU in the precision in which it was trained.

    Args:
        model: `models:/NAME@ALIAS`, `NAME@ALIAS`, `NAME/NUMBER`, or the folder of a model or checkpoint. A
            checkpoint's questions are asked as they stand, without an evaluation's words around them.
        low_resource: the bits of the large weights (`tinygptv_core/quantize.py`); None leaves them as they are.
        decoding_options: how the answer is chosen.

    Raises:
        ConfigError: there is no such model, the picture is missing or broken, the question is empty, or what
            `low_resource` needs is not installed.
    """
    if not question.strip():
        raise ConfigError("the question is empty; ask something, as in tinygptv ask MODEL IMAGE 'what is this?'")
    picture = _picture(image)
    return loaded(model, tracking_uri, low_resource)(picture, question, decoding_options)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model in memory, which can be asked."""

    trained: "Trained"
    card: "ModelCard"

    def __call__(self, picture: bytes, question: str, decoding_options: DecodingOptions = USUAL) -> str:
        """The answer to a question about an encoded picture."""
        from tinygptv_core.answer import as_served, ask_each

        decoding = decoding_options.of(as_served(self.trained, self.card))
        return ask_each(self.trained, self.card, [(picture, question)], decoding)[0]


def loaded(model: str, tracking_uri: str, low_resource: "Bits | None" = None) -> Loaded:
    """The model that `ask` would ask, on the CPU.

    Raises:
        ConfigError: as `ask`.
    """
    with model_files(model, tracking_uri) as files:
        from tinygptv_core.answer import load_served

        card = card_of(files.folder)
        return Loaded(trained=load_served(files.folder, card, files.backbones, "cpu", low_resource), card=card)


def _picture(image: Path) -> bytes:
    try:
        if not image.is_file():
            what = "a folder, not a picture" if image.is_dir() else "missing"
            raise ConfigError(f"the picture {image} is {what}; give the path of a picture's file")
        data = image.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the picture {image} cannot be read ({error.strerror}); let this user read it, or name a copy"
        ) from None
    from tinygptv_core.image import decode

    try:
        decode(data)
    except ValueError as error:
        raise ConfigError(f"{image}: {error}") from error
    return data


@contextmanager
def model_files(model: str, tracking_uri: str) -> Iterator[ModelFiles]:
    """The model's files, for as long as they are needed: those of a server are fetched into a temporary folder."""
    folder = Path(model)
    if folder.is_dir():
        yield _in_store(folder.resolve())
        return
    version = find(tracking_uri, model)
    location = urlsplit(version.location)
    if location.scheme in ("", "file"):
        yield _find_files(_logged(Path(unquote(location.path)), version), version)
        return
    with tempfile.TemporaryDirectory() as fetched:
        yield _find_files(_fetch(version, tracking_uri, Path(fetched)), version)


def _find_files(folder: Path, version: Version) -> ModelFiles:
    """The model's folder among a version's files; its backbones may be there too."""
    bundled = [path.parent for path in folder.parent.glob("*/backbones.json")]
    lay = [Path(version.tags[BACKBONES_TAG])] if BACKBONES_TAG in version.tags else []
    return ModelFiles(folder=folder, backbones=(*bundled, *lay))


def _logged(folder: Path, version: Version) -> Path:
    """The model's folder among what MLflow keeps of a version."""
    cards = sorted(folder.glob("artifacts/*/model.json"))
    if not cards:
        raise ConfigError(
            f"{version.name}/{version.version} is registered, but {folder} does not hold its files. If they were "
            "moved, put them back; else tinygptv run makes a new version"
        )
    return cards[0].parent


def _fetch(version: Version, tracking_uri: str, into: Path) -> Path:
    from tasks.register import mlflow_at

    with mlflow_at(tracking_uri) as mlflow:
        mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{version.name}/{version.version}",
            dst_path=str(into),
            tracking_uri=tracking_uri,
            registry_uri=tracking_uri,
        )
    return _logged(into, version)


def in_store(model: str, store: Store) -> str:
    """`model` as it is, or the folder in `store` of the digest that it is the beginning of.

    Raises:
        ConfigError: it may be such a beginning, but of no checkpoint or model there, or of several.
    """
    found = None if Path(model).is_dir() else of_digest(model, store)
    return str(found.path) if found else model


def _in_store(folder: Path) -> ModelFiles:
    """The backbones of a folder of the store lie in the same store, under their digest."""
    if (folder / "model.json").exists():
        from tinygptv_core.answer import read_card

        digest = read_card(folder).backbones_digest
    elif (folder / "stage.json").exists():
        digest = origin_of(folder).backbones
    else:
        raise ConfigError(f"{folder} holds neither a model nor a checkpoint: there is no model.json or stage.json")
    return ModelFiles(folder=folder, backbones=(_store_of(folder).sealed.at("backbones", digest).path,))


def card_of(folder: Path) -> "ModelCard":
    """The card of a model's folder, or of a checkpoint's in a store.

    Raises:
        ConfigError: it is a checkpoint, and its store does not say on which backbones it was trained.
    """
    from tinygptv_core.answer import read_card

    return read_card(folder) if (folder / "model.json").exists() else _bare_card(folder)


def _bare_card(folder: Path) -> "ModelCard":
    from tinygptv_core.answer import ModelCard

    origin = origin_of(folder)
    return ModelCard(
        backbones="",
        backbones_digest=origin.backbones,
        checkpoint_digest=sha256_of_file(folder / MANIFEST),
        prompt="{}",
        max_new_tokens=CHECKPOINT_ANSWER_TOKENS,
        precision=origin.stage["precision"],
    )


def _store_of(folder: Path) -> Store:
    return Store(folder.parent.parent)


@dataclass(frozen=True, kw_only=True)
class CheckpointOrigin:
    """What a store knows of a checkpoint.

    Attributes:
        backbones: the digest of those on which it was trained.
        stage: as JSON. Of an import, whose files say how it is asked and no more, the rest is one of nano's.
    """

    backbones: str
    stage: Mapping[str, Any]


def origin_of(checkpoint: Path) -> CheckpointOrigin:
    """What its store has noted of a checkpoint: of its training, or of the import of the model that it belongs to.

    Raises:
        ConfigError: nothing, or it is in no store.
    """
    if (checkpoint / MANIFEST).is_file():
        digest, store = sha256_of_file(checkpoint / MANIFEST), _store_of(checkpoint)
        records = Records(store)
        for record in records.of_step("train"):
            if digest in record.digests:
                return CheckpointOrigin(backbones=str(record.inputs["backbones"]), stage=record.config["stage"])
        for record in records.of_step("restore_checkpoint"):
            if digest in record.digests and (backbones := _restored_beside(record, records)):
                return CheckpointOrigin(
                    backbones=backbones, stage=_stage_of(checkpoint, store.sealed.find("backbones", backbones).path)
                )
    raise ConfigError(
        f"{checkpoint} is a checkpoint, but no store around it says on which backbones it was trained. Ask one that a "
        "run has trained, or a registered model: tinygptv ask NAME@ALIAS IMAGE QUESTION\n"
        "  an export is brought in with tinygptv weights import model FOLDER; a checkpoint that was imported is "
        "evaluated and registered by tinygptv run --init STAGE=DIGEST"
    )


def _restored_beside(restored: Record, records: Records) -> str | None:
    """The digest of the backbones that were restored from the same files."""
    beside = (record.digest for record in records.of_step("restore_backbones") if record.inputs == restored.inputs)
    return next(beside, None)


def _stage_of(checkpoint: Path, backbones: Path) -> dict[str, Any]:
    """A stage that asks as the checkpoint is to be asked, in the precision that its language model is kept in."""
    from tinygptv_core.checkpoint import read_form
    from tinygptv_core.presets import NANO
    from tinygptv_core.tensor_files.weight_files import open_weights

    kept = {stored.dtype for stored in open_weights(backbones / "llm" / "model.safetensors").values()}
    precision = str(min(kept, key=lambda dtype: dtype.itemsize)).removeprefix("torch.")
    return {**plain(NANO.stages[-1]), **plain(read_form(checkpoint)), "precision": precision}
