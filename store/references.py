"""Reference predictors as runs: one each for every set of slices, network size and lesion rule that is scored."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from liverseg_core.spec import EvaluationOptions, ExperimentSpec

PREDICTORS = ("empty", "liver-as-lesion", "perfect", "shifted")
"""Those of ``liverseg_core.references``, which loads NumPy; a test holds the two equal."""

MATTERING = ("min_lesion", "largest_component")
"""The evaluation options that change what a reference predictor scores; it has labels, so no threshold does."""


def reference_hash(
    name: str,
    people_hash: str,
    image_size: int,
    scans_by_part: Mapping[str, Sequence[int]],
    evaluation: Mapping[str, Any],
) -> str:
    """SHA-256 over everything that decides what a reference predictor scores: the training hash of its run.

    Args:
        name: which predictor.
        people_hash: of the data set, ``Manifest.people_hash``; scores by subject depend on who is who.
        image_size: network size in pixels; the study's own scores depend on it.
        scans_by_part: ``val`` and ``test`` -> scans that are scored.
        evaluation: the section ``evaluation`` of the spec to be compared with.
    """
    usual = EvaluationOptions().model_dump()
    rules = {key: evaluation[key] for key in MATTERING if evaluation.get(key, usual[key]) != usual[key]}
    scans = {part: sorted(own) for part, own in scans_by_part.items() if own and part != "train"}
    said = {"reference": name, "people": people_hash, "image_size": image_size, "scans": scans, **rules}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def reference_spec(spec: ExperimentSpec) -> ExperimentSpec:
    """What decides a reference predictor's scores beside ``spec``'s, with everything else at its default."""
    chosen = spec.evaluation
    return ExperimentSpec.parse(
        {
            "dataset": {"id": spec.dataset.id, "split": spec.dataset.split.model_dump(mode="json")},
            "data": {"image_size": spec.data.image_size},
            "model": {"depth": spec.model.depth},
            "evaluation": {key: getattr(chosen, key) for key in MATTERING},
        }
    )
