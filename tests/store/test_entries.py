"""How runs are taken together: folds pooled, seeds as repeats."""

from dataclasses import replace

import pytest

from liverseg_core.facts import Facts
from liverseg_core.spec import ExperimentSpec
from store.entries import Entry, factors, grouped, walk
from store.measure import Measure
from store.models import Run
from store.results import Result
from store.run_settings import Settings
from tests import factories

SUBJECTS = {scan: f"p{scan}" for scan in range(9)}


def entry(run, *scans, kind="train", part="val", name="", references=(), **settings):
    facts = Facts.of([factories.slice_score(part, scan, 0) for scan in scans], [], SUBJECTS) if scans else None
    result = Result(Measure.of("overview", None), lambda: facts)
    usual = ExperimentSpec.parse(factories.tiny_spec()).settings()
    return Entry(
        what="run",
        name=name,
        runs=(Run(id=run, kind=kind),),
        settings=Settings(usual | {path.replace("__", "."): value for path, value in settings.items()}),
        content="c",
        part=part if scans else None,
        members=(result,) if scans else (),
        references=dict.fromkeys(references, result),
    )


def seeded(run, seed, **changes):
    return entry(run, 1, 2, training__seed=seed, **changes)


def fold(run, number, *scans, **changes):
    split = {"dataset__split__kind": "leave-one-subject-out", "dataset__split__fold": number}
    return entry(run, *scans, **split, **changes)


def shape(entries):
    return [(depth, one.what, one.ids) for depth, one in walk(grouped(entries))]


def test_seeds_of_one_setting_are_taken_together_where_the_first_stood():
    rows = [entry(9, 1, 2, model__filters=8), seeded(1, 0), seeded(5, 0, training__epochs=9), seeded(2, 4)]
    assert shape(rows) == [
        (0, "run", [9]),
        (0, "seeds", [1, 2]),
        (1, "run", [1]),
        (1, "run", [2]),
        (0, "run", [5]),
    ]


def test_a_result_shown_twice_counts_once_among_the_seeds():
    found = grouped([seeded(1, 0), seeded(2, 1), seeded(3, 0)])
    assert [one.ids for one in found] == [[1, 2], [3]]
    assert len(found[0].members) == 2


def test_a_reason_written_for_one_of_them_does_not_part_repeats():
    rows = [seeded(1, 0), seeded(2, 1, dataset__split__override="as in the study"), seeded(3, 2, dataset__id="other")]
    assert [one.ids for one in grouped(rows)] == [[1, 2, 3]]


@pytest.mark.parametrize(
    "other",
    [
        replace(seeded(2, 1), imported=True),
        seeded(2, 1, part="test"),
        entry(2, 1, training__seed=1),
        entry(2, training__seed=1),
        seeded(2, 0),
        seeded(2, 1, evaluation__min_lesion=5),
    ],
    ids=["imported", "part", "slices", "unscored", "seed", "evaluation"],
)
def test_what_is_no_repeat(other):
    assert shape([seeded(1, 0), other]) == [(0, "run", [1]), (0, "run", [2])]


def test_folds_are_pooled_over_their_held_out_slices():
    pooled, *rest = grouped([fold(1, 0, 1, 2, references=["empty", "perfect"]), fold(2, 1, 3, references=["empty"])])
    assert (pooled.what, pooled.ids, rest) == ("folds", [1, 2], [])
    assert pooled.members[0].facts.scan.tolist() == [1, 2, 3]
    assert {name: one.facts.scan.tolist() for name, one in pooled.references.items()} == {"empty": [1, 2, 3]}


def test_folds_and_seeds_together():
    rows = [fold(run, run % 2, run % 2, training__seed=run // 2) for run in range(4)]
    assert shape(rows) == [
        (0, "seeds", [0, 1, 2, 3]),
        (1, "folds", [0, 1]),
        (2, "run", [0]),
        (2, "run", [1]),
        (1, "folds", [2, 3]),
        (2, "run", [2]),
        (2, "run", [3]),
    ]
    (seeds,) = grouped(rows)
    assert [one.facts.scan.tolist() for one in seeds.members] == [[0, 1], [0, 1]]


def test_folds_of_other_sets_and_unscored_ones_stay_apart():
    rows = [fold(1, 0, 1), fold(2, 1, 2, model__filters=8), fold(3, 1)]
    assert shape(rows) == [(0, "run", [1]), (0, "run", [2]), (0, "run", [3])]


def test_a_fold_shown_twice_is_pooled_once():
    assert [one.ids for one in grouped([fold(1, 0, 1), fold(2, 1, 2), fold(3, 0, 1)])] == [[1, 2], [3]]


def test_scope_is_the_slices_whatever_their_order():
    assert entry(1, 1, 2).scope() == entry(2, 2, 1).scope()
    assert entry(1, 1, 2).scope() != entry(2, 1, 2, part="test").scope()
    assert entry(1).scope() is None


def test_factors_leave_out_what_is_no_factor():
    first = seeded(1, 0)
    second = seeded(2, 1, dataset__id="other", training__epochs=9, dataset__split__override="why")
    assert factors(first, second) == ["training.epochs"]
    assert factors(first, first) == []


def test_names_of_groups_are_the_words_that_all_share():
    names = ["DA lr 1 seed 0", "DA lr 1 seed 1"]
    (found,) = grouped([seeded(number, number, name=name) for number, name in enumerate(names)])
    assert (found.name, found.title) == ("DA lr 1 seed", "DA lr 1 seed (mean of 2 seeds)")
    (unlike,) = grouped([seeded(0, 0, name="a"), seeded(1, 1, name="b")])
    assert unlike.name == "a"


def test_an_augmentation_of_ones_own_is_one_factor():
    named, own = seeded(1, 0), seeded(2, 0)
    section = {"rotation": 10.0, "scale": 0.0}
    settings = {path: value for path, value in own.settings.items() if path != "data.augmentation"}
    settings |= {f"data.augmentation.{name}": value for name, value in section.items()}
    named = replace(named, settings=Settings({**named.settings, "data.augmentation": "none"}))
    assert factors(named, replace(own, settings=Settings(settings))) == ["data.augmentation"]


def test_seeds_of_fold_pools_group_whichever_fold_comes_first():
    runs = [fold(1, 0, 1), fold(2, 1, 2), fold(3, 1, 2, training__seed=1), fold(4, 0, 1, training__seed=1)]
    assert [one.what for one in grouped(runs)] == ["seeds"]
