"""Printed tables over HTTP and by command."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from click.testing import Result

from store import printed
from store.database import transaction
from store.models import DEFAULT_PROJECT

SCORES = "Name  Loss  Dice Coef.\nFirst  3.663%  96.337%\nSecond  26.761%  93.239%\n"
PARAMETERS = json.dumps({"columns": ["run", "name", "batch_size"], "rows": [["0605-180358", "First", 32]]})


def body(**files: str) -> dict[str, object]:
    return {"files": [{"name": name, "text": text} for name, text in files.items()]}


def test_a_table_is_stored_with_its_notes(web: httpx.Client):
    answer = web.post("/v1/tables?name=paper", json=body(five=PARAMETERS, six=SCORES))
    assert answer.status_code == 201
    table = answer.json()
    assert table["rows"] == [
        {
            "name": "First",
            "run_id": "0605-180358",
            "parameters": {"training.batch_size": 32},
            "scores": {"loss": 3.663, "dice": 96.337},
        },
        {"name": "Second", "run_id": None, "parameters": {}, "scores": {"loss": 26.761, "dice": 93.239}},
    ]
    assert [(note["check"], note["rows"]) for note in table["notes"]] == [
        ("loss-and-dice", ["Second"]),
        ("no-parameters", ["Second"]),
    ]
    assert web.get("/v1/tables/paper").json() == table
    (listed,) = web.get("/v1/tables").json()["tables"]
    about = {name: table[name] for name in ("name", "created_at", "created_by")}
    assert listed == {**about, "rows": 2, "notes": 2}


def test_importing_again_replaces(web: httpx.Client):
    first = web.post("/v1/tables?name=paper", json=body(a=SCORES)).json()
    second = web.post("/v1/tables?name=paper", json=body(a="Name  Loss\nThird  4\n")).json()
    assert [row["name"] for row in second["rows"]] == ["Third"]
    assert second["created_at"] > first["created_at"]
    assert web.get("/v1/tables/paper").json() == second
    web.post("/v1/tables?name=another", json=body(a=SCORES))
    assert [one["name"] for one in web.get("/v1/tables").json()["tables"]] == ["another", "paper"]


def test_the_ledger_gives_the_rows_back(web: httpx.Client):
    from liverseg_core.printed import read_tables

    web.post("/v1/tables?name=paper", json=body(a=SCORES))
    with transaction() as session:
        assert printed.rows(session, DEFAULT_PROJECT, "paper") == read_tables([("a", SCORES)])
        assert printed.rows(session, DEFAULT_PROJECT, "no such") is None


@pytest.mark.parametrize(
    ("query", "sent", "path", "received"),
    [
        ("name=paper", body(a="Name  F-score\nFirst  1\n"), "a: column 'F-score'", "F-score"),
        ("name=paper", body(a="Name  Loss\nFirst  good\n"), "a: row 1, column 'Loss'", "good"),
        ("name=paper", body(a="Name  Loss\nFirst  3\nFirst  4\n"), "a: row 2", 4.0),
        ("name=paper", body(a=""), "a", None),
        ("name=paper", body(a=json.dumps({"columns": ["name", "loss"], "rows": [["a\0", 1]]})), None, None),
        ("name=paper", {"files": []}, "files", None),
        ("name=paper", {"files": [{"name": "a", "text": 3}]}, "files.0.text", 3),
        ("name=paper", {"files": [{"name": "a", "text": "x" * 500_001}]}, "files.0.text", None),
        ("name=paper", {"files": [], "rows": []}, None, None),
        ("name=a%20table", body(a=SCORES), "name", "a table"),
        ("", body(a=SCORES), "name", None),
        ("name=paper&unit=1", body(a=SCORES), "unit", "1"),
    ],
)
def test_what_cannot_be_used_is_refused(web: httpx.Client, count_rows: Callable, query, sent, path, received):
    before = count_rows()
    answer = web.post(f"/v1/tables?{query}", json=sent)
    assert answer.status_code == 422, answer.text
    error = answer.json()["errors"][0]
    assert path is None or error["path"] == path
    assert received is None or error["received"] == received
    assert error["message"]
    assert count_rows() == before


def test_unknown_tables_and_large_bodies(web: httpx.Client):
    assert web.get("/v1/tables/paper").status_code == 404
    large = body(**{f"f{number}": "x" * 400_000 for number in range(6)})
    assert web.post("/v1/tables?name=paper", json=large).status_code == 413


Run = Callable[..., Result]


def test_a_table_is_imported_listed_and_shown(liverseg: Run, tmp_path: Path):
    (tmp_path / "table5.json").write_text(PARAMETERS)
    (tmp_path / "table6.txt").write_text(SCORES)
    told = liverseg("table", "import", tmp_path / "table5.json", tmp_path / "table6.txt").stdout
    assert told.splitlines() == [
        "Run          Name    Batch size    Loss  Dice Coef.",
        "0605-180358  First           32   3.663      96.337",
        "-            Second           -  26.761      93.239",
        "",
        "Second: loss 26.761 and Dice 93.239 add to 120.000, not to 100. With this Dice the loss would be",
        "  6.761, with this loss the Dice 73.239.",
        "Second: scores without parameters, so nobody can repeat the row.",
    ]
    assert liverseg("table", "show", "table5-table6").stdout == told
    assert [line.split()[:3] for line in liverseg("table", "list").stdout.splitlines()] == [
        ["Name", "Rows", "Notes"],
        ["table5-table6", "2", "2"],
    ]
    found = json.loads(liverseg("table", "show", "table5-table6", "--json").stdout)
    assert found["notes"][0]["check"] == "loss-and-dice"


def test_pasted_text_comes_by_standard_input(liverseg: Run):
    told = liverseg(
        "table", "import", "-", "--name", "pasted", given="Name  Loss  Dice\nFirst  3.663  96.337\n"
    ).stdout
    assert told.endswith("\nThe checks found nothing wrong.\n")
    assert json.loads(liverseg("table", "list", "--json").stdout)["tables"][0]["name"] == "pasted"


def test_files_that_are_no_tables(liverseg: Run, tmp_path: Path):
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    told = liverseg("table", "import", tmp_path / "binary.csv", code=2).stderr
    assert "binary.csv: cannot be read" in told
    (tmp_path / "words.csv").write_text("name,F-score\na,1\n")
    assert "column 'F-score': is not known" in liverseg("table", "import", tmp_path / "words.csv", code=2).stderr
    assert "no such printed table" in liverseg("table", "show", "words", code=2).stderr


@pytest.mark.study
def test_the_study_s_errata_are_told(liverseg: Run, study: Path):
    files = [study / "paper" / name for name in ("table5.json", "table6.json")]
    found = json.loads(liverseg("table", "import", *files, "--name", "paper-2019", "--json").stdout)
    assert [note["check"] for note in found["notes"]] == [
        "loss-and-dice",
        "no-parameters",
        "identical",
        "floor",
        "floor",
        "run-times",
    ]
    assert len(found["rows"]) == 15
