"""The comparison as LaTeX: the parameters as the study's Table 5, the scores as its Table 6, with booktabs."""

import re
from collections.abc import Sequence

from api import tables
from store.rows import Comparison

ESCAPED = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\`{}",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
}

FITTING = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"
"""Opens a box of its own width, or of the text's where that is less."""


def to_latex(comparison: Comparison) -> str:
    """Two tables, statistics where a baseline was given, and everything to know below; no wider than the text."""
    notes = [*comparison.warnings, *tables.remarks(comparison)]
    blocks = [_parameters(comparison), _scores(comparison), *_statistics(comparison)]
    needs = "% needs \\usepackage{booktabs,graphicx}; LuaLaTeX where names hold letters that pdfLaTeX does not know\n"
    return needs + "\n\n".join([*blocks, words(notes)]) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    shown = "".join(ESCAPED.get(char, char) for char in " ".join(text.split()) if char.isprintable())
    shown = re.sub(r"([-,'])(?=\1)", r"\1{}", shown)  # else two of them become one other sign
    return f"{{}}{shown}" if shown.startswith(("[", "*")) else shown  # else it is an option of the command before it


def words(lines: Sequence[str]) -> str:
    """Paragraphs below a table; ragged, since names have no hyphenation."""
    return "\n".join(f"{{\\footnotesize\\raggedright {escape(line)}\\par}}" for line in lines)


def _parameters(comparison: Comparison) -> str:
    header = ["Name", *(tables.label(path).capitalize() for path in comparison.parameters)]
    shown = [*comparison.rows, *(row for row in comparison.printed if row.settings)]
    body = [[tables.named(row), *(tables.set_in(row, path) for path in comparison.parameters)] for row in shown]
    return _tabular("Parameters", header, [body])


def _scores(comparison: Comparison) -> str:
    header = ["Name", *map(tables.heading, comparison.columns), "Part", "Slices", "Subjects", "Best epoch"]
    groups = [
        [
            [tables.named(row), *(tables.score(row, one) for one in comparison.columns), *tables.scored_on(row)]
            for row in rows
        ]
        for rows in (comparison.rows, comparison.references, comparison.printed)
    ]
    return _tabular(f"Scores, profile {comparison.profile}, level {comparison.level}", header, groups)


def _statistics(comparison: Comparison) -> list[str]:
    found = comparison.statistics
    if found is None:
        return []
    body = [tables.contrast(one, found.unit) for one in found.contrasts]
    table = _tabular(f"{tables.heading(found)} by subject against {found.baseline}", tables.STATISTICS, [body])
    told = [*(tables.dots(one, found.unit) for one in found.contrasts), *found.skipped, *found.notes]
    return [*([table] if body else []), words(told)]


def _tabular(caption: str, header: Sequence[str], groups: Sequence[Sequence[Sequence[str]]]) -> str:
    """A table whose groups of rows are separated by rules, made smaller where it is wider than the text."""
    bodies = ["\n".join(map(_line, group)) for group in groups if group]
    inside = "\n\\midrule\n".join([_line(header), *bodies])
    columns = "l" + "r" * (len(header) - 1)
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{escape(caption)}}}\n{FITTING}%\n\\begin{{tabular}}{{{columns}}}\n"
        f"\\toprule\n{inside}\n\\bottomrule\n\\end{{tabular}}}}\n\\end{{table}}"
    )


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"
