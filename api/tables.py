"""The comparison as CSV and Markdown, and how its values are written everywhere."""

import csv
import io
from typing import Any

from store.comparison import Comparison, ComparisonRow

PAPER = ("loss", "dice", "precision", "recall", "dice_liver", "dice_tumor")
"""The study's Table 6, in percent as there."""

POOLED = ("pooled_liver_dice", "pooled_lesion_dice")
"""Not the study's; in percent too, so that one table has one unit."""

FACTS = ("run", "name", "state", "dataset", "part", "slices", "epochs", "best_epoch")

DANGEROUS = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to spreadsheet programs."""


def percent(value: float | None) -> str:
    """A fraction in percent with three decimals, as the study's Table 6 prints it."""
    return "" if value is None else f"{100 * value:.3f}"


def fraction(value: float | None) -> str:
    """A fraction with three decimals."""
    return "" if value is None else f"{value:.3f}"


def setting(value: Any) -> str:
    """A setting as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def label(path: str) -> str:
    """``training.learning_rate`` -> ``learning rate``."""
    return path.partition(".")[2].replace(".", " ").replace("_", " ") or path


def scores(row: ComparisonRow) -> list[str]:
    """The eight scores of a row as printed; empty where nothing can be said."""
    if row.scores is None:
        return [""] * (len(PAPER) + len(POOLED))
    return [percent(getattr(row.scores, name)) for name in (*PAPER, *POOLED)]


def to_csv(comparison: Comparison) -> str:
    """One line a run; text cells that a spreadsheet program would run are neutralised."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    for line in (_header(comparison), *(_cells(comparison, row) for row in comparison.rows)):
        writer.writerow([neutral(cell) for cell in line])
    return out.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """A table with its notes and warnings below."""
    header = _header(comparison)
    lines = [header, ["---"] * len(header), *(_cells(comparison, row) for row in comparison.rows)]
    table = "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)
    below = [*(f"**{_plain(warning)}**" for warning in comparison.warnings), *map(_plain, comparison.notes)]
    return table + "\n\n" + "\n\n".join(below) + "\n"


def neutral(cell: str) -> str:
    """``cell`` as text that no spreadsheet program runs; numbers stay numbers."""
    if not cell.startswith(DANGEROUS) or _is_number(cell):
        return cell
    return f"'{cell}"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.strip() == cell


def _header(comparison: Comparison) -> list[str]:
    return [*FACTS, *comparison.parameters, *(f"{comparison.scores[name]} [%]" for name in (*PAPER, *POOLED))]


def _cells(comparison: Comparison, row: ComparisonRow) -> list[str]:
    facts = [getattr(row, name) for name in FACTS]
    texts = ["" if fact is None else str(fact) for fact in facts]
    return [*texts, *(setting(row.settings.get(path)) for path in comparison.parameters), *scores(row)]


def _plain(cell: str) -> str:
    """Text that Markdown shows as it is."""
    text = " ".join(cell.split())
    for mark in ("\\", "`", "*", "](", "<", "|"):
        text = text.replace(mark, f"\\{mark}")
    return text
