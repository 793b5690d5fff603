"""The same person, or the same picture, on both sides of a split: scores that look better than they are."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from liverseg_core.data.manifest import PARTS, Manifest, Selection, select
from liverseg_core.errors import SpecError
from liverseg_core.spec import DatasetChoice

SHOWN = 5
"""How many findings an error names."""

Sides = dict[str, tuple[int, ...]]
"""Part -> scans, rising."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One finding.

    Attributes:
        subject: who lies on several sides; None: equal pictures do, whoever they show.
        scans: the sides, at least two.
        pictures: how many different pictures lie on these sides; 0 for a subject.
    """

    subject: str | None
    scans: Sides
    pictures: int = 0

    def __str__(self) -> str:
        where = " and ".join(f"in {part} ({_scans(scans)})" for part, scans in self.scans.items())
        if self.subject is not None:
            return f"subject {self.subject} lies {where}"
        return f"{self.pictures} equal picture{'s lie' if self.pictures > 1 else ' lies'} {where}"


def leaks(manifest: Manifest, selection: Selection) -> list[Leak]:
    """Subjects that lie in more than one of train, val and test, then pictures that do.

    Args:
        manifest: the data set; where nobody told who the subjects are, each scan counts as its own.
        selection: what :func:`liverseg_core.data.manifest.select` or ``given`` gave.
    """
    people: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for part in PARTS:
        for scan in {manifest.slices[index].scan for index in selection[part]}:
            people[manifest.subjects[scan]][part].add(scan)
    pictures = _on_several_sides(manifest, selection)
    return [*(Leak(who, _sides(found)) for who, found in sorted(people.items()) if len(found) > 1), *_equal(pictures)]


def guarded(manifest: Manifest, choice: DatasetChoice) -> list[Leak]:
    """Guard of a submission: a split that leaks needs a written reason, ``dataset.split.override``.

    Returns:
        The leaks that the reason lets pass.

    Raises:
        SpecError: it leaks and no reason is written; names subjects and scans.
    """
    found = leaks(manifest, select(manifest, choice))
    if found and not choice.split.override.strip():
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise SpecError(
            "dataset.split",
            f"{'; '.join(map(str, found[:SHOWN]))}{more}. Scores would say little about other people: split by "
            "subject (`folds` does), or write into dataset.split.override why it shall be so",
        )
    return found


def _on_several_sides(manifest: Manifest, selection: Selection) -> Mapping[str, Mapping[str, set[int]]]:
    """Pictures that lie in more than one part -> part -> scans. Mostly there are none, which sets find out fast."""
    sides = [{manifest.slices[index].image_sha256 for index in selection[part]} for part in PARTS]
    several = {picture for one, other in combinations(sides, 2) for picture in one & other}
    pictures: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for part in PARTS if several else ():
        for entry in (manifest.slices[index] for index in selection[part]):
            if entry.image_sha256 in several:
                pictures[entry.image_sha256][part].add(entry.scan)
    return pictures


def _equal(pictures: Mapping[str, Mapping[str, set[int]]]) -> Iterator[Leak]:
    """One finding for all pictures that lie in the same scans of the same parts."""
    counts: dict[tuple[tuple[str, tuple[int, ...]], ...], int] = defaultdict(int)
    for found in pictures.values():
        counts[tuple(_sides(found).items())] += 1
    for sides, count in sorted(counts.items()):
        yield Leak(None, dict(sides), count)


def _sides(found: Mapping[str, set[int]]) -> Sides:
    return {part: tuple(sorted(scans)) for part, scans in found.items()}


def _scans(scans: tuple[int, ...]) -> str:
    return f"scan{'s' * (len(scans) > 1)} {', '.join(map(str, scans))}"
