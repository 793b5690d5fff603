"""Per-image rows: COPY lives and dies with its transaction; derived columns agree with the laboratory's formulas."""

import pytest

from liverseg_core import metrics
from store import artifacts, scores, views
from store.artifacts import Stored
from store.database import transaction
from store.endings import Ending
from store.tidy import FileGone
from tests import factories
from tests.store import ledger

pytestmark = pytest.mark.usefixtures("phantom")


@pytest.fixture
def phantom(database):
    return ledger.dataset()


def images(run_id, **options):
    with transaction() as session:
        return scores.images(session, run_id, **options)


def one_image(counts):
    """The table's single row of a run with one slice."""
    run_id = ledger.finished([factories.slice_score(counts=counts)])
    return images(run_id)[0]


def stored(folder, content):
    (folder / "file").write_bytes(content)
    return artifacts.put(folder / "file")


def test_finish_stores_everything_and_ends_the_run(tmp_path):
    held = ledger.claimed()
    rows = [factories.slice_score("test", 2, number, dice=number / 10) for number in range(3)]
    files = {"weights": stored(tmp_path, b"weights"), "log": stored(tmp_path, b"")}
    with transaction() as session:
        assert scores.finish(session, held, rows, files, 4, Ending(0, provenance={"keras": "3"})) == "succeeded"
    run = ledger.run(held.run_id)
    assert (run.state, run.best_epoch, run.lease_until) == ("succeeded", 4, None)
    assert [(row["part"], row["scan"], row["slice"], row["dice"]) for row in images(held.run_id)] == [
        ("test", 2, 0, 0.0), ("test", 2, 1, 0.1), ("test", 2, 2, 0.2),
    ]  # fmt: skip
    with transaction() as session:
        kept = views.artifacts(session, held.run_id)
    assert [(one.kind, one.sha256, one.bytes, one.attempt) for one in kept] == [
        ("log", files["log"].sha256, 0, 1), ("weights", files["weights"].sha256, 7, 1),
    ]  # fmt: skip


def test_a_row_is_refused_whose_file_is_not_there():
    """Whoever deleted the last run with this content meanwhile may have removed it."""
    held = ledger.claimed()
    before = ledger.everything()
    files = {"weights": Stored("a" * 64, 7)}
    with pytest.raises(FileGone, match="aaaa"), transaction() as session:
        scores.finish(session, held, [factories.slice_score()], files, 1, Ending(0))
    assert ledger.everything() == before


def test_every_stored_fact_comes_back_in_its_own_column():
    facts = factories.slice_score(
        "val", 1, 14, counts=tuple(range(1, 10)), quantised=tuple(range(11, 20)), tp=21, fp=22, fn=23,
        dice=0.1, dice_liver=1 / 3, dice_tumor=5e-324,
    )  # fmt: skip
    row = images(ledger.finished([facts]))[0]
    assert [row[f"n{truth}{guess}"] for truth in range(3) for guess in range(3)] == list(range(1, 10))
    assert [row[f"q{truth}{guess}"] for truth in range(3) for guess in range(3)] == list(range(11, 20))
    assert (row["tp"], row["fp"], row["fn"]) == (21, 22, 23)
    assert (row["dice"], row["dice_liver"], row["dice_tumor"]) == (0.1, 1 / 3, 5e-324)  # to the last bit


def test_rollback_drops_the_scores_and_the_end(tmp_path):
    held = ledger.claimed()
    before = ledger.everything()
    with pytest.raises(ZeroDivisionError), transaction() as session:  # noqa: PT012 - the block is the subject
        files = {"log": stored(tmp_path, b"said")}
        scores.finish(session, held, [factories.slice_score()], files, 1, Ending(0))
        raise ZeroDivisionError
    assert ledger.everything() == before
    assert ledger.finish(held) == "succeeded"


def test_a_slice_that_comes_twice_refuses_the_whole_result():
    held = ledger.claimed()
    before = ledger.everything()
    with pytest.raises(Exception, match="pk_slice_scores"):
        ledger.finish(held, [factories.slice_score(), factories.slice_score()])
    assert ledger.everything() == before


def test_no_reader_sees_half_a_result():
    held = ledger.claimed()
    with transaction() as session:
        scores.finish(session, held, [factories.slice_score()], {}, 1, Ending(0))
        assert images(held.run_id) == []  # on another connection
        assert ledger.run(held.run_id).state == "running"
    assert len(images(held.run_id)) == 1


# --- derived columns ---------------------------------------------------------------------------------------------


def test_derived_columns_by_hand():
    # truth: 60 background, 30 parenchyma, 10 lesion; rows below are truth, columns prediction
    row = one_image((58, 2, 0, 3, 26, 1, 0, 4, 6))
    assert row["liver_dice"] == pytest.approx(2 * 37 / (2 * 37 + 2 + 3))  # 26+1+4+6 in both
    assert row["lesion_dice"] == pytest.approx(2 * 6 / (2 * 6 + 1 + 4))
    assert row["lesion_precision"] == pytest.approx(6 / 7)
    assert row["lesion_recall"] == pytest.approx(6 / 10)
    assert (row["lesion_pixels"], row["predicted_lesion_pixels"]) == (10, 7)


@pytest.mark.parametrize(
    ("counts", "liver", "lesion", "precision", "recall"),
    [
        ((100, 0, 0, 0, 0, 0, 0, 0, 0), None, None, None, None),  # both masks empty
        ((90, 0, 10, 0, 0, 0, 0, 0, 0), 0, 0, 0, None),  # predicted, not there
        ((90, 0, 0, 0, 0, 0, 10, 0, 0), 0, 0, None, 0),  # there, not predicted
        ((90, 0, 0, 0, 10, 0, 0, 0, 0), 1, None, None, None),  # no lesion, none predicted
        ((0, 0, 0, 0, 0, 0, 0, 0, 100), 1, 1, 1, 1),
    ],
)
def test_empty_masks(counts, liver, lesion, precision, recall):
    row = one_image(counts)
    found = (row["liver_dice"], row["lesion_dice"], row["lesion_precision"], row["lesion_recall"])
    assert found == (liver, lesion, precision, recall)


def test_derived_columns_are_the_laboratorys():
    many = ledger.random_counts(60)
    rows = [factories.slice_score(number=number, counts=counts) for number, counts in enumerate(many)]
    for counts, row in zip(many, images(ledger.finished(rows)), strict=True):
        assert row["liver_dice"] == near(metrics.dice(counts, "liver"))
        assert row["lesion_dice"] == near(metrics.dice(counts, "lesion"))
        assert row["lesion_precision"] == near(metrics.precision(counts, "lesion"))
        assert row["lesion_recall"] == near(metrics.recall(counts, "lesion"))
        assert row["lesion_pixels"] == sum(counts[6:])
        assert row["predicted_lesion_pixels"] == sum(counts[2::3])


def near(value):
    return None if value is None else pytest.approx(value, rel=1e-14)


# --- sorting and pages -------------------------------------------------------------------------------------------


@pytest.fixture
def four_slices():
    """Lesion Dice: none, 0, 1 and 2*1/(2*1+1) = 2/3."""
    lesions = [(9, 0, 0, 0, 0, 0, 0, 0, 0), (8, 0, 1, 0, 0, 0, 0, 0, 0), (8, 0, 0, 0, 0, 0, 0, 0, 1),
               (7, 0, 1, 0, 0, 0, 0, 0, 1)]  # fmt: skip
    return ledger.finished([factories.slice_score("test", 2, n, counts=c) for n, c in enumerate(lesions)])


@pytest.mark.parametrize(("descending", "order"), [(False, [1, 3, 2, 0]), (True, [2, 3, 1, 0])])
def test_sorted_by_a_derived_column_with_nulls_last(four_slices, descending, order):
    assert [row["slice"] for row in images(four_slices, sort="lesion_dice", descending=descending)] == order


def test_pages_do_not_overlap(four_slices):
    pages = [images(four_slices, sort="dice", limit=2, offset=offset) for offset in (0, 2, 4)]
    # equal dice: the most lesion first, then by slice
    assert [[row["slice"] for row in page] for page in pages] == [[2, 3], [0, 1], []]


@pytest.mark.parametrize("column", sorted(scores.SORTABLE))
def test_every_sortable_column_sorts(four_slices, column):
    found = [row[column] for row in images(four_slices, sort=column, descending=True)]
    known = [value for value in found if value is not None]
    assert known == sorted(known, reverse=True)
    assert found == known + [None] * (len(found) - len(known))


def test_a_column_that_is_not_on_the_list_never_reaches_sql(four_slices):
    with pytest.raises(AssertionError):
        images(four_slices, sort="1; DROP TABLE runs")
