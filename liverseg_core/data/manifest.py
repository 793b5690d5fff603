"""What a data set holds, and which of it an experiment uses."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from liverseg_core.errors import SpecError
from liverseg_core.spec import COPYING, DatasetChoice, ExperimentSpec

PARTS = ("train", "val", "test")
Selection = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class SliceEntry:
    """One pair of image and mask.

    ``image_sha256`` and ``mask_sha256`` are over decoded pixels (of masks: labels 0, 1, 2), so re-compressing
    a file changes nothing.
    """

    part: str
    scan: int
    slice: int
    image_sha256: str
    mask_sha256: str

    @property
    def key(self) -> str:
        return f"{self.scan}_{self.slice}"

    @property
    def image_path(self) -> str:
        """Path of the image inside the archive."""
        return f"{self.part}/images/{self.key}.png"

    @property
    def mask_path(self) -> str:
        """Path of the mask inside the archive."""
        return f"{self.part}/masks/{self.key}.png"


@dataclass(frozen=True)
class Manifest:
    """Everything about a data set but its pixels.

    Attributes:
        height, width: native size in pixels, the same for every slice.
        slices: by part (train, val, test), then by file name in lexicographic order (``0_46`` before ``0_5``),
            which is the study's order without shuffling.
        subjects: scan -> person; an annotation, outside :attr:`content_hash`.
        subjects_assumed: nobody told who the subjects are, so each scan counts as its own.
    """

    height: int
    width: int
    slices: tuple[SliceEntry, ...]
    subjects: dict[int, str]
    subjects_assumed: bool

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (64 hex digits) over the size and every part, scan, slice and pixel hash."""
        content = {"height": self.height, "width": self.width, "slices": [asdict(entry) for entry in self.slices]}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that hold slices, in the order train, val, test."""
        return tuple(part for part in PARTS if any(entry.part == part for entry in self.slices))

    def scans(self, part: str | None = None) -> tuple[int, ...]:
        """Scan numbers of one part (or of all), rising."""
        return tuple(sorted({entry.scan for entry in self.slices if part in (None, entry.part)}))

    def to_json(self) -> dict[str, Any]:
        """Plain data, ready for ``json.dumps`` or a JSONB column."""
        return {
            "height": self.height,
            "width": self.width,
            "slices": [asdict(entry) for entry in self.slices],
            "subjects": {str(scan): subject for scan, subject in self.subjects.items()},
            "subjects_assumed": self.subjects_assumed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Manifest":
        """The manifest that :meth:`to_json` gave."""
        return cls(
            height=value["height"],
            width=value["width"],
            slices=tuple(SliceEntry(**entry) for entry in value["slices"]),
            subjects={int(scan): subject for scan, subject in value["subjects"].items()},
            subjects_assumed=value["subjects_assumed"],
        )


def in_order(entries: Iterable[SliceEntry]) -> tuple[SliceEntry, ...]:
    """Entries in the order that :class:`Manifest` promises."""
    return tuple(sorted(entries, key=lambda entry: (PARTS.index(entry.part), entry.key)))


def select(manifest: Manifest, choice: DatasetChoice) -> Selection:
    """Which slices train, validate and test.

    Returns:
        ``train``, ``val`` and ``test`` -> indices into ``manifest.slices``, rising; ``test`` may be empty.

    Raises:
        SpecError: scans or slices that are not there, an exclusion outside train, an empty train or val part.
    """
    chosen = _split(manifest, choice)
    chosen["train"] = _without_excluded(manifest, choice, chosen["train"])
    if not chosen["train"]:
        raise SpecError("dataset.exclude", "leaves nothing to train on; exclude less")
    if not chosen["val"]:
        raise SpecError("dataset.split", "leaves nothing to validate on; name at least one val scan")
    return chosen


def train_samples(spec: ExperimentSpec, slices: int) -> int:
    """Samples an epoch from that many train slices; augmentations that add copies add two of each."""
    return slices * (3 if spec.data.augmentation in COPYING else 1)


def check_runnable(spec: ExperimentSpec, manifest: Manifest) -> None:
    """Everything about spec and data that can be said before training.

    Raises:
        SpecError: as :func:`select`, or a batch larger than the train part (which would give no step at all).
    """
    train = select(manifest, spec.dataset)["train"]
    samples = train_samples(spec, len(train))
    if spec.data.batch_by == "slices" and spec.training.batch_size > samples:
        raise SpecError(
            "training.batch_size",
            f"is larger than the {samples} training samples of an epoch, so no step would run; at most {samples}",
            spec.training.batch_size,
        )


def _split(manifest: Manifest, choice: DatasetChoice) -> Selection:
    if choice.split.kind == "given":
        return {part: _indices(manifest, lambda entry, part=part: entry.part == part) for part in PARTS}
    known = set(manifest.scans())
    chosen: Selection = {}
    for part in PARTS:
        wanted = set(getattr(choice.split, part))
        _refuse_unknown(f"dataset.split.{part}", wanted - known, f"the data set has scans {sorted(known)}")
        chosen[part] = _indices(manifest, lambda entry, wanted=wanted: entry.scan in wanted)
    return chosen


def _without_excluded(manifest: Manifest, choice: DatasetChoice, train: tuple[int, ...]) -> tuple[int, ...]:
    entries = [manifest.slices[index] for index in train]
    scans, slices = set(choice.exclude.scans), {_canonical(key) for key in choice.exclude.slices}
    advice = "only train is ever thinned, val and test never"
    _refuse_unknown("dataset.exclude.scans", scans - {entry.scan for entry in entries}, advice)
    _refuse_unknown("dataset.exclude.slices", slices - {entry.key for entry in entries}, advice)
    return tuple(
        index
        for index, entry in zip(train, entries, strict=True)
        if entry.scan not in scans and entry.key not in slices
    )


def _refuse_unknown(path: str, unknown: set[Any], advice: str) -> None:
    if unknown:
        what = "not in the train part" if "exclude" in path else "not in the data set"
        raise SpecError(path, f"{what}; {advice}", sorted(unknown))


def _canonical(key: str) -> str:
    """``0_046`` -> ``0_46``."""
    scan, number = key.split("_")
    return f"{int(scan)}_{int(number)}"


def _indices(manifest: Manifest, wanted: Any) -> tuple[int, ...]:
    return tuple(index for index, entry in enumerate(manifest.slices) if wanted(entry))
