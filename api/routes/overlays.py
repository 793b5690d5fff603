"""Tiles of the image page as PNG: the CT of a slice, the truth over it, and what a run found and missed.

Drawn with NumPy and Pillow in milliseconds, so that a scan can be scrolled through. A tile never changes: its tag
is a hash over all that it is drawn from, and whoever asks for it by its tag may keep the answer.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path as FilePath
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from api.callers import Project
from api.parameters import RunId
from api.problems import Problem, not_found
from api.routes.figures import WAIT_S, ImageKey, Part, Picture, known_file, readable
from api.routes.runs import known_run
from liverseg_core.spec import EvaluationOptions, ExperimentSpec
from store import artifacts, tiles, views
from store.database import transaction
from store.models import Run
from store.tiles import Tile

if TYPE_CHECKING:
    from liverseg_core.metrics import Labels
    from liverseg_core.scoring import Kept

router = APIRouter(prefix="/v1", tags=["figures"])

Show = Annotated[
    Literal["prediction", "truth", "scan"],
    Query(description="what lies over the CT: true and false positives and false negatives, the truth, or nothing"),
]
Style = Annotated[Literal["fill", "contour"], Query(description="areas, or their edges alone")]
Label = Annotated[
    Literal["lesion", "liver"], Query(description="whose pixels are coloured; of the other one the edge is shown")
]
Ground = Annotated[
    Literal["scan", "none"],
    Query(description="what the colours lie on: the CT, or nothing, to be laid over show=scan by whoever has that"),
]
Tag = Annotated[
    str,
    Query(
        pattern="^([0-9a-f]{16})?$",
        max_length=16,
        description="as the ETag has it; where it is still right, the answer may be kept for good",
    ),
]

KEPT = "private, max-age=31536000, immutable"
ASK_AGAIN = "private, no-cache"

_painting = BoundedSemaphore(2)
"""Tiles drawn at once: a slice may have 16 million pixels, and memory stays bounded."""


@router.get(
    "/runs/{run}/images/{part}/{image}/overlay.png",
    response_class=Picture,
    responses={304: {"description": "the picture that you have is still right"}},
)
def overlay(
    request: Request,
    project: Project,
    run: RunId,
    part: Part,
    image: ImageKey,
    show: Show = "prediction",
    style: Style = "fill",
    label: Label = "lesion",
    ground: Ground = "scan",
    tag: Tag = "",
) -> Response:
    """One slice at its own size: yellow is right, vermillion too much, blue missed, as the counts have it."""
    scan, number = map(int, image.split("_"))
    with transaction() as session:
        tile = next(iter(tiles.tiles(session, project, [run], part, scan, number)), None)
        if tile is None:
            known_run(session, project, run)  # says what became of it
        assert tile
        along = _scored_beside(session, tile, part, scan) if show == "prediction" else ()
    if tile.entry is None or (show == "prediction" and tile.score is None):
        raise not_found("evaluated slice" if show == "prediction" else "slice", f"{part}/{image}")
    right = tag_of(tile, show, style, label, ground)
    headers = {
        "ETag": f'"{right}"',
        "Cache-Control": KEPT if tag == right else ASK_AGAIN,
        "Vary": "Authorization",  # who else uses this browser may not see it
    }
    if f'"{right}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    with readable(), _a_turn():
        return Picture(_drawn(tile, part, along, show, style, label, ground), headers=headers)


def tag_of(tile: Tile, show: str, style: str = "", label: str = "", ground: str = "scan") -> str:
    """Sixteen hex digits over all that a tile is drawn from.

    Raises:
        Problem: a prediction is wanted and cannot be drawn (404, 410).
    """
    from liverseg_core.overlays import VERSION

    assert tile.entry
    parts: list[object] = [VERSION, show, tile.entry.image_sha256]
    if show != "scan":
        parts += [style, label, ground, tile.entry.mask_sha256]
    if show == "prediction":
        where = [tile.score["part"], tile.entry.key] if tile.score else []
        parts += [maps_of(tile), *where, options_of(tile.source).model_dump()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def maps_of(tile: Tile) -> str:
    """SHA-256 of the run's maps.

    Raises:
        Problem: it never kept any (404), or they are gone (410).
    """
    if tile.source.kind == "reference":
        raise Problem(404, "a reference predictor keeps no probability maps, so there is no prediction to draw")
    if tile.maps is None:
        if tile.lost:
            raise Problem(410, f"{tile.lost}, so there is no prediction to draw")
        raise Problem(404, f"run {tile.source.id} kept no probability maps, so there is no prediction to draw")
    return known_file(tile.maps, "run")


def options_of(run: Run) -> EvaluationOptions:
    """How the probabilities of a run were made into labels."""
    return ExperimentSpec.parse(run.spec).evaluation


def _scored_beside(session: Session, tile: Tile, part: str, scan: int) -> tuple[str, ...]:
    """The run's maps of a scan along the body, where what is kept in one slice depends on the others."""
    if tile.score is None or not options_of(tile.source).largest_component:
        return ()
    return tuple(f"{part}/{scan}_{one}" for one in views.slices_of_scan(session, tile.source.id, part, scan))


@contextmanager
def _a_turn() -> Iterator[None]:
    if not _painting.acquire(timeout=WAIT_S):
        raise Problem(503, "many tiles are being drawn; ask again in a few seconds", headers={"Retry-After": "5"})
    try:
        yield
    finally:
        _painting.release()


def _drawn(
    tile: Tile, part: str, along: tuple[str, ...], show: Show, style: Style, label: Label, ground: Ground
) -> bytes:
    from liverseg_core import overlays
    from liverseg_core.data.pixels import image_of, labels_of, open_archive, png_of

    assert tile.entry
    archive = known_file(tile.dataset.artifact, "data set")
    with artifacts.held(archive) as place, open_archive(place) as bundle:
        if show == "scan":
            return png_of(bundle, tile.entry)
        truth = labels_of(bundle, tile.entry)
        image = image_of(bundle, tile.entry) if ground == "scan" else None
    if show == "truth":
        classes = overlays.truth_classes(truth, label, style)
    else:
        classes = overlays.prediction_classes(*_counted(tile, truth, f"{part}/{tile.entry.key}", along), label, style)
    return overlays.alone(classes, style) if image is None else overlays.over(image, classes, style)


def _counted(tile: Tile, truth: "Labels", name: str, along: tuple[str, ...]) -> "tuple[Labels, Labels]":
    from liverseg_core.maps import open_maps, read_map
    from liverseg_core.scoring import counted

    options = options_of(tile.source)
    with artifacts.held(maps_of(tile)) as maps:
        with open_maps(maps) as file:
            u = read_map(file, name)
        height, width = truth.shape
        kept = _largest(maps, along, (height, width), options)[along.index(name)] if along else None
    return counted(truth, u, options, kept)


@lru_cache(maxsize=64)
def _largest(
    maps: FilePath, names: tuple[str, ...], shape: tuple[int, int], options: EvaluationOptions
) -> "list[Kept]":
    """A few bytes a slice; to find them all maps of the scan are read, which is too long to do at each of them."""
    from liverseg_core.scoring import largest_liver

    return largest_liver(maps, names, shape, options)
