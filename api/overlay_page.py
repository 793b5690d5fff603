"""One image under several runs as a page: CT, truth and what each run found; its address is its whole state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from api import render
from api.callers import Project
from api.parameters import Runs
from api.problems import Problem, not_found, refused
from api.routes.comparisons import compared
from api.routes.figures import ImageKey, Part, known_file
from api.routes.overlays import Label, Style, maps_of, options_of, tag_of
from store import tiles
from store.database import snapshot
from store.datasets import manifest_of
from store.deleted import sentence
from store.states import State
from store.tiles import Stop, Tile

router = APIRouter(include_in_schema=False)

MOST_RUNS = 12
"""More tiles than one can compare by eye, and each is a request."""

TONES = (0.25, 0.5, 0.75)
"""Mean lesion Dice of a slice below which its mark is stronger."""

WRONG = {
    "lesion": (("n02", "n12"), ("n20", "n21")),
    "liver": (("n01", "n02"), ("n10", "n20")),
}
"""Label -> the counts that make up its false positives, and its false negatives."""


@dataclass(frozen=True)
class Pane:
    """A tile of the page: a picture, or why there is none."""

    picture: str | None
    words: str
    tile: Tile | None = None
    wrong: tuple[int, int] | None = None
    """Pixels of false positives and false negatives."""
    least: int = 0
    """Lesions of fewer pixels count as liver."""


@router.get("/comparisons/images/{part}/{image}")
def overlay_page(
    request: Request,
    project: Project,
    part: Part,
    image: ImageKey,
    runs: Runs = None,
    style: Style = "fill",
    label: Label = "lesion",
) -> Response:
    """The pixels behind a number."""
    if runs is None:
        raise refused("runs", "give the runs to show, such as runs=1,2,3")
    scan, number = map(int, image.split("_"))
    with snapshot() as session:
        ids, lost = compared(session, project, runs, None, most=MOST_RUNS)
        found = tiles.tiles(session, project, ids, part, scan, number)
        first = next((one for one in found if one.score), next((one for one in found if one.entry), None))
        if first is None:
            raise not_found("slice in the data sets of these runs", f"{part}/{image}")
        alike = [one.source.id for one in found if one.dataset.content_hash == first.dataset.content_hash]
        along = tiles.stops(session, alike, part, scan)
        worst = tiles.worst(session, alike, part)
        manifest = manifest_of(first.dataset)
    if number not in [stop.slice for stop in along]:
        along = sorted([*along, Stop(scan, number, None)], key=lambda stop: stop.slice)
    place = [stop.slice for stop in along].index(number)
    link = _links(ids, part, style, label)
    return render.page(
        request,
        "overlays.html",
        part=part,
        scan=scan,
        number=number,
        subject=manifest.subjects[scan],
        size=(manifest.width, manifest.height),
        ids=ids,
        told=[sentence(one) for one in lost],
        common=[_common(first, ids[found.index(first)], part, show, style, label) for show in ("scan", "truth")],
        panes=[_pane(one, first, part, style, label) for one in found],
        along=along,
        before=along[place - 1] if place else None,
        after=along[place + 1] if place + 1 < len(along) else None,
        worst_here=min((stop for stop in along if stop.dice is not None), key=_dice, default=None),
        worst=worst,
        style=style,
        label=label,
        link=link,
        tone=tone,
        most=MOST_RUNS,
    )


def address(run_ids: Sequence[int], part: str, scan: int, number: int) -> str:
    """Where this page shows an image under these runs; of more than it shows, the first."""
    return f"{image_path(part, scan, number)}?{query(run_ids)}"


def image_path(part: str, scan: int, number: int) -> str:
    """The address without its runs."""
    return f"/comparisons/images/{part}/{scan}_{number}"


def query(run_ids: Sequence[int]) -> str:
    """The runs of the address."""
    return f"runs={','.join(map(str, run_ids[:MOST_RUNS]))}"


def tone(dice: float | None) -> str:
    """Class of a slice's mark: ``none``, or ``tone0`` (as good as right) to ``tone3`` (as good as missed)."""
    return "none" if dice is None else f"tone{sum(dice < bound for bound in TONES)}"


def _dice(stop: Stop) -> float:
    return 1.0 if stop.dice is None else stop.dice


def _links(ids: Sequence[int], part: str, style: str, label: str) -> Callable[..., str]:
    """A function from a stop, and what changes, to the address that shows it."""
    state = {"style": "" if style == "fill" else style, "label": "" if label == "lesion" else label}

    def link(stop: Stop, **changes: str) -> str:
        kept = {name: value for name, value in {**state, **changes}.items() if value}
        more = f"&{urlencode(kept)}" if kept else ""
        return address(ids, part, stop.scan, stop.slice) + more

    return link


def _common(first: Tile, run: int, part: str, show: str, style: str, label: str) -> Pane:
    """The CT or the truth, which all runs share."""
    try:
        known_file(first.dataset.artifact, "data set")
    except Problem as problem:
        return Pane(None, _sentence(problem.detail))
    return Pane(_picture(first, run, part, show, style, label), "")


def _pane(tile: Tile, first: Tile, part: str, style: str, label: str) -> Pane:
    wrong = _wrong(tile.score, label) if tile.score and _same(tile, first) else None
    words, least = _why_not(tile, first, part), options_of(tile.source).min_lesion
    picture = None if words else _picture(tile, tile.run.id, part, "prediction", style, label)
    return Pane(picture, words, tile, wrong, least)


def _why_not(tile: Tile, first: Tile, part: str) -> str:
    """Why there is no prediction to see, as a sentence; empty: there is one."""
    assert first.entry
    key = f"{part} {first.entry.key}"
    if tile.entry is not None and not _same(tile, first):
        return f"Its data set, {tile.dataset.name}, has another image or truth as {key}."
    if tile.run.state != State.SUCCEEDED:
        return f"This run is {tile.run.state}, so it has no scores."
    if tile.entry is None and tile.dataset.content_hash != first.dataset.content_hash:
        return f"Its data set, {tile.dataset.name}, has no {key}."
    if tile.score is None:
        return f"This run did not score {key}."
    try:
        maps_of(tile)
    except Problem as problem:
        return _sentence(problem.detail)
    return ""


def _same(tile: Tile, first: Tile) -> bool:
    """Whether two data sets have the same pixels and labels there."""
    both = [one.entry and (one.entry.image_sha256, one.entry.mask_sha256) for one in (tile, first)]
    return both[0] == both[1]


def _wrong(score: Any, label: str) -> tuple[int, int]:
    too_much, missed = WRONG[label]
    return sum(score[name] for name in too_much), sum(score[name] for name in missed)


def _picture(tile: Tile, run: int, part: str, show: str, style: str, label: str) -> str:
    assert tile.entry
    asked = {"show": show}
    if show != "scan":
        asked |= {"style": style, "label": label, "ground": "none"}
    query = urlencode({**asked, "tag": tag_of(tile, show, style, label, "scan" if show == "scan" else "none")})
    return f"/v1/runs/{run}/images/{part}/{tile.entry.key}/overlay.png?{query}"


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."
