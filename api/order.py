"""The order of a comparison's rows: the same on its page and in what is exported from there."""

from typing import Any

from api import tables
from liverseg_core.errors import InputError
from store.rows import Comparison, Row

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
        raise InputError("sort", f"is none of {', '.join(sortable(found))}", sort)

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
