"""What a data set holds, and which of it an experiment uses."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from liverseg_core.data.annotations import Acquisition, acquisition
from liverseg_core.errors import SpecError
from liverseg_core.spec import COPYING, FOLD_KINDS, DatasetChoice, Exclude, ExperimentSpec, Split

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
        acquisitions: scan -> spacing and window, of every scan or of none; part of :attr:`content_hash` where they
            are told, since distances are measured by them.
    """

    height: int
    width: int
    slices: tuple[SliceEntry, ...]
    subjects: dict[int, str]
    subjects_assumed: bool
    acquisitions: dict[int, Acquisition] = field(default_factory=dict)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (64 hex digits) over the size, every part, scan, slice and pixel hash, and spacings if told."""
        content = {"height": self.height, "width": self.width, "slices": self._plain_slices()}
        content |= self._plain_acquisitions()
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @cached_property
    def sizes(self) -> Counter[tuple[str, int]]:
        """(part, scan) -> how many slices."""
        return Counter((entry.part, entry.scan) for entry in self.slices)

    @cached_property
    def given(self) -> dict[str, tuple[int, ...]]:
        """The folders of the data set as train, val and test, whatever they hold: part -> indices, rising."""
        places: dict[str, list[int]] = {part: [] for part in PARTS}
        for index, entry in enumerate(self.slices):
            places[entry.part].append(index)
        return {part: tuple(own) for part, own in places.items()}

    @cached_property
    def people_hash(self) -> str:
        """SHA-256 over the content and who is who: the same slices with other subjects are scored in other groups."""
        who = json.dumps([self.content_hash, sorted(self.subjects.items())])
        return hashlib.sha256(who.encode()).hexdigest()

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that hold slices, in the order train, val, test."""
        return tuple(part for part in PARTS if any(held == part for held, _ in self.sizes))

    def scans(self, part: str | None = None) -> tuple[int, ...]:
        """Scan numbers of one part (or of all), rising."""
        return tuple(sorted({scan for held, scan in self.sizes if part in (None, held)}))

    def to_json(self) -> dict[str, Any]:
        """Plain data, ready for ``json.dumps`` or a JSONB column."""
        return {
            "height": self.height,
            "width": self.width,
            "slices": self._plain_slices(),
            "subjects": {str(scan): subject for scan, subject in self.subjects.items()},
            "subjects_assumed": self.subjects_assumed,
            **self._plain_acquisitions(),
        }

    def _plain_acquisitions(self) -> dict[str, Any]:
        """Left out where nobody told, so that data sets without keep their hash."""
        told = {str(scan): one.to_json() for scan, one in sorted(self.acquisitions.items())}
        return {"acquisitions": told} if told else {}

    def _plain_slices(self) -> list[dict[str, Any]]:
        names = SliceEntry.__slots__  # dataclasses.asdict copies deeply, which takes 40 ms for 500 slices
        return [{name: getattr(entry, name) for name in names} for entry in self.slices]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Manifest":
        """The manifest that :meth:`to_json` gave."""
        return cls(
            height=value["height"],
            width=value["width"],
            slices=tuple(SliceEntry(**entry) for entry in value["slices"]),
            subjects={int(scan): subject for scan, subject in value["subjects"].items()},
            subjects_assumed=value["subjects_assumed"],
            acquisitions={
                int(scan): acquisition(one, f"scan {scan}") for scan, one in value.get("acquisitions", {}).items()
            },
        )


def in_order(entries: Iterable[SliceEntry]) -> tuple[SliceEntry, ...]:
    """Entries in the order that :class:`Manifest` promises."""
    return tuple(sorted(entries, key=lambda entry: (PARTS.index(entry.part), entry.key)))


def select(manifest: Manifest, choice: DatasetChoice) -> Selection:
    """Which slices train, validate and test.

    Folds are of the subjects in the data set's train and val parts together; its test part stays test.

    Returns:
        ``train``, ``val`` and ``test`` -> indices into ``manifest.slices``, rising; ``test`` may be empty.

    Raises:
        SpecError: scans or slices that are not there, an exclusion outside train (outside train and val where they
            are dealt into folds; then train alone is thinned), more folds than subjects, an empty train or val part.
    """
    chosen = _split(manifest, choice)
    chosen["train"] = _without_excluded(manifest, choice, chosen)
    if not chosen["train"]:
        raise SpecError("dataset.exclude", "leaves nothing to train on; exclude less")
    if not chosen["val"]:
        raise SpecError("dataset.split", "leaves nothing to validate on; name at least one val scan")
    return chosen


def training_hash(spec: ExperimentSpec, manifest: Manifest) -> str:
    """:meth:`ExperimentSpec.training_hash` on this data set: folds count by the scans that they come to.

    Raises:
        SpecError: there is no such fold.
    """
    split = spec.dataset.split
    scans = _fold(manifest, split) if split.kind in FOLD_KINDS else None
    return spec.training_hash(manifest.content_hash, scans)


def fold_subjects(manifest: Manifest) -> tuple[str, ...]:
    """The subjects that folds are made of: those of train and val, in natural order (``2`` before ``10``)."""
    return tuple(sorted(_slices_by_subject(manifest), key=_natural))


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
        return given(manifest)
    lists = _fold(manifest, choice.split) if choice.split.kind in FOLD_KINDS else _listed(manifest, choice.split)
    return {
        part: _indices(manifest, lambda entry, wanted=frozenset(scans): entry.scan in wanted)
        for part, scans in lists.items()
    }


def given(manifest: Manifest) -> Selection:
    """:attr:`Manifest.given`, to be changed at will."""
    return dict(manifest.given)


def _listed(manifest: Manifest, split: Split) -> dict[str, tuple[int, ...]]:
    """The scans of kind ``scans``."""
    known = set(manifest.scans())
    lists: dict[str, tuple[int, ...]] = {part: getattr(split, part) for part in PARTS}
    for part, scans in lists.items():
        _refuse_unknown(f"dataset.split.{part}", set(scans) - known, f"the data set has scans {sorted(known)}")
    return lists


def _fold(manifest: Manifest, split: Split) -> dict[str, tuple[int, ...]]:
    """The scans of the kinds of ``FOLD_KINDS``, rising."""
    held_out = _held_out(manifest, split)
    pool = sorted({*manifest.scans("train"), *manifest.scans("val")})
    return {
        "train": tuple(scan for scan in pool if manifest.subjects[scan] not in held_out),
        "val": tuple(scan for scan in pool if manifest.subjects[scan] in held_out),
        "test": manifest.scans("test"),
    }


def _held_out(manifest: Manifest, split: Split) -> set[str]:
    """The subjects that validate in this fold."""
    subjects = fold_subjects(manifest)
    count = len(subjects)
    if count < 2:
        raise SpecError(
            "dataset.split.kind", f"folds need at least 2 subjects in train and val, there is {count}", split.kind
        )
    if split.folds is None:
        if split.fold >= count:
            problem = f"counts from 0, and train and val have {count} subjects, so it is at most {count - 1}"
            raise SpecError("dataset.split.fold", problem, split.fold)
        return {subjects[split.fold]}
    if split.folds > count:
        problem = f"is more than the {count} subjects of train and val, and each fold needs one; at most {count}"
        raise SpecError("dataset.split.folds", problem, split.folds)
    return _deal(manifest, split.folds)[split.fold]


def _deal(manifest: Manifest, folds: int) -> list[set[str]]:
    """Subjects in folds of about equally many slices: the largest first, each to the smallest fold so far."""
    sizes = _slices_by_subject(manifest)
    dealt: list[set[str]] = [set() for _ in range(folds)]
    filled = [0] * folds
    for subject in sorted(sizes, key=lambda one: (-sizes[one], _natural(one))):
        smallest = filled.index(min(filled))
        dealt[smallest].add(subject)
        filled[smallest] += sizes[subject]
    return dealt


def _slices_by_subject(manifest: Manifest) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for (part, scan), count in manifest.sizes.items():
        if part != "test":
            sizes[manifest.subjects[scan]] += count
    return sizes


def _natural(text: str) -> tuple[list[str | int], str]:
    """Sorts numbers inside a text by value; words and numbers alternate, so like is compared with like."""
    return [int(piece) if place % 2 else piece for place, piece in enumerate(re.split(r"([0-9]+)", text))], text


def _without_excluded(manifest: Manifest, choice: DatasetChoice, chosen: Selection) -> tuple[int, ...]:
    if choice.exclude == Exclude():
        return chosen["train"]
    train = [manifest.slices[index] for index in chosen["train"]]
    # What one fold trains on, another validates on: there naming it is no mistake, it stays whole in val.
    dealt = [manifest.slices[index] for index in chosen["val"]] if choice.split.kind in FOLD_KINDS else []
    scans, slices = set(choice.exclude.scans), {_canonical(key) for key in choice.exclude.slices}
    advice = "only train is ever thinned, val and test never"
    _refuse_unknown("dataset.exclude.scans", scans - {entry.scan for entry in [*train, *dealt]}, advice)
    _refuse_unknown("dataset.exclude.slices", slices - {entry.key for entry in [*train, *dealt]}, advice)
    return tuple(
        index
        for index, entry in zip(chosen["train"], train, strict=True)
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
