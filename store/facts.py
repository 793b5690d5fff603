"""What runs scored, slice by slice, as arrays: one COPY out of the ledger for many runs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from store.models import CONFUSION, Dataset, Run
from store.views import source

if TYPE_CHECKING:  # NumPy is loaded by the first comparison, not by the start
    from numpy.typing import NDArray

    from liverseg_core.profiles import Facts

PARTS = ("val", "test")

_PIXELS = (*CONFUSION, "tp", "fp", "fn")
_SOFT = ("dice", "dice_liver", "dice_tumor")
_COPY = f"""
COPY (
  SELECT run_id, array_position(ARRAY['val', 'test'], part) - 1, scan, slice, {", ".join((*_PIXELS, *_SOFT))}
  FROM slice_scores WHERE run_id = ANY(%s) AND part IN ('val', 'test') ORDER BY run_id, part, scan, slice
) TO STDOUT (FORMAT BINARY)
"""  # noqa: S608 - names from the lists above

_COMPONENTS = text("""
SELECT run_id, part, scan, slice, predicted, number, pixels, iou FROM lesion_components
WHERE run_id = ANY(:runs) ORDER BY run_id, part, scan, slice NULLS LAST, predicted, number
""")

_HEADER, _TRAILER = 19, 2
"""Bytes around the rows of Postgres' binary COPY format."""


def read(session: Session, runs: Sequence[Run], *, components: bool = True) -> dict[int, dict[str, "Facts"]]:
    """Run id -> part (``val``, ``test``) -> facts; a reused run has its original's, an unscored one no parts.

    Args:
        session: an open session.
        runs: runs of any data sets.
        components: whether lesion components are wanted; without them they are empty.
    """
    sources = sorted({source(run) for run in runs})
    rows = _rows(session, sources)
    lesions = _lesions(session, sources) if components else {}
    subjects = _subjects(session, {run.dataset_id for run in runs})
    found = {}
    for run in runs:
        mine = rows[rows["run"] == source(run)]
        found[run.id] = {
            part: _facts(mine[mine["part"] == number], subjects[run.dataset_id], lesions.get((source(run), part), []))
            for number, part in enumerate(PARTS)
            if (mine["part"] == number).any()
        }
    return found


def joined(several: Sequence["Facts"]) -> "Facts":
    """The facts of other slices behind each other, as if one run had scored them all."""
    import numpy as np

    from liverseg_core.profiles import Facts

    together = {}
    for field in fields(Facts):
        values = [getattr(one, field.name) for one in several]
        together[field.name] = sum(values, ()) if isinstance(values[0], tuple) else np.concatenate(values)
    return Facts(**together)


def of_scans(facts: "Facts", scans: Sequence[int]) -> "Facts":
    """The facts of some scans; a scan that is named twice counts twice."""
    return joined([_one_scan(facts, scan) for scan in scans])


def _one_scan(facts: "Facts", scan: int) -> "Facts":
    from liverseg_core.profiles import Facts

    inside = facts.scan == scan
    kept: dict[str, Any] = {}
    for field in fields(Facts):
        value = getattr(facts, field.name)
        kept[field.name] = (
            tuple(one for one in value if one.scan == scan) if isinstance(value, tuple) else value[inside]
        )
    return Facts(**kept)


def _rows(session: Session, sources: list[int]) -> "NDArray[Any]":
    """Every slice of the runs as one structured array, read from Postgres' binary format."""
    import numpy as np

    cursor = session.connection().connection.cursor()
    with cursor.copy(_COPY, (sources,)) as copy:
        sent = b"".join(copy)
    # Every column has a fixed size and no nulls, so each row is as long as the next.
    columns = [("run", ">i8"), ("part", ">i4"), ("scan", ">i8"), ("slice", ">i8")]
    columns += [(name, ">i4") for name in _PIXELS] + [(name, ">f8") for name in _SOFT]
    row = [("fields", ">i2")]
    for name, kind in columns:
        row += [(f"{name} bytes", ">i4"), (name, kind)]
    return np.frombuffer(sent[_HEADER:-_TRAILER], np.dtype(row))


def _facts(rows: "NDArray[Any]", subjects: dict[str, str], components: Iterable[Any]) -> "Facts":
    import numpy as np

    from liverseg_core.profiles import Facts

    def matrix(kind: str) -> "NDArray[np.int64]":
        return np.stack([rows[name].astype(np.int64) for name in CONFUSION if name[0] == kind], axis=1)

    scans = rows["scan"].astype(np.int64)
    return Facts(
        scan=scans,
        slice=rows["slice"].astype(np.int64),
        subject=np.array([subjects[str(scan)] for scan in scans.tolist()]),
        counts=matrix("n"),
        quantised=matrix("q"),
        **{name: rows[name].astype(np.int64) for name in ("tp", "fp", "fn")},
        **{name: rows[name].astype(np.float64) for name in _SOFT},
        components=tuple(components),
    )


def _lesions(session: Session, sources: list[int]) -> dict[tuple[int, str], list[Any]]:
    from liverseg_core.records import LesionComponent

    found: dict[tuple[int, str], list[Any]] = {}
    for run, *values in session.execute(_COMPONENTS, {"runs": sources}):
        component = LesionComponent(*values)
        found.setdefault((run, component.part), []).append(component)
    return found


def _subjects(session: Session, datasets: Iterable[int]) -> dict[int, dict[str, str]]:
    query = select(Dataset.id, Dataset.manifest["subjects"]).where(Dataset.id.in_(datasets))
    return {dataset: subjects for dataset, subjects in session.execute(query)}
