"""The study's table of images (its Figure 4) as CSV, Markdown and LaTeX, by the profile ``paper-2019-fig4``."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from api import latex, tables
from liverseg_core.markdown import table
from liverseg_core.records import SliceScore
from store.models import CONFUSION

FACTS = ("part", "scan", "slice", "tp", "fp", "fn", "dice", "dice_liver", "dice_tumor")


@dataclass(frozen=True)
class Lines:
    """Heading and rows of the table, and the written override of the run's split, empty without one."""

    header: list[str]
    rows: list[list[str]]
    override: str


def lines(images: Sequence[dict[str, Any]], override: str = "") -> Lines:
    """ID, image, then the profile's columns in percent; blank where the truth lacks the label."""
    from liverseg_core.profiles import named

    columns = named("paper-2019-fig4").columns
    values = _values(images, columns) if images else []
    rows = [
        [str(number), f"{image['part']}/{image['scan']}_{image['slice']}", *map(_percent, scores)]
        for number, (image, scores) in enumerate(zip(images, values, strict=True), 1)
    ]
    return Lines(["ID", "Image", *(f"{column.label} [%]" for column in columns)], rows, override)


def _values(images: Sequence[dict[str, Any]], columns: Sequence[Any]) -> list[list[float]]:
    from liverseg_core.facts import Facts, Units

    scores = [_score(image) for image in images]
    units = Units(Facts.of(scores, None, {score.scan: "" for score in scores}), "slice")  # no column asks who it is
    return [list(row) for row in zip(*(column.measure(units) for column in columns), strict=True)]


def _score(image: dict[str, Any]) -> SliceScore:
    counts, quantised = (tuple(image[name] for name in names) for names in (CONFUSION[:9], CONFUSION[9:]))
    return SliceScore(counts=counts, quantised=quantised, **{name: image[name] for name in FACTS})


def _percent(value: float) -> str:
    return f"{100 * value:.3f}" if math.isfinite(value) else ""


def to_csv(found: Lines) -> str:
    """One line an image; an override ends every line."""
    more = {"override": tables.neutral(found.override)} if found.override else {}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([*found.header, *more])
    writer.writerows([*row, *more.values()] for row in found.rows)
    return out.getvalue()


def to_markdown(found: Lines) -> str:
    """A pipe table; an override below it."""
    return "\n\n".join([table(found.header, found.rows), *map(tables.paragraph, _below(found))]) + "\n"


def to_latex(found: Lines) -> str:
    """A longtable with rules of booktabs, since hundreds of images fill several pages; it fits a plain article."""
    header, below = found.header, "".join(f"{latex.words([line])}\n" for line in _below(found))
    body = "\n".join(map(_latex_line, found.rows))
    heading = _latex_line([*header[:2], *map(_stacked, header[2:])])
    columns = "rl" + "r" * (len(header) - 2)
    return (
        "% needs \\usepackage{booktabs,longtable}\n"
        "{\\footnotesize\\setlength{\\tabcolsep}{4pt}\n"
        f"\\begin{{longtable}}{{{columns}}}\n\\toprule\n{heading}\n\\midrule\n\\endhead\n"
        f"{body}\n\\bottomrule\n\\end{{longtable}}}}\n{below}"
    )


def _below(found: Lines) -> list[str]:
    return [f"Split override: {found.override}"] if found.override else []


def _latex_line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("_", r"\_").replace("%", r"\%") for cell in cells)
    return " & ".join(escaped) + r" \\"


def _stacked(label: str) -> str:
    """A word a line, else the headings are wider than the text; ``{}``: after a break ``[`` would begin a length."""
    return "\\shortstack[r]{" + r"\\{}".join(label.split()) + "}"


TEXTS: dict[str, tuple[str, str, Callable[[Lines], str]]] = {
    "csv": ("text/csv", "csv", to_csv),
    "md": ("text/markdown", "md", to_markdown),
    "latex": ("application/x-latex", "tex", to_latex),
}
"""Format -> media type, ending of the file, writer."""
