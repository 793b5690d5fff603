"""What the study's printed differences come to in the runs at hand: rules over rows, no opinion."""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from liverseg_core.misprints import find_misprints
from liverseg_core.presets import EMPTY_PREDICTION, PAPER_2019_ROWS, TABLE_6_COLUMNS, PaperRow
from liverseg_core.printed import PrintedRow
from liverseg_core.study_groups import Sorted, differing

NOTHING = "-"

ROWS = {row.name: row for row in PAPER_2019_ROWS}


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two rows that the study sets against each other, and the question that this is to answer."""

    question: str
    first: str
    second: str


CONTRASTS = (
    Contrast("Shuffling", "Shuffled 1", "Not shuffled"),
    Contrast("Learning rate 0.001 against 0.005", "Not shuffled", "lr5e-3"),
    Contrast("Learning rate 0.001 against 0.0005", "Not shuffled", "lr5e-4"),
    Contrast("Leaving scans 0 and 1 out", "Remove shuffle", "Shuffled 1"),
    Contrast("The study's augmentation", "DA", "Shuffled 1"),
    Contrast("Augmentation at 0.0005 against 0.001", "DA lr5e-4", "DA"),
    Contrast("Augmentation without scans 0 and 1", "DA remove", "DA"),
    Contrast("8 filters and batch 64 against 4 and 32", "Remove shuffle 3", "Remove shuffle"),
    Contrast("Batch 1 against 32", "Remove shuffle 5", "Remove shuffle"),
    Contrast("Batch 4 against 32", "Shuffle b4", "Shuffled 1"),
    Contrast("512 against 256 pixels", "Shuffled 512 b4", "Shuffle b4"),
)


def printed_rows() -> list[PrintedRow]:
    """The preset's rows as they stand in Tables 5 and 6."""
    return [_printed_row(row) for row in PAPER_2019_ROWS]


def _printed_row(row: PaperRow) -> PrintedRow:
    parameters: dict[str, Any] = {
        "training.batch_size": row.batch_size,
        "data.image_size": row.image_size,
        "model.filters": row.filters,
        "training.learning_rate": row.learning_rate,
    }
    scores = dict(zip(TABLE_6_COLUMNS, row.printed, strict=True))
    return PrintedRow(row.name, row.run_id, parameters if row.run_id else {}, scores)


def verdict(printed: float, first: Sequence[float], second: Sequence[float]) -> str:
    """What our values say about a printed difference ``first - second``, with how many runs say it.

    >>> verdict(11.784, [96.1, 96.4], [84.0])
    'agrees (n = 2 and 1)'
    """
    if not first or not second:
        return "not run"
    ours = statistics.fmean(first) - statistics.fmean(second)
    apart = min(first) > max(second) or max(first) < min(second)
    if printed == 0:
        word = "printed equal"
    elif not apart:
        word = "open"
    else:
        word = "agrees" if (ours > 0) == (printed > 0) else "disagrees"
    return f"{word} (n = {len(first)} and {len(second)})"


def direction(first: Sequence[float], second: Sequence[float]) -> str:
    """Which of two rows has the higher values here."""
    if not first or not second:
        return "not run"
    if min(first) > max(second):
        return "first is higher"
    return "second is higher" if max(first) < min(second) else "open"


def concordant(pairs: Sequence[tuple[float, float]]) -> tuple[int, int]:
    """Of all pairs of points, how many are ordered alike by both coordinates, and how many there are; ties are none.

    >>> concordant([(1, 1), (2, 3), (3, 2)])
    (2, 3)
    """
    signs = [(a - c) * (b - d) for (a, b), (c, d) in itertools.combinations(pairs, 2)]
    return sum(sign > 0 for sign in signs), sum(sign != 0 for sign in signs)


def verdict_row(contrast: Contrast, found: Sorted) -> list[str]:
    """Question, rows, differing settings, printed and own Dice, the verdict, own lesion Dice, its direction."""
    first, second = ROWS[contrast.first], ROWS[contrast.second]
    place = TABLE_6_COLUMNS.index("dice")
    printed = [row.printed[place] for row in (first, second)]
    here = [found.retrained.get(row.name) for row in (first, second)]
    flagged = {name for note in find_misprints(printed_rows()) if note.check == "identical" for name in note.rows}
    remark = ", flagged as copied" if flagged & {first.name, second.name} else ""
    dice_here, lesion_here = (
        [group.values(key) if group else [] for group in here] for key in ("dice", "pooled_lesion")
    )
    return [
        contrast.question,
        f"{first.name} against {second.name}",
        ", ".join(differing(first, second)),
        f"{printed[0]:.3f} against {printed[1]:.3f}{remark}",
        _against(dice_here),
        verdict(printed[0] - printed[1], *dice_here),
        _against(lesion_here),
        direction(*lesion_here),
    ]


def tumor_column(found: Sorted) -> Iterator[str]:
    """Whether the study's tumor column orders runs as an honest lesion Dice does."""
    runs = [run for group in found.on_paper_split() for run in group.runs]
    scores = [run.values for run in runs]
    # A network that was scored again counts once, as it was scored first.
    once = {run.training_hash: run.values for run in reversed(runs)}.values()
    pairs = [(one["dice_tumor"], one["pooled_lesion"]) for one in once]
    alike, of = concordant([(a, b) for a, b in pairs if a is not None and b is not None])
    if of:
        yield (
            "*Models with the highest tumor Dice segment lesions best.* Over the runs on the paper split that were "
            f"exported, Dice Coef. Tumor and pooled lesion Dice order {alike} of {of} pairs of runs alike."
        )
    best = max((one["dice_tumor"] or 0.0 for one in scores), default=0.0)
    for perfect in (run for run in found.references if run.predictor == "perfect" and scores):
        yield (
            f"A perfect prediction scores {100 * (perfect.values['dice_tumor'] or 0.0):.3f} in Dice Coef. Tumor at "
            f"{perfect.spec['data']['image_size']} pixels; the highest of the exported runs is {100 * best:.3f}."
        )


def at_the_floor(found: Sorted) -> Iterator[str]:
    """Rows printed at the floor of the tumor column: whether they predict lesions here."""
    place = TABLE_6_COLUMNS.index("dice_tumor")
    floor = {size: round(values["dice_tumor"], 3) for size, values in EMPTY_PREDICTION.items()}
    low = [row.name for row in PAPER_2019_ROWS if row.printed[place] == floor[row.image_size]]
    told = [
        f"{name}: {group.without_lesion()} of {group.n} without a lesion pixel"
        for name in low
        if (group := found.retrained.get(name))
    ]
    yield (
        f"*Printed at the floor of an empty prediction in Dice Coef. Tumor*: {', '.join(low)}. "
        f"Retrained here: {'; '.join(told) or 'none'}."
    )


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over runs; of one run its value, of none nothing."""
    if not values:
        return NOTHING
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} \N{PLUS-MINUS SIGN} {statistics.stdev(values):.3f}"


def _against(values: Sequence[Sequence[float]]) -> str:
    return " against ".join(map(spread, values)) if any(values) else NOTHING
