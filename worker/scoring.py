"""What a worker does by itself, without a trainer process: scoring stored maps anew, and reference predictors."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from liverseg_core.data.cache import open_cache
from liverseg_core.data.manifest import select
from liverseg_core.errors import DataError, SpecError
from liverseg_core.metrics import SoftFacts
from liverseg_core.records import ExperimentResult
from liverseg_core.references import score_reference
from liverseg_core.scoring import Counts, Key, Truths, rescore, unchanged
from liverseg_core.spec import ExperimentSpec
from store import artifacts, scores
from store.models import Run
from store.queue import Work
from store.settings import settings
from worker.patience import persist

KINDS = ("rescore", "reference")


def carry_out(work: Work, between: Callable[[], None]) -> ExperimentResult:
    """Score as a claimed run of one of ``KINDS`` asks; its artifacts are those of the run that it is scored from.

    Raises:
        DataError: the data set or the maps are gone or damaged.
        Interrupted: ``between`` asked to stop.
    """
    spec, manifest = ExperimentSpec.parse(work.spec), work.manifest
    chosen = select(manifest, spec.dataset)
    parts = {part: chosen[part] for part in ("val", "test")}
    archive = artifacts.locate(work.dataset_artifact)
    # Building a cache may take a minute, so that it too must end when asked to.
    cache = open_cache(archive, manifest, spec.data.image_size, settings().cache, progress=lambda *_: between())
    truths = _truths(manifest.content_hash)
    if work.kind == "reference":
        if work.predictor is None:
            raise SpecError("predictor", "is not said; submit the reference runs again")
        soft = _soft(work.predictor, manifest.content_hash, spec.data.image_size)
        scored = score_reference(work.predictor, manifest, cache, parts, spec.evaluation, between, soft, truths)
        return ExperimentResult(*scored, artifacts={}, best_epoch=0, epochs=0)
    files, soft, known = _kept(work, spec)
    maps = files["probabilities"]
    scored = rescore(manifest, cache.labels, maps, parts, soft, spec.evaluation, between, truths, known)
    return ExperimentResult(*scored, artifacts=files, best_epoch=work.best_epoch, epochs=0)


@lru_cache(maxsize=4)
def _truths(content_hash: str) -> Truths:  # noqa: ARG001 - the key
    """True lesions of a data set: whoever scores twenty runs anew finds them once."""
    return Truths()


@lru_cache(maxsize=16)
def _soft(predictor: str, content_hash: str, image_size: int) -> dict[Key, SoftFacts]:  # noqa: ARG001 - the key
    """Soft scores of a reference predictor, which no evaluation option changes."""
    return {}


def _kept(work: Work, spec: ExperimentSpec) -> tuple[dict[str, Path], dict[Key, SoftFacts], dict[Key, Counts]]:
    """The files of the run scored anew, what its maps cannot give, and the counts that ``spec`` leaves alone."""
    if work.scored_from is None:
        raise SpecError("scored_from", "is not said; submit the run again")
    source = work.scored_from
    kept, stored, before = persist(
        lambda session: (
            scores.files(session, source),
            scores.stored_facts(session, source),
            ExperimentSpec.parse(session.get_one(Run, source).spec).evaluation,
        )
    )
    files = {kind: artifacts.locate(sha256) for kind, sha256 in kept.items() if kind in ("weights", "probabilities")}
    if "probabilities" not in files:
        told = f"of run {source} were deleted; submit the same settings again, which evaluates its kept weights"
        raise DataError("probabilities", told)
    if not files["probabilities"].is_file():
        told = (
            f"of run {source} are gone from the store; give them up (`liverseg delete {source} --files --yes`) and "
        )
        raise DataError("probabilities", f"{told}submit the same settings again, which evaluates its kept weights")
    soft = {key: facts for key, (_, facts) in stored.items()}
    counts = {key: counts for key, (counts, _) in stored.items()}
    return files, soft, unchanged(counts, before, spec.evaluation)
