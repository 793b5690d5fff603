"""The page about the study, made from exported runs alone: every sentence on a result follows from rows by a rule."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from liverseg_core.markdown import plain, table
from liverseg_core.metrics import dice, pool
from liverseg_core.misprints import TITLES, find_misprints
from liverseg_core.presets import PAPER_2019_ROWS, TABLE_6_COLUMNS, PaperRow
from liverseg_core.spec import ExperimentSpec
from liverseg_core.study import StudyRun
from liverseg_core.study_groups import Fold, Group, Sorted, sort_runs
from liverseg_core.study_verdicts import (
    CONTRASTS,
    ROWS,
    at_the_floor,
    printed_rows,
    spread,
    tumor_column,
    verdict_row,
)

NOTHING = "-"
PAPER_SPLIT = "paper split (very likely the same person on both sides)"
SUBJECT_LEVEL = "subject-level"
POOLED = {"pooled_liver": "Liver Dice, pooled", "pooled_lesion": "Lesion Dice, pooled"}


def page(runs: Sequence[StudyRun]) -> str:
    """The page in Markdown.

    Raises:
        DataError: the runs do not belong into one table.
    """
    found = sort_runs(runs)
    blocks = [block for section in SECTIONS for block in section(runs, found)]
    return "\n\n".join(blocks) + "\n"


# ---- sections ------------------------------------------------------------------------------------------------


def _head(runs: Sequence[StudyRun], _: Sorted) -> Iterator[str]:
    yield "# The study of 2019, printed and repeated"
    yield (
        f"Made by `liverseg study report` from {_counted(len(runs), 'exported run')}; nothing here is written by "
        "hand. Scores are in percent. *n* is the number of runs that differ in their seed alone; where n is above 1, "
        "the mean is given with the standard deviation (n - 1) over seeds. A best seed is never picked."
    )
    yield (
        f"Scores on the study's val scans are **{PAPER_SPLIT}**. Early stopping, the choice of the epoch and the "
        "score use the same val scans. They do not measure how well a network does on new people."
    )


def _overrides(runs: Sequence[StudyRun], _: Sorted) -> Iterator[str]:
    """What was written when the guard against one person on both sides was overridden, with the runs it is about."""
    said: dict[str, list[str]] = {}
    for run in runs:
        if run.settings["dataset.split.override"]:
            said.setdefault(run.settings["dataset.split.override"], []).append(run.name)
    for words, names in said.items():
        who = ", ".join(dict.fromkeys(names))
        yield f"The guard against one person on both sides was overridden for {plain(who)}: {plain(words)}"


def _printed(_: Sequence[StudyRun], __: Sorted) -> Iterator[str]:
    yield "## Table 6 as printed"
    rows = [
        [row.run_id or NOTHING, row.name, *_parameters(row), *(f"{score:.3f}" for score in row.printed)]
        for row in PAPER_2019_ROWS
    ]
    yield table(["Run", "Name", "Batch", "Size", "Filters", "Learning rate", *_titles()], rows)
    yield "What the checks of `liverseg table import` find in it:"
    yield "\n".join(f"- {note.message}" for note in find_misprints(printed_rows()))


def _weights(_: Sequence[StudyRun], found: Sorted) -> Iterator[str]:
    yield "## From the study's weights"
    if not found.weights:
        yield "Not run: no weights of the study are among the exported runs."
        return
    yield f"The study's own weight files, scored here under `paper-2019`; {PAPER_SPLIT}."
    header = ["Name", *_titles(), "Largest difference from print"]
    yield table(header, [_weights_row(name, group) for name, group in found.weights.items()])
    missing = [name for name in ROWS if name not in found.weights]
    yield f"No weights at hand: {', '.join(missing) or 'none missing'}."


def _retrained(_: Sequence[StudyRun], found: Sorted) -> Iterator[str]:
    yield "## Retrained here"
    yield (
        "The rows trained anew with the settings of the preset `paper-2019`, scored by the definitions of Table 6; "
        f"{PAPER_SPLIT}. Rows with the same settings (Shuffled 1 and 2) share their runs."
    )
    rows = [
        [name, _n(group), *(spread(group.values(key)) for key in TABLE_6_COLUMNS)]
        for name, group in _in_order(found.retrained)
    ]
    yield table(["Name", "n", *_titles()], rows) if rows else "No row has been trained yet."
    missing = [name for name in ROWS if name not in found.retrained]
    yield f"Not run: {', '.join(missing) or 'none missing'}."
    if found.others:
        yield "Other experiments on the same split, with the settings in which they differ from the study's Table 1:"
        others = [
            [group.name, _n(group), *(spread(group.values(key)) for key in TABLE_6_COLUMNS), _settings(group)]
            for group in found.others
        ]
        yield table(["Name", "n", *_titles(), "Settings"], others)
    if any(group.runs[0].settings["model.head"] == "softmax" for group in found.others):
        yield "Of a softmax network, the columns of Table 6 score its labels as p = 0, 0.5 and 0.999."


def _modern(_: Sequence[StudyRun], found: Sorted) -> Iterator[str]:
    yield "## The same predictions under `modern`"
    yield (
        "Dice = 2TP / (2TP + FP + FN) without smoothing, at the masks' own size, liver with its lesions. *Pooled*: "
        f"over all pixels of all scored slices. A scan: all its slices pooled. {PAPER_SPLIT.capitalize()}."
    )
    groups = [
        *(("study's weights", group) for group in found.weights.values()),
        *(("retrained", Group(name, group.runs)) for name, group in _in_order(found.retrained)),
        *(("other", group) for group in found.others),
    ]
    scans = sorted({score.scan for _, group in groups for score in group.runs[0].scores})
    rows = [[kind, group.name, _n(group), *_modern_cells(group, scans)] for kind, group in groups]
    header = ["Source", "Name", "n", *POOLED.values(), *(f"Lesion Dice, scan {scan}" for scan in scans), "Remark"]
    yield table(header, rows) if rows else "No run on this split has been exported yet."


def _subjects(_: Sequence[StudyRun], found: Sorted) -> Iterator[str]:
    yield "## With every subject left out in turn"
    if not found.folds:
        yield "Not run: no run that leaves subjects out is among the exported runs."
    for fold in found.folds:
        settings = _differences(fold.runs[0], "dataset.split.fold")
        yield f"**{plain(fold.name)}**, seed {fold.seed}, {SUBJECT_LEVEL}; {_folds_told(fold)}; {settings}."
        rows = [[who, *_fold_cells(scores)] for who, scores in fold.by_subject().items()]
        rows.append(["all slices pooled", *_fold_cells(fold.scores())])
        yield table(["Left out", "Slices", "Liver Dice", "Lesion Dice"], rows)
        if (group := found.beside(fold)) is not None:
            yield "The same settings but for split, epochs and seed, beside it:"
            yield table(["Split", "n", "Epochs", *POOLED.values()], _side_by_side(fold, group))
    if found.elsewhere:
        yield "Runs on other splits, scored on other slices, so comparable with nothing above:"
        rows = [
            [group.name, _n(group), *(spread(group.values(key)) for key in POOLED), _settings(group)]
            for group in found.elsewhere
        ]
        yield table(["Name", "n", *POOLED.values(), "Settings"], rows)


def _references(_: Sequence[StudyRun], found: Sorted) -> Iterator[str]:
    yield "## Reference predictors"
    if not found.references:
        yield "Not run: no reference predictor on the paper split is among the exported runs."
        return
    yield "What predictions score that need no network, on the same slices: the floor and the ceiling of each column."
    rows = [
        [
            f"{run.predictor or run.name}, {run.spec['data']['image_size']} pixels",
            *_cells(run.values, *TABLE_6_COLUMNS, *POOLED),
        ]
        for run in found.references
    ]
    yield table(["Predictor", *_titles(), *POOLED.values()], rows)


def _verdicts(_: Sequence[StudyRun], found: Sorted) -> Iterator[str]:
    yield "## What survives and what does not"
    yield (
        "Each pair of rows is compared in the study's Dice Coef. and, for our runs, in pooled lesion Dice. *Agrees*: "
        "our means differ in the printed direction, and no run of one row reaches a run of the other. *Open*: they "
        "do reach. With n = 1 on a side, the spread between seeds is not known there. Where two rows differ in "
        "several settings, the difference cannot be put down to one of them."
    )
    header = [
        "Question",
        "Rows",
        "They differ in",
        "Printed Dice",
        "Dice here",
        "Verdict",
        "Lesion Dice here",
        "For lesions",
    ]
    yield table(header, [verdict_row(contrast, found) for contrast in CONTRASTS])
    yield from tumor_column(found)
    yield from at_the_floor(found)


def _how(runs: Sequence[StudyRun], _: Sorted) -> Iterator[str]:
    yield "## How each was run"
    header = ["Record", "Name", "Kind", "Seed", "Epochs (best)", "Hours", "Machine", "Software", "Code"]
    yield table(header, [_how_row(run) for run in runs])


SECTIONS: tuple[Callable[[Sequence[StudyRun], Sorted], Iterator[str]], ...] = (
    _head,
    _overrides,
    _printed,
    _weights,
    _retrained,
    _modern,
    _subjects,
    _references,
    _verdicts,
    _how,
)


# ---- cells ---------------------------------------------------------------------------------------------------


def _titles() -> list[str]:
    return [TITLES[key] for key in TABLE_6_COLUMNS]


def _parameters(row: PaperRow) -> list[str]:
    if row.run_id is None:
        return [NOTHING] * 4
    return [str(row.batch_size), str(row.image_size), str(row.filters), f"{row.learning_rate:g}"]


def _weights_row(name: str, group: Group) -> list[str]:
    values = {key: group.values(key)[0] for key in TABLE_6_COLUMNS}
    row = ROWS.get(name)
    apart = NOTHING
    if row:
        key, most = max(
            ((key, values[key] - printed) for key, printed in zip(TABLE_6_COLUMNS, row.printed, strict=True)),
            key=lambda one: abs(one[1]),
        )
        apart = f"{most:+.3f} ({TITLES[key]})"
    return [name, *(f"{value:.3f}" for value in values.values()), apart]


def _modern_cells(group: Group, scans: Sequence[int]) -> list[str]:
    empty = group.without_lesion()
    remark = "" if not empty else "predicts no lesion" if group.n == 1 else f"{empty} of {group.n} predict no lesion"
    pooled = (spread(group.values(key)) for key in POOLED)
    return [*pooled, *(spread(group.scan_lesion_dice(scan)) for scan in scans), remark]


def _fold_cells(scores: Sequence[Any]) -> list[str]:
    counts = pool(scores)
    found = [dice(counts, "liver"), dice(counts, "lesion")]
    return [str(len(scores)), *(NOTHING if value is None else f"{100 * value:.3f}" for value in found)]


def _side_by_side(fold: Fold, group: Group) -> list[list[str]]:
    """What one recipe scores where a person may lie on both sides, and where nobody does."""
    on_both = [PAPER_SPLIT, _n(group), _epochs(group.runs), *(spread(group.values(key)) for key in POOLED)]
    _, *dices = _fold_cells(fold.scores())
    return [on_both, [f"{SUBJECT_LEVEL}, {_left_out(fold)}", "n = 1", _epochs(fold.runs), *dices]]


def _left_out(fold: Fold) -> str:
    left_out, everybody = fold.left_out(), fold.everybody()
    if left_out == everybody:
        return "everybody left out once"
    return f"{len(left_out)} of {_counted(len(everybody), 'subject')} left out"


def _epochs(runs: Sequence[StudyRun]) -> str:
    return ", ".join(dict.fromkeys(str(run.spec["training"]["epochs"]) for run in runs))


def _folds_told(fold: Fold) -> str:
    split = fold.runs[0].settings
    total = split["dataset.split.folds"] or len(fold.everybody())  # leave-one-subject-out: a fold each
    assumed = ", subjects assumed" if fold.runs[0].dataset["subjects_assumed"] else ""
    return f"{len(fold.runs)} of {_counted(total, 'fold')} ({split['dataset.split.kind']}{assumed})"


def _how_row(run: StudyRun) -> list[str]:
    known = run.provenance
    epochs = f"{len(run.epochs['epoch'])} ({run.best_epoch})" if run.epochs["epoch"] else NOTHING
    words = [known[key] for key in ("processor", "device") if key in known]
    words += [f"{known[key]} {key}" for key in ("cores", "threads") if key in known]
    software = [f"{key} {known[key]}" for key in ("keras", "tensorflow", "jax", "python") if key in known]
    code = " ".join(filter(None, [known.get("liverseg"), known.get("commit")]))
    hours = NOTHING if run.seconds is None else f"{run.seconds / 3600:.2f}"
    return [
        f"`{run.file_name}`",
        run.name,
        run.kind,
        str(run.spec["training"]["seed"]) if run.kind == "train" else NOTHING,
        epochs,
        hours + (f", {run.attempts} attempts" if run.attempts > 1 else ""),
        ", ".join(words) or NOTHING,
        ", ".join(software) or NOTHING,
        code or NOTHING,
    ]


def _settings(group: Group) -> str:
    return _differences(group.runs[0])


def _differences(run: StudyRun, *without: str) -> str:
    """The settings in which a run differs from the study's Table 1, which are the defaults."""
    usual = ExperimentSpec.parse({"dataset": {"id": "any"}}).settings()
    hidden = ("dataset.id", "dataset.split.override", "training.seed", *without)
    changed = {path: value for path, value in run.settings.items() if value != usual.get(path) and path not in hidden}
    told = ", ".join(f"{path.partition('.')[2]} {_setting(value)}" for path, value in changed.items())
    return told or "defaults"


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cells(values: dict[str, float | None], *keys: str) -> list[str]:
    return [NOTHING if (value := values[key]) is None else f"{100 * value:.3f}" for key in keys]


def _n(group: Group) -> str:
    return f"n = {group.n}"


def _in_order(groups: dict[str, Group]) -> list[tuple[str, Group]]:
    return [(name, groups[name]) for name in ROWS if name in groups]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
