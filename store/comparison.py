"""The comparison of runs: Table 5's differing settings and Table 6's scores, one row a run, from one query."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.orm import Session

from liverseg_core.spec import ExperimentSpec

TABLE_5 = ("training.optimizer", "training.batch_size", "data.image_size", "model.filters", "training.learning_rate")
"""The study's own parameter columns, always shown; other settings are shown where rows differ."""

LABELS = {
    "loss": "Loss",
    "dice": "Dice Coef.",
    "precision": "Precision",
    "recall": "Recall",
    "dice_liver": "Dice Coef. Liver",
    "dice_tumor": "Dice Coef. Tumor",
    "pooled_liver_dice": "Liver Dice, pooled",
    "pooled_lesion_dice": "Lesion Dice, pooled",
}
"""Score columns in Table 6's order, then the two pooled ones; what each means is said in ``NOTES``."""

NOTES = {
    "paper-2019": "Loss to Dice Coef. Tumor are the study's own definitions (profile paper-2019): soft, smoothed by "
    "1, mean over slices; precision and recall on liver and lesion together, pooled. "
    "Dice Coef. Tumor does not measure lesions: an empty prediction and a perfect one both score low.",
    "pooled": "Pooled Dice: 2TP/(2TP+FP+FN) over all pixels of all evaluated slices at the masks' own size, "
    "no smoothing; liver includes lesion; empty where neither mask has a pixel of the class.",
}


class Scores(BaseModel):
    """Fractions in 0..1; None where nothing can be said."""

    loss: float
    dice: float
    precision: float
    recall: float
    dice_liver: float
    dice_tumor: float
    pooled_liver_dice: float | None
    pooled_lesion_dice: float | None


class ComparisonRow(BaseModel):
    """One run in the table."""

    run: int
    name: str
    state: str
    kind: str
    reused_from: int | None
    dataset: str
    settings: dict[str, Any]
    epochs: int | None
    best_epoch: int | None
    part: str | None
    slices: int
    scores: Scores | None


class Comparison(BaseModel):
    """The table, the meaning of its columns, and what a reader must know about it."""

    parameters: list[str]
    scores: dict[str, str]
    rows: list[ComparisonRow]
    notes: list[str]
    warnings: list[str]


# Postgres sums whole numbers exactly; precision of nothing predicted is 0 in the study (its printed lr5e-3).
_QUERY = text("""
WITH sums AS (
  SELECT r.id AS run, s.part, count(*) AS slices,
    md5(string_agg(scan || '_' || slice, ' ' ORDER BY scan, slice)) AS which,
    1 - avg(s.dice) AS loss, avg(s.dice) AS dice, avg(s.dice_liver) AS dice_liver, avg(s.dice_tumor) AS dice_tumor,
    coalesce(sum(s.tp)::float8 / nullif(sum(s.tp + s.fp), 0), 0) AS precision,
    coalesce(sum(s.tp)::float8 / nullif(sum(s.tp + s.fn), 0), 0) AS recall,
    sum(n11::bigint + n12 + n21 + n22) AS liver_tp, sum(n01::bigint + n02 + n10 + n20) AS liver_wrong,
    sum(n22::bigint) AS lesion_tp, sum(n02::bigint + n12 + n20 + n21) AS lesion_wrong
  FROM runs r JOIN slice_scores s ON s.run_id = coalesce(r.reused_from, r.id)
  WHERE r.project_id = :project AND r.id = ANY(:runs)
  GROUP BY r.id, s.part
)
SELECT r.id AS run, r.name, r.state, r.kind, r.reused_from, r.spec, d.name AS dataset, d.content_hash,
  coalesce(o.best_epoch, r.best_epoch) AS best_epoch,
  (SELECT max(e.epoch) FROM epochs e
    WHERE e.run_id = coalesce(r.reused_from, r.id) AND e.archived_at IS NULL) AS epochs,
  s.part, coalesce(s.slices, 0) AS slices, s.which, s.loss, s.dice, s.precision, s.recall, s.dice_liver, s.dice_tumor,
  (2 * liver_tp / nullif(2 * liver_tp + liver_wrong, 0))::float8 AS pooled_liver_dice,
  (2 * lesion_tp / nullif(2 * lesion_tp + lesion_wrong, 0))::float8 AS pooled_lesion_dice
FROM runs r
JOIN datasets d ON d.id = r.dataset_id
LEFT JOIN runs o ON o.id = r.reused_from
LEFT JOIN sums s ON s.run = r.id
  AND s.part = (SELECT min(part) FROM sums p WHERE p.run = r.id)  -- test (sorts before val) where there is one
WHERE r.project_id = :project AND r.id = ANY(:runs)
ORDER BY array_position(:runs, r.id)
""")


def compare(session: Session, project_id: int, run_ids: Sequence[int]) -> Comparison:
    """Compare runs in the order given; ids that the project does not have are left out (the caller checks)."""
    found = session.execute(_QUERY, {"project": project_id, "runs": list(run_ids)}).mappings().all()
    settings = [ExperimentSpec.parse(row["spec"]).settings() for row in found]
    shown = _parameters(settings)
    rows = [_row(dict(row), chosen, shown) for row, chosen in zip(found, settings, strict=True)]
    return Comparison(
        parameters=shown,
        scores=LABELS,
        rows=rows,
        notes=[NOTES["paper-2019"], NOTES["pooled"], *_what_was_scored(rows)],
        warnings=_warnings(
            rows, {(row["content_hash"], row["part"], row["which"]) for row in found if row["slices"]}
        ),
    )


def _parameters(settings: list[dict[str, Any]]) -> list[str]:
    """The study's columns, then every other setting in which the rows differ."""
    every = dict.fromkeys(path for one in settings for path in one)
    hidden = {*TABLE_5, "dataset.id"}
    differing = [
        path for path in every if path not in hidden and len({json.dumps(one.get(path)) for one in settings}) > 1
    ]
    return [*TABLE_5, *differing]


def _row(found: dict[str, Any], settings: dict[str, Any], shown: list[str]) -> ComparisonRow:
    scores = Scores(**{name: found[name] for name in LABELS}) if found["slices"] else None
    kept = {name: found[name] for name in ComparisonRow.model_fields if name in found}
    return ComparisonRow(**kept, settings={path: settings.get(path) for path in shown}, scores=scores)


SCORED = {
    "test": "Scores are on the test part.",
    "val": "Scores are on the val part, which early stopping also used; they do not measure generalisation. "
    "If a person has scans in both train and val, they say even less.",
}
"""What a reader must know about each part that was scored."""


def _what_was_scored(rows: list[ComparisonRow]) -> list[str]:
    return [SCORED[part] for part in sorted({row.part for row in rows if row.part})]


def _warnings(rows: list[ComparisonRow], scored: set[tuple[str, str, str]]) -> list[str]:
    """``scored``: content, part and slices that rows were scored on; more than one makes rows incomparable."""
    warnings = []
    if len(scored) > 1:
        warnings.append("These runs were not scored on the same slices; their scores cannot be compared.")
    unfinished = [row.run for row in rows if row.scores is None]
    if unfinished:
        warnings.append(f"Without scores (yet): runs {', '.join(map(str, unfinished))}.")
    return warnings
