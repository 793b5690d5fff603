"""Frames hold what the API answers: every row, in one order, in types that do not turn into others."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from api import frames
from api.client import ApiError, Client
from liverseg_core.errors import InputError
from store import scores
from store.database import transaction
from store.endings import Ending
from store.queue import Work
from tests.factories import slice_score, tiny_spec

Finished = Callable[..., int]
OTHER = {"model": {"filters": 3, "depth": 2}, "name": "b"}


@pytest.fixture
def client(database: Path, api_url: str) -> Iterator[Client]:
    with Client(api_url) as made:
        yield made


def types(frame: pd.DataFrame) -> dict[str, str]:
    return {name: str(kind) for name, kind in frame.dtypes.items()}


def test_runs_have_settings_states_times_and_scores(
    client: Client, finished: Finished, submit: Callable[..., list[int]]
):
    done = finished(spec={"name": "a", "tags": ["x"]})
    (queued,) = submit(spec={"name": "b", "training": {"batch_size": 4, "epochs": 3, "learning_rate": 1}})
    found = frames.runs(client)
    assert found.index.tolist() == [done, queued]
    assert (found.index.name, str(found.index.dtype)) == ("run", "int64")
    assert found["state"].tolist() == ["succeeded", "queued"]
    assert found["tags"].tolist() == [("x",), ()]
    assert found["model.filters"].tolist() == [2, 2]
    assert found["training.learning_rate"].tolist() == [0.001, 1.0]
    assert found["dataset.exclude.scans"].tolist() == [(), ()]
    # every slice: dice 0.9; TP 35, FP 2; lesion 2*6/(12+1+4)
    assert found.loc[done, ["dice", "precision", "pooled_lesion_dice"]].tolist() == pytest.approx(
        [0.9, 35 / 37, 12 / 17]
    )
    assert found.loc[queued, ["dice", "pooled_lesion_dice"]].isna().all()
    assert (found.loc[done, "best_epoch"], found.loc[done, "slices"], found.loc[done, "part"]) == (2, 8, "test")
    assert pd.isna(found.loc[queued, "best_epoch"])
    assert pd.isna(found.loc[queued, "finished_at"])
    wanted = client.run(done)["finished_at"]
    assert found.loc[done, "finished_at"] == pd.Timestamp(wanted)
    assert found.loc[done, "finished_at"].utcoffset().total_seconds() == 0
    kinds = types(found)
    assert {name: kinds[name] for name in ("experiment", "best_epoch", "created_at", "name")} == {
        "experiment": "int64",
        "best_epoch": "Int64",
        "created_at": "datetime64[us, UTC]",
        "name": "string",
    }
    assert {name: kinds[name] for name in ("model.filters", "training.learning_rate", "data.shuffle", "dice")} == {
        "model.filters": "Int64",
        "training.learning_rate": "float64",
        "data.shuffle": "boolean",
        "dice": "float64",
    }


def test_all_runs_come_however_many_pages_they_are(
    client: Client, submit: Callable[..., list[int]], finished: Finished, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(frames, "RUNS_A_PAGE", 2)
    monkeypatch.setattr(frames, "RUNS_A_COMPARISON", 1)
    done = [finished(spec={"name": name, "training": {"batch_size": 4, "seed": n}}) for n, name in enumerate("ab")]
    waiting = submit(seeds=4, reuse=False)
    found = frames.runs(client)
    assert found.index.tolist() == [*done, *waiting]
    assert found["dice"].notna().tolist() == [True, True, False, False, False, False]
    assert frames.runs(client, state="queued").index.tolist() == waiting
    assert frames.runs(client, name="a", profile="modern", level="subject")["lesion_dice"].tolist() == pytest.approx(
        [12 / 17]
    )


def test_runs_of_other_kinds_have_scores_where_there_are_any(
    client: Client, web: httpx.Client, phantom: dict[str, Any], claim: Callable[[], Work]
):
    web.post("/v1/references", json={"spec": tiny_spec()})
    work = claim()
    with transaction() as session:
        rows = [slice_score(e.part, e.scan, e.slice) for e in work.manifest.slices if e.part != "train"]
        scores.finish(session, work.claim, rows, {}, None, Ending(exit_code=0))
    assert frames.runs(client).empty
    found = frames.runs(client, kind="reference")
    assert found.loc[work.claim.run_id, "dice"] == pytest.approx(0.9)
    assert found["dice"].notna().sum() == 1
    assert found["predictor"].nunique() == len(found) > 1


def test_epochs_of_several_runs(client: Client, finished: Finished, submit: Callable[..., list[int]]):
    second, first = finished(spec={"name": "a"}), finished(spec=OTHER)
    (queued,) = submit(spec={"training": {"batch_size": 2}})
    found = frames.epochs(client, pd.Index([first, second, queued, first]))
    assert found.index.names == ["run", "epoch"]
    assert found.index.tolist() == [(second, 1), (second, 2), (first, 1), (first, 2)]
    assert found.loc[(first, 2), ["loss", "dice", "val_loss", "val_dice"]].tolist() == [0.5, 0.5, 0.6, 0.4]
    assert types(found)["attempt"] == "int64"
    assert found["at"].tolist() == [pd.Timestamp(one["at"]) for run in (1, 2) for one in client.epochs(run)]
    assert frames.epochs(client, first).equals(found.loc[[first]])
    none = frames.epochs(client, queued)
    assert none.empty
    assert types(none) == types(found)
    assert none.index.names == ["run", "epoch"]
    with pytest.raises(ApiError, match="there is no such run"):
        frames.epochs(client, [first, 99])


def test_images_of_several_runs(client: Client, finished: Finished, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frames, "IMAGES_A_PAGE", 3)
    healthy = (90, 0, 0, 0, 10, 0, 0, 0, 0)
    first, second = finished(spec={"name": "a"}), finished(spec=OTHER, counts=healthy)
    found = frames.images(client, [first, second])
    rows = client.images(first, sort="part")
    assert len(rows) == 16  # 8 of val, 8 of test, in pages of 3
    assert found.index.names == ["run", "part", "scan", "slice"]
    assert found.loc[first].index.tolist() == [(row["part"], row["scan"], row["slice"]) for row in rows]
    assert set(found.columns) == set(rows[0]) - {"part", "scan", "slice"}
    assert found.loc[first, "lesion_dice"].tolist() == pytest.approx([12 / 17] * 16)
    assert found.loc[second, "lesion_dice"].isna().all()
    assert found.loc[second, "n11"].tolist() == [10] * 16
    shares = {"dice", "dice_liver", "dice_tumor", "liver_dice", "lesion_dice", "lesion_precision", "lesion_recall"}
    assert types(found) == {name: "float64" if name in shares else "int64" for name in found.columns}
    assert types(frames.images(client, [])) == types(found)


def test_a_comparison_keeps_groups_units_and_warnings(client: Client, web: httpx.Client, finished: Finished):
    seeds = [
        finished(spec={"name": "a", "training": {"batch_size": 4, "epochs": 2, "seed": seed}}, dice=dice)
        for seed, dice in enumerate((0.8, 0.9))
    ]
    other = finished(spec=OTHER)
    web.post("/v1/tables?name=paper", json={"files": [{"name": "t", "text": "Name  Loss\nOld  3.5\n"}]})
    found = frames.comparison(client.compare([*seeds, other], tables=["paper"]))
    assert found["what"].tolist() == ["seeds", "run", "run", "run", "printed"]
    assert found["runs"].tolist() == [(1, 2), (1,), (2,), (3,), ()]
    assert found["dice"].tolist()[:4] == pytest.approx([0.85, 0.8, 0.9, 0.9])
    assert pd.isna(found["dice"].iloc[4])
    assert found["loss"].iloc[4] == pytest.approx(0.035)
    assert found["sd.dice"].iloc[0] == pytest.approx(0.1 / 2**0.5)
    assert found["sd.dice"].iloc[1:].isna().all()
    assert found["n.dice"].tolist()[1:4] == [8, 8, 8]
    assert pd.isna(found["n.dice"].iloc[4])
    assert found["size"].iloc[0] == 2
    assert found["model.filters"].tolist()[:4] == [2, 2, 2, 3]
    assert {name: types(found)[name] for name in ("run", "size", "n.dice", "depth", "sd.dice", "collapsed")} == {
        "run": "Int64",
        "size": "Int64",
        "n.dice": "Int64",
        "depth": "int64",
        "sd.dice": "float64",
        "collapsed": "bool",
    }
    assert found.attrs["units"]["dice"] == "fraction"
    assert any("Scores are on the test part" in note for note in found.attrs["notes"])
    kept = client.freeze([*seeds, other], tables=["paper"])
    pd.testing.assert_frame_equal(frames.comparison(client.frozen(kept["key"])["comparison"]), found)


def test_images_by_runs(client: Client, finished: Finished, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frames, "IMAGES_A_PAGE", 5)
    first, second = finished(spec={"name": "a"}), finished(spec=OTHER, counts=(90, 0, 0, 0, 0, 0, 10, 0, 0))
    found = frames.matrix(client, [second, first])
    assert found.columns.tolist() == [second, first]
    assert found.columns.name == "run"
    assert len(found) == 16
    assert found[first].tolist() == pytest.approx([12 / 17] * 16)
    assert found[second].tolist() == [0.0] * 16  # every lesion is missed
    assert found.index.is_monotonic_increasing
    assert found.index.is_unique
    assert found.index.get_level_values("subject").unique().tolist() == ["P04", "P03"]
    long = frames.images(client, first)["lesion_recall"]
    pd.testing.assert_series_equal(
        frames.matrix(client, [first], "lesion_recall")[first].droplevel("subject"),
        long.droplevel("run").rename(first),
    )
    with pytest.raises(ApiError, match="column"):
        frames.matrix(client, [first], "n22")
    client.delete([second], dry_run=False)
    kept = frames.matrix(client, [second, first])
    assert (kept.columns.tolist(), len(kept.attrs["warnings"])) == ([first], 1)


def test_where_nothing_is_there_the_columns_are(client: Client, submit: Callable[..., list[int]]):
    none = frames.runs(client)
    assert none.empty
    assert {"state", "dice", "created_at"} <= set(none.columns)
    assert types(none)["created_at"] == "datetime64[us, UTC]"
    waiting = submit()
    nothing = frames.matrix(client, waiting)
    assert (nothing.shape, nothing.attrs["overrides"]) == ((0, 1), [])
    with pytest.raises(InputError, match="is none of overview, modern"):
        frames.runs(client, profile="best")


def test_without_pandas_a_sentence_says_what_to_install(tmp_path: Path):
    script = "import sys; sys.modules['pandas'] = None\nimport api.client\nimport api.frames"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    told = 'is not installed, and frames are made of it; `pip install ".[notebook]"` in the checkout adds it'
    assert last.endswith(f"pandas: {told}")
    assert "InputError" in last
