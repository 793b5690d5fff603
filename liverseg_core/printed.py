"""Tables of scores as publications print them: JSON, CSV, Markdown or pasted text, read into rows.

Several tables are joined by the names of their rows, as the study's Table 5 (parameters) and Table 6 (scores).
What looks wrong in the rows is found by ``liverseg_core.misprints``.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from liverseg_core.errors import DataError

Value = str | int | float | bool

MAX_ROWS = 1000
MAX_NAME = 200

LABELS = {"name": ("name", "experiment", "model", "method"), "run_id": ("run", "run id")}

PARAMETERS = {
    "training.optimizer": ("optimizer", "optimiser"),
    "training.batch_size": ("batch size", "batch"),
    "data.image_size": ("image size", "resize", "image resolution", "image input resolution", "resolution"),
    "model.filters": ("filters", "of filters", "number of filters", "of initial filters"),
    "training.learning_rate": ("learning rate", "lr"),
    "training.epochs": ("epochs", "of epochs", "number of epochs"),
    "data.shuffle": ("shuffle", "shuffled"),
}

SCORES = {
    "loss": ("loss",),
    "dice": ("dice", "dice coef", "dice coefficient", "dice all"),
    "precision": ("precision",),
    "recall": ("recall",),
    "dice_liver": ("dice liver", "dice coef liver", "dice coefficient liver", "liver dice"),
    "dice_tumor": ("dice tumor", "dice coef tumor", "dice coefficient tumor", "tumor dice"),
}
"""Score -> how its heading may read once it is in lower case and only words are left."""

COLUMNS = {
    alias: key for group in (LABELS, PARAMETERS, SCORES) for key, aliases in group.items() for alias in aliases
}


@dataclass(frozen=True, slots=True)
class PrintedRow:
    """One row of a printed table.

    Attributes:
        name: as printed.
        run_id: as printed, if it was.
        parameters: dotted path of a spec, e.g. ``training.learning_rate``, -> value.
        scores: key of ``SCORES`` -> percent, 0..100; keys that the table does not print are absent.
    """

    name: str
    run_id: str | None = None
    parameters: dict[str, Value] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Grid:
    """A table whose cells are not yet understood."""

    where: str
    header: list[str]
    rows: list[list[Any]]


def read_tables(files: Sequence[tuple[str, str]]) -> tuple[PrintedRow, ...]:
    """The rows of every table in ``files``, (name, text) each, joined by row name, in the order of the scores.

    Raises:
        DataError: no table, a column that is not known, a cell that is no number, two values for one thing,
            scores that are fractions; with file, row and column.
    """
    grids = [grid for name, text in files for grid in _grids(name, text)]
    if not grids:
        raise DataError("files", "hold no table; give at least one file")
    tables = [list(_entries(grid)) for grid in grids]
    tables.sort(key=lambda entries: not any(key in SCORES for _, found in entries for key in found))
    rows = _joined([entry for entries in tables for entry in entries])
    _check_percent(rows)
    return rows


# ---- from text to cells --------------------------------------------------------------------------------------


def _grids(name: str, text: str) -> list[_Grid]:
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise DataError(name, "is empty; give a file that holds a table")
    found = _reader(name, text)(name, text)
    if not found:
        raise DataError(
            name, "holds no table; columns of pasted text are separated by tabs or by two or more spaces", text[:60]
        )
    for grid in found:
        _check_shape(grid)
    return found


def _reader(name: str, text: str) -> Callable[[str, str], list[_Grid]]:
    """By the ending of the name, else by what the text looks like."""
    by_ending = {"json": _from_json, "csv": _from_csv, "md": _from_markdown, "markdown": _from_markdown}
    ending = name.rpartition(".")[2].lower()
    if ending in by_ending:
        return by_ending[ending]
    if text.lstrip().startswith(("{", "[")):
        return _from_json
    if any(line.strip()[:1] == "|" == line.strip()[-1:] for line in text.splitlines()):
        return _from_markdown
    return _from_text if re.search(r"\S(\t+| {2,})\S", text) or "," not in text else _from_csv


def _from_json(name: str, text: str) -> list[_Grid]:
    """``{"columns": [...], "rows": [[...], ...]}``; a title may stand beside them."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(name, f"is no JSON that can be read ({error})") from None
    if not isinstance(value, dict) or not {"columns", "rows"} <= value.keys() <= {"title", "columns", "rows"}:
        raise DataError(name, 'must be {"title": ..., "columns": [...], "rows": [[...], ...]}', value)
    header, rows = value["columns"], value["rows"]
    if not isinstance(header, list) or not all(isinstance(title, str) for title in header):
        raise DataError(f"{name}: columns", "must be a list of texts", header)
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise DataError(f"{name}: rows", "must be a list of lists", rows)
    return [_Grid(name, header, rows)]


def _from_csv(name: str, text: str) -> list[_Grid]:
    header = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        lines = [line for line in csv.reader(text.splitlines(), delimiter=delimiter, strict=True) if any(line)]
    except csv.Error as error:
        raise DataError(name, f"is no CSV that can be read ({error})") from None
    return [_Grid(name, lines[0], list(lines[1:]))] if lines else []


def _from_markdown(name: str, text: str) -> list[_Grid]:
    """Every pipe table in the text; what is around them is prose."""
    blocks = re.findall(r"(?:^[ \t]*\|.*\|[ \t]*$\n?)+", text, re.MULTILINE)
    return [_Grid(name, *_split_header([_cells(line) for line in block.splitlines()])) for block in blocks]


def _cells(line: str) -> list[str]:
    """The cells of one line of a pipe table, without the marks of Markdown."""
    inside = line.strip().removeprefix("|").removesuffix("|")
    return [re.sub(r"\\(.)|[*`]", r"\1", cell).strip() for cell in re.split(r"(?<!\\)\|", inside)]


def _split_header(lines: list[list[str]]) -> tuple[list[str], list[list[Any]]]:
    header, *rows = lines
    return header, [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]


def _from_text(name: str, text: str) -> list[_Grid]:
    """Blocks of lines with columns; lines of one column above them (a title) and whole blocks of such are prose."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        lines = [re.split(r"\t+| {2,}", line.strip()) for line in block.splitlines() if line.strip()]
        while lines and len(lines[0]) == 1:
            del lines[0]
        if lines:
            found.append(_Grid(name, lines[0], list(lines[1:])))
    return found


def _check_shape(grid: _Grid) -> None:
    if not grid.rows:
        raise DataError(grid.where, "has a heading and no rows; give at least one row", grid.header)
    if len(grid.rows) > MAX_ROWS:
        raise DataError(grid.where, f"has more than {MAX_ROWS:,} rows; give fewer", len(grid.rows))
    for number, row in enumerate([grid.header, *grid.rows]):
        if any(isinstance(cell, str) and len(cell) > MAX_NAME for cell in row):
            raise DataError(
                f"{grid.where}: row {number}", f"has a cell of more than {MAX_NAME} characters; shorten it"
            )
    for number, row in enumerate(grid.rows, 1):
        if len(row) != len(grid.header):
            problem = f"has {len(row)} cells where the heading has {len(grid.header)}; make them equal"
            raise DataError(f"{grid.where}: row {number}", problem, row)


# ---- from cells to values ------------------------------------------------------------------------------------


def _entries(grid: _Grid) -> Iterator[tuple[str, dict[str, Value]]]:
    """Each row with where it stands and what it says: key -> value; blank cells say nothing."""
    keys = _keys(grid)
    for number, row in enumerate(grid.rows, 1):
        where = f"{grid.where}: row {number}"
        found: dict[str, Value] = {}
        for key, title, cell in zip(keys, grid.header, row, strict=True):
            if not _is_blank(cell):
                found[key] = _value(key, cell, f"{where}, column {title!r}")
        if "name" not in found:
            raise DataError(where, "has no name; every row needs one", row)
        yield where, found


def _keys(grid: _Grid) -> list[str]:
    """What each column is."""
    keys: list[str] = []
    for title in grid.header:
        key = COLUMNS.get(" ".join(re.findall(r"[a-z]+", title.lower())))
        if key is None:
            known = ", ".join(
                dict.fromkeys(aliases[0] for group in (LABELS, PARAMETERS, SCORES) for aliases in group.values())
            )
            raise DataError(f"{grid.where}: column {title!r}", f"is not known; there may be {known}", title)
        if key in keys:
            raise DataError(f"{grid.where}: column {title!r}", "is there twice; keep one", grid.header)
        keys.append(key)
    if "name" not in keys:
        raise DataError(grid.where, "has no column 'name', by which its rows are known", grid.header)
    if not set(keys) - {"name", "run_id"}:
        raise DataError(grid.where, "has neither parameters nor scores", grid.header)
    return keys


def _is_blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and cell.strip() in ("", "-", "\N{EN DASH}", "\N{EM DASH}"))


def _value(key: str, cell: Any, where: str) -> Value:
    if key in LABELS:
        return _label(cell, where)
    if key in SCORES:
        return _score(cell, where)
    if key == "training.optimizer":
        return _label(cell, where).lower()
    if key == "data.shuffle":
        return _flag(cell, where)
    if key == "training.learning_rate":
        return _number(cell, where)
    return _whole(_side(cell, where) if key == "data.image_size" else cell, where)


def _label(cell: Any, where: str) -> str:
    text = " ".join(str(cell).split())
    if isinstance(cell, bool | list | dict) or len(text) > MAX_NAME or not text.isprintable():
        raise DataError(where, f"must be a text of at most {MAX_NAME} printable characters", cell)
    return text


def _number(cell: Any, where: str) -> float:
    try:
        if isinstance(cell, bool | list | dict):
            raise ValueError
        number = float(cell)
    except (ValueError, OverflowError):
        raise DataError(where, "must be a number", cell) from None
    if not math.isfinite(number):
        raise DataError(where, "must be a finite number", cell)
    return number


def _score(cell: Any, where: str) -> float:
    number = _number(cell.rstrip().removesuffix("%") if isinstance(cell, str) else cell, where)
    if not 0 <= number <= 100:
        raise DataError(where, "must be a percentage, 0 to 100", cell)
    return number


def _whole(cell: Any, where: str) -> int:
    number = _number(cell, where)
    if number != int(number) or number < 1:
        raise DataError(where, "must be a whole number from 1 on", cell)
    return int(number)


def _side(cell: Any, where: str) -> Any:
    """``256`` of ``256 x 256``, however the cross is set."""
    if not isinstance(cell, str):
        return cell
    sides = [side.strip() for side in re.split(r"\\times|[x\N{MULTIPLICATION SIGN}*]", cell.strip(" $"))]
    if len(set(sides)) != 1 or len(sides) > 2:
        raise DataError(where, "must be one side or a square, such as 256 x 256", cell)
    return sides[0]


def _flag(cell: Any, where: str) -> bool:
    word = str(cell).strip().lower()
    if word not in ("yes", "true", "no", "false"):
        raise DataError(where, "must be yes or no", cell)
    return word in ("yes", "true")


# ---- from entries to rows ------------------------------------------------------------------------------------


def _joined(entries: Sequence[tuple[str, dict[str, Value]]]) -> tuple[PrintedRow, ...]:
    known: dict[str, dict[str, Value]] = {}
    for where, found in entries:
        row = known.setdefault(str(found["name"]), {})
        for key, value in found.items():
            if row.setdefault(key, value) != value:
                problem = f"{found['name']!r} has another {key} elsewhere ({row[key]}); names must tell rows apart"
                raise DataError(where, problem, value)
    return tuple(_row(found) for found in known.values())


def _row(found: dict[str, Value]) -> PrintedRow:
    run_id = found.get("run_id")
    return PrintedRow(
        name=str(found["name"]),
        run_id=None if run_id is None else str(run_id),
        parameters={key: found[key] for key in PARAMETERS if key in found},
        scores={key: float(found[key]) for key in SCORES if key in found},
    )


def _check_percent(rows: Sequence[PrintedRow]) -> None:
    sums = [row.scores["loss"] + row.scores["dice"] for row in rows if {"loss", "dice"} <= row.scores.keys()]
    if sums and all(abs(total - 1) < 0.01 for total in sums):
        raise DataError("scores", "are fractions: loss and Dice add to 1; give them in percent", sums[0])
