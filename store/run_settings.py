"""The settings of runs as a comparison asks for them, read from a spec once: a spec never changes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic_core import from_json, to_json

from liverseg_core.spec import DatasetChoice, ExperimentSpec
from store.models import Run


class Settings(dict[str, Any]):
    """Every setting by dotted path; several rows share it, so nobody changes it.

    Attributes:
        texts: paths with their values as text, since 1 and true are two settings, and lists cannot be in a set.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self.texts = frozenset((path, repr(value)) for path, value in self.items())
        self._without: dict[frozenset[str], str] = {}

    def without(self, apart: frozenset[str]) -> str:
        """All settings but those, as one text: equal where they are."""
        if apart not in self._without:
            kept = {path: value for path, value in self.items() if path not in apart}
            self._without[apart] = json.dumps(kept, sort_keys=True)
        return self._without[apart]


@dataclass(frozen=True)
class Described:
    """What the spec of a run says.

    Attributes:
        settings: all of it, flat.
        choice: the data set and its split.
        dataset, evaluation: these sections as one text each: equal where they are.
    """

    settings: Settings
    choice: DatasetChoice
    dataset: str
    evaluation: str


def described(run: Run) -> Described:
    """What the spec of ``run`` says."""
    return _described(to_json(run.spec))


@lru_cache(2048)
def _described(spec: bytes) -> Described:
    said = from_json(spec)
    parsed = ExperimentSpec.parse(said)
    sections = [json.dumps(said.get(name, {}), sort_keys=True) for name in ("dataset", "evaluation")]
    return Described(Settings(parsed.settings()), parsed.dataset, *sections)
