"""Imported data sets: immutable, one name for one content in a project."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from liverseg_core.data.manifest import Manifest
from liverseg_core.errors import DataError, SpecError
from store.models import Dataset, Run


def add(session: Session, project_id: int, name: str, manifest: Manifest, artifact: str) -> Dataset:
    """Register an imported data set; the same name with the same content is the same data set.

    Raises:
        DataError: the name stands for another content already.
    """
    values = {"project_id": project_id, "name": name, "content_hash": manifest.content_hash, "artifact": artifact}
    session.execute(insert(Dataset).values(**values, manifest=manifest.to_json()).on_conflict_do_nothing())
    found = session.scalars(select(Dataset).where(Dataset.project_id == project_id, Dataset.name == name)).one()
    known = Manifest.from_json(found.manifest)
    if known.content_hash == manifest.content_hash and known.people_hash != manifest.people_hash:
        raise DataError(
            "name", "is taken by the same slices with other subjects; choose another name for these subjects", name
        )
    if found.content_hash != manifest.content_hash:
        raise DataError(
            "name", "is taken by a data set with other content; data sets never change, so choose another name", name
        )
    return found


def resolve(session: Session, project_id: int, wanted: str) -> Dataset:
    """The data set that a spec's ``dataset.id`` names: by name, or by content hash (at least 8 digits of it).

    Raises:
        SpecError: there is none, or the hash prefix fits several.
    """
    here = select(Dataset).where(Dataset.project_id == project_id)
    by_name = session.scalar(here.where(Dataset.name == wanted))
    if by_name is not None:
        return by_name
    fitting = _by_hash(session, project_id, wanted)
    if len({Manifest.from_json(dataset.manifest).people_hash for dataset in fitting}) == 1:
        return fitting[0]
    problem = (
        "fits several data sets (of one content with different subjects, perhaps); give a name or more digits"
        if fitting
        else "no such data set; see `liverseg dataset list`"
    )
    raise SpecError("dataset.id", problem, wanted)


def of(session: Session, run: Run) -> Dataset:
    """The data set of a run."""
    return session.get_one(Dataset, run.dataset_id)


def _by_hash(session: Session, project_id: int, prefix: str) -> Sequence[Dataset]:
    if len(prefix) < 8 or not set(prefix) <= set("0123456789abcdef"):
        return []
    query = select(Dataset).where(Dataset.project_id == project_id, Dataset.content_hash.startswith(prefix))
    return session.scalars(query.order_by(Dataset.id)).all()


def listed(session: Session, project_id: int, limit: int = 500, before: int | None = None) -> Sequence[Dataset]:
    """Data sets of the project, newest first; ``before`` is the id to go on from."""
    query = select(Dataset).where(Dataset.project_id == project_id)
    if before is not None:
        query = query.where(Dataset.id < before)
    return session.scalars(query.order_by(Dataset.id.desc()).limit(limit)).all()
