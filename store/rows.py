"""What a comparison consists of: columns, rows, statistics, and what a reader must know about them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Column(BaseModel):
    """A score: what it is called, how it is computed, and what it says where masks are empty."""

    model_config = ConfigDict(from_attributes=True)
    key: str
    label: str
    unit: Literal["fraction", "pixels", "ratio"]
    better: Literal["higher", "lower"] | None
    formula: str
    empty_rule: str
    warning: str | None = None
    """What the reference predictors show to be wrong with it."""


class Count(BaseModel):
    """What a score was taken over: ``n`` used, ``empty`` without a value, ``failed`` to be computed."""

    model_config = ConfigDict(frozen=True)  # one stands in many rows
    n: int
    empty: int
    failed: int


class Row(BaseModel):
    """A line of the table: a run, several runs taken together, a reference predictor, or a printed row.

    ``seeds``: ``scores`` are means over ``size`` runs that differ in their seed alone, ``deviations`` their
    standard deviations (n - 1). ``folds``: the held-out slices of ``size`` folds (of ``expected``), pooled. The rows
    taken together follow, one deeper. Scores are in the column's unit, null where nothing can be said.
    ``differences``: the scores less the baseline's, null without a baseline, in its own row, and in rows that were
    scored on other slices. ``override``: why the split may have a person or a picture on both sides, as written.
    """

    what: Literal["run", "seeds", "folds", "reference", "printed"]
    depth: int = 0
    run: int | None = None
    runs: list[int] = []
    name: str
    state: str | None = None
    kind: str | None = None
    reused_from: int | None = None
    dataset: str | None = None
    table: str | None = None
    settings: dict[str, Any] = {}
    epochs: int | None = None
    best_epoch: int | None = None
    part: str | None = None
    slices: int = 0
    scans: int = 0
    subjects: int = 0
    size: int | None = None
    expected: int | None = None
    scores: dict[str, float | None] | None = None
    deviations: dict[str, float | None] | None = None
    differences: dict[str, float | None] | None = None
    counts: dict[str, Count] | None = None
    collapsed: bool = False
    override: str = ""
    notes: list[str] = []


class Pair(BaseModel):
    """One subject under the baseline and under the row compared with it."""

    subject: str
    baseline: float
    value: float
    difference: float


class Contrast(BaseModel):
    """A row against the baseline, paired by subject.

    ``p``: exact two-sided Wilcoxon signed-rank; ``p_holm``: adjusted over all contrasts of the table; ``effect``:
    rank-biserial, -1..1, positive where the row has the larger values; ``interval``: of the mean difference, null
    below five subjects; ``zeros``: subjects without a difference; ``without``: subjects without a value;
    ``won``, ``lost``: subjects for whom the row is better or worse, null where neither direction is better.
    """

    name: str
    runs: list[int]
    subjects: int
    won: int | None = None
    lost: int | None = None
    zeros: int
    without: list[str]
    mean_difference: float | None
    p: float
    p_holm: float
    effect: float | None
    interval: tuple[float, float] | None
    smallest_p: float
    pairs: list[Pair]


class Statistics(BaseModel):
    """Every row that may be compared with the baseline, on one column."""

    baseline: str
    runs: list[int]
    column: str
    label: str
    unit: str
    contrasts: list[Contrast]
    notes: list[str]
    skipped: list[str]


class Comparison(BaseModel):
    """The table, the meaning of its columns, and what a reader must know about it.

    ``comparable``: whether all rows (but those inside groups) were scored on the same slices of the same part.
    """

    profile: str
    level: str
    about: str
    comparable: bool
    parameters: list[str]
    columns: list[Column]
    rows: list[Row]
    references: list[Row]
    printed: list[Row]
    statistics: Statistics | None
    warnings: list[str]
    overrides: list[str]
    notes: list[str]
