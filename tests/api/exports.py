"""Readers of what a comparison is exported as: back from HTML, CSV, Markdown, LaTeX and JSON to the cells shown.

Nothing of ``api.tables`` or ``api.latex`` is used here, so that a mistake there is not read back as if it were right.
"""

import csv
import io
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from markdown_it import MarkdownIt

Table = list[list[str]]

ASIDE = ("tag", "flag", "arrow", "state", "hidden", "ids")
"""Classes of what stands beside a text on the page and is not part of it."""


class _Html(HTMLParser):
    """Tables with their cells as texts, paragraphs, and the addresses of links by their texts.

    ``notes`` are the paragraphs that tell what to know about a table.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[Table] = []
        self.paragraphs: list[str] = []
        self.notes: list[str] = []
        self.links: dict[str, str] = {}
        self._href = ""
        self._text: list[str] = []
        self._aside = 0
        self._below = self._noted = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "span":
            self._aside += bool(self._aside) or not set((known.get("class") or "").split()).isdisjoint(ASIDE)
        if tag in ("section", "div"):
            self._below = known.get("class") == "footnotes"
        if tag == "p":
            self._noted = self._below or known.get("class") == "warning"
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th", "p", "a"):
            self._text = []
        if tag == "a":
            self._href = known.get("href") or ""

    def handle_endtag(self, tag: str) -> None:
        text = " ".join("".join(self._text).split())
        if tag == "span" and self._aside:
            self._aside -= 1
        if tag in ("td", "th"):
            self.tables[-1][-1].append(text)
        if tag == "p":
            self.paragraphs.append(text)
            self.notes += [text] if self._noted else []
        if tag in ("section", "div"):
            self._below = False
        if tag == "a":
            self.links[text] = self._href

    def handle_data(self, data: str) -> None:
        if not self._aside:
            self._text.append(data)


def html(text: str) -> _Html:
    read = _Html()
    read.feed(text)
    read.close()
    return read


@dataclass
class Line:
    """One row as texts; None where the form does not say it, empty where it says that there is nothing."""

    name: str
    scores: list[str]
    settings: list[str] | None = None
    part: str | None = None
    slices: str | None = None
    subjects: str | None = None
    epochs: tuple[str, str] | None = None


@dataclass
class Shown:
    """A comparison as somebody reads it."""

    headings: list[str]
    lines: list[Line]
    parameters: list[str] = field(default_factory=list)
    """What the settings of the lines are called."""
    shared: dict[str, str] = field(default_factory=dict)
    """Settings that all lines of runs have, said once."""
    statistics: Table = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    """Subject, difference."""


def page(text: str) -> tuple[Shown, _Html]:
    """The page, and all that is on it."""
    read = html(text)
    first, *others = read.tables
    _groups, header, *body = first
    parameters = len(header) - 5 - (columns := _width(text))
    lines = []
    for cells in body:
        if len(cells) == 1:
            continue  # the title of a group of rows
        name, *rest = [_dash(cell) for cell in cells]
        settings, scores, facts = rest[:parameters], rest[parameters : parameters + columns], rest[-4:]
        best, _, last = facts[3].partition(" of ")
        epochs = (_dash(best), last)
        shown = [re.sub(r"\s*±\s*", " ± ", score).replace("(", " (") for score in scores]
        shown = [score.removeprefix("\N{EN DASH} ") for score in shown]
        lines.append(Line(name, shown, settings, facts[0], facts[1].replace(",", ""), facts[2], epochs))
    tests = [table for table in others if table[0][0] == "Row"]
    pairs = [(row[0], row[3]) for table in others if table[0][0] == "Subject" for row in table[1:]]
    statistics = [[_dash(cell) for cell in row] for table in tests for row in table[1:]]
    same = next((text for text in read.paragraphs if text.startswith("The same in all rows: ")), "")
    told = [one.strip(".") for one in same.partition(": ")[2].split("; ")] if same else []
    shared = {label: value for one in told for label, _, value in [one.rpartition(" ")]}
    headings = header[1 + parameters : 1 + parameters + columns]
    return Shown(headings, lines, header[1 : 1 + parameters], shared, statistics, pairs), read


def _width(text: str) -> int:
    """How many columns of scores there are."""
    found = re.search(r'<th scope="colgroup"[^>]*colspan="(\d+)"><span>Scores', text)
    assert found
    return int(found[1])


def _dash(cell: str) -> str:
    return "" if cell == "\N{EN DASH}" else cell


def from_csv(text: str) -> Shown:
    header, *rows = csv.reader(io.StringIO(text))
    assert {len(row) for row in rows} == {len(header)}
    headings = [name for name in header if name.endswith("]") and not re.search(r" (sd|less baseline) \[", name)]
    paths = [name for name in header if re.fullmatch(r"(dataset|data|model|training|evaluation)\..+", name)]
    lines, tests = [], []
    for row in rows:
        cell = dict(zip(header, row, strict=True))
        tested = [value for name, value in cell.items() if " by subject: " in name]
        tests += [[cell["name"], *tested]] if any(tested) else []
        beside = [
            [cell.get(re.sub(r" \[([^]]+)\]$", rf" {what} [\1]", name), "") for what in ("sd", "less baseline")]
            for name in headings
        ]
        scores = [
            _score(cell[name], sd, apart, [cell.get(f"{name.rpartition(' [')[0]} {one}", "") for one in COUNTS])
            for name, (sd, apart) in zip(headings, beside, strict=True)
        ]
        settings = [cell[path] for path in paths]
        epochs = (cell["best_epoch"], cell["epochs"])
        facts = (cell["part"], cell["slices"], cell["subjects"], epochs)
        name = cell["name"]
        lines.append(Line(name[1:] if name[:2] in ("'=", "'+", "'-", "'@") else name, scores, settings, *facts))
    return Shown(headings, lines, _labels(paths), statistics=tests)


def _labels(paths: list[str]) -> list[str]:
    """``training.batch_size`` as the page has it."""
    return [path.partition(".")[2].replace(".", " ").replace("_", " ") for path in paths]


COUNTS = ("n", "empty", "failed")


def _score(value: str, sd: str, apart: str, counts: list[str]) -> str:
    """The parts as the page puts them together."""
    n, empty, failed = (int(count or 0) for count in counts)
    told = value + (f" ± {sd}" if sd else "") + (f" ({_signed(apart)})" if apart else "")
    if failed:
        told += f" (n = {n}, {failed} failed)"
    elif n and empty:
        told += f" (n = {n})"
    return told.strip()


def from_markdown(text: str) -> tuple[Shown, list[str]]:
    """As somebody else's program renders it; also the paragraphs below."""
    made = html(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))
    (header, *rows), *tests = made.tables
    headings = [name for name in header if name.endswith("]")]
    paths = slice(header.index("best_epoch") + 1, -len(headings))
    at = header.index
    lines = [
        Line(
            row[at("name")],
            row[-len(headings) :],
            row[paths],
            row[at("part")],
            row[at("slices")],
            row[at("subjects")],
            (row[at("best_epoch")], row[at("epochs")]),
        )
        for row in rows
    ]
    tested = [row for table in tests for row in table[1:]]
    shown = Shown(headings, lines, _labels(header[paths]), {}, tested, _differences(made.paragraphs))
    return shown, made.paragraphs


def _differences(paragraphs: list[str]) -> list[tuple[str, str]]:
    told = [text.partition("difference by subject: ")[2] for text in paragraphs]
    found = [pair.rpartition(" ") for text in told if text for pair in text.split("; ")[0].split(", ")]
    return [(subject, difference) for subject, _, difference in found]


UNESCAPED = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\`{}": "`",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"$\pm$": "±",
    r"$\leq$": "≤",
    r"$\geq$": "≥",
    **{rf"\{char}": char for char in "&%$#_{}"},
    "{}": "",
    "---": "\N{EM DASH}",
    "--": "\N{EN DASH}",
    "`": "\N{LEFT SINGLE QUOTATION MARK}",
}
"""What the export may hold to what it shows; longer before shorter."""


def from_latex(text: str) -> tuple[Shown, list[str]]:
    """The tables, and the paragraphs below them."""
    tables = [
        _tabular(body) for body in re.findall(r"\\begin\{tabular\}\{[lr]+\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    ]
    parameters, scores, *tests = tables
    settings = parameters[1:]  # rows in the order of the scores; references have none
    lines = []
    for row in scores[1:]:
        known = settings.pop(0)[1:] if settings and settings[0][0] == row[0] else None
        part, slices, subjects, epochs = row[-4:]
        best, _, last = epochs.partition(" of ")
        lines.append(Line(row[0], row[1:-4], known, part, slices.replace(",", ""), subjects, (_dash(best), last)))
    assert settings == []
    below = [
        _unescaped(one) for one in re.findall(r"^\{\\footnotesize\\raggedright (.*)\\par\}$", text, re.MULTILINE)
    ]
    tested = [row for table in tests for row in table[1:]]
    names = [name.lower() for name in parameters[0][1:]]
    shown = Shown(scores[0][1:-4], lines, names, {}, tested, _differences(below))
    return shown, below


def _tabular(body: str) -> Table:
    lines = [line for line in body.splitlines() if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
    assert all(line.endswith(r" \\") for line in lines)
    return [[_unescaped(cell) for cell in line[:-3].split(" & ")] for line in lines]


def _unescaped(text: str) -> str:
    return re.sub("|".join(map(re.escape, UNESCAPED)), lambda found: UNESCAPED[found[0]], text)


def from_json(text: str) -> Shown:
    """The numbers, rounded as the page rounds them."""
    found = json.loads(text)
    units = [column["unit"] for column in found["columns"]]
    keys = [column["key"] for column in found["columns"]]
    headings = [
        f"{column['label']} [{'%' if column['unit'] == 'fraction' else column['unit']}]"
        for column in found["columns"]
    ]
    lines = []
    for row in [*found["rows"], *found["references"], *found["printed"]]:
        values = [_rounded((row["scores"] or {}).get(key), unit) for key, unit in zip(keys, units, strict=True)]
        spreads = [_rounded((row["deviations"] or {}).get(key), unit) for key, unit in zip(keys, units, strict=True)]
        apart = [
            _rounded((row.get("differences") or {}).get(key), unit) for key, unit in zip(keys, units, strict=True)
        ]
        counts = [[str((row["counts"] or {}).get(key, {}).get(one, "")) for one in COUNTS] for key in keys]
        scores = [_score(*told) for told in zip(values, spreads, apart, counts, strict=True)]
        settings = [_setting(row["settings"], path) for path in found["parameters"]]
        epochs = (str(row["best_epoch"] or ""), str(row["epochs"] or ""))
        facts = (row["part"] or "", str(row["slices"] or ""), str(row["subjects"] or ""), epochs)
        lines.append(Line(row["name"], scores, settings, *facts))
    tested = found["statistics"] or {"contrasts": [], "unit": ""}
    pairs = [
        (pair["subject"], _rounded(pair["difference"], tested["unit"]))
        for one in tested["contrasts"]
        for pair in one["pairs"]
    ]
    statistics = [
        [
            one["name"],
            str(one["subjects"]),
            *("" if one[key] is None else str(one[key]) for key in ("won", "lost")),
            _rounded(one["mean_difference"], tested["unit"]),
            " to ".join(_rounded(bound, tested["unit"]) for bound in one["interval"] or ()) or "none",
            f"{one['p']:.3g}",
            f"{one['p_holm']:.3g}",
            "" if one["effect"] is None else f"{one['effect']:.2f}",
            f"{one['smallest_p']:.3g}",
        ]
        for one in tested["contrasts"]
    ]
    return Shown(headings, lines, _labels(found["parameters"]), {}, statistics, pairs)


def _signed(number: str) -> str:
    """The page writes a difference with its sign, and nothing as 0.000."""
    return f"{float(number):+.3f}" if float(number) else "0.000"


def _rounded(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value * 100 if unit == 'fraction' else value:.3f}"


def _setting(settings: dict[str, Any], path: str) -> str:
    value = settings.get(path, "")
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
