"""A ledger with thousands of finished runs, to measure on: python benchmarks/filling.py --runs 10000 --home FOLDER

Runs are submitted as people submit them (grids of settings and seeds). How they went is written by SQL: attempts,
events, 30 epochs each, and for each of 500 images the counts of a run of ``docs/study`` with some lesion pixels moved
to parenchyma, so that no two runs score the same. ``liverseg verify --no-files`` finds nothing wrong with them.
"""

import argparse
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from liverseg_core.data.manifest import Manifest, SliceEntry, in_order
from liverseg_core.submission import Submission
from store import bundled, datasets, experiments, schema, summaries
from store.database import engine, transaction
from store.models import DEFAULT_PROJECT, Run
from store.scores import COLUMNS

STUDY = Path(__file__).parent.parent / "docs" / "study"
SIZE = 256
DATASET = "filled"
SEEDS = 5
EPOCHS = 30
PER_SUBMISSION = 1000

ENDS = {"succeed": 0.94, "fail": 0.02, "cancel": 0.03}
"""How runs end, as shares; the rest stays queued."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--home", type=Path, help="a new LIVERSEG_HOME, which is kept; without, a throw-away one")
    options = parser.parse_args()
    home = options.home or Path(tempfile.mkdtemp(prefix="liverseg-bench-"))
    os.environ["LIVERSEG_HOME"] = str(home)
    postgres = bundled.start_postgres(home)
    try:
        schema.upgrade()
        started = time.monotonic()
        fill(options.runs)
        print(f"{options.runs:,} runs in {time.monotonic() - started:.0f} s")
    finally:
        postgres.stop()
        if options.home is None:
            shutil.rmtree(home, ignore_errors=True)


def fill(runs: int) -> None:
    """Runs and what they left, in the database of this process."""
    templates = list(_exports())
    with transaction() as session:
        datasets.add(session, DEFAULT_PROJECT, DATASET, _manifest(templates[0]), "0" * 64)
    for first in range(0, runs, PER_SUBMISSION):
        with transaction() as session:
            wanted = _submission(min(PER_SUBMISSION, runs - first), first)
            experiments.submit(session, DEFAULT_PROJECT, wanted, reuse=False)
    with transaction() as session:
        _end(session, templates)
    _summarise()
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def _exports() -> Iterator[dict[str, Any]]:
    """The study's exported runs at the size of the specs and on its own split, whose images the manifest holds."""
    for path in sorted(STUDY.glob("*.json")):
        export = json.loads(path.read_text())
        size = export["spec"].get("data", {}).get("image_size", SIZE)
        if size == SIZE and export["spec"]["dataset"]["split"]["kind"] == "given" and export["kind"] != "evaluate":
            yield export


def _manifest(export: dict[str, Any]) -> Manifest:
    """The images of the export as part val, and some to train on."""
    places = zip(*(export["slices"][name] for name in ("part", "scan", "slice")), strict=True)
    scored = [
        SliceEntry(part, scan, number, f"i{scan}_{number}", f"m{scan}_{number}") for part, scan, number in places
    ]
    train = [SliceEntry("train", 0, number, f"i0_{number}", f"m0_{number}") for number in range(64)]
    people = {scan: f"p{scan}" for scan in sorted({one.scan for one in (*scored, *train)})}
    return Manifest(512, 512, in_order([*train, *scored]), people, subjects_assumed=False)


def _submission(count: int, first: int) -> Submission:
    """``count`` cells of a grid of settings that no other submission has, ``SEEDS`` seeds each."""
    settings = math.ceil(count / SEEDS)
    return Submission(
        spec={"name": f"grid {first // PER_SUBMISSION}", "dataset": {"id": DATASET}},
        variants=[
            {
                "name": f"rate {rate:.2e} filters {filters}",
                "training.learning_rate": rate,
                "model.filters": filters,
                "training.batch_size": batch,
            }
            for number in range(settings)
            for rate, filters, batch in [(1e-4 * (1 + first + number), 2 ** (2 + number % 3), 2 ** (2 + number % 4))]
        ],
        seeds=list(range(SEEDS)),
    )


def _end(session: Session, templates: Sequence[dict[str, Any]]) -> None:
    session.execute(text("SELECT setseed(0.5)"))
    _store_templates(session, templates)
    trained = [number for number, one in enumerate(templates) if one["kind"] == "train"]
    bounds = {"succeed": ENDS["succeed"], "fail": ENDS["succeed"] + ENDS["fail"], "cancel": sum(ENDS.values())}
    session.execute(text(PLAN), {"trained": trained, **bounds})
    for statement in HISTORY:
        session.execute(text(statement), {"epochs": EPOCHS} if ":epochs" in statement else {})


def _store_templates(session: Session, templates: Sequence[dict[str, Any]]) -> None:
    kept = [name for name in COLUMNS if name != "run_id"]
    session.execute(
        text("CREATE TEMP TABLE template AS SELECT 0 AS number, ''::text AS predictor, * FROM slice_scores")
    )
    session.execute(text("ALTER TABLE template DROP COLUMN run_id"))
    cursor = session.connection().connection.cursor()
    with cursor.copy(f"COPY template (number, predictor, {', '.join(kept)}) FROM STDIN") as copy:
        for number, one in enumerate(templates):
            for row in zip(*(one["slices"][name] for name in kept), strict=True):
                copy.write_row((number, one["predictor"], *row))


PLAN = """
    CREATE TEMP TABLE planned AS
    SELECT id, CASE WHEN predictor IS NOT NULL THEN 'succeed' WHEN chance < :succeed THEN 'succeed'
                    WHEN chance < :fail THEN 'fail' WHEN chance < :cancel THEN 'cancel' END AS ending,
           coalesce((SELECT max(number) FROM template t WHERE t.predictor = drawn.predictor),
                    (CAST(:trained AS int[]))[1 + id % cardinality(CAST(:trained AS int[]))]) AS template
    FROM (SELECT id, predictor, random() AS chance FROM runs WHERE state = 'queued') AS drawn"""

MOVED = ", ".join(
    {
        "n21": "n21 + moved",
        "n22": "n22 - moved",
        "dice": "dice * (1 - moved / 1e5)",
        "dice_liver": "dice_liver * (1 - moved / 1e5)",
        "dice_tumor": "dice_tumor * (1 - moved / 1e5)",
    }.get(name, name)
    for name in COLUMNS
    if name != "run_id"
)

HISTORY = (
    "DELETE FROM outbox WHERE run_id IN (SELECT id FROM planned WHERE ending IS NOT NULL)",
    """UPDATE runs SET fence = (ending <> 'cancel')::int, announced_at = created_at,
           state = CASE ending WHEN 'succeed' THEN 'succeeded' WHEN 'fail' THEN 'failed' ELSE 'cancelled' END,
           reason = CASE ending WHEN 'fail' THEN 'loss-not-finite' END,
           started_at = CASE WHEN ending <> 'cancel' THEN created_at + interval '1 minute' END,
           finished_at = created_at + interval '20 minutes',
           best_epoch = CASE WHEN kind = 'train' AND ending = 'succeed' THEN 1 + runs.id % 30 END,
           checkpoint = CASE WHEN kind = 'train' AND ending = 'succeed'
               THEN jsonb_build_object('path', '', 'sha256', repeat('0', 64), 'epoch', 30) END
       FROM planned WHERE planned.id = runs.id AND ending IS NOT NULL""",
    """INSERT INTO attempts (run_id, number, worker, host, outcome, exit_code, peak_memory_mb, started_at, ended_at)
       SELECT r.id, 1, 'filled', 'filled', r.state, 0, 900, r.started_at, clock_timestamp() + interval '1 hour'
       FROM runs r JOIN planned p ON p.id = r.id WHERE ending IN ('succeed', 'fail')""",
    """INSERT INTO run_events (run_id, at, move, state, attempt, actor)
       SELECT r.id, r.started_at, 'claim', 'running', 1, 'filled'
       FROM runs r JOIN planned p ON p.id = r.id WHERE ending IN ('succeed', 'fail')""",
    """INSERT INTO run_events (run_id, at, move, state, attempt, actor)
       SELECT r.id, r.finished_at, ending, r.state, nullif(r.fence, 0), 'filled'
       FROM runs r JOIN planned p ON p.id = r.id WHERE ending IS NOT NULL""",
    """INSERT INTO artifacts (run_id, attempt, kind, sha256, bytes)
       SELECT r.id, 1, 'weights', encode(sha256(r.id::text::bytea), 'hex'), 130000
       FROM runs r JOIN planned p ON p.id = r.id WHERE ending = 'succeed' AND r.kind = 'train'""",
    """INSERT INTO epochs (run_id, attempt, epoch, loss, dice, val_loss, val_dice, learning_rate, seconds,
                           images_per_second)
       SELECT r.id, 1, epoch, 1 / (1.0 + epoch), 1 - 1 / (1.0 + epoch), 1 / (1.0 + epoch + random()),
              1 - 1 / (1.0 + epoch + random()), 0.001, 20, 50
       FROM runs r JOIN planned p ON p.id = r.id, generate_series(1, :epochs) epoch
       WHERE ending = 'succeed' AND r.kind = 'train' ORDER BY r.id""",
    f"""INSERT INTO slice_scores ({", ".join(COLUMNS)}) SELECT p.id, {MOVED}
       FROM planned p JOIN template t ON t.number = p.template,
       LATERAL (SELECT CASE WHEN t.predictor IS NULL THEN floor(random() * (1 + n22 / 10))::int ELSE 0 END AS moved) m
       WHERE ending = 'succeed' ORDER BY p.id""",
    """INSERT INTO lesion_components (run_id, part, scan, slice, predicted, number, pixels, iou)
       SELECT run_id, part, scan, slice, predicted, 1, CASE WHEN predicted THEN guess ELSE truth END,
              n22 / (truth + guess - n22)::float8
       FROM (SELECT *, n20 + n21 + n22 AS truth, n02 + n12 + n22 AS guess FROM slice_scores) s
       JOIN planned p ON p.id = s.run_id, (VALUES (true), (false)) AS side (predicted)
       WHERE CASE WHEN predicted THEN guess ELSE truth END > 0 ORDER BY run_id""",
    """INSERT INTO lesion_components (run_id, part, scan, slice, predicted, number, pixels, iou)
       SELECT run_id, part, scan, NULL, predicted, 1, sum(pixels), avg(iou) FROM lesion_components
       JOIN planned p ON p.id = run_id GROUP BY run_id, part, scan, predicted ORDER BY run_id""",
)
"""How the planned runs went, in the order in which rows may point to each other.

What one run left lies together, as it does where each run's own transaction writes it.
"""


def _summarise() -> None:
    with transaction() as session:
        runs = [run.id for run in summaries.missing(session, 10**6)]
    chunks = [runs[first : first + 50] for first in range(0, len(runs), 50)]
    # Connections are not to be shared with a child, so the processes begin anew.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        list(pool.map(_summarise_some, chunks))


def _summarise_some(ids: Sequence[int]) -> None:
    with transaction() as session:
        summaries.keep(session, session.scalars(select(Run).where(Run.id.in_(ids))).all())


if __name__ == "__main__":
    main()
