"""The study's figures of runs and data sets, as PNG; drawn anew at every request from what the ledger keeps."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from sqlalchemy.orm import Session

from api.callers import Project
from api.parameters import RunId
from api.problems import Problem, not_found
from api.routes.runs import known_run
from api.routes.uploads import NameOrHash, known_dataset
from liverseg_core.data.manifest import SliceEntry
from liverseg_core.errors import DataError
from store import artifacts, scores, views
from store.database import transaction
from store.datasets import manifest_of
from store.deleted import sentence, without_maps
from store.models import CONFUSION, Dataset, Run, SliceScore
from store.settings import settings
from store.states import State

if TYPE_CHECKING:
    from liverseg_core.figures import Panels

router = APIRouter(prefix="/v1", tags=["figures"])

MOST_ROWS = 12

Part = Annotated[Literal["train", "val", "test"], Path(description="part of the data set")]
ImageKey = Annotated[str, Path(pattern=r"^[0-9]{1,9}_[0-9]{1,9}$", description="scan and slice, such as 8_12")]
PairKey = Annotated[str, Path(pattern=r"^[0-9]{1,9}-[0-9]{1,9}$", description="two scans, such as 6-10")]
Kind = Annotated[Literal["four", "six"], Query(description="four panels (prediction and CT) or six (with Dice)")]
Rows = Annotated[int, Query(ge=1, le=MOST_ROWS, description="how many slices")]
By = Annotated[Literal["scan", "subject"], Query(description="what a bar stands for")]

_drawing = Lock()
"""One figure at a time: memory stays bounded however many are asked for at once."""

WAIT_S = 20.0
"""A request waits no longer for its turn: waiting ones hold threads that others need."""


class Picture(Response):
    """A PNG file."""

    media_type = "image/png"


@dataclass(frozen=True)
class Kept:
    """The files with a run's pixels and probability maps, and which slices are wanted with their scores."""

    archive: str
    maps: str
    rows: Sequence[SliceScore]
    entries: Sequence[SliceEntry]


@router.get("/runs/{run}/figures/curves.png", response_class=Picture)
def curves(project: Project, run: RunId) -> Picture:
    """Figure 2: total Dice by epoch, train orange, val blue."""
    with transaction() as session:
        epochs = views.epochs(session, views.source(known_run(session, project, run)))
    if not epochs:
        raise Problem(404, "this run has finished no epoch, so there is no curve to draw")
    with _figures() as draw:
        return Picture(draw.curves([e.epoch for e in epochs], [e.dice for e in epochs], [e.val_dice for e in epochs]))


@router.get("/runs/{run}/figures/worst.png", response_class=Picture)
def worst(project: Project, run: RunId, kind: Kind = "six", rows: Rows = 6) -> Picture:
    """The slices with the lowest lesion Dice of the part that the run's scores are shown of, one row each."""
    with transaction() as session:
        known = known_run(session, project, run)
        part = scores.shown_part(session, known)
        found = scores.images(session, views.source(known), part=part, sort="lesion_dice", limit=rows)
        kept = _kept(session, project, run, [(one["part"], one["scan"], one["slice"]) for one in found])
    return _panels(kept, kind)


@router.get("/runs/{run}/images/{part}/{image}/figure.png", response_class=Picture)
def image(project: Project, run: RunId, part: Part, image: ImageKey, kind: Kind = "six") -> Picture:
    """One evaluated slice with its prediction."""
    scan, number = map(int, image.split("_"))
    with transaction() as session:
        kept = _kept(session, project, run, [(part, scan, number)])
    return _panels(kept, kind)


@router.get("/datasets/{name}/figures/histogram.png", response_class=Picture)
def histogram(project: Project, name: NameOrHash, by: By = "scan") -> Picture:
    """Table 4 as a figure: slices of every scan (or subject) by part."""
    with transaction() as session:
        manifest = manifest_of(known_dataset(session, project, name))
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in sorted(manifest.slices, key=lambda one: one.scan):
        counts[str(entry.scan) if by == "scan" else manifest.subjects[entry.scan]][entry.part] += 1
    with _figures() as draw:
        return Picture(draw.histogram(counts, by))


@router.get("/datasets/{name}/pairs/{pair}.png", response_class=Picture)
def pair(project: Project, name: NameOrHash, pair: PairKey) -> Picture:
    """The best matching slices of a pair of scans that the check found alike, side by side."""
    with transaction() as session:
        dataset = known_dataset(session, project, name)
        manifest, archive = manifest_of(dataset), known_file(dataset.artifact, "data set")
        found = (dataset.similarity or {}).get("pairs", [])
    wanted = [int(scan) for scan in pair.split("-")]
    match = next((one for one in found if one["scans"] == wanted), None)
    if match is None:
        raise not_found("pair of scans among those that the check found alike", pair)
    chosen = list(zip(match["scans"], match["slices"], strict=True))
    entries = [entry for place in chosen for entry in manifest.slices if (entry.scan, entry.slice) == place]
    names = [f"Scan {one.scan} ({one.part}), slice {one.slice}" for one in entries]
    with readable(), _figures() as draw:
        from liverseg_core.data.pixels import image_of, open_archive

        with artifacts.held(archive) as place, open_archive(place) as bundle:
            images = [image_of(bundle, entry) for entry in entries]
        return Picture(draw.side_by_side(images, names))


# ---- reading -------------------------------------------------------------------------------------------------------


def _kept(session: Session, project: int, run: int, wanted: Sequence[tuple[str, int, int]]) -> Kept:
    """Files and rows of the slices ``wanted``; 404 for what was never there, 410 for what is gone."""
    asked = known_run(session, project, run)
    source = views.run(session, project, views.source(asked)) or asked
    rows = [session.get(SliceScore, (source.id, *one)) for one in wanted]
    if not rows or None in rows:
        if asked.state != State.SUCCEEDED:
            raise Problem(404, f"run {run} is {asked.state}; only succeeded runs have evaluated slices")
        raise not_found("evaluated slice", ", ".join(f"{part}/{a}_{b}" for part, a, b in wanted) or None)
    dataset = session.get_one(Dataset, source.dataset_id)
    # By scan and slice: a split of its own may score a slice as another part than the data set has it in.
    places = {(one.scan, one.slice): one for one in manifest_of(dataset).slices}
    return Kept(
        archive=known_file(dataset.artifact, "data set"),
        maps=known_file(_maps(session, source), "run"),
        rows=[row for row in rows if row],
        entries=[places[scan, number] for _, scan, number in wanted],
    )


def _maps(session: Session, run: Run) -> str:
    """The artifact with the run's probability maps, its own or of the run that it was scored from."""
    for owner in filter(None, (run.id, run.scored_from)):
        for one in views.artifacts(session, owner):
            if one.kind == "probabilities":
                return one.sha256
    if bare := without_maps(session, [run.id]):
        raise Problem(410, f"{sentence(bare[run.id])}, so there is no prediction to draw")
    raise Problem(404, f"run {run.id} kept no probability maps, so there is no prediction to draw")


def known_file(sha256: str, what: str) -> str:
    """A file that the store has; 410 where it is gone. While nobody can say, who reads it is told so."""
    with suppress(artifacts.Away):
        if not (artifacts.locate(sha256).is_file() or artifacts.there(sha256)):
            raise Problem(410, f"the file of this {what} is gone from the store ({sha256[:12]})")
    return sha256


@contextmanager
def readable() -> Iterator[None]:
    """A file that was checked when it came in and cannot be read now is gone, not the asker's mistake."""
    try:
        yield
    except DataError as error:
        raise Problem(410, f"the pixels are damaged in the store: {error}") from None


# ---- drawing -------------------------------------------------------------------------------------------------------


def _panels(kept: Kept, kind: str) -> Picture:
    with readable(), _figures() as draw:
        panels = list(_read(kept))
        return Picture(draw.four_panels(panels) if kind == "four" else draw.six_panels(panels))


def _read(kept: Kept) -> "Iterator[Panels]":
    from liverseg_core import figures
    from liverseg_core.data.pixels import image_of, labels_of, open_archive
    from liverseg_core.maps import open_maps, read_map

    with (
        artifacts.held(kept.archive) as archive,
        artifacts.held(kept.maps) as probabilities,
        open_archive(archive) as bundle,
        open_maps(probabilities) as maps,
    ):
        for row, entry in zip(kept.rows, kept.entries, strict=True):
            yield figures.Panels(
                name=f"{row.part} {entry.key}",
                image=image_of(bundle, entry),
                truth=labels_of(bundle, entry),
                probabilities=read_map(maps, f"{row.part}/{entry.key}"),
                dice=figures.study_dice(row.dice, [getattr(row, name) for name in CONFUSION if name[0] == "q"]),
            )


@contextmanager
def _figures() -> Iterator[ModuleType]:
    """``liverseg_core.figures``, imported when first needed, while no other thread draws."""
    if not _drawing.acquire(timeout=WAIT_S):
        raise Problem(503, "many figures are being drawn; ask again in a few seconds", headers={"Retry-After": "5"})
    try:
        os.environ.setdefault("MPLCONFIGDIR", str(settings().cache / "matplotlib"))  # for its list of fonts
        from liverseg_core import figures

        yield figures
    finally:
        _drawing.release()
