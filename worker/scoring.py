"""What a worker does by itself, without a trainer process: scoring stored maps anew, and reference predictors."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from liverseg_core.data.cache import open_cache
from liverseg_core.data.manifest import Manifest, select
from liverseg_core.errors import DataError, SpecError
from liverseg_core.metrics import SoftFacts
from liverseg_core.records import ExperimentResult
from liverseg_core.references import score_reference
from liverseg_core.scoring import Key, Truths, rescore
from liverseg_core.spec import ExperimentSpec
from store import artifacts, scores
from store.database import transaction
from store.queue import Work
from store.settings import settings

KINDS = ("rescore", "reference")


def carry_out(work: Work, between: Callable[[], None]) -> ExperimentResult:
    """Score as a claimed run of one of ``KINDS`` asks; its artifacts are those of the run that it is scored from.

    Raises:
        DataError: the data set or the maps are gone or damaged.
        Interrupted: ``between`` asked to stop.
    """
    spec, manifest = ExperimentSpec.parse(work.spec), Manifest.from_json(work.manifest)
    chosen = select(manifest, spec.dataset)
    parts = {part: chosen[part] for part in ("val", "test")}
    archive = artifacts.locate(work.dataset_artifact)
    # Building a cache may take a minute, so that it too must end when asked to.
    cache = open_cache(archive, manifest, spec.data.image_size, settings().cache, progress=lambda *_: between())
    if work.kind == "reference":
        if work.predictor is None:
            raise SpecError("predictor", "is not said; submit the reference runs again")
        scored = score_reference(work.predictor, manifest, cache, parts, spec.evaluation, between)
        return ExperimentResult(*scored, artifacts={}, best_epoch=0, epochs=0)
    files, soft = _kept(work)
    truths = _truths(manifest.content_hash)
    scored = rescore(manifest, cache.labels, files["probabilities"], parts, soft, spec.evaluation, between, truths)
    return ExperimentResult(*scored, artifacts=files, best_epoch=work.best_epoch, epochs=0)


@lru_cache(maxsize=4)
def _truths(content_hash: str) -> Truths:  # noqa: ARG001 - the key
    """True lesions of a data set: whoever scores twenty runs anew finds them once."""
    return Truths()


def _kept(work: Work) -> tuple[dict[str, Path], dict[Key, SoftFacts]]:
    """The files of the run that is scored anew, and what its maps cannot give."""
    if work.scored_from is None:
        raise SpecError("scored_from", "is not said; submit the run again")
    with transaction() as session:
        kept = scores.files(session, work.scored_from)
        soft = scores.soft_facts(session, work.scored_from)
    files = {kind: artifacts.locate(sha256) for kind, sha256 in kept.items() if kind in ("weights", "probabilities")}
    if "probabilities" not in files or not files["probabilities"].is_file():
        raise DataError("probabilities", f"of run {work.scored_from} are gone from the store; evaluate it again")
    return files, soft
