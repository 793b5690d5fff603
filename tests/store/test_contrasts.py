"""Statistics, references and cautions of a comparison, over people in the ledger."""

import json

import numpy as np
import pytest
import scipy.stats

from liverseg_core.data.manifest import Manifest, SliceEntry, in_order
from liverseg_core.errors import InputError
from store import cautions, datasets
from store.comparison import compare
from store.database import transaction
from store.models import DEFAULT_PROJECT
from store.references import reference_hash
from tests import factories
from tests.store import ledger

EMPTY = {"counts": (90, 0, 0, 0, 0, 0, 10, 0, 0), "tp": 0, "fp": 0, "fn": 10}


def people(subjects, name="people", assumed=False):
    """A data set with scan 0 (subject ``t``) for training and a scan of one slice for each of ``subjects``."""
    everyone = ["t", *subjects]
    entries = [
        SliceEntry("val" if scan else "train", scan, k, ledger._hash(f"i{scan}_{k}"), ledger._hash(f"m{scan}_{k}"))
        for scan in range(len(everyone))
        for k in range(1 if scan else 8)
    ]
    manifest = Manifest(512, 512, in_order(entries), dict(enumerate(everyone)), assumed)
    with transaction() as session:
        return datasets.add(session, DEFAULT_PROJECT, name, manifest, ledger._hash(name))


def lesion(hit, missed=0):
    """Counts whose lesion Dice is 2 hit / (2 hit + missed)."""
    return {"counts": (80, 0, 0, 0, 10, 0, 0, missed, hit)}


def run(hits, *, name="", **spec):
    """A run with one slice a scan, hit out of 10 lesion pixels each."""
    rows = [factories.slice_score("val", scan, 0, **lesion(hit, 10 - hit)) for scan, hit in enumerate(hits, 1)]
    return ledger.finished(rows, spec={**factories.tiny_spec("people"), "name": name, **spec})


def asked(*runs, **options):
    with transaction() as session:
        return compare(session, DEFAULT_PROJECT, runs, **options)


def dice(hit):
    return 2 * hit / (2 * hit + 10 - hit)


def without_slices(*runs, **options):
    """The same, once the slices are gone and before they were, from summaries and from slices."""
    kept = asked(*runs, **options)
    ledger.execute("CREATE TABLE aside AS SELECT * FROM summaries")
    ledger.execute("DELETE FROM summaries")
    from_slices = asked(*runs, **options)
    ledger.execute("INSERT INTO summaries SELECT * FROM aside")
    ledger.execute("DROP TABLE aside")
    ledger.execute("DELETE FROM lesion_components")
    ledger.execute("DELETE FROM slice_scores")
    return kept, from_slices, asked(*runs, **options)


OTHER = {"training": {"batch_size": 4, "epochs": 3}}
SEED = {"training": {**OTHER["training"], "seed": 1}}
THIRD = {"training": {"batch_size": 4, "epochs": 4}}


@pytest.fixture
def six(database):
    return people("abcdef")


def test_a_contrast_is_scipys_test_over_subjects(six):
    before, after = [5, 6, 4, 7, 3, 5], [7, 7, 9, 10, 2, 9]
    first, second = run(before, name="first"), run(after, name="second", **OTHER)
    found = asked(first, second, baseline=first).statistics
    (one,) = found.contrasts
    differences = [dice(new) - dice(old) for old, new in zip(before, after, strict=True)]
    assert [pair.difference for pair in one.pairs] == pytest.approx(differences)
    assert one.p == pytest.approx(scipy.stats.wilcoxon(differences, method="exact").pvalue)
    assert one.p_holm == one.p
    assert one.mean_difference == pytest.approx(np.mean(differences))
    assert one.interval[0] < one.mean_difference < one.interval[1]
    assert (one.subjects, one.zeros, one.without, one.smallest_p) == (6, 0, [], 2**-5)
    assert (one.won, one.lost) == (5, 1)
    assert (found.column, found.baseline, found.runs, found.skipped) == ("pooled_lesion_dice", "first", [first], [])
    assert one.effect == pytest.approx((19 - 2) / 21)  # the one loss has rank 2, of 1 + 2 + ... + 6


def test_rows_of_one_name_are_told_apart_by_their_runs(six):
    first, second = run([5, 6, 4, 7, 3, 5], name="same"), run([7, 7, 9, 8, 2, 9], name="same", **OTHER)
    third = run([7, 7, 9, 8, 2, 8], name="other", **THIRD)
    found = asked(first, second, third, baseline=first).statistics
    assert found.baseline == f"same, run {first}"
    assert [one.name for one in found.contrasts] == [f"same, run {second}", "other"]


def test_intervals_come_back_the_same(six):
    runs = run([5] * 6), run([7, 8, 9, 10, 6, 7], **OTHER)
    assert asked(*runs, baseline=runs[0]).statistics == asked(*runs, baseline=runs[0]).statistics


def test_holm_is_over_every_row_compared(six):
    base, better, mixed = run([5] * 6), run([6, 7, 8, 9, 10, 4], **OTHER), run([6, 4, 7, 3, 8, 2], **THIRD)
    found = asked(base, better, mixed, baseline=base).statistics.contrasts
    low, high = sorted(one.p for one in found)
    assert sorted(one.p_holm for one in found) == [min(1, 2 * low), max(min(1, 2 * low), high)]


def test_below_five_subjects_there_is_no_interval_but_dots(database):
    people("abc")
    base, other = run([5, 6, 7]), run([6, 8, 10], **OTHER)
    found = asked(base, other, baseline=base).statistics
    (one,) = found.contrasts
    assert one.interval is None
    assert [pair.subject for pair in one.pairs] == ["a", "b", "c"]
    assert (one.p, one.smallest_p) == (0.25, 0.25)
    assert "Interval: below 5 subjects no interval; the dots are shown." in found.notes
    assert any(
        "smallest two-sided p that a paired comparison can reach is 0.25, so no" in note for note in found.notes
    )


def test_scans_of_one_person_are_one_subject(database):
    people("aabbcdef")
    base = run([5] * 8)
    other = run([9, 5, 6, 6, 7, 8, 9, 10], **OTHER)
    (one,) = asked(base, other, baseline=base).statistics.contrasts
    # a: 14 of 20 pixels hit against 10 of 20
    assert one.pairs[0].difference == pytest.approx(28 / 34 - 20 / 30)
    assert (one.subjects, one.interval is None) == (6, False)


def test_subjects_without_a_value_are_named(six):
    base = run([5, 6, 7, 8, 9, 5])
    rows = [factories.slice_score("val", scan, 0, **lesion(8, 2)) for scan in range(1, 6)]
    rows.append(factories.slice_score("val", 6, 0, counts=(90, 0, 0, 0, 10, 0, 0, 0, 0)))
    other = ledger.finished(rows, spec={**factories.tiny_spec("people"), **OTHER})
    (one,) = asked(base, other, baseline=base).statistics.contrasts
    assert (one.subjects, one.without) == (5, ["f"])


def test_seeds_are_averaged_by_subject_before_they_are_tested(six):
    base = run([5] * 6, **OTHER)
    seeds = [
        run(hits, training={"batch_size": 4, "epochs": 2, "seed": seed})
        for seed, hits in enumerate(([4] * 6, [8] * 6))
    ]
    table = asked(base, *seeds, baseline=base)
    (one,) = table.statistics.contrasts
    assert one.name == f"run {seeds[0]} (mean of 2 seeds)"
    assert one.mean_difference == pytest.approx((dice(4) + dice(8)) / 2 - dice(5))
    group = table.rows[1]
    assert (group.what, group.runs, group.size, group.depth) == ("seeds", seeds, 2, 0)
    assert [row.depth for row in table.rows] == [0, 0, 1, 1]
    assert group.scores["pooled_lesion_dice"] == pytest.approx((dice(4) + dice(8)) / 2)
    assert group.deviations["pooled_lesion_dice"] == pytest.approx(np.std([dice(4), dice(8)], ddof=1))
    assert group.counts["pooled_lesion_dice"].n == 2
    assert "training.seed" not in group.settings
    assert [row.settings["training.seed"] for row in table.rows[2:]] == [0, 1]
    assert cautions.SEEDS in table.notes
    # a seed chosen as baseline stands for all of its setting
    assert asked(base, *seeds, baseline=seeds[1]).statistics.runs == seeds


def test_other_slices_get_no_statistics(six):
    base = run([5] * 6)
    fewer = run([9] * 5, name="fewer", **OTHER)
    table = asked(base, fewer, baseline=base)
    assert table.statistics.contrasts == []
    assert table.statistics.skipped == [
        f"fewer (run {fewer}): no statistics, it was not scored on the slices that the baseline was scored on."
    ]
    assert not table.comparable
    assert f"run {base} on 6 of val; run {fewer} on 5 of val" in table.warnings[0]


def test_a_baseline_without_scores_says_so(six):
    done = run([5] * 6, **OTHER)
    (waiting,) = ledger.submit(spec=factories.tiny_spec("people"))
    found = asked(waiting, done, baseline=waiting).statistics
    assert (found.contrasts, found.notes) == (
        [],
        ["The baseline has no scores (yet), so nothing can be compared with it."],
    )


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"profile": "best"}, "profile"),
        ({"level": "pooled"}, "level"),
        ({"profile": "modern", "level": "voxel"}, "level"),
        ({"baseline": 77}, "baseline"),
        ({"column": "dice"}, "column"),
        ({"column": "lesion_dice", "baseline": 1}, "column"),
        ({"profile": "surface-distances"}, "profile"),
        ({"tables": ["none"]}, "tables"),
    ],
)
def test_what_cannot_be_asked_is_refused(six, options, path):
    with pytest.raises(InputError) as refusal:
        asked(run([5] * 6), **options)
    assert refusal.value.path == path


def test_profile_and_level_choose_the_columns(six):
    one = run([0, 5, 10, 10, 10, 10])
    table = asked(one, profile="modern", level="subject")
    scores, counts = table.rows[0].scores, table.rows[0].counts
    assert scores["lesion_dice"] == pytest.approx((0 + dice(5) + 4) / 6)
    assert (counts["lesion_dice"].n, counts["lesion_specificity"].empty) == (6, 6)
    assert scores["lesion_specificity"] is None
    assert (table.level, table.rows[0].scans, table.rows[0].subjects) == ("subject", 6, 6)
    assert asked(one, profile="modern").level == "pooled"
    assert asked(one, profile="modern").rows[0].scores["lesion_dice"] == pytest.approx(2 * 45 / (2 * 45 + 15))


def reference(name, **score):
    rows = [factories.slice_score("val", scan, 0, **score) for scan in range(1, 7)]
    made = ledger.finished(rows, spec=factories.tiny_spec("people"))
    manifest = Manifest.from_json(ledger.rows("SELECT manifest FROM datasets WHERE name = 'people'")[0][0])
    digest = reference_hash(name, manifest.people_hash, 32, {"val": tuple(range(1, 7))}, {})
    ledger.execute("UPDATE runs SET kind = 'reference', training_hash = :h WHERE id = :i", h=digest, i=made)
    return made


def test_references_stand_at_the_foot_and_judge_columns_and_runs(six):
    nothing = {**EMPTY, "dice": 0.002, "dice_liver": 0.002, "dice_tumor": 0.002}
    reference("empty", **nothing)
    reference("perfect", counts=(80, 0, 0, 0, 10, 0, 0, 0, 10), dice=1.0, dice_liver=0.95, dice_tumor=0.0955)
    painted = {"counts": (80, 0, 0, 0, 0, 10, 0, 0, 10), "dice_tumor": 0.79}
    reference("liver-as-lesion", **painted)
    good = run([9] * 6)
    rows = [factories.slice_score("val", scan, 0, **nothing) for scan in range(1, 7)]
    dead = ledger.finished(rows, spec={**factories.tiny_spec("people"), **OTHER})
    table = asked(good, dead)
    assert [row.name for row in table.references] == ["empty", "liver as lesion", "perfect"]
    assert [row.scores["pooled_lesion_dice"] for row in table.references] == pytest.approx([0, 2 / 3, 1])
    usual = {"evaluation.min_lesion": 0, "evaluation.largest_component": False}
    assert table.references[0].settings == {"data.image_size": 32} | usual
    assert [row.collapsed for row in table.rows] == [False, True]
    warned = {column.key: column.warning for column in table.columns if column.warning}
    assert "a perfect prediction" in warned["dice_tumor"]
    assert "whole liver painted" in warned["dice_tumor"]
    assert any(warning.startswith("Dice Coef. Tumor cannot rank runs") for warning in table.warnings)
    assert not any("Reference predictors" in note for note in table.notes)


def without_references(*runs):
    return [note for note in asked(*runs).notes if note.startswith("Reference predictors")]


@pytest.mark.parametrize(
    "changed", [{"data": {"image_size": 64}}, {"evaluation": {"min_lesion": 5}}], ids=["size", "lesion rule"]
)
def test_references_that_were_scored_otherwise_are_not_this_runs(six, changed):
    for name in ("empty", "perfect", "liver-as-lesion"):
        reference(name, **EMPTY)
    one, other = run([9] * 6), run([9] * 6, **changed)
    (note,) = without_references(one, other)
    assert note == (
        "Reference predictors (empty, liver as lesion, perfect) have no scores with the slices, subjects, image size "
        f"and lesion rules of run {other}, so nothing shows there whether a row has collapsed or whether a column "
        "scores the whole liver as lesion high or whether a column scores a perfect prediction low."
    )
    assert asked(other).references == []


def test_what_cannot_be_told_without_one_reference_is_said(six):
    """The empty one failed or was deleted; the others are there."""
    one = run([9] * 6)
    kept = [reference(name, **EMPTY) for name in ("empty", "perfect", "liver-as-lesion")]
    assert without_references(one) == []
    ledger.execute("UPDATE runs SET state = 'failed' WHERE id = :i", i=kept[0])
    (note,) = without_references(one)
    assert note.startswith("Reference predictors (empty) have no scores")
    assert note.endswith(f"of run {one}, so nothing shows there whether a row has collapsed.")
    ledger.execute("UPDATE runs SET state = 'failed' WHERE id = :i", i=kept[1])
    (note,) = without_references(one)
    assert "(empty, perfect)" in note
    assert note.endswith("whether a row has collapsed or whether a column scores a perfect prediction low.")


def test_a_fold_without_a_reference_is_named_alone(database):
    people("ab")
    runs = [fold(number, number + 1, 5) for number in range(2)]
    manifest = Manifest.from_json(ledger.rows("SELECT manifest FROM datasets WHERE name = 'people'")[0][0])
    scored = {"val": (1,), "test": ()}
    made = ledger.finished([factories.slice_score("val", 1, 0, **EMPTY)], spec=factories.tiny_spec("people"))
    digest = reference_hash("empty", manifest.people_hash, 32, scored, {})
    ledger.execute("UPDATE runs SET kind = 'reference', training_hash = :h WHERE id = :i", h=digest, i=made)
    notes = without_references(*runs)
    assert [note.partition(" of ")[2].partition(", so")[0] for note in notes] == [f"run {one}" for one in runs]
    assert ["(empty, " in note for note in notes] == [False, True]


def test_the_same_person_on_both_sides_is_said(database):
    people(["t", "b"])
    split = {"id": "people", "split": {"override": "on purpose"}}
    (told,) = [note for note in asked(run([5, 6], dataset=split)).notes if "on both sides" in note]
    assert "paper split (very likely the same person on both sides). Subjects on both sides: t." in told


def test_other_people_in_val_need_no_such_note(six):
    assert not any("both sides" in note for note in asked(run([5] * 6)).notes)


def test_assumed_subjects_are_said(database):
    people("ab", assumed=True)
    assert any("Nobody said who the subjects are" in note for note in asked(run([5, 6])).notes)


def test_overrides_are_printed(database):
    people("ab")
    split = {"id": "people", "split": {"kind": "scans", "train": [0], "val": [1, 2], "override": "on purpose"}}
    one = run([5, 6], dataset=split)
    table = asked(one, run([5, 6]))
    assert table.overrides == [f"Run {one}: split override: on purpose"]
    assert "dataset.split.override" not in table.parameters


def test_more_than_one_differing_setting_is_named(six):
    first = run([5] * 6)
    one = run([6] * 6, **OTHER)
    both = run([7] * 6, training={"batch_size": 8, "epochs": 3})
    differing = [note for note in asked(first, one, both).notes if "settings at once" in note]
    assert differing == [
        f"Run {both} and run {first} differ in 2 settings at once (training.batch_size, training.epochs), "
        "so no difference belongs to one of them."
    ]
    assert not any("at once" in note for note in asked(one, both, baseline=one).notes)


def test_softmax_runs_are_named_under_the_studys_scores_alone(six):
    one = run([5] * 6, model={"filters": 2, "depth": 2, "head": "softmax"})
    assert any("0, .5 and .999" in note and f"run {one}" in note for note in asked(one).notes)
    assert not any(".999" in note for note in asked(one, profile="modern").notes)


def test_printed_rows_are_pinned_as_fractions(six):
    content = {
        "rows": [{"name": "A", "run_id": None, "parameters": {"model.filters": 4}, "scores": {"loss": 3.663}}],
        "notes": [{"check": "x", "rows": ["A"], "message": "odd"}],
    }
    ledger.execute(
        "INSERT INTO printed_tables (project_id, name, content) VALUES (1, 'paper', cast(:c AS jsonb))",
        c=json.dumps(content),
    )
    (row,) = asked(run([5] * 6), tables=["paper"]).printed
    assert (row.name, row.table, row.settings, row.notes) == ("A", "paper", {"model.filters": 4}, ["odd"])
    assert row.scores == {"loss": pytest.approx(0.03663)}
    modern = asked(run([5] * 6), tables=["paper"], profile="modern")
    assert modern.printed == []
    assert "Printed table paper has no column of this profile, so it is not shown." in modern.warnings


def test_fewest_subjects_of_several_data_sets(six):
    few = people("ab", "few")
    choice = [
        (one, factories.submission(spec=factories.tiny_spec(one.name)).expand()[0].dataset) for one in (six, few)
    ]
    assert cautions.fewest_subjects(choice) == 2
    assert cautions.fewest_subjects(choice[:1]) == 6


def fold(number, scan, hit):
    """A run that left one scan out, beside a test part that its folds share."""
    rows = [factories.slice_score("val", scan, 0, **lesion(hit, 10 - hit)), factories.slice_score("test", 0, 0)]
    split = {"kind": "leave-one-subject-out", "fold": number}
    return ledger.finished(rows, spec=factories.tiny_spec() | {"dataset": {"id": "people", "split": split}})


@pytest.mark.parametrize(
    ("assumed", "told"),
    [(False, "(subject-level); "), (True, "(scan-level: nobody said who the subjects are); ")],
)
def test_folds_are_of_subjects_only_where_somebody_said_who_they_are(database, assumed, told):
    people("ab", assumed=assumed)
    table = asked(*(fold(number, number + 1, 5) for number in range(2)))
    (note,) = [one for one in table.notes if "folds of one set" in one]
    assert f"leave-one-subject-out {told}" in note


def test_folds_are_pooled_over_what_each_held_out_not_over_a_test_part_they_share(database):
    """Hits 5, 6 and 7 of 10 lesion pixels: Dice 2 * 18 / (2 * 18 + 12)."""
    people("abc")

    table = asked(*(fold(number, number + 1, hit) for number, hit in enumerate([5, 6, 7])))
    pooled = table.rows[0]
    assert (pooled.what, pooled.part, pooled.slices, pooled.subjects) == ("folds", "val", 3, 3)
    assert pooled.scores["pooled_lesion_dice"] == pytest.approx(36 / 48)


@pytest.mark.parametrize("level", ["pooled", "slice"])
def test_statistics_of_four_people_read_no_slices(database, level):
    people("abcd")
    base, *seeds = run([5, 6, 4, 7]), run([7, 7, 9, 10], **OTHER), run([6, 8, 9, 9], **SEED)
    options = {"baseline": base, "profile": "modern", "level": level, "column": "lesion_recall"}
    kept, from_slices, gone = without_slices(base, *seeds, **options)
    assert kept == from_slices == gone
    (contrast,) = kept.statistics.contrasts
    # Recall is hits of 10; of the seeds the mean: 6.5 - 5, 7.5 - 6, 9 - 4 and 9.5 - 7, in tenths.
    assert [pair.difference for pair in contrast.pairs] == pytest.approx([0.15, 0.15, 0.5, 0.25])


def test_won_and_lost_follow_what_is_better(six):
    base, other = run([5, 6, 4, 7, 3, 5]), run([7, 7, 9, 10, 2, 5], **OTHER)
    options = {"baseline": base, "profile": "nnunet", "level": "slice"}

    def score(column):
        (one,) = asked(base, other, column=column, **options).statistics.contrasts
        return one.won, one.lost, one.zeros

    # More hits are fewer misses: four win, one loses, one is equal, whichever of the two is looked at.
    assert score("Dice_2") == score("FN_2") == (4, 1, 1)
    assert score("n_pred_2") == (None, None, 1)  # neither many nor few predicted pixels are better
