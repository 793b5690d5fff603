"""Answers of the API as pandas frames: runs, epochs, images, comparisons, and images by runs.

Scores are fractions of 1, not percent, unless their column's unit is another; counts are pixels. A score of which
nothing can be said is NaN, another missing value NA, a missing time NaT. Whole numbers stay whole: ``int64``, and
``Int64`` where some may be missing. Times are ``datetime64[us, UTC]``, texts ``string``, truths ``bool``. A setting's
column has the type of its values; lists become tuples, and what is mixed stays ``object``.

Needs the extra ``notebook``; nothing else of liverseg imports this module.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from api.client import Client, Json
from liverseg_core.errors import InputError
from liverseg_core.spec import ExperimentSpec

try:
    import pandas as pd
except ModuleNotFoundError as error:
    if error.name != "pandas":
        raise
    told = 'is not installed, and frames are made of it; `pip install ".[notebook]"` in the checkout adds it'
    raise InputError("pandas", told) from error

RUNS_A_PAGE, IMAGES_A_PAGE = 500, 5000
"""The most that the API gives at once."""

RUNS_A_COMPARISON = 200

RUN = {
    **dict.fromkeys(("experiment", "priority", "crashes"), "int64"),
    **dict.fromkeys(("best_epoch", "reused_from", "scored_from"), "Int64"),
    **dict.fromkeys(("name", "kind", "state", "reason", "message", "wish", "predictor", "pool", "notes"), "string"),
    **dict.fromkeys(("training_hash", "evaluation_hash"), "string"),
    **dict.fromkeys(("created_at", "started_at", "finished_at"), "time"),
    "tags": "tuple",
}
SCORED = {"part": "string", "slices": "Int64", "scans": "Int64", "subjects": "Int64"}

EPOCH = {
    "attempt": "int64",
    **dict.fromkeys(("loss", "dice", "val_loss", "val_dice", "learning_rate"), "float64"),
    **dict.fromkeys(("seconds", "images_per_second"), "float64"),
    "at": "time",
}

CONFUSION = [f"{side}{truth}{found}" for side in "nq" for truth in range(3) for found in range(3)]
IMAGE = {
    **dict.fromkeys((*CONFUSION, "tp", "fp", "fn", "lesion_pixels", "predicted_lesion_pixels"), "int64"),
    **dict.fromkeys(("dice", "dice_liver", "dice_tumor"), "float64"),
    **dict.fromkeys(("liver_dice", "lesion_dice", "lesion_precision", "lesion_recall"), "float64"),
}

ROW = {
    **dict.fromkeys(("what", "name", "table", "state", "kind", "dataset"), "string"),
    **dict.fromkeys(("run", "reused_from", "size", "expected", "epochs", "best_epoch"), "Int64"),
    **dict.fromkeys(("runs", "notes"), "tuple"),
    "depth": "int64",
    "collapsed": "bool",
    "part": "string",
    **dict.fromkeys(("slices", "scans", "subjects"), "int64"),
}
ABOUT = ("profile", "level", "about", "comparable", "warnings", "overrides", "notes")


def runs(client: Client, *, profile: str = "overview", level: str | None = None, **fits: Any) -> pd.DataFrame:
    """Every run that fits, the oldest first; indexed by ``run``, its id (int64).

    Columns: those of ``GET /v1/runs``; every setting by its dotted path (``training.learning_rate``); on what the run
    was scored (``part``, and how many ``slices``, ``scans`` and ``subjects``, Int64); and the scores of ``profile``
    at ``level``, called by their keys at ``GET /v1/profiles`` (float64), NaN until the run has succeeded.

    Args:
        client: a connection.
        profile: whose scores.
        level: what they are taken over; None: the profile's first.
        fits: ``state``, ``experiment``, ``name`` and ``kind``, as :meth:`~api.client.Client.runs` takes them; without
            ``kind``, reference predictors are left out.
    """
    found = sorted(_every_run(client, fits), key=lambda run: int(run["id"]))
    ids, keys = [run["id"] for run in found], _score_keys(client, profile)
    scored = _scored(client, [run["id"] for run in found if _has_scores(run)], profile, level)
    rows = [scored.get(run, {}) for run in ids]
    made = {
        **_columns(found, RUN),
        **_settings([ExperimentSpec.parse(run["spec"]).settings() for run in found]),
        **_columns(rows, SCORED),
        **_scores([row.get("scores") for row in rows], keys),
    }
    return pd.DataFrame(made, index=pd.Index(ids, dtype="int64", name="run"))


def epochs(client: Client, of: int | Iterable[int]) -> pd.DataFrame:
    """The epochs of one or several runs; indexed by ``run`` and ``epoch``, and sorted so.

    Columns: ``attempt`` that trained it (int64); ``loss``, ``dice``, ``val_loss`` and ``val_dice`` (total Dice, 0..1,
    val over the whole part), ``learning_rate``, ``seconds``, ``images_per_second`` (float64); ``at``, when it was
    stored. A reused run has its original's.
    """
    rows = [{"run": run, **one} for run in _ids(of) for one in client.epochs(run)]
    return pd.DataFrame(_columns(rows, EPOCH), index=_index(rows, {"run": "int64", "epoch": "int64"}))


def images(client: Client, of: int | Iterable[int]) -> pd.DataFrame:
    """Every evaluated image of one or several runs; indexed by ``run``, ``part``, ``scan``, ``slice``, and sorted so.

    Columns: ``n00`` to ``n22``, pixels of the truth (first digit) and of the prediction (second) at the mask's own
    size, with 0 background, 1 liver without lesion, 2 lesion; ``q00`` to ``q22``, the same of the study's labels at
    the network's size; ``tp``, ``fp``, ``fn`` of liver and lesion together there; ``lesion_pixels`` and
    ``predicted_lesion_pixels`` (all int64). ``dice``, ``dice_liver`` and ``dice_tumor`` are the study's;
    ``liver_dice``, ``lesion_dice``, ``lesion_precision`` and ``lesion_recall`` come from ``n00`` to ``n22`` (all
    0..1, float64), NaN where what they divide by is 0.
    """
    rows = [{"run": run, **one} for run in _ids(of) for one in _every_image(client, run)]
    levels = {"run": "int64", "part": "string", "scan": "int64", "slice": "int64"}
    return pd.DataFrame(_columns(rows, IMAGE), index=_index(rows, levels))


def comparison(found: Json) -> pd.DataFrame:
    """A comparison as a frame, one row a line of the table: runs and groups, then references, then printed rows.

    Columns: ``what`` (``run``, ``seeds``, ``folds``, ``reference``, ``printed``), ``depth`` (0, more inside groups),
    names, states and what was scored; ``size``, how many seeds or folds a row is made of (Int64); the settings that
    the comparison shows, by dotted path; and for each score, called by its key: the value, ``sd.KEY`` over seeds, and
    ``n.KEY``, ``empty.KEY`` and ``failed.KEY``: units used, without a value, and failed (Int64). Values are fractions
    of 1, or in the unit that ``attrs["units"]`` names. ``attrs`` also holds what must be told with the table:
    ``warnings``, ``overrides``, ``notes``, and whether the rows are ``comparable``.

    Args:
        found: what :meth:`~api.client.Client.compare` returns, or ``comparison`` of
            :meth:`~api.client.Client.frozen`.
    """
    rows = [*found["rows"], *found["references"], *found["printed"]]
    keys = [column["key"] for column in found["columns"]]
    deviations = _scores([row["deviations"] for row in rows], keys)
    made = {
        **_columns(rows, ROW),
        **_settings([row["settings"] for row in rows], found["parameters"]),
        **_scores([row["scores"] for row in rows], keys),
        **{f"sd.{key}": values for key, values in deviations.items()},
        **_counts([row["counts"] or {} for row in rows], keys),
    }
    frame = pd.DataFrame(made, index=pd.RangeIndex(len(rows)))
    frame.attrs.update({name: found[name] for name in ABOUT})
    frame.attrs["units"] = {column["key"]: column["unit"] for column in found["columns"]}
    return frame


def matrix(client: Client, of: Iterable[int], column: str = "lesion_dice") -> pd.DataFrame:
    """One score of every evaluated image (rows) under every run (columns, called by their ids): 0..1, float64.

    Indexed by ``part``, ``subject``, ``scan`` and ``slice``, in this order; NaN where nothing can be said.
    ``attrs["overrides"]``: the written overrides of splits, with the runs that each touches; ``attrs["warnings"]``:
    which runs are left out since they are deleted.

    Args:
        client: a connection.
        of: runs of one data set, 200 at most.
        column: which score, a column of :func:`images`.
    """
    ids = list(dict.fromkeys(map(int, of)))
    lines: list[Json] = []
    total = 1
    while len(lines) < total:
        page = client.matrix(ids, column=column, sort="place", limit=IMAGES_A_PAGE, offset=len(lines))
        total = page["total"] if page["lines"] else len(lines)
        lines += page["lines"]
    runs = [head["run"] for head in page["runs"]]  # without those that are deleted
    made = {run: _of("float64", [line["values"][place] for line in lines]) for place, run in enumerate(runs)}
    levels = {"part": "string", "subject": "string", "scan": "int64", "slice": "int64"}
    frame = pd.DataFrame(made, index=_index([line["place"] for line in lines], levels))
    frame.attrs.update({name: page[name] for name in ("overrides", "warnings")})
    return frame.rename_axis(columns="run")


def _ids(of: int | Iterable[int]) -> list[int]:
    """Each once, in an order in which pandas finds a run at once."""
    return sorted(set(map(int, of))) if isinstance(of, Iterable) else [int(of)]


def _every_run(client: Client, fits: Mapping[str, Any]) -> Iterator[Json]:
    before = None
    while page := client.runs(limit=RUNS_A_PAGE, before=before, **fits):
        yield from page
        if len(page) < RUNS_A_PAGE:
            return
        before = page[-1]["id"]


def _every_image(client: Client, run: int) -> Iterator[Json]:
    offset = 0
    while page := client.images(run, sort="part", limit=IMAGES_A_PAGE, offset=offset):
        yield from page
        if len(page) < IMAGES_A_PAGE:
            return
        offset += len(page)


def _has_scores(run: Json) -> bool:
    return bool(run["state"] == "succeeded" and run["kind"] != "predict")


def _score_keys(client: Client, profile: str) -> list[str]:
    """Asked for, since there may be no run whose row would tell them."""
    every = {one["key"]: one["columns"] for one in client.profiles()}
    if profile not in every:
        raise InputError("profile", f"is none of {', '.join(every)}", profile)
    return [column["key"] for column in every[profile]]


def _scored(client: Client, ids: Sequence[int], profile: str, level: str | None) -> dict[int, Json]:
    """Run -> its row of a comparison; groups are only there between them."""
    rows: dict[int, Json] = {}
    for start in range(0, len(ids), RUNS_A_COMPARISON):
        found = client.compare(ids[start : start + RUNS_A_COMPARISON], profile=profile, level=level)
        rows |= {row["run"]: row for row in found["rows"] if row["what"] == "run"}
    return rows


def _columns(rows: Sequence[Json], types: Mapping[str, str]) -> dict[str, Any]:
    return {name: _of(kind, [row.get(name) for row in rows]) for name, kind in types.items()}


def _settings(rows: Sequence[Mapping[str, Any]], paths: Iterable[str] = ()) -> dict[str, Any]:
    every = dict.fromkeys([*paths, *(path for row in rows for path in row)])
    values = {path: [row.get(path) for row in rows] for path in every}
    return {path: _of(_kind(found), found) for path, found in values.items()}


def _scores(rows: Sequence[Mapping[str, Any] | None], keys: Iterable[str]) -> dict[str, Any]:
    return {key: _of("float64", [(row or {}).get(key) for row in rows]) for key in keys}


def _counts(rows: Sequence[Mapping[str, Json]], keys: Iterable[str]) -> dict[str, Any]:
    return {
        f"{what}.{key}": _of("Int64", [row.get(key, {}).get(what) for row in rows])
        for key in keys
        for what in ("n", "empty", "failed")
    }


def _index(rows: Sequence[Json], levels: Mapping[str, str]) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays(list(_columns(rows, levels).values()), names=list(levels))


def _kind(values: Sequence[Any]) -> str:
    """The type that holds all of a setting's values."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return "float64"
    known = {int: "Int64", float: "float64", bool: "boolean", str: "string", list: "tuple"}
    return known.get(kinds.pop(), "object") if len(kinds) == 1 else "object"


def _of(kind: str, values: Sequence[Any]) -> Any:
    """A column; nothing is guessed from the values, so an empty one has its type too."""
    if kind == "time":
        return pd.to_datetime(pd.Series(values, dtype="string"), utc=True, format="ISO8601").dt.as_unit("us").array
    if kind in ("tuple", "object"):
        kept = [tuple(value) if isinstance(value, list) else value for value in values]
        return pd.Series([pd.NA if value is None else value for value in kept], dtype="object").array
    return pd.Series(values, dtype=kind).array
