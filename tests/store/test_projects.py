"""Projects by name, once each, also where two ask at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from liverseg_core.errors import InputError
from store import projects
from store.database import transaction


def create(name):
    with transaction() as session:
        return projects.create(session, name).id


def names():
    with transaction() as session:
        return [one.name for one in projects.listed(session, 10)]


def test_projects_are_listed_newest_first(database):
    first = create("liver")
    second = create("spleen")
    assert second > first
    assert names() == ["spleen", "liver", "default"]
    with transaction() as session:
        assert [one.name for one in projects.listed(session, 1)] == ["spleen"]
        assert [one.name for one in projects.listed(session, 10, before=second)] == ["liver", "default"]


def test_a_name_is_given_once(database):
    create("liver")
    with pytest.raises(InputError, match="another project"):
        create("liver")
    assert names() == ["liver", "default"]


def test_of_many_at_once_one_gets_the_name(database):
    def attempt(_):
        try:
            return create("liver")
        except InputError:
            return None

    with ThreadPoolExecutor(8) as threads:
        made = [one for one in threads.map(attempt, range(8)) if one]
    assert len(made) == 1


def test_a_project_gets_another_name(database):
    project = create("liver")
    with transaction() as session:
        assert projects.rename(session, project, "hepar").name == "hepar"
    assert names() == ["hepar", "default"]
    with transaction() as session:
        assert projects.named(session, "liver") is None
        assert projects.named(session, "hepar").id == project


def test_a_taken_name_changes_nothing(database):
    project = create("liver")
    with transaction() as session, pytest.raises(InputError, match="another project"):
        projects.rename(session, project, "default")
    assert names() == ["liver", "default"]


def test_its_own_name_is_no_other(database):
    project = create("liver")
    with transaction() as session:
        assert projects.rename(session, project, "liver").id == project


def test_what_is_not_there_has_no_name(database):
    with transaction() as session:
        assert projects.rename(session, 10**9, "liver") is None
