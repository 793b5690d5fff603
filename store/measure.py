"""A profile at a level: the one way in which a comparison scores facts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import fsum, sqrt
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


class Values(dict[str, "Value"]):
    """Column -> value, in the order of the profile; several rows share it, so nobody changes it."""

    @cached_property
    def numbers(self) -> dict[str, float | None]:
        """The values alone."""
        return {key: one.value for key, one in self.items()}

    @cached_property
    def counts(self) -> dict[str, Count]:
        """What each was taken over."""
        return {key: counted(one) for key, one in self.items()}


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
        if entry.what != "seeds":
            (only,) = members
            return Scored(only.numbers, only.counts)
        keys = [column.key for column in self.profile.columns]
        repeats = {key: _over_repeats([one[key] for one in members]) for key in keys}
        return Scored(
            {key: mean for key, (mean, _, _) in repeats.items()},
            {key: count for key, (_, count, _) in repeats.items()},
            {key: deviation for key, (_, _, deviation) in repeats.items()},
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
    return fsum(known) / len(known) if known else None


def _over_repeats(values: "list[Value]") -> tuple[float | None, Count, float | None]:
    """Mean over seeds, how many have a value and how many have none since facts of theirs failed, and deviation."""
    known = [one.value for one in values if one.value is not None]
    failed = sum(one.failed > 0 for one in values if one.value is None) if len(known) < len(values) else 0
    count = _count(len(known), len(values) - len(known) - failed, failed)
    if not known:
        return None, count, None
    middle = fsum(known) / len(known)
    if len(known) < 2:
        return middle, count, None
    return middle, count, sqrt(fsum([(value - middle) ** 2 for value in known]) / (len(known) - 1))
