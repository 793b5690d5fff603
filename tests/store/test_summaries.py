"""Summaries say what the slices say, whoever wrote them, and a comparison needs nothing else."""

import pytest

from liverseg_core import profiles
from liverseg_core.facts import Facts
from liverseg_core.records import LesionComponent
from store import comparison, scores, summaries, upkeep
from store.database import transaction
from store.endings import Ending
from store.models import DEFAULT_PROJECT, Run
from tests import factories
from tests.store import ledger

SLICES = [
    factories.slice_score(number=number, counts=counts, dice=1 / (number + 3))
    for number, counts in enumerate(ledger.random_counts(9))
]
LESIONS = [LesionComponent("val", 0, None, False, 1, 7, 0.5), LesionComponent("val", 0, 3, True, 1, 2, 0.0)]


@pytest.fixture
def run(database):
    """A run with scores and lesions on part val."""
    ledger.dataset()
    held = ledger.claimed()
    with transaction() as session:
        scores.finish(session, held, SLICES, {}, 1, Ending(0), LESIONS)
    return held.run_id


def kept():
    return ledger.rows("SELECT profile, level, scores, slices, scans, subjects FROM summaries ORDER BY 1, 2")


def compared(run, profile="overview", level=None):
    with transaction() as session:
        return comparison.compare(session, DEFAULT_PROJECT, [run], profile, level)


def test_a_finished_run_has_a_summary_of_every_profile_at_every_level(run):
    scored = Facts.of(SLICES, LESIONS, {0: "0"})
    expected = {
        (profile.key, level): {
            key: [one.value, one.n, one.empty, one.failed]
            for key, one in profiles.scores(profile.key, level, scored).items()
        }
        for profile in profiles.PROFILES.values()
        for level in profile.levels
    }
    assert {(profile, level): said for profile, level, said, *_ in kept()} == expected
    assert {(slices, scans, subjects) for *_, slices, scans, subjects in kept()} == {(9, 1, 1)}


def test_a_comparison_reads_summaries_and_is_the_same_without_them(run):
    wanted = [(profile.key, level) for profile in profiles.PROFILES.values() for level in profile.levels]
    before = {one: compared(run, *one) for one in wanted}
    ledger.execute("DELETE FROM summaries")
    assert {one: compared(run, *one) for one in wanted} == before
    with transaction() as session:
        summaries.keep(session, [session.get_one(Run, run)])
    ledger.execute("DELETE FROM lesion_components")
    ledger.execute("DELETE FROM slice_scores")
    assert {one: compared(run, *one) for one in wanted} == before


def test_other_definitions_are_not_believed_and_are_made_up_for(run):
    before = kept()
    ledger.execute("""UPDATE summaries SET definitions = definitions - 1, scores = '{"dice": [0.5, 9, 0, 0]}'""")
    assert compared(run).rows[0].scores["dice"] == pytest.approx(sum(1 / (n + 3) for n in range(9)) / 9)
    assert upkeep.summarise() == 1
    assert kept() == before
    assert upkeep.summarise() == 0


def test_runs_without_scores_want_no_summary(database):
    ledger.dataset()
    ledger.claimed()
    original = ledger.finished()
    ledger.submit(spec=factories.tiny_spec(name="again"))
    ledger.execute("DELETE FROM summaries")
    with transaction() as session:
        assert [run.id for run in summaries.missing(session, 9)] == [original]


def test_a_refused_result_leaves_no_summary(database):
    ledger.dataset()
    held = ledger.claimed()
    with pytest.raises(ZeroDivisionError), transaction() as session:  # noqa: PT012 - the block is the subject
        scores.finish(session, held, SLICES, {}, 1, Ending(0))
        raise ZeroDivisionError
    assert kept() == []
