"""What runs scored, slice by slice, as arrays: read at once for many runs."""

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import arrays
from store.arrays import PART, PARTS
from store.models import CONFUSION, Dataset, Run
from store.views import source

if TYPE_CHECKING:  # NumPy is loaded by the first comparison, not by the start
    import numpy as np
    from numpy.typing import NDArray

    from liverseg_core.facts import Components, Facts

_PIXELS = (*CONFUSION, "tp", "fp", "fn")
_SOFT = ("dice", "dice_liver", "dice_tumor")

_SLICES = {
    **dict.fromkeys(("run_id", "part", "scan", "slice"), "i8"),
    **dict.fromkeys(_PIXELS, "i4"),
    **dict.fromkeys(_SOFT, "f8"),
}
_LESIONS = {
    **dict.fromkeys(("run_id", "part", "scan", "slice", "predicted", "pixels"), "i8"),
    "iou": "f8",
}
"""Columns and their types."""

_NUMBERS = {
    "part": PART,
    "slice": "coalesce(slice, -1)",
    "predicted": "predicted::int::int8",
}
"""What becomes a number on its way out; a lesion of a whole scan has no slice."""


def read(session: Session, runs: Sequence[Run]) -> dict[int, dict[str, "Facts"]]:
    """Run id -> part (``val``, ``test``) -> facts; a reused run has its original's, an unscored one no parts."""
    sources = sorted({source(run) for run in runs})
    rows = _read(session, "slice_scores", _SLICES, sources)
    lesions = _read(session, "lesion_components", _LESIONS, sources)
    subjects = _subjects(session, {run.dataset_id for run in runs})
    found = {}
    for run in runs:
        mine, own = (table[table["run_id"] == source(run)] for table in (rows, lesions))
        found[run.id] = {
            part: _facts(mine[mine["part"] == place], own[own["part"] == place], subjects[run.dataset_id])
            for place, part in enumerate(PARTS)
            if (mine["part"] == place).any()
        }
    return found


def joined(several: Sequence["Facts"]) -> "Facts":
    """The facts of other slices behind each other, as if one run had scored them all."""
    from liverseg_core.facts import Components, Facts

    lesions = [one.components for one in several if one.components is not None]
    together = _behind_each_other(several, Facts, "components")
    whole = len(lesions) == len(several)  # lesions of some slices alone would pass for all there are
    components = Components(**_behind_each_other(lesions, Components)) if whole else None
    return Facts(**together, components=components)


def of_scans(facts: "Facts", scans: Sequence[int]) -> "Facts":
    """The facts of some scans, numbered anew; one that is named twice is there twice."""
    return joined([_one_scan(facts, scan, place) for place, scan in enumerate(scans)])


def _one_scan(facts: "Facts", scan: int, place: int) -> "Facts":
    from liverseg_core.facts import Facts

    chosen = facts.scan == scan
    names = [one.name for one in fields(Facts) if one.name not in ("scan", "components")]
    lesions = facts.components
    if lesions is not None:
        own = lesions[lesions.scan == scan]
        lesions = replace(own, scan=own.scan * 0 + place)
    kept: dict[str, Any] = {name: getattr(facts, name)[chosen] for name in names}
    return Facts(scan=facts.scan[chosen] * 0 + place, components=lesions, **kept)


def _behind_each_other(several: Sequence[Any], kind: Any, *left_out: str) -> dict[str, Any]:
    import numpy as np

    names = [one.name for one in fields(kind) if one.name not in left_out]
    return {name: np.concatenate([getattr(one, name) for one in several]) for name in names}


def _read(session: Session, table: str, columns: dict[str, str], sources: list[int]) -> "NDArray[Any]":
    """Rows of the runs, in their order."""
    chosen = ", ".join(_NUMBERS.get(name, name) for name in columns)
    query = f"SELECT {chosen} FROM {table} WHERE run_id = ANY(%s) ORDER BY run_id, part, scan, slice"  # nosec B608  # noqa: S608 - names from above
    return arrays.read(session, query, [sources], columns)


def _facts(rows: "NDArray[Any]", lesions: "NDArray[Any]", subjects: dict[str, str]) -> "Facts":
    import numpy as np

    from liverseg_core.facts import Facts

    whole = {name: rows[name].astype(np.int64) for name in ("scan", "slice", *_PIXELS)}
    soft = {name: rows[name].astype(np.float64) for name in _SOFT}
    counts, quantised = (np.stack([whole[name] for name in CONFUSION if name[0] == kind], axis=1) for kind in "nq")
    return Facts(
        scan=whole["scan"],
        slice=whole["slice"],
        subject=np.array([subjects[str(scan)] for scan in whole["scan"].tolist()]),
        counts=counts,
        quantised=quantised,
        tp=whole["tp"],
        fp=whole["fp"],
        fn=whole["fn"],
        dice=soft["dice"],
        dice_liver=soft["dice_liver"],
        dice_tumor=soft["dice_tumor"],
        components=_components(lesions, counts),
    )


def _components(lesions: "NDArray[Any]", counts: "NDArray[np.int64]") -> "Components | None":
    """The lesions; None where slices have lesion pixels and no lesion is stored: then nobody looked for them."""
    import numpy as np

    from liverseg_core.facts import Components

    if not len(lesions) and counts.reshape(-1, 3, 3)[:, 2].sum() + counts.reshape(-1, 3, 3)[:, :, 2].sum():
        return None
    return Components(
        scan=lesions["scan"].astype(np.int64),
        slice=lesions["slice"].astype(np.int64),
        predicted=lesions["predicted"].astype(bool),
        pixels=lesions["pixels"].astype(np.int64),
        iou=lesions["iou"].astype(np.float64),
    )


def _subjects(session: Session, datasets: Iterable[int]) -> dict[int, dict[str, str]]:
    query = select(Dataset.id, Dataset.manifest["subjects"]).where(Dataset.id.in_(datasets))
    return dict(session.execute(query).all())
