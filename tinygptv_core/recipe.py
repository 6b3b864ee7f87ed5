"""The types in which `data_recipes/` describes a data set: where rows come from and what they say.

A recipe states facts about a data set and holds no settings: limits, sizes and weights are in the
preset, so that they can be changed without touching the data set.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tinygptv_core.plain import IDENTITY_UNLESS_DEFAULT, NOT_IDENTITY

Row = Mapping[str, object]
"""One record of a list or an annotation file, as its JSON has it."""

MAX_CAPTION_WORDS = 50
MAX_NUMBER = 1e12
"""No side of a picture or a box is so long, and arithmetic on what is below is far from overflowing."""


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
        url: the file itself where `direct`, else the page that says how it is got.
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
        at: as in `Layout`.
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


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the records are inside an annotation file, which is a list of them unless it says otherwise.

    Attributes:
        at: the column of the file's one object that holds them.
        keyed: they are the values of an object; a record's name there becomes its column `key`.
        joins: what stands beside them in other files.
    """

    at: str | None = None
    keyed: bool = False
    joins: tuple[Join, ...] = ()

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
    layout: Layout = field(default=Layout(), metadata=IDENTITY_UNLESS_DEFAULT)
    picture_sets: tuple[PictureSet, ...] = field(default=(), metadata=NOT_IDENTITY)
    picture_name: Callable[[Row], str] | None = field(default=None, metadata=NOT_IDENTITY)
    samples: Callable[[Row], Iterable[Row]] | None = field(default=None, metadata=NOT_IDENTITY)
    expected_success: float | None = field(default=None, metadata=NOT_IDENTITY)
    picture_bytes: int | None = field(default=None, metadata=NOT_IDENTITY)


def records_in(parsed: object, layout: Layout) -> Iterator[object]:
    """The records of a parsed annotation file, in its order.

    Raises:
        TypeError: it does not have that layout.
        KeyError: it has no column `layout.at`.
    """
    inside = mapping_of(parsed, "the file")[layout.at] if layout.at else parsed
    if not layout.keyed:
        yield from list_of(inside, layout.at or "the file")
        return
    for key, record in mapping_of(inside, layout.at or "the file").items():
        yield {**record, "key": key} if isinstance(record, Mapping) else record


Partners = Mapping[str, Mapping[object, object]]
"""Column of a join -> the value that partners share -> the partner."""


def partners_in(parsed: object, join: Join) -> dict[object, object]:
    """The records of the file of `join` by what they are joined by.

    Raises:
        KeyError, TypeError: it does not have that layout, or a record has no such column.
    """
    records = records_in(parsed, Layout(at=join.at))
    if join.by is None:
        return {value: value for value in records}
    return {scalar_of(record, join.by): record for record in map(mapping_of, records)}


def with_partners(record: object, joins: Sequence[Join], partners: Partners) -> Row:
    """`record` with its partner of each join.

    Raises:
        KeyError, TypeError: it is no object, or has no such column.
        UnfitError: it has no partner.
    """
    found = dict(mapping_of(record))
    for join in joins:
        value = scalar_of(found, join.on)
        if value not in partners[join.column]:
            raise UnfitError(join.missing, f"{join.on} {value} is not in {join.file}")
        found[join.column] = partners[join.column][value]
    return found


def samples_of(recipe: Recipe, record: Row) -> tuple[Row, ...]:
    """A record for each sample of `record`, one at least.

    Raises:
        KeyError, TypeError, ValueError: as `recipe.samples` does.
        UnfitError: there is none.
    """
    if recipe.samples is None:
        return (record,)
    found = tuple(recipe.samples(record))
    if not found:
        raise UnfitError("no_samples", "nothing is said in it")
    return found


def picture_of(recipe: Recipe, record: Row) -> str | None:
    """The URL or path of the record's picture; None for text.

    Raises:
        KeyError, TypeError, ValueError: there is none, though it should.
    """
    if recipe.picture_name is None and recipe.picture is None:
        return None
    named = recipe.picture_name(record) if recipe.picture_name else text_of(record, recipe.picture or "")
    if not (picture := named.strip()):
        raise ValueError(f"{recipe.picture or 'its picture'} is empty")
    return picture


def mapping_of(value: object, what: str = "a record") -> Row:
    """`value` as an object of JSON.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} is {type(value).__name__}, not an object")
    return value


def list_of(value: object, what: str) -> list[object]:
    """`value` as a list of JSON.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, list):
        raise TypeError(f"{what} is {type(value).__name__}, not a list")
    return value


def scalar_of(row: Row, column: str) -> str | int:
    """The text or whole number in `column`, by which things are named.

    Raises:
        KeyError: there is no such column.
        TypeError: it is neither.
    """
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"{column} is {type(value).__name__}, neither a text nor a whole number")
    return value


def number_of(row: Row, column: str) -> float:
    """The number in `column`.

    Raises:
        KeyError, TypeError: there is none.
    """
    return _number(row[column])


def said_in(row: Row, column: str) -> str:
    """The text in `column`, which must say something.

    Raises:
        KeyError, TypeError: there is none.
        ValueError: it is empty.
    """
    text = text_of(row, column)
    if not text.strip():
        raise ValueError(f"{column} is empty")
    return text


def cleaned(row: Row, column: str) -> str:
    """The text in `column` as `clean_caption` makes it, which must say something.

    Raises:
        KeyError, TypeError: there is none.
        ValueError: nothing is left of it.
    """
    text = clean_caption(text_of(row, column))
    if not text.strip():
        raise ValueError(f"{column} is empty")
    return text


def any_of(role: Literal["user", "assistant"], texts: Sequence[str]) -> Turn:
    """A turn with one of `texts`.

    Raises:
        ValueError: none of them says anything.
    """
    if not any(text.strip() for text in texts):
        raise ValueError(f"of {len(texts)} texts of the {role} none says anything")
    return Turn(role, texts[0], tuple(texts[1:]))


def text_of(row: Row, column: str) -> str:
    """The text in `column`.

    Raises:
        KeyError: there is no such column.
        TypeError: it is not a text.
    """
    value = row[column]
    if not isinstance(value, str):
        raise TypeError(f"{column} is {type(value).__name__}, not a text")
    return value


def clean_caption(caption: str) -> str:
    """A caption as stages 1 and 2 read it: lower case, ten marks to spaces, at most 50 words.

    As in the reference (BLIP's), only runs of white space become a space: a single tab or line break stays.
    """
    spaced = re.sub(r"\s{2,}", " ", re.sub(r"[.!\"()*#:;~]", " ", caption.lower()))
    return " ".join(spaced.rstrip("\n").strip(" ").split(" ")[:MAX_CAPTION_WORDS])


def caption_turns(row: Row) -> tuple[Turn, ...]:
    """`{"caption": ...}` -> the one thing to say about the picture, cleaned."""
    return (Turn("assistant", clean_caption(text_of(row, "caption"))),)


def box_of(row: Row) -> str:
    """`{"box": [left, top, right, bottom], "width", "height"}`, in pixels -> the box as the model spells it.

    Returns:
        "{<x1><y1><x2><y2>}", whole hundredths of width and height, truncated (MiniGPT-v2, arXiv:2310.09478).

    Raises:
        KeyError: a column is missing.
        TypeError, ValueError: it is not four numbers, width or height is not above 0, or the box is not inside.
    """
    left, top, right, bottom = (_number(corner) for corner in list_of(row["box"], "a box"))
    width, height = _number(row["width"]), _number(row["height"])
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"box {row['box']} does not lie in {width} x {height} pixels")
    return spelled_box((left, top, right, bottom), width, height)


def region_box(box: Row | Sequence[object], width: float, height: float) -> str:
    """A box with its left upper corner and its sides, in pixels, as the model spells it.

    Annotators' boxes reach over the picture's edge now and then; what lies outside is cut off.

    Args:
        box: [left, top, width, height], or an object with x, y, width and height.

    Raises:
        KeyError, TypeError: it is none of the two, or something is no number.
        UnfitError: nothing of it lies in the picture, or it has no area.
        ValueError: the picture has no area.
    """
    sides = [box[name] for name in ("x", "y", "width", "height")] if isinstance(box, Mapping) else list(box)
    if len(sides) != 4:
        raise TypeError(f"a box has four numbers, not {len(sides)}")
    left, top, across, down = map(_number, sides)
    if not (width > 0 and height > 0):
        raise ValueError(f"the picture has {width} x {height} pixels")
    inside = (max(left, 0.0), max(top, 0.0), min(left + across, width), min(top + down, height))
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        raise UnfitError("box_outside", f"{across} x {down} at {left}, {top} in {width} x {height} pixels")
    return spelled_box(inside, width, height)


def spelled_box(corners: tuple[float, float, float, float], width: float, height: float) -> str:
    """A box as the model spells it: "{<left><top><right><bottom>}", hundredths of the picture's sides, truncated.

    Args:
        corners: left, top, right and bottom in pixels, within the picture.
        width, height: of the picture, in pixels, above 0.
    """
    sides = (width, height, width, height)
    return "{" + "".join(f"<{int(100 * c / side)}>" for c, side in zip(corners, sides, strict=True)) + "}"


def answer_shares(answers: Sequence[str]) -> dict[str, float]:
    """The distinct answers of several people, cleaned as captions are, each with its share of all, 0..1.

    Training draws one by these shares, as the reference does for the VQA data sets: see `Turn.also`.

    Raises:
        ValueError: there is none.
    """
    if not answers:
        raise ValueError("there is no answer to draw")
    counts = Counter(clean_caption(answer) for answer in answers)
    return {answer: count / len(answers) for answer, count in counts.items()}


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_NUMBER:
        raise TypeError(f"{value!r:.40} is not a number below {MAX_NUMBER:.0e}")
    return value
