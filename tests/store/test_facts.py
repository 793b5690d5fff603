"""Facts out of the ledger against the records that went in."""

from dataclasses import fields

import numpy as np
import pytest

from liverseg_core.facts import Components, Facts
from liverseg_core.profiles import per_subject, scores
from liverseg_core.records import LesionComponent
from store import facts
from store.database import transaction
from store.models import Run
from tests import factories
from tests.store import ledger

SUBJECTS = {0: "0", 1: "1", 2: "2"}


@pytest.fixture(autouse=True)
def phantom(database):
    return ledger.dataset()


def read(*run_ids):
    with transaction() as session:
        return facts.read(session, [session.get_one(Run, one) for one in run_ids])


def same(found, expected):
    for field in fields(type(expected)):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(theirs, Components):
            same(ours, theirs)
        elif theirs is None:
            assert ours is None
        else:
            np.testing.assert_array_equal(ours, theirs, field.name)
            assert ours.dtype.kind == theirs.dtype.kind, field.name


def random_rows(part, scans, seed=0):
    random = np.random.default_rng(seed)
    rows = []
    for scan in scans:
        for number in range(3):
            counts = tuple(random.integers(0, 2**20, 9).tolist())
            quantised = tuple(random.integers(0, 2**16, 9).tolist())
            soft = dict(zip(("dice", "dice_liver", "dice_tumor"), random.random(3).tolist(), strict=True))
            rows.append(factories.slice_score(part, scan, number, counts=counts, quantised=quantised, **soft))
    return rows


LESIONS = [
    LesionComponent("val", 1, 0, True, 1, 7, 0.0),
    LesionComponent("val", 1, None, False, 1, 2**40, 0.25),
]


def with_lesions(rows, lesions=LESIONS):
    run = ledger.finished(rows)
    for one in lesions:
        ledger.execute(
            "INSERT INTO lesion_components (run_id, part, scan, slice, predicted, number, pixels, iou) "
            "VALUES (:run, :part, :scan, :slice, :predicted, :number, :pixels, :iou)",
            run=run,
            **{name: getattr(one, name) for name in one.__slots__},
        )
    return run


def test_what_went_in_comes_out_by_part():
    val, test = random_rows("val", [1]), random_rows("test", [2], seed=1)
    run = with_lesions([*test, *val])
    found = read(run)[run]
    assert list(found) == ["val", "test"]
    same(found["val"], Facts.of(val, LESIONS, SUBJECTS))
    same(found["test"], Facts.of(test, None, SUBJECTS))  # lesion pixels and no lesion: nobody looked


def test_no_lesion_anywhere_is_known_and_not_missing():
    rows = [factories.slice_score("val", 1, 0, counts=(90, 0, 0, 0, 10, 0, 0, 0, 0))]
    run = ledger.finished(rows)
    same(read(run)[run]["val"], Facts.of(rows, [], SUBJECTS))


def test_many_runs_and_the_original_of_a_reused_one():
    first, second = (ledger.finished(random_rows("val", [1], seed)) for seed in (1, 2))
    (again,) = ledger.submit()
    (waiting,) = ledger.submit(seeds=[5])
    found = read(second, again, first, waiting)
    assert list(found) == [second, again, first, waiting]
    assert found[waiting] == {}
    same(found[again]["val"], found[first]["val"])
    assert found[first]["val"].dice[0] != found[second]["val"].dice[0]


def test_joined_is_as_if_one_run_had_scored_all():
    one, two = random_rows("val", [1]), random_rows("val", [2], seed=1)
    together = facts.joined([Facts.of(one, LESIONS, SUBJECTS), Facts.of(two, [], SUBJECTS)])
    same(together, Facts.of([*one, *two], LESIONS, SUBJECTS))


def test_lesions_of_some_slices_alone_are_not_passed_off_as_all():
    one, two = random_rows("val", [1]), random_rows("val", [2], seed=1)
    assert facts.joined([Facts.of(one, LESIONS, SUBJECTS), Facts.of(two, None, SUBJECTS)]).components is None


def test_a_scan_drawn_twice_counts_twice():
    person = {1: "p", 2: "p"}
    rows = [*random_rows("val", [1]), *random_rows("val", [2], seed=1)]
    whole = Facts.of(rows, LESIONS, person)
    drawn = facts.of_scans(whole, [1, 1, 2])
    assert (len(drawn), sorted(set(drawn.scan.tolist()))) == (9, [0, 1, 2])
    assert len(drawn.components.scan) == 4
    by_scan = {scan: scores("modern", "scan", facts.of_scans(whole, [scan]))["lesion_dice"].value for scan in (1, 2)}
    expected = (2 * by_scan[1] + by_scan[2]) / 3
    assert scores("modern", "scan", drawn)["lesion_dice"].value == pytest.approx(expected, rel=1e-12)
    assert list(per_subject("modern", drawn)) == ["p"]
