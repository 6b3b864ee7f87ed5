"""What a run can be told of its backbones and data sets: the parts of a preset beside its stages."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tinygptv_core.compute import Precision
from tinygptv_core.plain import IDENTITY_UNLESS_DEFAULT, NOT_IDENTITY, ConfigError, require
from tinygptv_core.sizes import ModelSizes

SCHEMES: Mapping[str, int] = {"http": 80, "https": 443}
"""Those of the URLs that pictures are fetched from, and the port that each has where the URL names none."""
_LANGUAGE = re.compile("[a-z]{2,3}")

SHIPPED = Path(__file__).parent / "backbones"
"""Where the backbones that come with the package lie, a folder for each."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file of published weights, or a folder of them, on the user's disk.

    Attributes:
        path: where it lies. Its content bears on what is made of it, its place does not.
        pins: file name -> the SHA-256 that it must have, in hex; files that are not named here may have any.
    """

    path: str | None = field(metadata=NOT_IDENTITY)
    pins: Mapping[str, str] = field(metadata=NOT_IDENTITY)


@dataclass(frozen=True, kw_only=True)
class BackboneSources:
    """Published weights that backbones are made of.

    Attributes:
        vision: `eva_vit_g.pth`, or the folder of a BLIP-2 of Hugging Face.
        qformer: `blip2_pretrained_flant5xxl.pth`, or that folder again.
        llm: the folder of Phi-2, with its tokenizer.
        sizes: of all parts, which the files have to fit.
        dtype: of the tower and the language model on disk; their norms and the Q-Former are float32.
    """

    vision: Source
    qformer: Source
    llm: Source
    sizes: ModelSizes
    dtype: Precision


@dataclass(frozen=True, kw_only=True)
class BackboneSettings:
    """The frozen parts: those that come with the package, or made from a user's own files.

    Attributes:
        name: without `sources`, a folder of `SHIPPED`.
        digest: what must come out; None takes what there is.
    """

    name: str
    digest: str | None
    sources: BackboneSources | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)


SCENES_HOST = "scenes.invalid"
"""A name that no server on the web can have (RFC 2606); a run maps it to its own loopback server."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """How many scenes are drawn, and with which seed (`tinygptv_core/scenes`)."""

    seed: int
    pretraining_pictures: int
    instruction_pictures: int
    held_out_pictures: int

    def __post_init__(self) -> None:
        for name in ("pretraining_pictures", "instruction_pictures", "held_out_pictures"):
            require(getattr(self, name), name, at_least=1)

    @property
    def listed(self) -> Mapping[str, int]:
        """How many of the pictures of pre-training are on each list."""
        fewer = self.pretraining_pictures // 5
        return {"scenes_web": self.pretraining_pictures - fewer, "scenes_alt": fewer}


def check_host(host: str, where: str) -> None:
    """Refuse what is no host, and so would be that of no URL; `where` says who names it.

    Raises:
        ConfigError: there is more than the host, such as a port, or nothing.
    """
    has_port = host.count(":") == 1 or "]:" in host
    if not host or has_port or set(host) & set("/*@ "):
        raise ConfigError(f"{where} {host!r}: give the host alone, as in 192.168.0.7 or pictures.lan")


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What a row must be before anything is fetched for it.

    Attributes:
        min_words, max_words: of what the model is to say in it, all turns together.
        unique_urls: of equal URLs the first row that passes everything else stays.
        hosts: only these, and the hosts below them; empty for any.
        not_hosts: none of these, nor of the hosts below them.
        min_characters, max_characters: as for words; None for any number.
        min_side, max_aspect: of the picture, where the list says its size, in pixels; aspect = longer / shorter.
        languages: what is said is in one of these (ISO 639-1: "en"); empty for any. A statistical guess, which is often
            wrong for fewer than five words, and slow.
        unique_captions: the same as `unique_urls`, of what is said.
    """

    schemes: tuple[str, ...]
    min_words: int
    max_words: int
    unique_urls: bool
    hosts: tuple[str, ...] = field(default=(), metadata=IDENTITY_UNLESS_DEFAULT)
    not_hosts: tuple[str, ...] = field(default=(), metadata=IDENTITY_UNLESS_DEFAULT)
    min_characters: int = field(default=0, metadata=IDENTITY_UNLESS_DEFAULT)
    max_characters: int | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)
    min_side: int = field(default=1, metadata=IDENTITY_UNLESS_DEFAULT)
    max_aspect: float | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)
    languages: tuple[str, ...] = field(default=(), metadata=IDENTITY_UNLESS_DEFAULT)
    unique_captions: bool = field(default=False, metadata=IDENTITY_UNLESS_DEFAULT)

    def __post_init__(self) -> None:
        require(self.min_words, "min_words", at_least=0)
        require(self.max_words, "max_words", at_least=self.min_words)
        require(self.min_characters, "min_characters", at_least=0)
        require(self.min_side, "min_side", at_least=1)
        if self.max_characters is not None:
            require(self.max_characters, "max_characters", at_least=self.min_characters)
        if self.max_aspect is not None:
            require(self.max_aspect, "max_aspect", at_least=1)
        self._check_words()

    def _check_words(self) -> None:
        """Whether hosts, schemes and languages are some: a misspelled one would be that of no row.

        Raises:
            ConfigError: one is none.
        """
        for name in ("hosts", "not_hosts"):
            for host in getattr(self, name):
                check_host(host, name)
        for scheme in self.schemes:
            if scheme not in SCHEMES:
                raise ConfigError(f"schemes has {scheme!r}; pictures are fetched by {' and '.join(SCHEMES)}")
        for language in self.languages:
            if not _LANGUAGE.fullmatch(language):
                raise ConfigError(f'languages has {language!r}; a language has its code of ISO 639, as in "en"')


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """How pictures are got, and how many.

    Attributes:
        image_size: side of the stored square in pixels; None keeps each picture as it came.
        resize_mode: as in img2dataset: "border" keeps the ratio and pads with white.
        timeout_seconds: the most without an answer; `total_seconds`: the most for a picture with its redirects.
        segment_rows: a list is fetched by segments of at most so many rows, and of at least half as many.
        seed: of the order in which a list's rows are taken.
        wanted: so many pictures; None: as many as the stages draw.
        per_host: the most requests to one host at a time, of all processes together, a Ray cluster's too.
        min_success: a fetch stops when a smaller share of the last rows gave a picture (0..1; 0: never).
    """

    image_size: int | None
    resize_mode: Literal["border", "keep_ratio", "center_crop"]
    timeout_seconds: int
    total_seconds: int
    max_bytes: int
    samples_per_shard: int
    segment_rows: int = field(default=10_000, metadata=IDENTITY_UNLESS_DEFAULT)
    seed: int = field(default=0, metadata=IDENTITY_UNLESS_DEFAULT)
    wanted: int | None = field(default=None, metadata=NOT_IDENTITY)  # what comes of it is in the step's own request
    per_host: int = field(default=16, metadata=NOT_IDENTITY)
    min_success: float = field(default=0.01, metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        positive = ("timeout_seconds", "total_seconds", "max_bytes", "samples_per_shard", "segment_rows", "per_host")
        for name in positive:
            require(getattr(self, name), name, at_least=1)
        for name in ("image_size", "wanted"):
            if getattr(self, name) is not None:
                require(getattr(self, name), name, at_least=1)
        if not 0 <= self.min_success < 1:
            raise ConfigError(f"min_success is {self.min_success}; it must lie in 0..1, 1 excluded")


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A user's own function that gives each picture, with what is said of it, a number (docs/adding.md).

    Attributes:
        file: the Python file that has it. Its bytes bear on the scores, its place does not.
        name: the function's name in it.
        version: what else the scores depend on, such as the weights that the function loads.
        at_least, at_most: the scores that a sample stays with; None does not bound them.
        batch: how many samples the function is given at once.
    """

    file: str = field(metadata=NOT_IDENTITY)
    name: str
    version: str = ""
    at_least: float | None = None
    at_most: float | None = None
    batch: int = field(default=64, metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        require(self.batch, "batch", at_least=1)
        if not self.name.isidentifier():
            raise ConfigError(f"name is {self.name!r}; it must be that of a function in {self.file}")
        if self.at_least is None and self.at_most is None:
            raise ConfigError(f"neither at_least nor at_most of {self.name} is set, so it would drop nothing")


MAX_HASH_BITS = 10
"""Of the 64 bits of a perceptual hash so many may differ at most: beyond it, pictures that differ begin to match."""


@dataclass(frozen=True, kw_only=True)
class Screen:
    """What a fetched picture must be. Sides in pixels of the original; aspect = longer / shorter.

    Attributes:
        near_duplicate_bits: a picture goes whose perceptual hash differs in at most so many of its 64 bits from that
            of one that stays: an earlier one, or one of an earlier data set with this rule. None: no such rule.
        evaluation_bits: the same for the pictures that an evaluation of the preset asks about. The data sets of the
            evaluations themselves are not held against them. None: no such rule.
        removal_bits: the same for the hashes of the removal lists; without such lists it does nothing.
        scorers: functions of the user's, whose scores must be within their bounds.
    """

    min_side: int
    max_aspect: float
    unique_bytes: bool
    near_duplicate_bits: int | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)
    evaluation_bits: int | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)
    removal_bits: int = field(default=4, metadata=IDENTITY_UNLESS_DEFAULT)
    scorers: tuple[Scorer, ...] = field(default=(), metadata=IDENTITY_UNLESS_DEFAULT)

    def __post_init__(self) -> None:
        require(self.min_side, "min_side", at_least=1)
        require(self.max_aspect, "max_aspect", at_least=1)
        for name in ("near_duplicate_bits", "evaluation_bits", "removal_bits"):
            bits = getattr(self, name)
            if bits is not None and not 0 <= bits <= MAX_HASH_BITS:
                raise ConfigError(f"{name} is {bits}; it must lie in 0..{MAX_HASH_BITS} (of 64 bits)")
        names = [scorer.name for scorer in self.scorers]
        if len(set(names)) < len(names):
            raise ConfigError(f"scorers are {', '.join(names)}; no two may have one name")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The settings of one data set; its form is in `data_recipes/<name>.py`.

    Attributes:
        cached_vision: whether its pictures' vision tokens are kept, which is worth the disk where pictures are read
            more than once; `auto` where that is known of the preset (`flows/vision_cache.py`).
    """

    filter: Filter
    fetch: Fetch
    screen: Screen
    cached_vision: Literal["auto", "on", "off"] = field(default="auto", metadata=NOT_IDENTITY)
