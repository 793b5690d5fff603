"""What looks wrong in a printed table, found from its rows alone.

Each check is a function from rows to notes; ``CHECKS`` lists them in the order in which their notes are shown.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from liverseg_core.presets import EMPTY_PREDICTION
from liverseg_core.printed import PrintedRow

DICE = ("dice", "dice_liver", "dice_tumor")
TITLES = {
    "loss": "Loss",
    "dice": "Dice Coef.",
    "precision": "Precision",
    "recall": "Recall",
    "dice_liver": "Dice Coef. Liver",
    "dice_tumor": "Dice Coef. Tumor",
}

FEWEST_SCORES = 3
"""Rows with fewer scores may well be equal by chance."""

SHARING = 3
"""So many different rows with one lowest value are no chance."""

SURE_DECIMALS = 3
"""The reference constants are known to so many; with fewer printed, equal values may be chance."""

SHORTEST_TRAINING_S = 120


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a reader of the table should know.

    Attributes:
        check: ``loss-and-dice``, ``no-parameters``, ``no-scores``, ``identical``, ``floor`` or ``run-times``.
        rows: names of the rows it is about.
        message: for a person, one sentence or two.
    """

    check: str
    rows: tuple[str, ...]
    message: str

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rows": list(self.rows)}


def find_misprints(rows: Sequence[PrintedRow]) -> tuple[Note, ...]:
    """Every note about the rows of one table."""
    return tuple(note for check in CHECKS for note in check(rows))


def loss_and_dice(rows: Sequence[PrintedRow]) -> Iterator[Note]:
    """Loss is 1 - Dice, so the two add to 100 but for the rounding of both."""
    allowed = sum(_half_a_digit(rows, key) for key in ("loss", "dice"))
    for row in rows:
        loss, dice = _exact(row, "loss"), _exact(row, "dice")
        if loss is not None and dice is not None and abs(loss + dice - 100) > allowed:
            message = (
                f"{row.name}: loss {loss} and Dice {dice} add to {loss + dice}, not to 100. With this Dice the loss "
                f"would be {100 - dice}, with this loss the Dice {100 - loss}."
            )
            yield Note("loss-and-dice", (row.name,), message)


def one_sided(rows: Sequence[PrintedRow]) -> Iterator[Note]:
    """Scores without parameters and parameters without scores, where the table has both."""
    if not any(row.parameters for row in rows) or not any(row.scores for row in rows):
        return
    bare = tuple(row.name for row in rows if row.scores and not row.parameters)
    unscored = tuple(row.name for row in rows if row.parameters and not row.scores)
    if bare:
        yield Note(
            "no-parameters", bare, f"{_listed(bare)}: scores without parameters, so nobody can repeat the row."
        )
    if unscored:
        yield Note("no-scores", unscored, f"{_listed(unscored)}: parameters without scores.")


def identical(rows: Sequence[PrintedRow]) -> Iterator[Note]:
    """Different experiments with one set of scores; empty predictions are alike by nature and left to ``floors``."""
    groups: dict[tuple[tuple[str, float], ...], list[PrintedRow]] = {}
    for row in rows:
        if len(row.scores) >= FEWEST_SCORES and not _is_empty(row):
            groups.setdefault(tuple(row.scores.items()), []).append(row)
    for scores, alike in groups.items():
        if len(alike) > 1:
            names = tuple(row.name for row in alike)
            message = (
                f"{_listed(names)}: the same in all {len(scores)} scores{_though(alike)}; all but one look copied."
            )
            yield Note("identical", names, message)


def floors(rows: Sequence[PrintedRow]) -> Iterator[Note]:
    """Dice values that an empty prediction scores too, so that they measure nothing."""
    empty = [row for row in rows if _is_empty(row)]
    for key in DICE:
        known, shared = _known_floor(rows, key), _shared_floor(rows, key)
        found = {id(row) for row in (*known, *shared)}
        lowest = [row for row in rows if id(row) in found]
        if any(not _is_empty(row) for row in lowest):
            yield _floor_note(key, lowest, known)
    if empty:
        names = tuple(row.name for row in empty)
        message = f"{_listed(names)}: everything is at the floor of an empty prediction; nothing was segmented."
        yield Note("floor", names, message)


def run_times(rows: Sequence[PrintedRow]) -> Iterator[Note]:
    """Run ids that are stamps MMDD-HHMMSS and lie too close together to be times of training."""
    stamped = sorted(((when, row.name) for row in rows if (when := _stamp(row.run_id))), key=lambda one: one[0])
    gaps = [round((after - before).total_seconds()) for (before, _), (after, _) in itertools.pairwise(stamped)]
    start = 0
    for end in range(1, len(stamped) + 1):
        if end == len(stamped) or gaps[end - 1] >= SHORTEST_TRAINING_S:
            if end - start > 1:
                yield _times_note([name for _, name in stamped[start:end]], gaps[start : end - 1])
            start = end


CHECKS = (loss_and_dice, one_sided, identical, floors, run_times)


# ---- what the checks ask -------------------------------------------------------------------------------------


def _exact(row: PrintedRow, key: str) -> Decimal | None:
    """The printed number itself, free of binary rounding."""
    value = row.scores.get(key)
    return None if value is None else Decimal(repr(value)).normalize() + Decimal(0)


def _decimals(rows: Sequence[PrintedRow], key: str) -> int:
    """Digits after the point that the column is printed with; trailing zeros may be gone from single cells."""
    exponents = [value.as_tuple().exponent for row in rows if (value := _exact(row, key)) is not None]
    return max((-exponent for exponent in exponents if isinstance(exponent, int)), default=0)


def _half_a_digit(rows: Sequence[PrintedRow], key: str) -> Decimal:
    return Decimal(5).scaleb(-_decimals(rows, key) - 1)


def _is_empty(row: PrintedRow) -> bool:
    """Whether nothing was predicted: no hit and next to no overlap (p just below 0.5 has no hit, but overlaps)."""
    return row.scores.get("precision") == row.scores.get("recall") == 0 and row.scores.get("dice", 100) < 1


def _known_floor(rows: Sequence[PrintedRow], key: str) -> list[PrintedRow]:
    """Rows at the value that an empty prediction is known to score at their image size (any, if none is printed)."""
    decimals = _decimals(rows, key)
    if decimals < SURE_DECIMALS:
        return []
    return [row for row in rows if row.scores.get(key) in _constants(row, key, decimals)]


def _constants(row: PrintedRow, key: str, decimals: int) -> set[float]:
    size = row.parameters.get("data.image_size")
    fitting = [floor[key] for known, floor in EMPTY_PREDICTION.items() if size in (None, known)]
    return {round(floor, min(decimals, 5)) for floor in fitting}


def _shared_floor(rows: Sequence[PrintedRow], key: str) -> list[PrintedRow]:
    """Rows that share the column's lowest value, if that can hardly be chance."""
    lowest = min((row.scores[key] for row in rows if key in row.scores), default=0)
    sharing = [row for row in rows if row.scores.get(key) == lowest]
    different = len({tuple(row.scores.items()) for row in sharing})
    precise = _decimals(rows, key) >= SURE_DECIMALS or lowest < 1
    enough = different >= SHARING or (different > 1 and any(map(_is_empty, sharing)))
    return sharing if precise and enough else []


def _floor_note(key: str, rows: Sequence[PrintedRow], known: Sequence[PrintedRow]) -> Note:
    names = tuple(row.name for row in rows)
    values = " and ".join(f"{value}" for value in sorted({row.scores[key] for row in rows}))
    if len(known) == len(rows):
        why = "is exactly what an empty prediction scores"
    else:
        why = "is the lowest value and shared to the last digit, as the score of an empty prediction is"
    class_ = "lesion" if key == "dice_tumor" else "pixel"
    message = f"{_listed(names)}: {TITLES[key]} {values} % {why}; it says that no {class_} was found, not how well."
    return Note("floor", names, message)


def _though(rows: Sequence[PrintedRow]) -> str:
    paths = dict.fromkeys(path for row in rows for path in row.parameters)
    differing = [path for path in paths if len({row.parameters.get(path) for row in rows}) > 1]
    words = ", ".join(path.partition(".")[2].replace("_", " ") for path in differing)
    return f", though they differ in {words}" if words else ""


def _stamp(run_id: str | None) -> datetime | None:
    """The moment of ``0605-180358``, in a leap year; None where the id is no such stamp."""
    if not run_id or not re.fullmatch(r"\d{4}-\d{6}", run_id):
        return None
    try:
        return datetime.strptime(f"2000{run_id}", "%Y%m%d-%H%M%S")  # noqa: DTZ007 - only differences are used
    except ValueError:
        return None


def _times_note(names: Sequence[str], gaps: Sequence[int]) -> Note:
    apart = f"{min(gaps)} to {max(gaps)} s" if min(gaps) < max(gaps) else f"{gaps[0]} s"
    message = (
        f"{_listed(names)}: the run ids are times {apart} apart, which is no time to train in. They are times of "
        "evaluation, or of runs started together, and do not say when or in which order the rows were trained."
    )
    return Note("run-times", tuple(names), message)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
