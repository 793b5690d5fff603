"""What is exported is what is on the screen: every number of a comparison read back from every form."""

import csv
import io
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from click.testing import Result

from api import tables
from liverseg_core.data.manifest import SliceEntry
from store import scores
from store.database import transaction
from store.endings import Ending
from store.queue import Work
from store.rows import Comparison
from tests.api import exports
from tests.api.exports import Shown
from tests.factories import slice_score, tiny_spec

HTML = {"accept": "text/html"}
HOSTILE = r"%_&#{}~^\$ \alpha ~~x~~ _y_ *z* `c` --- <b> &amp; [d](e) | 'f'"
FOUND = (58, 2, 0, 3, 26, 1, 0, 4, 6)
PRINTED = "Name  Batch size  Loss  Dice  Recall\nOld one  32  3.663  96.337  66.6\n"


@pytest.fixture
def compared(
    web: httpx.Client, finished: Callable[..., int], claim: Callable[[], Work], submit: Callable[..., list[int]]
) -> str:
    """Three seeds, two other runs, a queued one, a reference predictor and a printed table; the query of them all."""

    def each(one: SliceEntry) -> dict[str, Any]:
        missed = 7 if one.slice == 3 else 1
        return {"counts": (58, 2, 0, 3, 26, 1, 0, missed, 10 - missed), "dice_tumor": 1 / 3 + one.slice / 1000}

    for seed, dice in enumerate((0.7, 0.8, 0.9)):
        finished(spec={"name": HOSTILE, "training": {"batch_size": 4, "epochs": 2, "seed": seed}}, dice=dice)
    finished(spec={"name": "=1+1", "model": {"filters": 3, "depth": 2}}, each=each)
    finished(spec={"name": "", "training": {"batch_size": 4, "epochs": 2, "learning_rate": 1.25e-7}}, tp=0, fp=0)
    web.post("/v1/references", json={"spec": tiny_spec()})
    work = claim()
    with transaction() as session:
        rows = [slice_score(e.part, e.scan, e.slice, dice=0.12345) for e in work.manifest.slices if e.part != "train"]
        scores.finish(session, work.claim, rows, {}, None, Ending(exit_code=0))
    (queued,) = submit(spec={"name": "waits"}, reuse=False)
    answer = web.post("/v1/tables?name=paper", json={"files": [{"name": "t", "text": PRINTED}]})
    assert answer.status_code == 201, answer.text
    return f"runs=1,2,3,4,5,{queued}&baseline=1&tables=paper"


def read(web: httpx.Client, address: str) -> tuple[Shown, dict[str, Shown], dict[str, list[str]]]:
    """The page, what its links export, and the texts beside the numbers."""
    answer = web.get(address, headers=HTML)
    assert answer.status_code == 200, answer.text
    shown, rest = exports.page(answer.text)
    texts = {form: web.get(rest.links[form]).text for form in ("CSV", "Markdown", "LaTeX", "JSON")}
    markdown, below = exports.from_markdown(texts["Markdown"])
    latex, notes = exports.from_latex(texts["LaTeX"])
    found = {"csv": exports.from_csv(texts["CSV"]), "json": exports.from_json(texts["JSON"])}
    return shown, found | {"md": markdown, "latex": latex}, {"page": rest.notes, "md": below, "latex": notes}


FACTS = ("part", "slices", "subjects", "epochs")


def check(shown: Shown, found: dict[str, Shown]) -> None:
    for form, one in found.items():
        assert one.headings == shown.headings, form
        assert [line.scores for line in one.lines] == [line.scores for line in shown.lines], form
        for told, line in zip(one.lines, shown.lines, strict=True):
            for name in FACTS:
                value = getattr(told, name)
                assert value is None or value == getattr(line, name), (form, line.name, name)
            # The page says once what no row differs in; references and printed rows have few settings.
            settings = dict(zip(one.parameters, told.settings or (), strict=told.settings is not None))
            assert told.settings is None or [settings[name] for name in shown.parameters] == line.settings, form
            assert all(settings.get(name, "") in ("", value) for name, value in shown.shared.items()), form
        assert {*shown.parameters, *shown.shared} == set(one.parameters), form
        assert not shown.parameters or not {*shown.parameters} & {*shown.shared}, form
        assert one.statistics, form
        assert [row[1:] for row in one.statistics] == [row[1:] for row in shown.statistics], form
        assert form == "csv" or one.pairs == shown.pairs, form
    for form, one in found.items():
        for line in one.lines[:7]:
            left_out = [name for name in (*FACTS, "settings") if getattr(line, name) is None]
            assert left_out == [], (form, line.name)


QUERIES = ["", "&profile=modern&level=subject", "&profile=nnunet&level=slice", "&sort=dice&descending=true"]


@pytest.mark.parametrize("more", QUERIES)
def test_every_number_is_the_same_in_every_form(web: httpx.Client, compared: str, more: str):
    shown, found, _ = read(web, f"/comparisons?{compared}{more}")
    check(shown, found)
    assert len(shown.lines) == (9 if "profile" not in more else 8)  # the printed table has no column of the others
    frozen = web.post(f"/comparisons/freeze?{compared}{more}").headers["location"]
    kept, forms, _ = read(web, frozen)
    check(kept, forms)
    assert kept == shown
    today = exports.html(web.get(frozen, headers=HTML).text).links["The same today"]
    assert exports.page(web.get(today, headers=HTML).text)[0] == kept


def test_these_numbers_are_right(web: httpx.Client, compared: str):
    """So that all forms are not wrong together; worked out by hand."""
    shown, *_ = read(web, f"/comparisons?{compared}")
    seeds, *inside, missing, nameless, waits, reference, printed = shown.lines
    # seeds: mean of 70, 80, 90 and 10; TP 35, FP 2, FN 5 and liver 2*37/(74+5), lesion 2*6/(12+5) on every slice
    assert seeds.scores[:4] == ["20.000 ± 10.000", "80.000 ± 10.000", "94.595 ± 0.000", "87.500 ± 0.000"]
    assert seeds.scores[6:] == ["93.671 ± 0.000", "70.588 ± 0.000"]
    # lesion: 7 slices find 9 of 10 and one 3, each with 1 outside: 2*66 / (2*66 + 8 + 14); 33.3 + mean of 0.0 to 0.7
    # less the seeds': 132/154 - 12/17, and 5 on every slice; they have each other's mean beside them
    assert (missing.scores[7], missing.scores[5]) == ("85.714 (+15.126)", "33.683 (+28.683)")
    assert [line.scores[1] for line in inside] == ["70.000 (-10.000)", "80.000 (0.000)", "90.000 (+10.000)"]
    assert missing.slices == "8"
    assert nameless.settings[shown.parameters.index("learning rate")] == "1.25e-07"
    assert [score.partition(" ")[0] for score in nameless.scores[2:4]] == ["0.000", "0.000"]  # nothing predicted: 0
    assert waits.scores == [""] * 8
    assert reference.scores[:2] == ["87.655", "12.345"]
    assert printed.scores == ["3.663", "96.337", "", "66.600", "", "", "", ""]
    against = next(row for row in shown.statistics if row[0] == "=1+1")
    assert against[1:6] == ["1", "1", "0", "15.126", "none"]  # 132/154 - 12/17


def test_rows_come_in_the_order_asked_for(web: httpx.Client, compared: str):
    """Groups move with what is in them; what has no value comes last either way."""

    def names(more: str) -> list[Any]:
        rows = web.get(f"/v1/comparisons?{compared}{more}").json()["rows"]
        return [row["run"] or row["what"] for row in rows]

    assert names("") == ["seeds", 1, 2, 3, 4, 5, 10]
    assert names("&sort=dice") == ["seeds", 1, 2, 3, 4, 5, 10]
    assert names("&sort=dice&descending=true") == [4, 5, "seeds", 1, 2, 3, 10]
    assert names("&sort=training.learning_rate") == [5, "seeds", 1, 2, 3, 4, 10]
    assert names("&sort=model.filters&descending=true")[0] == 4
    refused = web.get(f"/v1/comparisons?{compared}&sort=lesion_dice")
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "sort")
    assert web.get(f"/comparisons?{compared}&sort=lesion_dice", headers=HTML).status_code == 200


def test_only_rows_with_all_words_are_shown_and_exported(web: httpx.Client, compared: str):
    """A group stays whole, the baseline always, and what was tested is not tested anew over what is shown."""

    def names(words: str) -> list[Any]:
        shown, found, _ = read(web, f"/comparisons?{compared}&filter={words}")
        assert {form: [line.scores for line in one.lines] for form, one in found.items()} == {
            form: [line.scores for line in shown.lines] for form in found
        }
        return [line.name for line in shown.lines][4:-2]

    assert names("=1%2B1") == []  # a setting without a name
    assert names("WAIT") == ["waits"]
    assert names("filters%3D3") == ["=1+1"]
    assert names("model.filters%3D3+1%2B1") == ["=1+1"]
    assert names("filters%3D3+waits") == []
    assert names("learning_rate%3D1.25e-07") == ["run 5"]
    every = web.get(f"/v1/comparisons?{compared}").json()["statistics"]["contrasts"]
    some = web.get(f"/v1/comparisons?{compared}&filter=filters%3D3").json()
    assert some["statistics"]["contrasts"] == [one for one in every if one["name"] == "=1+1"]
    told = "Shown: 2 of 4 rows, those with filters=3 and the baseline; p is adjusted over all rows compared."
    assert some["notes"][0] == told
    no_baseline = compared.replace("&baseline=1", "")
    page = web.get(f"/comparisons?{no_baseline}&filter=nothing+is+called+so", headers=HTML).text
    assert "No row has all of “nothing is called so”" in page
    assert len(exports.page(web.get(f"/comparisons?{no_baseline}&filter=waits", headers=HTML).text)[0].lines) == 3


def test_every_form_names_profile_and_level(web: httpx.Client, compared: str):
    query = f"/v1/comparisons?{compared}&profile=modern&level=subject"
    header, rows = told(web.get(f"{query}&format=csv").text)
    assert {(row["profile"], row["level"]) for row in rows} == {("modern", "subject")}
    assert header[header.index("profile") :] == ["profile", "level", "collapsed", "warnings"]
    _, paragraphs = exports.from_markdown(web.get(f"{query}&format=md").text)
    assert paragraphs[0] == "Scores under profile modern, level subject."
    assert r"\caption{Scores, profile modern, level subject}" in web.get(f"{query}&format=latex").text
    found = web.get(query).json()
    assert (found["profile"], found["level"]) == ("modern", "subject")


@pytest.mark.parametrize(
    "name", ["# a", "- a", "1. a", "+ a", "> a", "=a", "---", "12) a", "_a_ _", "a_b", "&lt;", "R&D;"]
)
def test_a_line_of_markdown_begins_nothing_else(name: str):
    _, (paragraph, *_) = exports.from_markdown("| a | best_epoch | b] |\n|---|---|---|\n\n" + tables.paragraph(name))
    assert paragraph == name


def test_names_and_notes_are_read_back_as_they_are(web: httpx.Client, compared: str):
    shown, found, texts = read(web, f"/comparisons?{compared}")
    names = [line.name for line in shown.lines]
    assert names[:4] == [f"{HOSTILE} (mean of 3 seeds)", *[HOSTILE] * 3]
    for form in ("csv", "md", "latex"):
        told = [line.name.removesuffix(" (paper)") for line in found[form].lines]
        assert [name or "run 5" for name in told] == names, form
    notes = [text for text in texts["page"] if not text.startswith("Bold: ")]
    assert len(notes) > 5
    for form in ("md", "latex"):
        # In details and headings on the page.
        own = ("difference by subject: ", " by subject against ", "Scores under profile ")
        assert sorted(text for text in texts[form] if not any(word in text for word in own)) == sorted(notes), form


def test_what_must_be_known_stands_in_columns_of_the_csv_where_there_is_something(
    web: httpx.Client, finished: Callable[..., int], claim: Callable[[], Work]
):
    """Two seeds that found nothing on a split with an override, one run without, and the empty reference."""
    nothing = {"counts": (60, 0, 0, 30, 0, 0, 10, 0, 0), "tp": 0, "fp": 0, "dice": 0.1, "dice_liver": 0.1}
    for seed, reason in enumerate(["=on purpose", "as before"]):
        split = {"id": "phantom", "split": {"override": reason}}
        finished(spec={"dataset": split, "training": {"batch_size": 4, "epochs": 2, "seed": seed}}, **nothing)
    finished(spec={"model": {"filters": 3, "depth": 2}})
    web.post("/v1/references", json={"spec": tiny_spec()})
    work = claim()
    with transaction() as session:
        rows = [slice_score(e.part, e.scan, e.slice, **nothing) for e in work.manifest.slices if e.part != "train"]
        scores.finish(session, work.claim, rows, {}, None, Ending(exit_code=0))
    header, rows = told(web.get("/v1/comparisons?runs=1,2,3&format=csv").text)
    assert header[-2:] == ["collapsed", "override"]
    assert [(row["run"], row["collapsed"], row["override"]) for row in rows] == [
        ("1 2", "yes", "'=on purpose; as before"),
        ("1", "yes", "'=on purpose"),
        ("2", "yes", "as before"),
        ("3", "", ""),
        ("", "", ""),
    ]
    header, _ = told(web.get("/v1/comparisons?runs=3&format=csv").text)
    assert not {"collapsed", "override", "warnings"} & set(header)


def told(text: str) -> tuple[list[str], list[dict[str, str]]]:
    read = csv.DictReader(io.StringIO(text))
    return list(read.fieldnames or []), list(read)


def test_the_csv_has_the_warnings_in_every_row_of_runs(
    web: httpx.Client, finished: Callable[..., int], submit: Callable[..., list[int]]
):
    done = finished(spec={"dataset": {"id": "phantom", "split": {"override": "on purpose"}}})
    (waits,) = submit(spec={"name": "waits"}, reuse=False)
    address = f"/v1/comparisons?runs={done},{waits}"
    warning = f"Without scores (yet): run {waits}."
    _, rows = told(web.get(f"{address}&format=csv").text)
    assert [(row["override"], row["warnings"]) for row in rows] == [("on purpose", warning), ("", warning)]
    # Frozen when rows had no override of their own.
    older = web.get(address).json()
    for row in older["rows"]:
        del row["override"]
    header, rows = told(tables.to_csv(Comparison.model_validate(older)))
    assert "override" not in header
    assert {row["warnings"] for row in rows} == {f"{warning} Run {done}: split override: on purpose"}


def test_a_mean_over_fewer_than_its_row_says_so_in_every_form(
    web: httpx.Client, finished: Callable[..., int], liverseg: Callable[..., Result]
):
    """Three seeds, of which one predicts no lesion: precision 6/7 of two. Nobody looked for lesions one by one."""
    for seed, counts in enumerate([FOUND, FOUND, (58, 2, 0, 3, 27, 0, 0, 10, 0)]):
        finished(spec={"training": {"batch_size": 4, "epochs": 2, "seed": seed}}, counts=counts)
    query = "runs=1,2,3&profile=modern"
    shown, forms, texts = read(web, f"/comparisons?{query}")
    precision, f1 = (shown.headings.index(f"Lesion{name} [%]") for name in (" precision", "-wise F1, IoU > 0"))
    assert [line.scores[precision] for line in shown.lines] == ["85.714 ± 0.000 (n = 2)", "85.714", "85.714", ""]
    failed = ["(n = 0, 3 failed)", *["(n = 0, 8 failed)"] * 3]
    assert [line.scores[f1] for line in shown.lines] == failed
    for form, one in forms.items():
        assert [line.scores for line in one.lines] == [line.scores for line in shown.lines], form
    for form, notes in texts.items():
        assert notes.count(tables.COUNTED) == 1, form
    header, *taken = counts_table(web.get(f"/comparisons?{query}", headers=HTML).text)
    at = header.index("Lesion precision")
    assert [(row[0], row[at]) for row in taken] == [
        ("(no name) (mean of 3 seeds)", "2, 1 empty"),
        *((f"run {run}", "8") for run in (1, 2)),
        ("run 3", "0, 8 empty"),
    ]
    assert {row[header.index("Lesion-wise F1, IoU > 0")] for row in taken} == {"0, 3 failed", "0, 8 failed"}
    assert [row[-3:] for row in taken] == [["8", "1", "1"]] * 4
    header, rows = told(web.get(f"/v1/comparisons?{query}&format=csv").text)
    of_precision = [tuple(row[f"Lesion precision {name}"] for name in ("n", "empty", "failed")) for row in rows]
    assert of_precision == [("2", "1", "0"), ("8", "0", "0"), ("8", "0", "0"), ("0", "8", "0")]
    assert not {"Lesion Dice n", "Liver precision n"} & set(header)
    printed = liverseg("compare", "1", "2", "3", "--profile", "modern").output
    assert printed.count("85.714 ± 0.000 (n = 2)") == 1
    assert " ".join(printed.split()).partition(" The same as a page: ")[0].endswith(tables.COUNTED)


def counts_table(html: str) -> list[list[str]]:
    """What each score was taken over: a table in details, which keyboards and screen readers reach."""
    _, _, rest = html.partition("<summary>What each score was taken over</summary>")
    (table,) = exports.html(rest.partition("</details>")[0]).tables
    return table


def test_a_table_whose_scores_are_over_all_says_nothing_of_n(
    web: httpx.Client, finished: Callable[..., int], liverseg: Callable[..., Result]
):
    run = finished()
    *_, texts = read(web, f"/comparisons?runs={run}")
    header, _ = told(web.get(f"/v1/comparisons?runs={run}&format=csv").text)
    assert not [name for name in header if name.endswith((" n", " empty", " failed"))]
    assert tables.COUNTED not in [note for notes in texts.values() for note in notes]
    assert "n =" not in liverseg("compare", str(run)).output
