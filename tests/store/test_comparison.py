"""The comparison query against the laboratory's own aggregation, and what a reader is told about it."""

import numpy as np
import pytest

from liverseg_core import metrics
from store import batches, comparison, endings
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT
from tests import factories
from tests.store import ledger

pytestmark = pytest.mark.usefixtures("phantom")
SAME_NAMES = {"pooled_lesion_dice": "pooled_lesion", "pooled_liver_dice": "pooled_liver"}
NOTHING = (100, 0, 0, 0, 0, 0, 0, 0, 0)


@pytest.fixture
def phantom(database):
    return ledger.dataset()


def compare(*run_ids, project=DEFAULT_PROJECT):
    with transaction() as session:
        return comparison.compare(session, project, run_ids)


def only(run_id):
    return compare(run_id).rows[0]


@pytest.mark.parametrize("slices", [1, 2, 7, 60])
def test_scores_are_the_laboratorys(slices):
    random = np.random.default_rng(slices)
    rows = []
    for number, counts in enumerate(ledger.random_counts(slices)):
        tp, fp, fn = random.integers(0, 512**2, 3).tolist()
        dice, liver, tumor = random.random(3).tolist()
        facts = {"tp": tp, "fp": fp, "fn": fn, "dice": dice, "dice_liver": liver, "dice_tumor": tumor}
        rows.append(factories.slice_score(number=number, counts=counts, **facts))
    expected = metrics.aggregate(rows)
    found = only(ledger.finished(rows)).scores
    for name, value in found.items():
        wanted = expected[SAME_NAMES.get(name, name)]
        assert value == (None if wanted is None else pytest.approx(wanted, rel=1e-12, abs=1e-15)), name


def test_scores_by_hand():
    rows = [
        factories.slice_score(number=0, counts=(0, 0, 0, 0, 8, 0, 0, 0, 2), tp=9, fp=1, fn=0, dice=0.75),
        factories.slice_score(number=1, counts=(2, 2, 0, 0, 4, 1, 0, 0, 1), tp=3, fp=2, fn=5, dice=0.25),
    ]
    row = only(ledger.finished(rows))
    assert (row.slices, row.part, row.best_epoch, row.state) == (2, "val", 1, "succeeded")
    assert (row.scores["dice"], row.scores["loss"]) == (0.5, 0.5)
    assert row.scores["precision"] == 12 / 15
    assert row.scores["recall"] == pytest.approx(12 / 17, rel=1e-15)
    assert row.scores["pooled_liver_dice"] == pytest.approx(2 * 16 / (2 * 16 + 2), rel=1e-15)
    assert row.scores["pooled_lesion_dice"] == pytest.approx(2 * 3 / (2 * 3 + 1), rel=1e-15)


@pytest.mark.parametrize(
    ("counts", "liver", "lesion"),
    [
        (NOTHING, None, None),
        ((90, 0, 10, 0, 0, 0, 0, 0, 0), 0, 0),
        ((90, 0, 0, 0, 0, 0, 10, 0, 0), 0, 0),
        ((90, 0, 0, 0, 10, 0, 0, 0, 0), 1, None),
    ],
)
def test_empty_masks(counts, liver, lesion):
    found = only(ledger.finished([factories.slice_score(counts=counts)])).scores
    assert (found["pooled_liver_dice"], found["pooled_lesion_dice"]) == (liver, lesion)


def test_precision_and_recall_of_nothing_are_zero_as_the_study_has_them():
    found = only(ledger.finished([factories.slice_score(tp=0, fp=0, fn=0)])).scores
    assert (found["precision"], found["recall"]) == (0, 0)


def test_whole_sums_do_not_overflow():
    huge = (0, 0, 0, 0, 0, 0, 0, 0, 2**31 - 1)
    rows = [factories.slice_score(number=number, counts=huge, tp=2**30) for number in range(4)]
    found = only(ledger.finished(rows)).scores
    assert (found["pooled_lesion_dice"], found["pooled_liver_dice"]) == (1, 1)


def test_a_reused_run_shows_the_originals_scores():
    original = ledger.finished([factories.slice_score(dice=0.625)])
    (reused,) = ledger.submit(spec=factories.tiny_spec(name="again"))
    first, second = compare(original, reused).rows
    assert (second.reused_from, second.name, second.best_epoch) == (original, "again", 1)
    assert second.scores == first.scores
    assert second.scores["dice"] == 0.625
    assert (second.part, second.slices, second.epochs) == (first.part, first.slices, first.epochs)


def test_the_test_part_goes_before_val():
    rows = [factories.slice_score("val", 0, 0, dice=0.9), factories.slice_score("test", 1, 0, dice=0.5)]
    table = compare(ledger.finished(rows))
    assert (table.rows[0].part, table.rows[0].slices, table.rows[0].scores["dice"]) == ("test", 1, 0.5)
    assert "Scores are on the test part." in table.notes


def test_scores_on_val_come_with_a_caution():
    table = compare(ledger.finished())
    assert any("val part, which early stopping also used" in note for note in table.notes)
    assert not any("test part" in note for note in table.notes)


@pytest.mark.parametrize(
    ("stopping", "chose"),
    [
        ({"patience": None, "restore": "last"}, False),
        ({"patience": None}, True),
        ({"patience": 3, "restore": "last"}, True),
    ],
)
def test_a_val_part_that_chose_no_epoch_is_said_to_have_chosen_none(stopping, chose):
    table = compare(ledger.finished(spec=factories.tiny_spec(training={"batch_size": 4, "early_stopping": stopping})))
    assert any("which early stopping also used" in note for note in table.notes) == chose
    assert any("It chose no epoch" in note for note in table.notes) != chose


def test_parameters_are_the_studys_and_those_that_differ():
    one = ledger.finished()
    other = ledger.finished(spec=factories.tiny_spec(model={"filters": 2, "depth": 2, "dropout": 0.25}), seeds=[7])
    table = compare(one, other)
    assert table.parameters == [*comparison.TABLE_5, "model.dropout", "training.seed"]
    assert [row.settings["model.dropout"] for row in table.rows] == [0.5, 0.25]
    assert [row.settings["training.seed"] for row in table.rows] == [0, 7]
    assert table.rows[0].settings["training.batch_size"] == 4
    assert compare(one).parameters == list(comparison.TABLE_5)


def test_rows_come_in_the_order_asked_for():
    runs = [ledger.finished(), ledger.finished(), ledger.finished()]
    wanted = [runs[2], runs[0], runs[1]]
    assert [row.run for row in compare(*wanted).rows] == wanted


def test_a_run_without_scores_has_a_row_and_a_warning():
    done = ledger.finished()
    (waiting,) = ledger.submit(seeds=[3])
    table = compare(waiting, done)
    assert (table.rows[0].scores, table.rows[0].slices, table.rows[0].part) == (None, 0, None)
    assert (table.rows[0].state, table.rows[0].epochs) == ("queued", None)
    assert table.warnings == [f"Without scores (yet): run {waiting}."]


def test_no_scores_at_all_say_nothing_about_parts():
    (waiting,) = ledger.submit()
    assert not any("Scores are on" in note for note in compare(waiting).notes)


def scored_on(*slices, part="val"):
    return ledger.finished([factories.slice_score(part, scan, number) for scan, number in slices])


def test_the_same_slices_need_no_warning():
    assert compare(scored_on((1, 0), (1, 1)), scored_on((1, 1), (1, 0))).warnings == []


@pytest.mark.parametrize("other", [[(1, 0)], [(1, 0), (1, 2)], [(2, 0), (2, 1)], [(1, 0), (1, 1), (1, 2)]])
def test_different_slices_are_warned_of(other):
    table = compare(scored_on((1, 0), (1, 1)), scored_on(*other))
    assert ["not scored on the same slices of the same people" in warning for warning in table.warnings] == [True]


def test_val_against_test_is_warned_of():
    assert len(compare(scored_on((1, 0)), scored_on((1, 0), part="test")).warnings) == 1


def test_the_same_numbers_of_another_content_are_warned_of():
    ledger.dataset("other-content", mark="b")
    here = ledger.finished()
    there = ledger.finished(spec=factories.tiny_spec("other-content"))
    assert len(compare(here, there).warnings) == 1


def test_another_projects_runs_are_invisible():
    other = ledger.second_project()
    ours = ledger.finished()
    table = compare(ours, project=other)
    assert (table.rows, table.warnings) == ([], [])
    assert [row.run for row in compare(ours, ours + 100).rows] == [ours]


def test_epochs_that_were_archived_do_not_count():
    held = ledger.claimed()
    with transaction() as session:
        for epoch in (1, 2, 3):
            kept = ledger.CHECKPOINT | {"epoch": epoch}
            factories.store_epoch(session, held, factories.epoch_record(epoch), kept)
    with transaction() as session:
        endings.release(session, held, Ending())
    again = ledger.claim().claim
    with transaction() as session:
        for damaged in (3, 2):  # both checkpoints that are kept
            batches.fall_back(session, again, {"epoch": damaged})
        factories.store_epoch(session, again, factories.epoch_record(1), ledger.CHECKPOINT)
    ledger.finish(again)
    assert only(held.run_id).epochs == 1


def test_nothing_asked_nothing_found():
    assert compare().rows == []
