"""The types in which `data_recipes/` describes a data set: where rows come from and what they say.

A recipe states facts about a data set and holds no settings: limits, sizes and weights are in the
preset, so that they can be changed without touching the data set.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tinygptv_core.plain import IDENTITY_UNLESS_DEFAULT, NOT_IDENTITY, ConfigError

Row = Mapping[str, object]
"""One record of a list or an annotation file, as its JSON has it."""


@dataclass(frozen=True)
class Turn:
    """One utterance of a sample: what the user asks, what the model is to answer, or a choice that it is given.

    Attributes:
        also: other texts in its place, as several people gave them. Training draws one of all of them, each with
            the same chance, whenever it sees the sample; so a text that is there twice is drawn twice as often.
            An evaluation takes all of them for its references.
    """

    role: Literal["user", "assistant", "choice"]
    text: str
    also: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text that it may have."""
        return (self.text, *self.also)


ROLES = ("user", "assistant", "choice")


def check_turns(turns: object) -> None:
    """Whether `turns` are what a sample may say: questions and answers in turn, and before an answer its choices.

    An answer says something. A caption alone may be empty: how short one may be is the filter's business.

    Raises:
        TypeError, ValueError: they are not.
    """
    if not isinstance(turns, Sequence) or not all(isinstance(turn, Turn) for turn in turns):
        raise TypeError(f"turns are {turns!r:.80}; they must be a tuple of Turn")
    for turn in turns:
        if turn.role not in ROLES:
            raise ValueError(f"a turn has the role {turn.role!r}; there are {', '.join(ROLES)}")
        if not isinstance(turn.also, tuple) or not all(isinstance(text, str) for text in turn.texts):
            raise TypeError(f"{turn!s:.100} says something that is no text")
    check_alternation([turn.role for turn in turns if turn.role != "choice"])
    is_caption = len(turns) == 1
    if not is_caption and any(turn.role == "assistant" and not any(map(str.strip, turn.texts)) for turn in turns):
        raise ValueError("an answer is empty")


def check_place(prompt: str, text: str) -> None:
    """Whether `prompt` has a place, `{}`, for `text`, which a caption has none of.

    Raises:
        ConfigError: it has not.
    """
    if text and "{}" not in prompt:
        raise ConfigError(f"the prompt {prompt!r} has no {{}}, where {text!r:.80} is to stand")


def check_alternation(roles: Sequence[str]) -> None:
    """Whether these speakers ask and answer in turn; a first answer without a question is asked for by a prompt.

    Raises:
        ValueError: they do not, or nothing is said.
    """
    first = int(roles[:1] == ["assistant"])
    if roles[first:] != ["user", "assistant"] * (len(roles[first:]) // 2) or not roles:
        raise ValueError(f"turns are {', '.join(roles) or 'none'}; questions and answers must alternate")


class UnfitError(ValueError):
    """A record that is well formed and yet no sample of the data set; it is dropped and counted as `reason`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that a user puts below the folder of `--data`.

    Attributes:
        path: where, below that folder.
        url: the file itself where `direct`; else the page that says how it is got, or that in words, where it has none.
        note: what has to be done beside, in words.
        megabytes: about what it weighs; None where that is not known.
        sha256: in hex, where it is known; it is checked.
    """

    path: str
    url: str
    direct: bool
    note: str = ""
    megabytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """Pictures that lie together, and that several data sets may be about; kept once, not once for each.

    Attributes:
        name: how steps name it.
        folder: where they lie, below the folder of `--data`.
        archive: a zip or tar that may lie there instead; it is read as it is. None: there is no such archive.
        inside: the folder inside the archive that has them.
        pictures: how many there should be, about; None where that is not known.
    """

    name: str
    folder: str
    archive: Download | None
    inside: str = ""
    pictures: int | None = None


@dataclass(frozen=True, kw_only=True)
class Join:
    """Another file's records beside those of the source.

    Attributes:
        file: where it lies, below the folder of `--data`; one of the recipe's `files`.
        at: as in `AnnotationLayout`.
        on, by: partners have the same value in the record's column `on` and the other's `by`; `by` None: the file
            lists such values alone.
        column: under which the partner stands in the record.
        missing: the reason of the drop where a record has no partner.
    """

    file: str
    at: str | None = None
    on: str
    by: str | None
    column: str
    missing: str = "no_partner"


def _check_group(name: str, value: object, kind: type) -> None:
    """Whether a field is a tuple of `kind`: one that stands in brackets without a comma is none.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
        raise ConfigError(f"{name} is {value!r:.60}; it must be a tuple, each a {kind.__name__}, as in (ONE,)")


@dataclass(frozen=True, kw_only=True)
class AnnotationLayout:
    """Where the records are inside an annotation file, which is a list of them unless it says otherwise.

    Attributes:
        at: the column of the file's one object that holds them.
        keyed: they are the values of an object; a record's name there becomes its column `key`.
        joins: what stands beside them in other files.
    """

    at: str | None = None
    keyed: bool = False
    joins: tuple[Join, ...] = ()

    def __post_init__(self) -> None:
        _check_group("joins", self.joins, Join)

    @property
    def is_list(self) -> bool:
        """Whether the file can be read a record at a time."""
        return self.at is None and not self.keyed


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One data set.

    Attributes:
        version: raised when `turns` or another function of the recipe changes what it returns.
        source: the list or annotation file, below the folder that the preset's source gives, or that of `--data`.
        picture: the record's column with the picture's URL (`how="url"`), with its path below the
            source's `images/` or in its picture sets (`how="file"`); None for text without pictures.
        turns: record -> what is said (`check_turns`). Raises LookupError, AttributeError, TypeError or ValueError for
            a record that does not have the data set's form, UnfitError for one that is left out on purpose; either is
            a counted drop.
        prompts: the user's words around the text of a first user turn, `{}` in its place. One is
            drawn per sample while training; they are applied by the loader, so changing them
            rebuilds no shard.
        split, group: columns that name a sample's split and its question type, for evaluations.
        size: columns with the picture's width and height in pixels, where a record says them.
        expected_rows: about how many samples its files make, the drops among them; much fewer are told.
        files: what a user has to get, the source first; none where the project draws it or a user names it.
        layout: where the records are in these files.
        picture_sets: where its pictures are, in the order in which they are looked for.
        picture_name: record -> the picture's path, where no column has it as it is. Raises as `turns` does.
        samples: record -> a record for each of its samples, where one is several. Raises as `turns` does.
        expected_success: which share of its links may still answer (0..1).
        picture_bytes: what a picture takes on disk as it is stored, on average.
    """

    version: int
    source: str
    how: Literal["url", "file"]
    licence: str
    citation: str
    picture: str | None
    turns: Callable[[Row], tuple[Turn, ...]] = field(metadata=NOT_IDENTITY)
    prompts: tuple[str, ...] = field(default=("{}",), metadata=NOT_IDENTITY)
    split: str | None = None
    group: str | None = None
    expected_rows: int | None = None
    size: tuple[str, str] | None = field(default=None, metadata=IDENTITY_UNLESS_DEFAULT)
    files: tuple[Download, ...] = field(default=(), metadata=NOT_IDENTITY)
    layout: AnnotationLayout = field(default=AnnotationLayout(), metadata=IDENTITY_UNLESS_DEFAULT)
    picture_sets: tuple[PictureSet, ...] = field(default=(), metadata=NOT_IDENTITY)
    picture_name: Callable[[Row], str] | None = field(default=None, metadata=NOT_IDENTITY)
    samples: Callable[[Row], Iterable[Row]] | None = field(default=None, metadata=NOT_IDENTITY)
    expected_success: float | None = field(default=None, metadata=NOT_IDENTITY)
    picture_bytes: int | None = field(default=None, metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        for name, kind in (("prompts", str), ("files", Download), ("picture_sets", PictureSet)):
            _check_group(name, getattr(self, name), kind)
        if not self.prompts:
            raise ConfigError('prompts are none; where nothing stands around a question they are ("{}",)')
        self._check_pictures()
        if self.files:
            self._check_files()

    def _check_pictures(self) -> None:
        """Whether it says where its pictures are.

        Raises:
            ConfigError: it does not, or says it in two ways.
        """
        has_pictures = self.picture is not None or self.picture_name is not None
        if self.how == "url" and not has_pictures:
            raise ConfigError('how is "url", so picture must name the column with the URLs')
        if self.how == "url" and self.picture_sets:
            raise ConfigError('how is "url", so there can be no picture_sets')
        if self.how == "file" and self.files and has_pictures and not self.picture_sets:
            raise ConfigError("its records name pictures, so picture_sets must say in which folder these are")

    def _check_files(self) -> None:
        """Whether a user is told how to get all that it reads.

        Raises:
            ConfigError: not of a file.
        """
        there = [file.path for file in self.files]
        for path in (self.source, *(join.file for join in self.layout.joins)):
            if path not in there:
                raise ConfigError(f"it reads {path}, which is none of its files: {', '.join(there)}")
