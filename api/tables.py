"""The comparison as CSV and Markdown, and how its values are written everywhere."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from store.rows import Column, Comparison, Contrast, Count, Row, Statistics
from store.words import told_apart

Settings = Mapping[str, Any]

FACTS = ("run", "name", "row", "state", "dataset", "part", "slices", "scans", "subjects", "epochs", "best_epoch")

DANGEROUS = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to spreadsheet programs."""

STATISTICS = (
    "against",
    "subjects",
    "won",
    "lost",
    "mean difference",
    "95 % interval",
    "p",
    "p (Holm)",
    "effect",
    "smallest p",
)


def percent(value: float | None) -> str:
    """A fraction in percent with three decimals, as the study's Table 6 prints it."""
    return "" if value is None else f"{100 * value:.3f}"


def fraction(value: float | None) -> str:
    """A fraction with three decimals."""
    return "" if value is None else f"{value:.3f}"


def in_unit(value: float | None, unit: str) -> str:
    """A score as printed: a fraction in percent, else the number itself."""
    return percent(value) if unit == "fraction" else fraction(value)


def difference(value: float | None, unit: str) -> str:
    """A difference of scores as printed, with its sign; ``0.000`` where nothing is left of it."""
    shown = in_unit(value, unit)
    if not shown or not float(shown):
        return shown.removeprefix("-")
    return shown if shown.startswith("-") else f"+{shown}"


def size(count: int) -> str:
    """``2048`` -> ``2.0 KiB``."""
    amount, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, _ = amount / 1024, units.pop(0)
    return f"{count} bytes" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"


def speed(rate: float) -> str:
    """Images a second: ``48``; with a decimal where there are few."""
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def duration(seconds: float | None) -> str:
    """``75`` -> ``1 min 15 s``; empty for None."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def cost(new: int, unknown: int, seconds: float, memory_mb: int | None) -> str:
    """What ``new`` runs take at most, as far as runs like them have finished here."""
    if new == 0:
        return "nothing to train or to score"
    like = "it" if new == 1 else "them"
    if unknown == new:
        return f"how long that takes is not known: no run like {like} has finished here"
    known = f"at most {duration(seconds)}{' one after another' if new > 1 else ''}"
    if memory_mb:
        known += f", up to {memory_mb:,} MiB of memory{' a run' if new > 1 else ''}"
    return known + (f"; of {unknown} more nothing is known yet" if unknown else "")


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


def heading(column: Column | Statistics) -> str:
    """``Lesion Dice [%]``."""
    return f"{column.label} [{shown_unit(column.unit)}]"


def shown_unit(unit: str) -> str:
    """The unit that people read."""
    return "%" if unit == "fraction" else unit


def named(row: Row) -> str:
    """The name of a row; of several runs with how many they are, of a printed one with its table."""
    name = row.name or (f"run {row.run}" if row.run else "(no name)")
    if row.what == "seeds":
        return f"{name} (mean of {row.size} seeds)"
    if row.what == "folds":
        return f"{name} ({row.size} of {row.expected} folds)"
    return f"{name} ({row.table})" if row.what == "printed" else name


def lines(comparison: Comparison) -> Iterator[Row]:
    """Every row from top to foot."""
    yield from (*comparison.rows, *comparison.references, *comparison.printed)


def score(row: Row, column: Column) -> str:
    """A score as printed, of seeds with its standard deviation, with its difference to the baseline in brackets.

    Then over how many it was taken, where these are not all that its row has. Empty where nothing can be said.
    """
    value = in_unit((row.scores or {}).get(column.key), column.unit)
    spread = in_unit((row.deviations or {}).get(column.key), column.unit)
    apart = difference((row.differences or {}).get(column.key), column.unit)
    fewer = counted((row.counts or {}).get(column.key))
    told = value + (f" ± {spread}" if value and spread else "")
    return " ".join(filter(None, [told, f"({apart})" if apart else "", f"({fewer})" if fewer else ""]))


COUNTED = (
    "(n = ...): the score was taken over so many of the row's slices, scans, subjects or seeds alone; of the others "
    "nothing could be said, or their facts are missing (failed)."
)


def taken_over(count: Count | None) -> str:
    """``6, 1 empty, 1 failed``: what a score was taken over; ``8`` where it was all; empty where that is unknown."""
    if count is None:
        return ""
    missing = {"empty": count.empty, "failed": count.failed}
    return ", ".join([str(count.n), *(f"{number} {name}" for name, number in missing.items() if number)])


def counted(count: Count | None) -> str:
    """``n = 2``, or ``n = 2, 1 failed``, where a score was taken over fewer than its row has; else empty."""
    if count is None or not (count.failed or (count.n and count.empty)):
        return ""
    return f"n = {count.n}" + (f", {count.failed} failed" if count.failed else "")


def epochs(row: Row) -> str:
    """``3 of 5``: the best epoch of those trained; empty where nothing was trained."""
    return f"{row.best_epoch or '–'} of {row.epochs}" if row.epochs else ""  # noqa: RUF001 - as for every unknown


def scored_on(row: Row) -> list[str]:
    """Part, slices, subjects and best epoch, as the page shows them; empty where there is nothing."""
    slices = f"{row.slices:,}" if row.slices else ""
    return [row.part or "", slices, str(row.subjects or ""), epochs(row)]


def differing(paths: Sequence[str], runs: Sequence[Settings], printed: Sequence[Settings]) -> list[str]:
    """Those of ``paths`` in which runs or printed rows differ; printed rows may lack settings."""

    def values(path: str) -> set[str]:
        told = [one.get(path) for one in runs] + [one[path] for one in printed if path in one]
        return {json.dumps(value, sort_keys=True) for value in told}

    return [path for path in paths if len(values(path)) > 1]


def apart(comparison: Comparison) -> list[str]:
    """The settings in which its rows differ, by dotted path; what they share is in :func:`shared`."""
    runs = [row.settings for row in comparison.rows if row.what == "run"]
    return differing(comparison.parameters, runs, [row.settings for row in comparison.printed])


def shared(comparison: Comparison) -> str:
    """``optimizer adam; batch size 32``: the settings shown that no row differs in; empty for none."""
    first = next((row.settings for row in comparison.rows if row.what == "run"), None)
    different = apart(comparison)
    same = [path for path in comparison.parameters if path not in different]
    return "" if first is None else "; ".join(f"{label(path)} {setting(first.get(path))}" for path in same)


def set_in(row: Row, path: str) -> str:
    """A setting of a row; empty where it has none."""
    return setting(row.settings[path]) if path in row.settings else ""


def remarks(comparison: Comparison) -> list[str]:
    """Everything below the table but the statistics, the gravest first."""
    printed = dict.fromkeys(f"{row.table}: {note}" for row in comparison.printed for note in row.notes)
    names = told_apart([named(row) for row in comparison.rows], [row.runs for row in comparison.rows])
    collapsed = [name for name, row in zip(names, comparison.rows, strict=True) if row.collapsed]
    told = [f"Collapsed, scores like an empty prediction: {', '.join(collapsed)}."] if collapsed else []
    fewer = [COUNTED] if any(counted(one) for row in lines(comparison) for one in (row.counts or {}).values()) else []
    return [*told, *comparison.overrides, *printed, *comparison.notes, *fewer]


def to_csv(comparison: Comparison) -> str:
    """One line a row, with its test against the baseline; texts that a spreadsheet would run are neutralised.

    What else must be known stands in columns at the end, where there is something to know.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    aside = [name for name in ASIDE if any(getattr(row, name) for row in comparison.rows)]
    counting = _counting(comparison)
    told = [_told(comparison, row) for row in lines(comparison)]
    known = [name for name in TOLD if any(cells[name] for cells in told)]
    writer.writerow(map(neutral, [*_header(comparison, aside, counting), "profile", "level", *known]))
    for row, cells in zip(lines(comparison), told, strict=True):
        more = [comparison.profile, comparison.level, *(cells[name] for name in known)]
        writer.writerow(map(neutral, [*_cells(comparison, row, aside, counting), *more]))
    return out.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """A table with its statistics, warnings and notes below."""
    header = [*FACTS, *comparison.parameters, *map(heading, comparison.columns)]
    body = [_printed(comparison, row) for row in lines(comparison)]
    below = [*(f"**{_plain(warning)}**" for warning in comparison.warnings), *map(paragraph, remarks(comparison))]
    under = paragraph(f"Scores under profile {comparison.profile}, level {comparison.level}.")
    return "\n\n".join([_table(header, body), under, *_statistics(comparison), *below]) + "\n"


def contrast(one: Contrast, unit: str) -> list[str]:
    """A contrast as the cells of ``STATISTICS``."""
    low, high = one.interval or (None, None)
    interval = f"{in_unit(low, unit)} to {in_unit(high, unit)}" if one.interval else "none"
    effect = "" if one.effect is None else f"{one.effect:.2f}"
    values = [f"{one.p:.3g}", f"{one.p_holm:.3g}", effect, f"{one.smallest_p:.3g}"]
    score = ["" if count is None else str(count) for count in (one.won, one.lost)]
    return [one.name, str(one.subjects), *score, in_unit(one.mean_difference, unit), interval, *values]


def dots(one: Contrast, unit: str) -> str:
    """The difference of every subject."""
    told = ", ".join(f"{pair.subject} {in_unit(pair.difference, unit)}" for pair in one.pairs)
    left_out = f"; without a value: {', '.join(one.without)}" if one.without else ""
    return f"{one.name}, difference by subject: {told}{left_out}"


def dot(difference: float, one: Contrast) -> str:
    """Where a subject's dot stands on a scale from 0 to 120 with no difference at 60."""
    widest = max(abs(pair.difference) for pair in one.pairs) or 1
    return f"{60 + 55 * difference / widest:.1f}"


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


ASIDE = {"deviations": "sd", "differences": "less baseline"}
"""What a row may have beside each score -> what the CSV calls it."""


def _header(comparison: Comparison, aside: Sequence[str], counting: Sequence[Column]) -> list[str]:
    more = [f"{one.label} {ASIDE[name]} [{shown_unit(one.unit)}]" for name in aside for one in comparison.columns]
    more += [f"{one.label} {name}" for one in counting for name in COUNTS]
    found = comparison.statistics
    tests = [f"{found.label} by subject: {name}" for name in STATISTICS[1:]] if found else []
    return [*FACTS, *comparison.parameters, *map(heading, comparison.columns), *more, *tests]


def _cells(comparison: Comparison, row: Row, aside: Sequence[str], counting: Sequence[Column]) -> list[str]:
    """A line of the CSV: scores, standard deviations, differences and counts in columns of their own."""
    numbers = [
        in_unit((getattr(row, name) or {}).get(column.key), column.unit)
        for name in ("scores", *aside)
        for column in comparison.columns
    ]
    counts = [(row.counts or {}).get(column.key) for column in counting]
    numbers += [str(getattr(one, name)) if one else "" for one in counts for name in COUNTS]
    return [*_facts(comparison, row), *numbers, *_tested(comparison.statistics, row)]


COUNTS = ("n", "empty", "failed")


def _counting(comparison: Comparison) -> list[Column]:
    """The columns in which some row's score was not taken over all that the row has."""
    counts = [row.counts for row in lines(comparison) if row.counts]
    return [one for one in comparison.columns if any(some[one.key].empty or some[one.key].failed for some in counts)]


TOLD = ("collapsed", "override", "warnings")


def _told(comparison: Comparison, row: Row) -> dict[str, str]:
    """The cells of ``TOLD``; the table's warnings stand in each row of runs, wherever a row may be copied to."""
    if not row.runs:
        return dict.fromkeys(TOLD, "")
    # A comparison that was frozen before rows had their overrides has them all below it.
    unplaced = [] if any(one.override for one in comparison.rows) else comparison.overrides
    warnings = " ".join([*comparison.warnings, *unplaced])
    return {"collapsed": "yes" if row.collapsed else "", "override": row.override, "warnings": warnings}


def _tested(found: Statistics | None, row: Row) -> list[str]:
    """The cells of the row's contrast but its name; empty ones where it has none."""
    if found is None:
        return []
    made = next((one for one in found.contrasts if row.depth == 0 and row.runs and one.runs == row.runs), None)
    return contrast(made, found.unit)[1:] if made else [""] * len(STATISTICS[1:])


def _printed(comparison: Comparison, row: Row) -> list[str]:
    return [*_facts(comparison, row), *(score(row, column) for column in comparison.columns)]


def _facts(comparison: Comparison, row: Row) -> list[str]:
    known = {"row": row.what, "name": row.name if row.what == "run" else named(row)}
    known["run"] = str(row.run) if row.run else " ".join(map(str, row.runs))
    for name in ("slices", "scans", "subjects"):
        known[name] = str(getattr(row, name) or "")
    facts = [known[name] if name in known else getattr(row, name) for name in FACTS]
    texts = ["" if fact is None else str(fact) for fact in facts]
    return [*texts, *(set_in(row, path) for path in comparison.parameters)]


def _statistics(comparison: Comparison) -> list[str]:
    """The statistics as Markdown blocks."""
    found = comparison.statistics
    if found is None:
        return []
    title = f"{_plain(heading(found))} by subject against {_plain(found.baseline)}"
    table = [_table(list(STATISTICS), [contrast(one, found.unit) for one in found.contrasts])]
    below = [*(dots(one, found.unit) for one in found.contrasts), *found.skipped, *found.notes]
    return [title, *(table if found.contrasts else []), *map(paragraph, below)]


def _table(header: list[str], body: list[list[str]]) -> str:
    every = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in every)


SPECIAL = re.compile(r"[\\`*<|~$]|\]\(|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
"""What means something to Markdown; an underscore inside a word and an ampersand that begins no entity do not."""


def _plain(cell: str) -> str:
    """Text that Markdown shows as it is."""
    return SPECIAL.sub(r"\\\g<0>", " ".join(cell.split()))


def paragraph(line: str) -> str:
    """The same as a paragraph, whatever it begins with."""
    return re.sub(r"^(\d{1,9}(?=[.)])|(?=[-+#>=]))", r"\1\\", _plain(line))
