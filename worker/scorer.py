"""A scoring process: carries out one job after the other and tells by JSON lines.

Like the trainer it knows no database and reads from standard input: when that pipe closes, its supervisor is gone,
and it kills its own process group. Unlike the trainer it stays, since it takes longer to start than to score.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any

from liverseg_core.data.cache import SliceCache, open_built, open_cache
from liverseg_core.data.manifest import Manifest, select
from liverseg_core.errors import DataError, Interrupted, SpecError
from liverseg_core.metrics import SoftFacts
from liverseg_core.records import ExperimentResult
from liverseg_core.references import score_reference
from liverseg_core.scoring import Counts, Key, Truths, rescore, unchanged
from liverseg_core.spec import ExperimentSpec
from worker.fetching import fetched
from worker.position import Position
from worker.reporting import CRASHED, report
from worker.trainer import EVENTS_FD, Reporter

Fetch = Callable[[Path], AbstractContextManager[Path]]


def main() -> None:
    """Carry out jobs for as long as there is somebody who sends some."""
    try:
        with os.fdopen(int(os.environ[EVENTS_FD]), "w", encoding="utf-8") as pipe:
            _work(Reporter(pipe))
    except BaseException:
        traceback.print_exc()
    os._exit(CRASHED)  # a usual end would wait for the thread that reads


def _work(reporter: Reporter) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the supervisor's to handle
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()

    def between() -> None:
        if reporter.should_stop():
            raise Interrupted("asked to stop")

    def carry_out_next() -> ExperimentResult:
        reporter.tell("progress", phase="scoring")
        reporter.keep_position(Position(Path(job["position"])))
        return carry_out(job, between, lambda place: fetched(place, reporter))

    while True:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # while it waits it ends at once, and is replaced
        job = json.loads(jobs.get())
        signal.signal(signal.SIGTERM, reporter.ask_to_stop)
        reporter.tell("over", status=report(reporter.tell, carry_out_next))


def _listen(jobs: "queue.SimpleQueue[bytes]") -> None:
    for line in sys.stdin.buffer:
        jobs.put(line)
    os.killpg(0, signal.SIGKILL)


def carry_out(job: dict[str, Any], between: Callable[[], None], fetch: Fetch) -> ExperimentResult:
    """Score as :func:`worker.scoring.job` asks; the artifacts of a run are those of the run that it is scored from.

    Args:
        job: what is to be done.
        between: called between slices; may raise to give up.
        fetch: a context with a file that the job names.

    Raises:
        DataError: the data set or the maps are gone or damaged.
        Interrupted: ``between`` asked to stop.
    """
    spec, manifest = ExperimentSpec.parse(job["spec"]), Manifest.from_json(job["manifest"])
    chosen = select(manifest, spec.dataset)
    parts = {part: chosen[part] for part in ("val", "test")}
    cache = _cache(job, manifest, spec.data.image_size, between, fetch)
    truths = _truths(job["content_hash"])
    if job["kind"] == "reference":
        if job["predictor"] is None:
            raise SpecError("predictor", "is not said; submit the reference runs again")
        soft = _soft(job["predictor"], job["content_hash"], spec.data.image_size)
        scored = score_reference(job["predictor"], manifest, cache, parts, spec.evaluation, between, soft, truths)
        return ExperimentResult(*scored, artifacts={}, best_epoch=0, epochs=0)
    files, soft, known = _kept(job, spec)
    with fetch(files["probabilities"]) as maps:
        _demand(maps, job["scored_from"])
        scored = rescore(manifest, cache.labels, maps, parts, soft, spec.evaluation, between, truths, known)
    return ExperimentResult(*scored, artifacts=files, best_epoch=job["best_epoch"], epochs=0)


def _cache(
    job: dict[str, Any], manifest: Manifest, size: int, between: Callable[[], None], fetch: Fetch
) -> SliceCache:
    """Building it may take a minute, so that it too must end when asked to."""
    root = Path(job["cache"])
    if (built := open_built(manifest, size, root)) is not None:
        return built
    with fetch(Path(job["archive"])) as place:
        return open_cache(place, manifest, size, root, progress=lambda *_: between())


@lru_cache(maxsize=4)
def _truths(content_hash: str) -> Truths:  # noqa: ARG001 - the key
    """True lesions of a data set: whoever scores twenty runs anew finds them once."""
    return Truths()


@lru_cache(maxsize=16)
def _soft(predictor: str, content_hash: str, image_size: int) -> dict[Key, SoftFacts]:  # noqa: ARG001 - the key
    """Soft scores of a reference predictor, which no evaluation option changes."""
    return {}


def _demand(maps: Path, source: int) -> None:
    if not maps.is_file():
        told = (
            f"of run {source} are gone from the store; give them up (`liverseg delete {source} --files --yes`) and "
        )
        raise DataError("probabilities", f"{told}submit the same settings again, which evaluates its kept weights")


def _kept(
    job: dict[str, Any], spec: ExperimentSpec
) -> tuple[dict[str, Path], dict[Key, SoftFacts], dict[Key, Counts]]:
    """The files of the run scored anew, what its maps cannot give, and the counts that ``spec`` leaves alone."""
    source = job["scored_from"]
    if source is None:
        raise SpecError("scored_from", "is not said; submit the run again")
    files = {kind: Path(place) for kind, place in job["files"].items()}
    if "probabilities" not in files:
        told = f"of run {source} were deleted; submit the same settings again, which evaluates its kept weights"
        raise DataError("probabilities", told)
    soft, counts = {}, {}
    for part, scan, number, row, quantised, facts in job["stored"]:
        soft[part, scan, number] = SoftFacts(*(*facts, tuple(quantised)))
        counts[part, scan, number] = tuple(row)
    before = ExperimentSpec.parse(job["before"]).evaluation
    return files, soft, unchanged(counts, before, spec.evaluation)


if __name__ == "__main__":
    main()
