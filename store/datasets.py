"""Imported data sets: immutable, one name for one content in a project."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, defer

from liverseg_core.data.manifest import Manifest
from liverseg_core.errors import DataError, SpecError
from store.models import Dataset, Run

MOST_KEPT = 32
"""Manifests that a process keeps, of a few hundred kilobytes each."""

_kept: dict[tuple[int, datetime], Manifest] = {}


def manifest_of(dataset: Dataset) -> Manifest:
    """What a data set holds, read and hashed once a process: data sets never change."""
    return _once((dataset.id, dataset.created_at), lambda: dataset.manifest)


def manifest_at(session: Session, dataset_id: int, created_at: datetime) -> Manifest:
    """As :func:`manifest_of`, for whoever has read only which data set it is and when it was imported."""
    stored = select(Dataset.manifest).where(Dataset.id == dataset_id)
    return _once((dataset_id, created_at), lambda: session.scalars(stored).one())


def _once(key: tuple[int, datetime], read: Callable[[], dict[str, Any]]) -> Manifest:
    """The time of import is part of the key: a database may have been emptied and its ids given anew."""
    found = _kept.get(key)
    if found is None:
        if len(_kept) >= MOST_KEPT:
            _kept.clear()
        found = _kept[key] = Manifest.from_json(read())
    return found


def add(
    session: Session, project_id: int, name: str, manifest: Manifest, artifact: str, actor: str | None = None
) -> Dataset:
    """Register a data set that ``actor`` imported; the same name with the same content is the same data set.

    Raises:
        DataError: the name stands for another content already.
    """
    values = {"project_id": project_id, "name": name, "content_hash": manifest.content_hash, "artifact": artifact}
    values |= {"created_by": actor}
    session.execute(insert(Dataset).values(**values, manifest=manifest.to_json()).on_conflict_do_nothing())
    found = session.scalars(select(Dataset).where(Dataset.project_id == project_id, Dataset.name == name)).one()
    known = manifest_of(found)
    if known.content_hash == manifest.content_hash and known.people_hash != manifest.people_hash:
        raise DataError(
            "name", "is taken by the same slices with other subjects; choose another name for these subjects", name
        )
    if found.content_hash != manifest.content_hash:
        raise DataError(
            "name", "is taken by a data set with other content; data sets never change, so choose another name", name
        )
    return found


# The manifest is hundreds of kilobytes, and mostly known already, see manifest_of; read where somebody asks for it.
HERE = select(Dataset).where(Dataset.project_id == bindparam("project")).options(defer(Dataset.manifest))
NAMED = HERE.where(Dataset.name == bindparam("name"))
NAMED_HELD = NAMED.with_for_update(read=True, key_share=True)


def resolve(session: Session, project_id: int, wanted: str, *, hold: bool = False) -> Dataset:
    """The data set that a spec's ``dataset.id`` names: by name, or by content hash (at least 8 digits of it).

    With ``hold`` it cannot be deleted until the transaction ends.

    Raises:
        SpecError: there is none, or the hash prefix fits several.
    """
    by_name = session.scalar(NAMED_HELD if hold else NAMED, {"project": project_id, "name": wanted})
    if by_name is not None:
        return by_name
    fitting = _by_hash(session, project_id, wanted, hold)
    if len({manifest_of(dataset).people_hash for dataset in fitting}) == 1:
        return fitting[0]
    problem = (
        "fits several data sets (of one content with different subjects, perhaps); give a name or more digits"
        if fitting
        else "no such data set; see `liverseg dataset list`"
    )
    raise SpecError("dataset.id", problem, wanted)


def hold(session: Session, wanted: Iterable[Dataset]) -> None:
    """From here to the end of the transaction these data sets cannot be deleted.

    Raises:
        SpecError: one of them has just been.
    """
    names = {dataset.id: dataset.name for dataset in wanted}
    query = select(Dataset.id).where(Dataset.id.in_(names)).order_by(Dataset.id)
    there = set(session.scalars(query.with_for_update(read=True, key_share=True)))
    for gone in names.keys() - there:
        raise SpecError("dataset.id", "was deleted a moment ago; see `liverseg dataset list`", names[gone])


def of(session: Session, run: Run) -> Dataset:
    """The data set of a run."""
    return session.get_one(Dataset, run.dataset_id, options=[defer(Dataset.manifest)])


def _by_hash(session: Session, project_id: int, prefix: str, hold: bool) -> Sequence[Dataset]:
    if len(prefix) < 8 or not set(prefix) <= set("0123456789abcdef"):
        return []
    query = HERE.where(Dataset.content_hash.startswith(prefix)).order_by(Dataset.id)
    query = query.with_for_update(read=True, key_share=True) if hold else query
    return session.scalars(query, {"project": project_id}).all()


def listed(session: Session, project_id: int, limit: int = 500, before: int | None = None) -> Sequence[Dataset]:
    """Data sets of the project, newest first; ``before`` is the id to go on from."""
    query = select(Dataset).where(Dataset.project_id == project_id)
    if before is not None:
        query = query.where(Dataset.id < before)
    return session.scalars(query.order_by(Dataset.id.desc()).limit(limit)).all()
