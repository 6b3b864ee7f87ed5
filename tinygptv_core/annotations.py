"""The records of an annotation file, what is joined to them, and the samples and pictures that a recipe finds there."""

from collections.abc import Iterator, Mapping, Sequence

from tinygptv_core.columns import list_of, mapping_of, scalar_of, text_of
from tinygptv_core.recipe import AnnotationLayout, Join, Recipe, Row, UnfitError


def records_in(parsed: object, layout: AnnotationLayout) -> Iterator[object]:
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
    records = records_in(parsed, AnnotationLayout(at=join.at))
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
