"""Which rows of a comparison are shown, in which order: the same on its page and in what is exported from there."""

from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from api import tables
from liverseg_core.errors import InputError
from store.rows import Comparison, Row, Statistics

FACTS = ("run", "name", "slices", "epochs", "best_epoch")


def sortable(found: Comparison) -> list[str]:
    """What its rows can be sorted by: facts, settings shown, scores."""
    return [*FACTS, *found.parameters, *(column.key for column in found.columns)]


def ordered(found: Comparison, sort: str, descending: bool) -> Comparison:
    """The comparison with its rows by one column, groups with what is in them; what has no value there comes last.

    Raises:
        InputError: ``sort`` is neither empty nor one of :func:`sortable`.
    """
    if not sort:
        return found
    if sort not in sortable(found):
        near = [one for one in sortable(found) if one.endswith(sort)] or get_close_matches(sort, sortable(found), 1)
        meant = f"did you mean {near[0]}? There are: " if near else "is none of "
        raise InputError("sort", f"{'is no column; ' if near else ''}{meant}{', '.join(sortable(found))}", sort)

    def value(block: list[Row]) -> Any:
        row = block[0]
        if sort in FACTS:
            return getattr(row, sort)
        return row.settings.get(sort) if sort in found.parameters else (row.scores or {}).get(sort)

    blocks = _blocks(found.rows)
    have = [block for block in blocks if value(block) is not None]
    missing = [block for block in blocks if value(block) is None]
    by_value = sorted(have, key=lambda block: _key(value(block)), reverse=descending)
    return found.model_copy(update={"rows": [row for block in (*by_value, *missing) for row in block]})


def filtered(found: Comparison, words: str) -> Comparison:
    """The comparison with the rows that have every word, and with the baseline's.

    A word is part of a name, or ``setting=value`` as the table shows both (``filters=8``; the end of a path is
    enough). Groups stay whole where one of their rows has them all. Tests are made before, over all rows compared:
    p-values do not change with what is shown.
    """
    if not words.strip():
        return found
    baseline = found.statistics.runs if found.statistics else []
    blocks = _blocks(found.rows)
    kept = [
        block
        for block in blocks
        if block[0].runs == baseline or any(_has(row, found.parameters, words.split()) for row in block)
    ]
    told = f"Shown: {len(kept)} of {len(blocks)} rows, those with {words.strip()}"
    told += " and the baseline; p is adjusted over all rows compared." if baseline else "."
    return found.model_copy(
        update={
            "rows": [row for block in kept for row in block],
            "statistics": _statistics(found.statistics, [block[0].runs for block in kept]),
            "notes": [told, *found.notes],
        }
    )


def _has(row: Row, parameters: Collection[str], words: Collection[str]) -> bool:
    return all(_has_word(row, parameters, word.casefold()) for word in words)


def _has_word(row: Row, parameters: Collection[str], word: str) -> bool:
    path, equals, value = word.partition("=")
    if not equals:
        return word in tables.named(row).casefold()
    meant = [one for one in parameters if one == path or one.endswith(f".{path}")]
    return any(tables.set_in(row, one).casefold() == value for one in meant)


def _statistics(found: Statistics | None, shown: Collection[list[int]]) -> Statistics | None:
    """Without the contrasts of rows that are not shown."""
    if found is None:
        return None
    return found.model_copy(update={"contrasts": [one for one in found.contrasts if one.runs in shown]})


def _blocks(rows: list[Row]) -> list[list[Row]]:
    """Each outermost row with the deeper ones that follow it."""
    blocks: list[list[Row]] = []
    for row in rows:
        if row.depth == 0:
            blocks.append([])
        blocks[-1].append(row)
    return blocks


def _key(value: Any) -> tuple[bool, float, str]:
    """Numbers before texts."""
    if isinstance(value, int | float):
        return False, value, ""
    return True, 0.0, tables.setting(value)
