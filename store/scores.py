"""Per-image rows: written by COPY in the transaction that finishes the run, read back as counts."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from liverseg_core import records
from store import summaries, views
from store.artifacts import Stored
from store.endings import Ending, end_attempt
from store.models import CONFUSION, Artifact, Run, SliceScore
from store.queue import Claim, move, owned
from store.states import Outcome, State, Wish
from store.tidy import storing

COLUMNS = ("run_id", "part", "scan", "slice", *CONFUSION, "tp", "fp", "fn", "dice", "dice_liver", "dice_tumor")


def finish(
    session: Session,
    claim: Claim,
    scores: Sequence[records.SliceScore],
    artifacts: dict[str, Stored],
    best_epoch: int | None,
    ending: Ending,
    components: Sequence[records.LesionComponent] = (),
) -> State:
    """Store a result and end the run, all in the caller's transaction; the state reached.

    A cancel that came first wins: then nothing is stored and ``cancelled`` is returned.

    Raises:
        LeaseLost: the run is no longer this claim's.
        FileGone: an artifact is not in the store.
    """
    run = owned(session, claim)
    cancelled = run.state == State.STOPPING and run.wish != Wish.PAUSE  # who paused a finished run still wants it
    if not cancelled:
        storing(session, {file.sha256 for file in artifacts.values()})
        copy_scores(session, run.id, scores)
        copy_components(session, run.id, components)
        session.add_all(
            Artifact(run_id=run.id, attempt=claim.fence, kind=kind, sha256=file.sha256, bytes=file.bytes)
            for kind, file in artifacts.items()
        )
        summaries.keep(session, [run])
        run.best_epoch = best_epoch or run.best_epoch  # weights scored anew keep the epoch they are of
    move(session, run, "cancelled" if cancelled else "succeed", attempt=claim.fence)
    end_attempt(session, claim, Outcome.CANCELLED if cancelled else Outcome.SUCCEEDED, ending)
    return State(run.state)


def copy_scores(session: Session, run_id: int, scores: Iterable[records.SliceScore]) -> None:
    """COPY the rows on the session's own connection, so they live and die with its transaction."""
    session.flush()
    cursor = session.connection().connection.cursor()
    with cursor.copy(f"COPY slice_scores ({', '.join(COLUMNS)}) FROM STDIN") as copy:
        for one in scores:
            copy.write_row((run_id, *_values(one)))


def copy_components(session: Session, run_id: int, components: Iterable[records.LesionComponent]) -> None:
    """As :func:`copy_scores`, of lesions."""
    names = [field.name for field in fields(records.LesionComponent)]
    values = records.VALUES[records.LesionComponent]
    cursor = session.connection().connection.cursor()
    with cursor.copy(f"COPY lesion_components (run_id, {', '.join(names)}) FROM STDIN") as copy:
        for one in components:
            copy.write_row((run_id, *values(one)))


def files(session: Session, run_id: int) -> dict[str, str]:
    """Kind -> SHA-256 of every artifact of a run."""
    rows = session.execute(select(Artifact.kind, Artifact.sha256).where(Artifact.run_id == run_id))
    return dict(rows.all())


def stored(session: Session, run_id: int) -> list[list[Any]]:
    """Part, scan, slice, nine counts, nine quantised counts and the soft scores ``_SOFT`` of each slice of a run."""
    rows = session.execute(
        text(f"SELECT part, scan, slice, {', '.join((*CONFUSION, *_SOFT))} FROM slice_scores WHERE run_id = :run"),  # nosec B608  # noqa: S608
        {"run": run_id},
    )
    return [[*row[:3], row[3:12], row[12:21], row[21:]] for row in map(tuple, rows)]


_SOFT = ("tp", "fp", "fn", "dice", "dice_liver", "dice_tumor")


def _values(one: records.SliceScore) -> tuple[Any, ...]:
    facts = (one.tp, one.fp, one.fn, one.dice, one.dice_liver, one.dice_tumor)
    return (one.part, one.scan, one.slice, *one.counts, *one.quantised, *facts)


RATIOS = {
    "liver_dice": ("2::float8 * (n11+n12+n21+n22)", "2 * (n11+n12+n21+n22) + n01+n02 + n10+n20"),
    "lesion_dice": ("2::float8 * n22", "2 * n22 + n02+n12 + n20+n21"),
    "lesion_precision": ("n22::float8", "n22 + n02+n12"),
    "lesion_recall": ("n22::float8", "n22 + n20+n21"),
}
"""Scores of profile ``modern`` as what is divided by what, in counts of one image or in sums of several."""

PER_IMAGE = {
    **{name: f"{above} / nullif({below}, 0)" for name, (above, below) in RATIOS.items()},
    "lesion_pixels": "n20+n21+n22",
    "predicted_lesion_pixels": "n02+n12+n22",
}
"""Per-image columns of profile ``modern`` in SQL; null where nothing can be said (both masks empty)."""

_SELECTED = ", ".join([*COLUMNS[1:], *(f"({formula})::float8 AS {name}" for name, formula in PER_IMAGE.items())])

SORTABLE = frozenset({"part", "scan", "slice", "dice", "dice_liver", "dice_tumor", *PER_IMAGE})


def images(
    session: Session,
    run_id: int,
    *,
    part: str | None = None,
    sort: str = "scan",
    descending: bool = False,
    limit: int | None = 500,
    offset: int = 0,
) -> list[dict[str, Any]]:
    """The per-image table of a run, one dictionary a slice, sorted by a column of ``SORTABLE``.

    Args:
        session: an open session.
        run_id: the run that owns the rows (a reused run's original).
        part: ``val`` or ``test``; None: both.
        sort: column to sort by; scan and slice break ties; nulls come last.
        descending: largest first.
        limit: most rows to return; None: all.
        offset: rows to skip.
    """
    assert sort in SORTABLE
    # Among equal scores the image with the most lesion comes first: it has the most to lose.
    ties = "" if sort in ("part", "scan", "slice") else "lesion_pixels DESC, "
    order = f"{sort} {'DESC' if descending else 'ASC'} NULLS LAST, {ties}part, scan, slice"
    statement = (
        f"SELECT {_SELECTED} FROM slice_scores WHERE run_id = :run AND part = coalesce(:part, part) "  # nosec B608  # noqa: S608 - names from the list above
        f"ORDER BY {order} LIMIT :limit OFFSET :offset"
    )
    rows = session.execute(text(statement), {"run": run_id, "part": part, "limit": limit, "offset": offset})
    return [dict(row) for row in rows.mappings()]


def shown_part(session: Session, run: Run) -> str | None:
    """The part that the run's scores are shown of (``store.views.shown_part``); None: it has none."""
    query = select(SliceScore.part).where(SliceScore.run_id == views.source(run)).distinct()
    return views.shown_part(run, session.scalars(query).all())


def image(session: Session, run_id: int, part: str, scan: int, number: int) -> dict[str, Any]:
    """The row of :func:`images` for one slice that was evaluated."""
    return rows_of(session, [run_id], part, scan, number)[run_id]


def rows_of(session: Session, run_ids: Sequence[int], part: str, scan: int, number: int) -> dict[int, dict[str, Any]]:
    """Run -> its row of :func:`images` for one slice; runs that did not evaluate it are left out."""
    statement = (
        f"SELECT run_id, {_SELECTED} FROM slice_scores "  # nosec B608  # noqa: S608 - names from the lists above
        "WHERE run_id = ANY(:runs) AND part = :part AND scan = :scan AND slice = :slice"
    )
    place = {"runs": list(run_ids), "part": part, "scan": scan, "slice": number}
    return {row["run_id"]: dict(row) for row in session.execute(text(statement), place).mappings()}
