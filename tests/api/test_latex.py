"""What is exported as LaTeX compiles in a bare document: no error, no warning, no line wider than the text."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from api import figure4
from tests.api.test_exports import HOSTILE

DOCUMENT = r"""\documentclass{article}
\usepackage{%s}
\begin{document}
Text before.
\input{exported}
Text after.
\end{document}
"""
NAMES = (
    HOSTILE,
    "[2] of *3",
    "größer \N{LEFT SINGLE QUOTATION MARK}\N{EN DASH}\N{RIGHT SINGLE QUOTATION MARK} µ ≤ ±",
    "bell \x07 rings",
    "--,, '' ?` !`",
    "  \\\\ & \\end{tabular} ",
    "50 %",
)
COMPLAINT = re.compile(r"^(?:!.*|.*(?:Overfull|Underfull|Warning|[Uu]ndefined|Missing character).*)$", re.MULTILINE)


def complaints(folder: Path, exported: str) -> list[str]:
    """What pdflatex says against it, in a document with the packages that its first line asks for."""
    packages = re.match(r"% needs \\usepackage\{([a-z,]+)\}", exported)
    assert packages
    (folder / "exported.tex").write_text(exported)
    (folder / "document.tex").write_text(DOCUMENT % packages[1])
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "document.tex"]
    for _ in range(2):  # a long table knows its widths after the first
        done = subprocess.run(words, cwd=folder, capture_output=True, check=False, timeout=300)
    log = (folder / "document.log").read_text("utf-8", "replace")
    assert done.returncode == 0 or COMPLAINT.search(log), log
    return COMPLAINT.findall(log)


@pytest.mark.latex
def test_a_comparison_compiles_whatever_its_names_are(
    web: httpx.Client, finished: Callable[..., int], tmp_path: Path
):
    for seed, name in enumerate(NAMES):
        spec = {"name": name, "model": {"filters": 2 + seed // 2, "depth": 2}}
        finished(spec=spec | {"training": {"batch_size": 4, "epochs": 2, "seed": seed}}, dice=0.9 - seed / 100)
    table = {"name": "t", "text": f"Name  Batch size  Loss  Dice\n{HOSTILE.replace('  ', ' ')}  32  3.663  96.337\n"}
    assert web.post("/v1/tables?name=a_b", json={"files": [table]}).status_code == 201
    runs = ",".join(str(number + 1) for number in range(len(NAMES)))
    for query in ("&tables=a_b", "&profile=modern&level=subject", "&profile=nnunet"):  # 8 to 27 columns
        answer = web.get(f"/v1/comparisons?runs={runs}&baseline=1&format=latex{query}")
        assert complaints(tmp_path, answer.text) == [], query


@pytest.mark.latex
def test_a_table_of_images_compiles(web: httpx.Client, finished: Callable[..., int], tmp_path: Path):
    run = finished(quantised=(60, 0, 0, 0, 30, 0, 0, 0, 10), dice=1.0)
    assert complaints(tmp_path, web.get(f"/v1/runs/{run}/images?format=latex").text) == []
    one = web.get(f"/v1/runs/{run}/images").json()["images"][0]
    many = [one | {"part": "test", "scan": 100, "slice": number} for number in range(1000, 1200)]  # pages, and wide
    exported = figure4.to_latex(figure4.lines(many))
    assert exported.count("& 100.000") == 7 * len(many)
    assert complaints(tmp_path, exported) == []
    for override in (*NAMES, "as in the study: scans of one person may lie on both sides, and this goes on. " * 3):
        assert complaints(tmp_path, figure4.to_latex(figure4.lines([one], override))) == [], override


@pytest.mark.latex
@pytest.mark.parametrize(
    ("text", "word"),
    [("3_4", "!"), (r"\nonsense", "Undefined control sequence"), (r"\hbox to 500pt{}", "Overfull")],
)
def test_what_is_wrong_would_be_seen(tmp_path: Path, text: str, word: str):
    assert word in complaints(tmp_path, f"% needs \\usepackage{{booktabs}}\n\\noindent {text}\n")[0]
