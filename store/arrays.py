"""Rows of numbers as arrays: gathered by Postgres, and read by NumPy from its binary format as they come."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

if TYPE_CHECKING:  # NumPy is loaded by the first comparison, not by the start
    from numpy.typing import NDArray

PARTS = ("val", "test")
PART = "array_position(ARRAY['val', 'test'], part)::int8 - 1"
"""The place of a row's part in ``PARTS``."""

_HEADER = 20
"""Bytes before the elements of an array of one dimension: dimensions, nulls, type, length and lower bound."""


def read(session: Session, query: str, words: Sequence[Any], kinds: Mapping[str, str]) -> "NDArray[Any]":
    """The rows of ``query`` as one structured array.

    One row that holds an array a column: row by row it would be ten times as much work for the driver.

    Args:
        session: an open session.
        query: its columns are numbers, never null.
        words: what stands for each ``%s``.
        kinds: name of each column, in the order of the query, -> its type (``i8``, ``i4``, ``f8``).
    """
    import numpy as np

    named = ", ".join(kinds)
    gathered = ", ".join(f"array_agg({name})" for name in kinds)
    cursor = session.connection().connection.cursor(binary=True)
    cursor.execute(f"SELECT {gathered} FROM ({query}) AS rows ({named})", tuple(words))  # nosec B608  # noqa: S608 - names from the callers
    sent = [cursor.pgresult.get_value(0, place) for place in range(len(kinds))]
    columns = [
        # Each element after its size; no rows are null rather than an empty array.
        np.frombuffer(one[_HEADER:], [("size", ">i4"), ("value", f">{kind}")])["value"] if one else np.empty(0, kind)
        for one, kind in zip(sent, kinds.values(), strict=True)
    ]
    rows = np.empty(len(columns[0]), list(kinds.items()))
    for name, values in zip(kinds, columns, strict=True):
        rows[name] = values
    return rows
