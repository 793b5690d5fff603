"""What the API answers about data sets."""

from datetime import datetime
from itertools import combinations
from typing import Any

from pydantic import BaseModel, Field

from liverseg_core.data.leaks import leaks
from liverseg_core.data.manifest import Manifest, given
from store.datasets import manifest_of
from store.models import Dataset


class PartOut(BaseModel):
    """How much a part holds."""

    scans: int
    slices: int
    subjects: int


class PairOut(BaseModel):
    """Two scans that may show one person, and what was told of them.

    ``slices`` match best; ``across``: the scans lie in different parts of the data set.
    """

    scans: tuple[int, int]
    score: float
    slices: tuple[int, int]
    parts: tuple[str, str]
    subjects: tuple[str, str]
    same_subject: bool
    across: bool

    @classmethod
    def of(cls, pair: dict[str, Any], manifest: Manifest) -> "PairOut":
        home = {entry.scan: entry.part for entry in manifest.slices}
        (a, b), subjects = pair["scans"], manifest.subjects
        told = {"parts": (home[a], home[b]), "subjects": (subjects[a], subjects[b])}
        return cls(**pair, **told, same_subject=subjects[a] == subjects[b], across=home[a] != home[b])


class SimilarityOut(BaseModel):
    """What the similarity check found.

    ``pairs`` score above ``threshold``, ``next`` is the best of the others; ``unconfirmed``: pairs of scans that are
    told to be one person and do not look alike.
    """

    threshold: float
    compared: int
    pairs: list[PairOut]
    next: PairOut | None
    unconfirmed: list[tuple[int, int]]

    @classmethod
    def of(cls, found: dict[str, Any], manifest: Manifest) -> "SimilarityOut":
        alike = {tuple(pair["scans"]) for pair in found["pairs"]}
        same = [(a, b) for a, b in combinations(manifest.scans(), 2) if manifest.subjects[a] == manifest.subjects[b]]
        return cls(
            threshold=found["threshold"],
            compared=found["compared"],
            pairs=[PairOut.of(pair, manifest) for pair in found["pairs"]],
            next=PairOut.of(found["next"], manifest) if found["next"] else None,
            unconfirmed=[pair for pair in same if pair not in alike],
        )


class AcquisitionOut(BaseModel):
    """How a scan was taken: mm between rows, columns and slices; level and width in Hounsfield units, if told."""

    spacing: tuple[float, float, float]
    window: tuple[float, float] | None


class DatasetOut(BaseModel):
    """A data set; ``subjects`` maps scan numbers to people, assumed to be one each where nobody told.

    ``acquisitions`` maps scan numbers to spacing and window; empty where nobody told.

    ``similarity`` is null until ``POST /v1/datasets/{name}/check`` has looked for scans of one person.
    """

    id: int
    name: str
    content_hash: str
    height: int
    width: int
    parts: dict[str, PartOut]
    subjects: dict[str, str]
    subjects_assumed: bool
    acquisitions: dict[str, AcquisitionOut]
    similarity: SimilarityOut | None
    leaks: list[str] = Field(description="subjects or equal pictures on both sides of the folders train, val, test")
    created_at: datetime
    created_by: str | None = Field(description="who imported it; null: before that was kept")

    @classmethod
    def of(cls, dataset: Dataset) -> "DatasetOut":
        manifest = manifest_of(dataset)
        return cls(
            id=dataset.id,
            name=dataset.name,
            content_hash=dataset.content_hash,
            height=manifest.height,
            width=manifest.width,
            parts={part: _part(manifest, part) for part in manifest.parts},
            subjects={str(scan): subject for scan, subject in manifest.subjects.items()},
            subjects_assumed=manifest.subjects_assumed,
            acquisitions={
                str(scan): AcquisitionOut(spacing=one.spacing, window=one.window)
                for scan, one in manifest.acquisitions.items()
            },
            similarity=SimilarityOut.of(dataset.similarity, manifest) if dataset.similarity else None,
            leaks=[str(leak) for leak in leaks(manifest, given(manifest))],
            created_at=dataset.created_at,
            created_by=dataset.created_by,
        )


class DatasetList(BaseModel):
    """Data sets, newest first; ``next`` is the value of ``before`` that goes on, null at the end."""

    datasets: list[DatasetOut]
    next: int | None


def _part(manifest: Manifest, part: str) -> PartOut:
    scans = manifest.scans(part)
    slices = sum(entry.part == part for entry in manifest.slices)
    return PartOut(scans=len(scans), slices=slices, subjects=len({manifest.subjects[scan] for scan in scans}))
