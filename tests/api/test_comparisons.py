import csv
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser

import httpx
import pytest

from api import tables
from tests.api.test_pages import HTML, page

Finished = Callable[..., int]


def test_runs_side_by_side(web: httpx.Client, finished: Finished):
    first, second = finished(spec={"name": "a"}), finished(spec={"name": "b", "model": {"filters": 3, "depth": 2}})
    found = web.get(f"/v1/comparisons?runs={second},{first}").json()
    assert [row["run"] for row in found["rows"]] == [second, first]
    assert found["rows"][0]["settings"]["model.filters"] == 3
    scores = found["rows"][1]["scores"]
    # every slice: dice 0.9; TP 35, FP 2, FN 5; lesion 2*6/(12+1+4); liver 2*37/(74+2+3)
    assert scores["loss"] == pytest.approx(0.1)
    assert scores["precision"] == pytest.approx(35 / 37)
    assert scores["recall"] == pytest.approx(35 / 40)
    assert scores["pooled_lesion_dice"] == pytest.approx(12 / 17)
    assert scores["pooled_liver_dice"] == pytest.approx(74 / 79)


def test_a_whole_experiment(web: httpx.Client, finished: Finished):
    run = finished()
    assert [row["run"] for row in web.get("/v1/comparisons?experiment=1").json()["rows"]] == [run]


def test_unknown_runs_are_named(web: httpx.Client, finished: Finished):
    answer = web.get(f"/v1/comparisons?runs={finished()},8,9")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "there are no such runs: 8, 9"
    assert web.get("/v1/comparisons?experiment=9").status_code == 404


def test_csv_prints_percent_and_neutralises_what_a_spreadsheet_would_run(web: httpx.Client, finished: Finished):
    run = finished(spec={"name": "=HYPERLINK(1)"})
    answer = web.get(f"/v1/comparisons?runs={run}&format=csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    header, line = csv.reader(io.StringIO(answer.text))
    row = dict(zip(header, line, strict=True))
    assert row["name"] == "'=HYPERLINK(1)"
    assert (row["Loss [%]"], row["Dice Coef. [%]"], row["Dice Coef. Tumor [%]"]) == ("10.000", "90.000", "5.000")
    assert (row["Precision [%]"], row["Recall [%]"]) == ("94.595", "87.500")
    assert (row["Liver Dice, pooled [%]"], row["Lesion Dice, pooled [%]"]) == ("93.671", "70.588")
    assert row["training.learning_rate"] == "0.001"


def two(finished: Finished) -> tuple[int, int]:
    return finished(spec={"name": "a_1"}), finished(
        spec={"name": "50 % & {more}", "model": {"filters": 3, "depth": 2}}
    )


def test_latex_has_both_tables_with_everything_escaped(web: httpx.Client, finished: Finished):
    first, second = two(finished)
    answer = web.get(f"/v1/comparisons?runs={first},{second}&format=latex&baseline={first}")
    assert answer.headers["content-type"] == "application/x-latex; charset=utf-8"
    lines = answer.text.splitlines()
    assert r"a\_1 & adam & 4 & 32 & 2 & 0.001 \\" in lines
    scores = ("10.000", "90.000", "94.595", "87.500", "80.000", "5.000", "93.671", "70.588")
    equal = " & ".join(f"{score} (0.000)" for score in scores)  # both predict the same
    assert rf"50 \% \& \{{more\}} & {equal} & test & 8 & 1 & 2 of 2 \\" in lines
    assert rf"a\_1 & {' & '.join(scores)} & test & 8 & 1 & 2 of 2 \\" in lines
    assert r"Lesion Dice, pooled [\%] & Part & Slices & Subjects & Best epoch \\" in answer.text
    assert r"Name & Loss [\%] & Dice Coef. [\%] & Precision [\%]" in answer.text
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lrrrrrrrrrrrr}"):
        assert rule in lines
    assert r"\caption{Lesion Dice, pooled [\%] by subject against a\_1}" in lines
    assert answer.text.count(r"\begin{table}") == answer.text.count(r"\end{table}") == 3
    assert not re.search(r"(?<!\\)[_#$^~]", answer.text.partition("\n")[2].replace(r"$\pm$", ""))


@pytest.mark.parametrize(
    ("query", "path", "remedy"),
    [
        ("profile=best", "profile", "overview, modern"),
        ("profile=modern&level=voxel", "level", "pooled and subject and scan and slice"),
        ("profile=overview&level=pooled", "level", "slice"),
        ("profile=hd95", "profile", "no spacing"),
        ("baseline=9", "baseline", "one of the runs compared"),
        ("column=dice", "column", "baseline"),
        ("baseline=1&column=nsd", "column", "no spacing"),
        ("baseline=1&column=lesion_dice", "column", "pooled_lesion_dice"),
        ("tables=none&tables=other", "tables", "liverseg table import"),
    ],
)
def test_what_does_not_fit_is_refused(web: httpx.Client, finished: Finished, query: str, path: str, remedy: str):
    answer = web.get(f"/v1/comparisons?runs={finished()}&{query}")
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["path"] == path
    assert remedy in error["message"]
    shown = web.get(f"/comparisons?runs=1&{query}", headers=HTML)
    assert shown.status_code == (200 if query == "column=dice" else 422)  # the page's form names a column always
    assert "text/html" in shown.headers["content-type"]


class _Form(HTMLParser):
    """What a browser sends of the form with class ``choose``, and to where."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self._inside, self._select = False, ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "form":
            self._inside = known.get("class") == "choose"
            self.action = known["action"] or "" if self._inside else self.action
        elif not self._inside:
            return
        elif tag == "input" and (known.get("type") != "checkbox" or "checked" in known):
            self.fields[known["name"] or ""] = known.get("value") or ""
        elif tag == "select":
            self._select = known["name"] or ""
        elif tag == "option" and ("selected" in known or self._select not in self.fields):
            self.fields[self._select] = known["value"] or ""


def form(html: str) -> _Form:
    read = _Form()
    read.feed(html)
    read.close()
    return read


def test_the_form_of_the_page_works_without_a_baseline(web: httpx.Client, finished: Finished):
    """Filtered without one, with one, and with the one taken off again; sent as a browser sends it."""
    first, second = two(finished)
    html = page(web, f"/comparisons?runs={first},{second}&profile=modern")
    for baseline, tested in (("", False), (str(first), True), ("", False)):
        sent = form(html)
        assert sent.fields["column"]
        answer = web.get(sent.action, params={**sent.fields, "baseline": baseline, "filter": "50"}, headers=HTML)
        assert answer.status_code == 200, answer.text
        html = answer.text
        assert (form(html).fields["baseline"], 'id="statistics"' in html) == (baseline, tested)
        assert form(html).fields["filter"] == "50"
    kept = web.post(f"/comparisons/freeze?runs={first},{second}&baseline=&column=dice", headers=HTML)
    assert kept.status_code == 303


def test_profiles_are_data(web: httpx.Client):
    found = web.get("/v1/profiles").json()["profiles"]
    assert [one["key"] for one in found] == ["overview", "modern", "paper-2019", "paper-2019-fig4", "nnunet"]
    modern = found[1]
    assert modern["levels"][0] == "pooled"
    lesion = next(column for column in modern["columns"] if column["key"] == "lesion_dice")
    assert (lesion["formula"], lesion["better"]) == ("2 TP / (2 TP + FP + FN)", "higher")
    assert all(column["empty_rule"] and column["formula"] for one in found for column in one["columns"])


def test_statistics_are_in_every_format(web: httpx.Client, finished: Finished):
    first = finished(spec={"name": "a"})
    better = finished(spec={"name": "b", "model": {"filters": 3, "depth": 2}}, counts=(58, 2, 0, 3, 26, 1, 0, 2, 8))
    address = f"/v1/comparisons?runs={first},{better}&baseline={first}"
    found = web.get(address).json()
    (one,) = found["statistics"]["contrasts"]
    assert one["mean_difference"] == pytest.approx(16 / 19 - 12 / 17)
    assert (one["subjects"], one["p"], one["interval"]) == (1, 1, None)
    text = web.get(f"{address}&format=md").text
    assert "| b | 1 | 1 | 0 | 13.622 | none | 1 | 1 | 1.00 | 1 |" in text  # 16/19 - 12/17 = 0.13622
    assert "below 5 subjects no interval; the dots are shown" in text
    assert "b, difference by subject: " in text


def test_seeds_are_one_line_with_their_spread(web: httpx.Client, finished: Finished):
    runs = [
        finished(spec={"name": "a", "training": {"batch_size": 4, "epochs": 2, "seed": seed}}, dice=dice)
        for seed, dice in enumerate((0.8, 0.9))
    ]
    address = f"/v1/comparisons?runs={','.join(map(str, runs))}"
    header, line, *rest = csv.reader(io.StringIO(web.get(f"{address}&format=csv").text))
    row = dict(zip(header, line, strict=True))
    assert (row["row"], row["name"], row["run"]) == ("seeds", "a (mean of 2 seeds)", "1 2")
    assert (row["Dice Coef. [%]"], row["Dice Coef. sd [%]"]) == ("85.000", "7.071")  # 10 / sqrt(2)
    assert len(rest) == 2
    assert "85.000 ± 7.071" in web.get(f"{address}&format=md").text
    assert r"85.000 $\pm$ 7.071" in web.get(f"{address}&format=latex").text


def test_a_run_without_scores_has_empty_cells(web: httpx.Client, submit: Callable[..., list[int]]):
    (run,) = submit()
    header, line = csv.reader(io.StringIO(web.get(f"/v1/comparisons?runs={run}&format=csv").text))
    assert dict(zip(header, line, strict=True))["Loss [%]"] == ""


def test_markdown_shows_names_as_they_are(web: httpx.Client, finished: Finished):
    run = finished(spec={"name": "a|b <b>*x*\n`c` [d](javascript:e)"})
    answer = web.get(f"/v1/comparisons?runs={run}&format=md")
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    lines = answer.text.splitlines()
    assert r"| a\|b \<b>\*x\* \`c\` [d\](javascript:e) |" in lines[2]
    assert "Scores are on" in answer.text


@pytest.mark.parametrize(
    ("cell", "safe"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("-0.5", "-0.5"),
        ("+3", "+3"),
        ("plain", "plain"),
        ("", ""),
        ("a=1", "a=1"),
    ],
)
def test_neutral(cell: str, safe: str):
    assert tables.neutral(cell) == safe


@pytest.mark.parametrize(("value", "shown"), [(0.96337, "96.337"), (0.0, "0.000"), (1.0, "100.000"), (None, "")])
def test_percent(value: float | None, shown: str):
    assert tables.percent(value) == shown


def test_a_row_with_a_written_override_has_a_badge(web: httpx.Client, finished: Finished):
    plain = finished(spec={"name": "a"})
    split = {"id": "phantom", "split": {"override": "as in <the> study"}}
    over = finished(spec={"name": "b", "model": {"filters": 3, "depth": 2}, "dataset": split})
    badge = '<span class="tag override" title="as in &lt;the&gt; study">split override</span>'
    made = web.post("/v1/comparisons/frozen", json={"runs": [plain, over]}).json()
    for address in (f"/comparisons?runs={plain},{over}", made["address"]):
        lines = re.findall(r"<tr.*?</tr>", page(web, address), re.DOTALL)
        assert [f"/runs/{over}" in line for line in lines if badge in line] == [True]


def test_rows_show_the_numbers_of_their_runs(web: httpx.Client, finished: Finished):
    """Notes and warnings speak of them."""
    trained = {"batch_size": 4, "epochs": 2}
    for seed in (0, 1):
        finished(spec={"name": "a", "training": {**trained, "seed": seed}})
    finished(spec={"name": "", "model": {"filters": 3, "depth": 2}})
    html = page(web, "/comparisons?runs=1,2,3")
    names = re.findall(r'<th scope="row" class="name depth\d">(.*?)</th>', html)
    assert [" ".join(re.sub(r"<[^>]+>", " ", name).split()) for name in names[:4]] == [
        "a (mean of 2 seeds) runs 1, 2",
        "a run 1",
        "a run 2",
        "run 3",
    ]
    assert '<a href="/runs/1">a</a> <span class="ids">run 1</span>' in names[1]


@pytest.mark.parametrize("path", ["/comparisons", "/comparisons/images"])
def test_without_a_selection_the_page_says_what_to_do(web: httpx.Client, path: str):
    """*Compare selected* with nothing selected."""
    answer = web.get(path, headers=HTML)
    assert answer.status_code == 422
    assert "No run is selected. Tick the boxes of the runs to compare" in answer.text
    assert "runs=" not in answer.text
