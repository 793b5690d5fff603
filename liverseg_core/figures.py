"""The study's figures as PNG files: curves, prediction panels, histogram; and two scans side by side.

Every function returns the bytes of a PNG, the same bytes for the same arguments. Matplotlib's figures are objects
here, without pyplot, so nothing is kept between calls. Texts of other people never reach Matplotlib unescaped:
``$`` would begin a formula.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from liverseg_core.maps import decode
from liverseg_core.metrics import FULL, Labels, Level, Target, dice

WIDTH = 7.2
"""Inches: the text width of a page."""

DPI = 200
MOST_ROWS = 12
MOST_PIXELS = 512
"""Of a side of a panel, which is drawn at about half of it."""

TRAIN, VAL, TEST = "#d9730d", "#2468b4", "#7a828a"
"""Train orange and val blue, as in the study's Figure 2."""

PARTS = {"train": TRAIN, "val": VAL, "test": TEST}
INK, MUTED, RULE = "#1a1e23", "#5c6670", "#d5d9de"

SIX_CAPTION = (
    "Quantised predictions and masks. Dice: total = the study's D(y, p), profile paper-2019; liver (without its"
    " lesions) and lesion =\n"
    "one label against the rest at network size, profile paper-2019-fig4; a dash where the mask has none."
)


@dataclass(frozen=True)
class Panels:
    """One slice and its prediction, as the figures show them.

    Attributes:
        name: such as ``val 8_12``.
        image: CT, uint8 ``[H, W]``.
        truth: labels 0, 1, 2, uint8 ``[H, W]``.
        probabilities: the stored map, uint16 ``[S, S]`` (grey) or ``[2, S, S]`` (parenchyma, lesion).
        dice: total, liver and lesion, 0..1 or None, as :data:`SIX_CAPTION` says.
    """

    name: str
    image: NDArray[np.uint8]
    truth: Labels
    probabilities: Level
    dice: tuple[float | None, float | None, float | None]


def curves(epochs: Sequence[int], train: Sequence[float], val: Sequence[float]) -> bytes:
    """Figure 2: total Dice (0..1) by epoch, train orange, val blue."""
    figure = Figure(figsize=(WIDTH * 0.72, WIDTH * 0.43), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for values, colour, label in ((train, TRAIN, "train"), (val, VAL, "val")):
        axes.plot(epochs, values, color=colour, label=label, linewidth=1.6, marker="o", markersize=2.6)
    axes.set_ylim(max(0.0, np.floor(10 * min([*train, *val], default=0.0)) / 10), 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    _quiet(axes, "Epoch", "Dice coefficient, total", grid="both")
    return _png(figure)


def four_panels(rows: Sequence[Panels]) -> bytes:
    """Continuous prediction, quantised prediction, true mask, CT; one row a slice, at most ``MOST_ROWS``."""
    heads = ("Prediction", "Quantised prediction", "True mask", "CT")
    pictures = [
        (
            expected_grey(row.probabilities),
            _shades(predicted_labels(row.probabilities)),
            _shades(row.truth),
            smaller(row.image),
        )
        for row in rows
    ]
    return _grid([row.name for row in rows], heads, pictures, [("",) * 4] * len(rows), "")


def six_panels(rows: Sequence[Panels]) -> bytes:
    """Quantised prediction and mask: whole, liver alone, lesion alone, with their Dice; one row a slice.

    The fifth panel is the predicted lesion; the study's text calls it the true one.
    """
    heads = ("Prediction", "True mask", "Predicted liver", "True liver", "Predicted lesion", "True lesion")
    pictures, notes = [], []
    for row in rows:
        predicted, pairs = predicted_labels(row.probabilities), (None, 1, 2)
        pictures.append([_shades(labels, only) for only in pairs for labels in (predicted, row.truth)])
        notes.append([note for value in row.dice for note in (f"Dice {_score(value)}", "")])
    return _grid([row.name for row in rows], heads, pictures, notes, SIX_CAPTION)


def histogram(counts: Mapping[str, Mapping[str, int]], what: str) -> bytes:
    """Table 4 as a figure: slices of every scan or subject, stacked by part.

    Args:
        counts: name -> part -> slices.
        what: ``scan`` or ``subject``.
    """
    figure = Figure(figsize=(WIDTH * 0.86, WIDTH * 0.4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    places, foot = np.arange(len(counts)), np.zeros(len(counts))
    for part, colour in PARTS.items():
        heights = np.array([one.get(part, 0) for one in counts.values()], dtype=float)
        if heights.any():
            axes.bar(places, heights, 0.72, foot, color=colour, label=part)
            foot += heights
    if len(counts) <= 40:
        for place, total in zip(places, foot, strict=True):
            axes.annotate(f"{total:.0f}", (place, total), (0, 2), textcoords="offset points", ha="center", fontsize=7)
    every = 1 + len(counts) // 40
    axes.set_xticks(places[::every], [_plain(name) for name in counts][::every], parse_math=False)
    axes.margins(y=0.1)
    figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside upper right")
    _quiet(axes, what.capitalize(), "Slices", grid="y")
    return _png(figure)


def side_by_side(images: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> bytes:
    """Slices of two scans, uint8 ``[H, W]`` each, to be judged by eye."""
    return _grid([""], names, [images], [("",) * len(images)], "", width=WIDTH / 2)


# ---- what the panels are made from ---------------------------------------------------------------------------------


def study_dice(total: float, quantised: Sequence[int]) -> tuple[float | None, float | None, float | None]:
    """Total, liver and lesion Dice as :data:`SIX_CAPTION` says, 0..1.

    Args:
        total: the study's soft Dice of the slice (``SliceScore.dice``).
        quantised: the nine counts of the quantised labels at network size (``SliceScore.quantised``).
    """

    def alone(label: int, target: Target) -> float | None:
        return dice(quantised, target) if sum(quantised[3 * label : 3 * label + 3]) else None

    return total, alone(1, "parenchyma"), alone(2, "lesion")


# ---- what the panels show ------------------------------------------------------------------------------------------


def expected_grey(probabilities: Level) -> NDArray[np.float32]:
    """The prediction as a grey mask 0..1, float32 ``[S, S]``: 127/255 for parenchyma, 1 for lesion."""
    p = probabilities.astype(np.float32) / np.float32(FULL)
    grey: NDArray[np.float32] = p if p.ndim == 2 else np.float32(127 / 255) * p[0] + p[1]
    return grey


def predicted_labels(probabilities: Level) -> Labels:
    """Labels 0, 1, 2 of a stored map, uint8 ``[S, S]``: thirds of the grey, or the likeliest class."""
    return decode(probabilities)


def _shades(labels: Labels, only: int | None = None) -> NDArray[np.float32]:
    """Grey 0, 0.5, 1 of the labels, or of one of them alone."""
    shown = np.where(labels == only, labels, 0) if only else labels
    return smaller(shown) * np.float32(0.5)


def smaller(picture: NDArray[Any]) -> NDArray[Any]:
    """Every k-th row and column, so that no side has more than ``MOST_PIXELS``: a panel shows no more."""
    step = -(-max(picture.shape) // MOST_PIXELS)
    return picture[::step, ::step]


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


# ---- drawing -------------------------------------------------------------------------------------------------------


def _grid(
    names: Sequence[str],
    heads: Sequence[str],
    pictures: Sequence[Sequence[NDArray[Any]]],
    notes: Sequence[Sequence[str]],
    caption: str,
    width: float = WIDTH,
) -> bytes:
    """Rows of pictures: heads above the first row, a name left of each row, a note above each picture."""
    assert 0 < len(names) <= MOST_ROWS
    left, top, gap = 0.2 * any(names), 0.2, 0.05
    between = 0.19 if any(note for row in notes for note in row) else 0.05
    side = (width - left - gap * (len(heads) - 1)) / len(heads)
    foot = 0.06 + 0.13 * (caption.count("\n") + 1) * bool(caption)
    height = top + len(names) * (side + between) + foot
    figure = Figure(figsize=(width, height), dpi=DPI)
    columns = [left + number * (side + gap) for number in range(len(heads))]
    for x, head in zip(columns, heads, strict=True):
        _write(figure, x + side / 2, height - 0.15, head, fontsize=7.5, ha="center")
    for number, (name, row, texts) in enumerate(zip(names, pictures, notes, strict=True)):
        y = height - top - (number + 1) * (side + between)
        _write(figure, 0.12, y + side / 2, name, rotation=90, ha="center", va="center")
        for x, picture, text in zip(columns, row, texts, strict=True):
            _show(figure, (x / width, y / height, side / width, side / height), picture)
            _write(figure, x + side / 2, y + side + 0.03, text, ha="center")
    _write(figure, left, 0.05, caption, fontsize=6, color=MUTED)
    return _png(figure)


def _write(figure: Figure, x: float, y: float, text: str, **how: Any) -> None:
    """``text`` at a place in inches from the lower left corner."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, **{"fontsize": 7, "color": INK, "parse_math": False, **how})


def _show(figure: Figure, place: tuple[float, float, float, float], picture: NDArray[Any]) -> None:
    """A picture in grey: uint8 from 0 to 255, floats from 0 to 1."""
    axes = figure.add_axes(place)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255 if picture.dtype == np.uint8 else 1)
    axes.set_axis_off()


def _quiet(axes: Axes, x: str, y: str, grid: Any) -> None:
    axes.set_xlabel(x, fontsize=8.5, color=INK)
    axes.set_ylabel(y, fontsize=8.5, color=INK)
    axes.tick_params(labelsize=8, colors=MUTED, length=0)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=RULE, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)


def _plain(name: str) -> str:
    """A subject's name as Matplotlib's own font can show it: printable ASCII, short."""
    shown = "".join(char if char.isascii() and char.isprintable() else "?" for char in name)
    return shown if len(shown) <= 10 else shown[:9] + "~"


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", metadata={"Software": None})  # no version in the file
    return out.getvalue()
