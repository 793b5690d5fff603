"""A profile at a level: the one way in which a comparison scores facts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import fsum, sqrt
from statistics import fmean
from typing import TYPE_CHECKING

from liverseg_core.errors import InputError
from store.rows import Count

if TYPE_CHECKING:
    from liverseg_core.facts import Facts, Sums
    from liverseg_core.profiles import Profile, Value
    from store.entries import Entry
    from store.results import Result

PREFERRED = ("pooled_lesion_dice", "lesion_dice", "dice_tumor", "Dice_2")
"""The column that statistics take unless told otherwise: the first of these that the profile has."""


@dataclass(frozen=True)
class Scored:
    """What one entry scored: column -> value, standard deviation over seeds, and what it was taken over."""

    scores: dict[str, float | None]
    counts: dict[str, Count]
    deviations: dict[str, float | None] | None = None


@dataclass(frozen=True)
class Measure:
    """A profile at one of its levels."""

    profile: "Profile"
    level: str

    @classmethod
    def of(cls, profile: str, level: str | None) -> "Measure":
        """The profile that is called so, at ``level`` or at its own.

        Raises:
            InputError: there is no such profile, or it has no such level.
        """
        from liverseg_core.profiles import named

        found = named(profile)
        if level is not None and level not in found.levels:
            raise InputError("level", f"profile {profile} is made for {' and '.join(found.levels)}", level)
        return cls(found, level or found.levels[0])

    def column(self, wanted: str | None) -> str:
        """The column for statistics: ``wanted``, or the profile's lesion Dice.

        Raises:
            InputError: the profile has no such column.
        """
        from liverseg_core import profiles

        if wanted is not None:
            return profiles.column(self.profile.key, wanted).key
        known = [column.key for column in self.profile.columns]
        return next((key for key in PREFERRED if key in known), known[0])

    def values(self, facts: "Facts | Sums") -> dict[str, "Value"]:
        from liverseg_core import profiles

        return profiles.scores(self.profile.key, self.level, facts)

    def by_subject(self, entry: "Entry", column: str) -> dict[str, float | None]:
        """Subject -> the entry's value over all slices of that subject; of repeats the mean."""
        members = [one.by_subject(column) for one in entry.members]
        return {subject: _mean([found[subject] for found in members]) for subject in members[0]}

    def scored(self, entry: "Entry") -> Scored | None:
        """What the entry scored; None where it has no scores."""
        if not entry.members:
            return None
        members = [one.scores for one in entry.members]
        keys = [column.key for column in self.profile.columns]
        if entry.what != "seeds":
            (only,) = members
            return Scored({key: only[key].value for key in keys}, {key: counted(only[key]) for key in keys})
        repeats = {key: [one[key].value for one in members] for key in keys}
        return Scored(
            {key: _mean(values) for key, values in repeats.items()},
            {key: _over_repeats([one[key] for one in members]) for key in keys},
            {key: _deviation(values) for key, values in repeats.items()},
        )

    def collapsed(self, entry: "Entry") -> bool:
        """Whether every repeat scores as if it had predicted nothing."""
        from liverseg_core import profiles

        empty = entry.references.get("empty")
        if empty is None or not entry.members:
            return False
        return all(profiles.collapsed(self.profile.key, one.scores, empty.scores) for one in entry.members)

    def misleading(self, references: Mapping[str, "Result"]) -> dict[str, str]:
        """Column -> what the reference predictors show to be wrong with it."""
        from liverseg_core import profiles

        return profiles.warnings(self.profile.key, {name: one.scores for name, one in references.items()})


def counted(value: "Value") -> Count:
    """What a value was taken over."""
    return _count(value.n, value.empty, value.failed)


@lru_cache(4096)  # the columns of a hundred runs over the same slices have a few different ones among thousands
def _count(n: int, empty: int, failed: int) -> Count:
    return Count(n=n, empty=empty, failed=failed)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _deviation(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    middle = fmean(known)
    return sqrt(fsum((value - middle) ** 2 for value in known) / (len(known) - 1))


def _over_repeats(values: "list[Value]") -> Count:
    """Of seeds: how many have a value, and how many have none since facts of theirs failed."""
    missing = [one for one in values if one.value is None]
    failed = sum(one.failed > 0 for one in missing)
    return Count(n=len(values) - len(missing), empty=len(missing) - failed, failed=failed)
