"""What a row of a comparison stands for: a run, the folds of one set, the seeds of one setting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from liverseg_core.spec import FOLD_KINDS
from store.models import Run
from store.results import Result, pooled
from store.run_settings import Settings

SEED, FOLD = "training.seed", "dataset.split.fold"
AUGMENTATION = "data.augmentation"
WORDS = frozenset({"dataset.id", "dataset.split.override"})
"""The data set's name and a written reason decide no result."""
NO_FACTOR = WORDS | {SEED, FOLD}
"""Settings that are no factor of an experiment: repeats, names, words."""
FOLDS_APART, SEEDS_APART = WORDS | {FOLD}, WORDS | {SEED}
"""What the folds of a set, and the seeds of a setting, may differ in."""


@dataclass(frozen=True, eq=False)  # what was read for one row is not what was read for another
class Entry:
    """A run or several runs that one row shows.

    Attributes:
        what: ``run``, ``folds`` (held-out slices pooled) or ``seeds`` (repeats of one setting).
        name: of the runs, or what their names have in common.
        runs: the runs it is made of.
        settings: every setting by dotted path; of groups the first one's.
        content: identity of the data set's slices and of who is who in them.
        part: ``test``, ``val``, or None where nothing was scored.
        members: one ``Result`` a repeat: one of a run or a pool of folds, several of seeds, none without scores.
        references: predictor -> what it scored on the same slices.
        inside: the entries of a group.
    """

    what: str
    name: str
    runs: tuple[Run, ...]
    settings: Settings
    content: str
    part: str | None
    members: tuple[Result, ...] = ()
    references: Mapping[str, Result] = field(default_factory=dict)
    inside: tuple["Entry", ...] = ()
    imported: bool = False
    """Whether the weights came from elsewhere."""

    @property
    def ids(self) -> list[int]:
        return [run.id for run in self.runs]

    @property
    def title(self) -> str:
        """The name and, of several runs, how they were taken together."""
        name = self.name or f"run {self.ids[0]}"
        if self.what == "seeds":
            return f"{name} (mean of {len(self.inside)} seeds)"
        return f"{name} ({len(self.inside)} folds)" if self.what == "folds" else name

    def scored_as(self, members: tuple[Result, ...]) -> "Entry":
        """The same entry with other results."""
        return replace(self, members=members)

    def scope(self) -> tuple[str, str, str] | None:
        """Content, part and slices scored; only entries of one scope may be compared. None without scores."""
        if not self.members or self.part is None:
            return None
        return self.content, self.part, self.members[0].scope.slices_hash


def grouped(entries: Sequence[Entry]) -> list[Entry]:
    """Folds of one set taken together, then seeds of one setting; groups stand where their first run stood."""
    return _gathered(_gathered(entries, _fold_set, _pool), _repeat, _repeats)


def factors(first: Entry, second: Entry) -> list[str]:
    """The settings in which two entries differ, seeds, folds and names apart."""
    unlike = {path for path, _ in first.settings.texts ^ second.settings.texts} - NO_FACTOR
    differing = [
        path
        for path in {**first.settings, **second.settings}
        if path in unlike and first.settings.get(path) != second.settings.get(path)
    ]
    # One's own augmentation is a section, a named one a word; either is one setting.
    return list(dict.fromkeys(AUGMENTATION if path.startswith(AUGMENTATION) else path for path in differing))


def walk(entries: Sequence[Entry], depth: int = 0) -> list[tuple[int, Entry]]:
    """Every entry with its depth, groups before what is in them."""
    found = []
    for entry in entries:
        found += [(depth, entry), *walk(entry.inside, depth + 1)]
    return found


Make = Callable[[Sequence[Entry]], list[Entry]]


def _gathered(entries: Sequence[Entry], key: Callable[[Entry], str | None], make: Make) -> list[Entry]:
    alike: dict[str, list[Entry]] = {}
    for number, entry in enumerate(entries):
        alike.setdefault(key(entry) or f"alone {number}", []).append(entry)
    return [made for some in alike.values() for made in (make(some) if len(some) > 1 else some)]


def _fold_set(entry: Entry) -> str | None:
    if not entry.members or entry.settings.get("dataset.split.kind") not in FOLD_KINDS:
        return None
    return _setting(entry, FOLDS_APART)


def _repeat(entry: Entry) -> str | None:
    """Imported weights are no repeats: nobody knows their seeds."""
    apart = NO_FACTOR if entry.what == "folds" else SEEDS_APART
    return _setting(entry, apart) if entry.members and not entry.imported else None


def _setting(entry: Entry, apart: frozenset[str]) -> str:
    """What two repeats have in common."""
    return " ".join([entry.what, entry.content, str(entry.part), str(entry.imported), entry.settings.without(apart)])


def _pool(some: Sequence[Entry]) -> list[Entry]:
    folds = _first_of_each(some, FOLD)
    if len(folds) < 2:
        return list(some)
    shared = set.intersection(*(set(one.references) for one in folds))
    references = {name: pooled([one.references[name] for one in folds]) for name in sorted(shared)}
    together = pooled([one.members[0] for one in folds])
    return [_group("folds", folds, (together,), references), *_others(some, folds)]


def _repeats(some: Sequence[Entry]) -> list[Entry]:
    seeds = [one for one in _first_of_each(some, SEED) if one.scope() == some[0].scope()]
    if len(seeds) < 2:
        return list(some)
    members = tuple(result for one in seeds for result in one.members)
    return [_group("seeds", seeds, members, seeds[0].references), *_others(some, seeds)]


def _group(
    what: str, inside: Sequence[Entry], members: tuple[Result, ...], references: Mapping[str, Result]
) -> Entry:
    first = inside[0]
    runs = tuple(run for one in inside for run in one.runs)
    name = _common_name([one.name for one in inside])
    return Entry(what, name, runs, first.settings, first.content, first.part, members, references, tuple(inside))


def _first_of_each(some: Sequence[Entry], path: str) -> list[Entry]:
    """One entry a value: a result shown twice must not count twice."""
    first: dict[int, Entry] = {}
    for entry in some:
        first.setdefault(entry.settings[path], entry)
    return list(first.values())


def _others(some: Sequence[Entry], used: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in some if entry not in used]


def _common_name(names: Sequence[str]) -> str:
    """The words with which all names begin, or the first name."""
    shared = takewhile(lambda words: len(set(words)) == 1, zip(*(name.split() for name in names), strict=False))
    return " ".join(words[0] for words in shared) or names[0]
