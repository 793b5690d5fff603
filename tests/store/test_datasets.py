"""One name for one content in a project; found by name or by the start of its content hash."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from liverseg_core.data.manifest import Manifest
from liverseg_core.errors import DataError, SpecError
from store import datasets
from store.database import transaction
from store.models import DEFAULT_PROJECT
from tests.store import ledger

pytestmark = pytest.mark.usefixtures("database")


def resolve(wanted, project=DEFAULT_PROJECT):
    with transaction() as session:
        return datasets.resolve(session, project, wanted)


def test_the_same_name_and_content_is_the_same_data_set(count_rows):
    first, second = ledger.dataset(), ledger.dataset()
    assert first.id == second.id
    assert count_rows()["datasets"] == 1


def test_the_manifest_comes_back_as_it_was():
    made = ledger.dataset()
    assert Manifest.from_json(made.manifest) == ledger.manifest()
    assert made.content_hash == ledger.manifest().content_hash


def test_a_manifest_is_read_once_and_never_taken_for_that_of_an_emptied_database():
    first = ledger.dataset()
    assert datasets.manifest_of(first) == ledger.manifest()
    assert datasets.manifest_of(resolve("phantom")) is datasets.manifest_of(first)
    ledger.execute("DELETE FROM datasets")
    ledger.execute("SELECT setval(pg_get_serial_sequence('datasets', 'id'), :a, false)", a=first.id)
    second = ledger.dataset(mark="b")
    assert second.id == first.id
    assert datasets.manifest_of(second) == ledger.manifest(mark="b")


def test_the_same_name_with_other_content_is_refused(count_rows):
    ledger.dataset()
    with pytest.raises(DataError) as caught:
        ledger.dataset(mark="b")
    assert (caught.value.path, caught.value.received) == ("name", "phantom")
    assert count_rows()["datasets"] == 1


def test_the_same_content_may_have_two_names():
    assert ledger.dataset("a").id != ledger.dataset("b").id


def test_parallel_imports_of_one_data_set_are_one():
    with ThreadPoolExecutor(8) as threads:
        assert len({made.id for made in threads.map(lambda _: ledger.dataset(), range(8))}) == 1


def test_resolve_by_name_whole_hash_and_prefix():
    made = ledger.dataset()
    for wanted in ("phantom", made.content_hash, made.content_hash[:8]):
        assert resolve(wanted).id == made.id


def test_a_name_goes_before_a_hash():
    first = ledger.dataset("a")
    named_like_it = ledger.dataset(first.content_hash[:8], mark="b")
    assert resolve(first.content_hash[:8]).id == named_like_it.id


def test_a_hash_of_two_names_gives_the_older():
    older = ledger.dataset("z")
    ledger.dataset("a")
    assert resolve(older.content_hash).id == older.id


@pytest.mark.parametrize("wanted", ["nothing", "%", "________", "0123456", "ABCDEF01"])
def test_what_is_not_there_is_refused(wanted):
    ledger.dataset()
    with pytest.raises(SpecError, match="no such data set") as caught:
        resolve(wanted)
    assert (caught.value.path, caught.value.received) == ("dataset.id", wanted)


def test_seven_digits_are_too_few():
    made = ledger.dataset()
    with pytest.raises(SpecError):
        resolve(made.content_hash[:7])


def test_a_prefix_that_fits_two_contents_is_refused():
    ledger.dataset("a")
    ledger.dataset("b", mark="b")
    ledger.execute("UPDATE datasets SET content_hash = 'abcdef01' || name || substr(content_hash, 10)")
    with pytest.raises(SpecError, match="or more digits"):
        resolve("abcdef01")
    assert resolve("abcdef01a").name == "a"


def test_projects_do_not_see_each_others():
    other = ledger.second_project()
    theirs, ours = ledger.dataset(project=other, mark="b"), ledger.dataset()
    assert (resolve("phantom", other).id, resolve("phantom").id) == (theirs.id, ours.id)
    with pytest.raises(SpecError):
        resolve(theirs.content_hash)
    with transaction() as session:
        assert [one.id for one in datasets.listed(session, DEFAULT_PROJECT)] == [ours.id]


def test_listed_newest_first():
    ledger.dataset("b")
    ledger.dataset("a")
    with transaction() as session:
        assert [one.name for one in datasets.listed(session, DEFAULT_PROJECT)] == ["a", "b"]


def test_the_same_slices_with_other_subjects_are_another_data_set():
    """Scores by subject depend on who is who, so neither a name nor a hash may stand for two answers."""
    ledger.dataset("told")
    other = replace(ledger.manifest(), subjects=dict.fromkeys(ledger.manifest().subjects, "one"))
    with transaction() as session, pytest.raises(DataError, match="other subjects"):
        datasets.add(session, DEFAULT_PROJECT, "told", other, ledger.manifest().content_hash)
    with transaction() as session:
        datasets.add(session, DEFAULT_PROJECT, "else", other, ledger.manifest().content_hash)
    with pytest.raises(SpecError, match="different subjects"):
        resolve(other.content_hash)
