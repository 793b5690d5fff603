"""Images by runs: every value worked out by hand, in every order."""

import pytest

from liverseg_core.errors import InputError
from store.database import transaction
from store.matrix import COLUMNS, Asked, matrix
from store.models import DEFAULT_PROJECT
from tests import factories
from tests.store import ledger

HALF = (8, 0, 0, 0, 0, 0, 0, 1, 1)
"""Lesion Dice 2 * 1 / (2 * 1 + 1) = 2/3, recall 1/2, precision 1."""
WHOLE = (8, 0, 0, 0, 0, 0, 0, 0, 2)
MISSED = (8, 0, 0, 0, 0, 0, 2, 0, 0)
NOTHING = (10, 0, 0, 0, 0, 0, 0, 0, 0)


def scored(*counts, **fields):
    """A run with these counts on slices 0, 1, ... of scan 1, and whole lesions on slice 0 of scan 2."""
    rows = [factories.slice_score("val", 1, number, counts=one) for number, one in enumerate(counts)]
    return ledger.finished([*rows, factories.slice_score("val", 2, 0, counts=WHOLE)], **fields)


@pytest.fixture
def runs(database):
    """Baseline, one that is better and worse, one that misses everything in scan 1."""
    ledger.dataset()
    return [
        scored(HALF, WHOLE, NOTHING),
        scored(WHOLE, HALF, NOTHING, seeds=[1]),
        scored(*[MISSED] * 2, NOTHING, seeds=[2]),
    ]


def asked(runs, limit=100, offset=0, **options):
    with transaction() as session:
        return matrix(session, DEFAULT_PROJECT, Asked(runs, **options), limit, offset)


def places(found):
    return [(line.place.scan, line.place.slice) for line in found.lines]


def near(*values):
    return [value if value is None else pytest.approx(value, abs=1e-15) for value in values]


def test_values_and_differences_by_hand(runs):
    found = asked(runs, sort="place")
    assert places(found) == [(1, 0), (1, 1), (1, 2), (2, 0)]
    assert [line.values for line in found.lines] == [near(2 / 3, 1, 0), near(1, 2 / 3, 0), [None] * 3, near(1, 1, 1)]
    # means of 1/3 and -2/3, of -1/3 and -1, of nothing, and of zeros
    assert [line.difference for line in found.lines] == near(-1 / 6, -2 / 3, None, 0)
    assert [(head.run, head.better, head.worse) for head in found.runs] == [
        (runs[0], 0, 0),
        (runs[1], 1, 1),
        (runs[2], 0, 2),
    ]
    assert [head.difference for head in found.runs] == near(0, 0, -5 / 9)  # (-2/3 - 1 + 0) / 3
    assert (found.baseline, found.total, found.by) == (runs[0], 4, "image")


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({}, [(1, 1), (1, 0), (2, 0), (1, 2)]),
        ({"descending": True}, [(2, 0), (1, 0), (1, 1), (1, 2)]),
        ({"sort": "place", "descending": True}, [(2, 0), (1, 2), (1, 1), (1, 0)]),
        ({"sort": "value"}, [(1, 0), (1, 1), (2, 0), (1, 2)]),
    ],
)
def test_orders(runs, options, order):
    assert places(asked(runs, **options)) == order


def test_the_difference_or_value_of_one_run_can_decide(runs):
    assert places(asked(runs, of=runs[1], descending=True))[0] == (1, 0)
    assert places(asked(runs, of=runs[1], sort="value"))[0] == (1, 1)
    assert asked(runs, baseline=runs[2]).runs[0].better == 2


def test_scans_and_subjects_pool_the_counts_of_their_images(runs):
    found = asked(runs, by="scan", sort="place")
    # scan 1: 3 of 4 lesion pixels found by the first two, none by the third: 2 * 3 / (2 * 3 + 1)
    assert [(line.place.scan, line.images) for line in found.lines] == [(1, 3), (2, 1)]
    assert [line.values for line in found.lines] == [near(6 / 7, 6 / 7, 0), near(1, 1, 1)]
    people = asked(runs, by="subject", sort="place", column="lesion_recall")
    assert [(line.place.subject, line.place.scan, line.values) for line in people.lines] == [
        ("1", None, near(3 / 4, 3 / 4, 0)),
        ("2", None, near(1, 1, 1)),
    ]


def test_the_studys_own_scores_are_means(database):
    ledger.dataset()
    run = ledger.finished(
        [factories.slice_score("val", 1, number, dice=dice) for number, dice in enumerate((0.25, 0.75))]
    )
    assert asked([run], by="scan", column="dice").lines[0].values == [0.5]


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_has_values(runs, column):
    assert all(value is not None for value in asked(runs, column=column, by="scan", sort="place").lines[1].values)


def test_windows_do_not_overlap(runs):
    found = [asked(runs, 2, offset, sort="place") for offset in (0, 2, 4)]
    assert [places(one) for one in found] == [[(1, 0), (1, 1)], [(1, 2), (2, 0)], []]
    assert {one.total for one in found} == {4}


def test_a_reused_run_shows_its_originals_values(runs):
    (again,) = ledger.submit(spec=factories.tiny_spec(name="again"))
    found = asked([runs[0], again], sort="place")
    assert all(first == second for first, second in (line.values for line in found.lines))


def test_an_image_that_a_run_was_not_scored_on_has_no_value_there(runs):
    short = ledger.finished([factories.slice_score("val", 2, 0, counts=WHOLE)], seeds=[9])
    assert [line.values[1] for line in asked([runs[0], short], sort="place").lines] == [None, None, None, 1]


def test_a_subject_of_whom_runs_scored_other_slices_is_not_compared(runs):
    """Else a mean over three of somebody's slices would stand beside one over another."""
    one_slice = ledger.finished([factories.slice_score("val", 1, 1, counts=WHOLE)], seeds=[9])
    other_slice = ledger.finished([factories.slice_score("val", 1, 2, counts=WHOLE)], seeds=[8])
    for by in ("scan", "subject"):
        found = asked([runs[0], one_slice, other_slice], by=by, sort="place")
        assert [line.images for line in found.lines if line.place.subject == "1"] == [3, 1, 1]
        assert all(line.values.count(None) == 2 and line.difference is None for line in found.lines)
        assert [(head.better, head.worse, head.difference) for head in found.runs[1:]] == [(0, 0, None)] * 2
    same = asked([runs[0], runs[1]], by="subject", sort="place")
    assert all(line.difference is not None for line in same.lines)


@pytest.mark.parametrize(
    ("options", "field"), [({"column": "n22"}, "column"), ({"baseline": 99}, "baseline"), ({"of": 99}, "of")]
)
def test_what_is_not_there_is_refused(runs, options, field):
    with pytest.raises(InputError) as caught:
        asked(runs, **options)
    assert caught.value.path == field


def test_runs_on_other_images_are_refused(runs):
    ledger.dataset("other", mark="b")
    other = ledger.finished(spec=factories.tiny_spec("other"))
    with pytest.raises(InputError, match="other images"):
        asked([*runs, other])


def test_runs_of_another_project_are_not_there(runs):
    with transaction() as session:
        found = matrix(session, ledger.second_project(), Asked(runs))
    assert (found.runs, found.lines, found.baseline) == ([], [], None)


def test_the_images_of_one_scan_or_person(runs):
    both = asked(runs, sort="place")
    assert sorted(set(places(both))) == [(1, 0), (1, 1), (1, 2), (2, 0)]
    one = asked(runs, sort="place", scan=1)
    assert places(one) == [(1, 0), (1, 1), (1, 2)]
    assert [line.values for line in one.lines] == [line.values for line in both.lines if line.place.scan == 1]
    person = next(line.place.subject for line in both.lines if line.place.scan == 2)
    assert places(asked(runs, sort="place", subject=person)) == [(2, 0)]
    assert (one.runs[2].better, one.runs[2].worse) == (0, 2)  # over what is shown
    assert places(asked(runs, by="scan", scan=2)) == [(2, None)]
    for nobody in ({"scan": 7}, {"subject": "nobody"}, {"scan": 1, "subject": person}):
        assert (asked(runs, **nobody).lines, asked(runs, **nobody).total) == ([], 0)


def test_the_images_of_one_part(database):
    ledger.dataset()
    run = ledger.finished(
        [
            factories.slice_score("val", 1, 0, counts=HALF),
            factories.slice_score("test", 2, 0, counts=WHOLE),
            factories.slice_score("test", 2, 1, counts=MISSED),
        ]
    )
    both = asked([run], sort="place")
    assert [(line.place.part, *line.values) for line in both.lines] == [
        ("test", 1.0),  # test before val
        ("test", 0.0),
        ("val", pytest.approx(2 / 3)),
    ]
    assert places(asked([run], sort="place", part="val")) == [(1, 0)]
    (person,) = asked([run], by="subject", part="test").lines
    assert (person.place.part, person.images, person.values) == ("test", 2, near(2 / 3))  # 2 * 2 / (2 * 2 + 2)
