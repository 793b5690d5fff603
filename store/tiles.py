"""One image under several runs: what each scored there, what can be drawn of it, and the other slices of its scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session, defer

from liverseg_core.data.manifest import SliceEntry
from store import views
from store.datasets import manifest_of
from store.deleted import sentence, without_maps
from store.models import Artifact, Dataset, Run
from store.scores import RATIOS, rows_of
from store.states import State


@dataclass(frozen=True)
class Tile:
    """A run at one image.

    Attributes:
        run: as it was asked for.
        source: the run whose result it shows: itself, or the one it reuses.
        dataset: what it is of.
        entry: the image as its data set has it; None: it has no such image.
        score: the row of :func:`store.scores.images`; None: the run did not score it.
        maps: SHA-256 of the file with its probability maps; None: there is none.
        lost: whose deletion took the maps, in words.
    """

    run: Run
    source: Run
    dataset: Dataset
    entry: SliceEntry | None
    score: Mapping[str, Any] | None
    maps: str | None
    lost: str | None


def tiles(session: Session, project_id: int, run_ids: Sequence[int], part: str, scan: int, number: int) -> list[Tile]:
    """The runs of the project in the order of ``run_ids``; ids that it does not have are left out."""
    asked = _runs(session, project_id, run_ids)
    reused = [run.reused_from for run in asked.values() if run.reused_from and run.reused_from not in asked]
    sources = {**asked, **_runs(session, project_id, reused)} if reused else asked
    shown = [sources.get(views.source(run), run) for run in asked.values()]
    known = select(Dataset).where(Dataset.id.in_({run.dataset_id for run in shown})).options(defer(Dataset.manifest))
    datasets = {one.id: one for one in session.scalars(known)}
    rows = rows_of(session, [run.id for run in shown], part, scan, number)
    maps = _maps(session, shown)
    bare = without_maps(session, [run.id for run in shown if run.id not in maps])
    return [
        Tile(
            run=run,
            source=source,
            dataset=datasets[source.dataset_id],
            entry=entry_of(datasets[source.dataset_id], part, scan, number, scored=source.id in rows),
            score=rows.get(source.id),
            maps=maps.get(source.id),
            lost=sentence(bare[source.id]) if source.id in bare else None,
        )
        for run, source in zip(asked.values(), shown, strict=True)
    ]


def entry_of(dataset: Dataset, part: str, scan: int, number: int, *, scored: bool) -> SliceEntry | None:
    """A slice of a data set; a split of its own may score it as another part than the data set has it in."""
    found = [one for one in manifest_of(dataset).slices if (one.scan, one.slice) == (scan, number)]
    return next((one for one in found if one.part == part), found[0] if found and scored else None)


def _runs(session: Session, project_id: int, wanted: Sequence[int]) -> dict[int, Run]:
    query = select(Run).where(Run.project_id == project_id, Run.id.in_(wanted))
    found = {run.id: run for run in session.scalars(query)}
    return {one: found[one] for one in wanted if one in found}


def _maps(session: Session, runs: Sequence[Run]) -> dict[int, str]:
    """Run -> its file of probability maps, its own or that of the run which it was scored from."""
    owners = {run.id: [owner for owner in (run.id, run.scored_from) if owner] for run in runs}
    wanted = {owner for own in owners.values() for owner in own}
    query = select(Artifact.run_id, Artifact.sha256)
    rows = session.execute(query.where(Artifact.kind == "probabilities", Artifact.run_id.in_(wanted)))
    files: dict[int, str] = dict(rows.all())
    return {
        run: next(files[one] for one in own if one in files) for run, own in owners.items() if set(own) & set(files)
    }


# ---- the way through a scan, and to the worst ----------------------------------------------------------------------


@dataclass(frozen=True)
class Stop:
    """An image that at least one of the runs scored; ``dice``: mean of their lesion Dice, None where none has one."""

    scan: int
    slice: int
    dice: float | None


_ABOVE, _BELOW = RATIOS["lesion_dice"]
_STOPS = (
    f"SELECT scan, slice, avg(({_ABOVE}) / nullif({_BELOW}, 0))::float8 AS mean, sum(n20+n21+n22) AS pixels "  # nosec B608  # noqa: S608 - from the list of ratios
    "FROM slice_scores WHERE run_id = ANY(:runs) AND part = :part"
)


def stops(session: Session, run_ids: Sequence[int], part: str, scan: int) -> list[Stop]:
    """The slices of a scan that the runs scored, along the body."""
    statement = f"{_STOPS} AND scan = :scan GROUP BY scan, slice ORDER BY slice"
    rows = session.execute(text(statement), {"runs": list(run_ids), "part": part, "scan": scan})
    return [Stop(*row[:3]) for row in rows]


def worst(session: Session, run_ids: Sequence[int], part: str) -> Stop | None:
    """The image of a part with the lowest mean lesion Dice; of equals, the one with the most lesion."""
    statement = f"{_STOPS} GROUP BY scan, slice ORDER BY mean NULLS LAST, pixels DESC, scan, slice LIMIT 1"
    row = session.execute(text(statement), {"runs": list(run_ids), "part": part}).first()
    return Stop(*row[:3]) if row and row.mean is not None else None


def siblings(session: Session, run: Run, most: int) -> list[int]:
    """A run, and those that succeeded in its experiment: ``most`` in all."""
    query = select(Run.id).where(
        Run.experiment_id == run.experiment_id, Run.state == State.SUCCEEDED, Run.id != run.id
    )
    return [run.id, *session.scalars(query.order_by(Run.id).limit(most - 1))]
