"""Exported runs sorted into what the study's page shows: by row of Table 6, by split, by kind; and their scores."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from liverseg_core.errors import DataError
from liverseg_core.metrics import dice, pool
from liverseg_core.presets import PAPER_2019_ROWS, PaperRow, paper_2019_overrides
from liverseg_core.records import SliceScore
from liverseg_core.spec import EvaluationOptions, ExperimentSpec
from liverseg_core.study import StudyRun
from liverseg_core.submission import Submission

FOLDED = ("subject-folds", "leave-one-subject-out")

SPLIT_AND_BUDGET = ("dataset.split.kind", "dataset.split.folds", "dataset.split.fold", "training.epochs")
"""Settings in which one recipe may differ from itself on another kind of split."""

LABELS_OF_RUNS = ("dataset.id", "dataset.split.override", "training.seed")
"""Settings in which repeats of one experiment may differ."""


@dataclass(frozen=True, slots=True)
class Group:
    """Repeats of one experiment: runs whose settings differ in the seed alone; imported weights are alone."""

    name: str
    runs: tuple[StudyRun, ...]

    @property
    def n(self) -> int:
        return len(self.runs)

    def values(self, column: str) -> list[float]:
        """One percentage a run, in the order of the runs; column of ``metrics.aggregate``, nulls left out."""
        found = [run.values[column] for run in self.runs]
        return [100 * value for value in found if value is not None]

    def scan_lesion_dice(self, scan: int) -> list[float]:
        """Lesion Dice of all slices of a scan pooled (profile ``modern``), one percentage a run."""
        of_scan = ([score for score in run.scores if score.scan == scan] for run in self.runs)
        found = [dice(pool(scores), "lesion") for scores in of_scan if scores]
        return [100 * value for value in found if value is not None]

    def without_lesion(self) -> int:
        """How many runs predict no lesion pixel at all."""
        return sum(predicted_lesion(run.scores) == 0 for run in self.runs)


@dataclass(frozen=True, slots=True)
class Fold:
    """Runs of one experiment and seed, one a fold, pooled over the slices that each left out."""

    name: str
    seed: int
    runs: tuple[StudyRun, ...]

    def scores(self) -> list[SliceScore]:
        return [score for run in self.runs for score in run.scores]

    def left_out(self) -> set[str]:
        """The subjects that the runs left out."""
        return {run.dataset["subjects"][str(score.scan)] for run in self.runs for score in run.scores}

    def everybody(self) -> set[str]:
        """The subjects that folds are made of: whoever has a scan in train or val."""
        run = self.runs[0]
        rows = zip(run.slices["part"], run.slices["scan"], strict=True)
        tested = {str(scan) for part, scan in rows if part == "test"}  # every fold scores the whole test part
        subjects: Mapping[str, str] = run.dataset["subjects"]
        return {subject for scan, subject in subjects.items() if scan not in tested}

    def by_subject(self) -> dict[str, list[SliceScore]]:
        """The slices of each subject that was left out, by the numbers of its scans."""
        found: dict[str, list[SliceScore]] = {}
        for run in self.runs:
            subjects: Mapping[str, str] = run.dataset["subjects"]
            for score in run.scores:
                same = [scan for scan, one in subjects.items() if one == subjects[str(score.scan)]]
                found.setdefault("scans " + ", ".join(sorted(same, key=int)), []).append(score)
        return dict(sorted(found.items(), key=lambda one: min(score.scan for score in one[1])))


@dataclass(frozen=True, slots=True)
class Sorted:
    """Everything that the page is made of.

    Attributes:
        weights: the study's own weights, scored as in the study, by the row that they belong to.
        retrained: runs trained here, by row.
        others: further experiments on the paper split, and whatever was scored again there.
        elsewhere: experiments on other splits that are no folds; also imported weights on folds, for which nobody was
            left out here.
        folds: experiments that leave subjects out.
        references: reference predictors on the paper split.
    """

    weights: dict[str, Group] = field(default_factory=dict)
    retrained: dict[str, Group] = field(default_factory=dict)
    others: list[Group] = field(default_factory=list)
    elsewhere: list[Group] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)
    references: list[StudyRun] = field(default_factory=list)

    def on_paper_split(self) -> list[Group]:
        return [*self.weights.values(), *self.retrained.values(), *self.others]

    def beside(self, fold: Fold) -> Group | None:
        """The runs on the paper split whose settings are the fold's but for split, epochs and seed."""
        key = _key(fold.runs[0].settings, *SPLIT_AND_BUDGET)
        trained = [one for one in (*self.retrained.values(), *self.others) if not one.runs[0].imported]
        return next((one for one in trained if _key(one.runs[0].settings, *SPLIT_AND_BUDGET) == key), None)


def sort_runs(runs: Sequence[StudyRun]) -> Sorted:
    """Sort exported runs.

    Raises:
        DataError: runs on the paper split that were not scored on the same slices, or different data sets.
    """
    if len({run.dataset["content_hash"] for run in runs}) > 1:
        raise DataError("exported runs", "are of different data sets; make a page of each", _names(runs))
    paper = [run for run in runs if run.settings["dataset.split.kind"] == "given"]
    _check_comparable(paper)
    # References are the floor and the ceiling of the tables on the paper split; elsewhere they are beside nothing.
    away = [run for run in runs if run.settings["dataset.split.kind"] != "given" and run.kind != "reference"]
    again = [run for run in paper if run.kind in ("evaluate", "rescore") and not _as_in_the_study(run)]
    rows = _rows_by_key()
    trained = _grouped(run for run in paper if run.kind == "train")
    fitting = [(group, rows.get(_key(group.runs[0].settings), [])) for group in trained]
    return Sorted(
        weights=_weights([run for run in paper if _as_in_the_study(run)]),
        retrained={row.name: group for group, same in fitting for row in same},
        others=[*(group for group, same in fitting if not same), *_grouped(again)],
        elsewhere=_grouped(run for run in away if not _leaves_out(run)),
        folds=_folds([run for run in away if _leaves_out(run)]),
        references=[run for run in paper if run.kind == "reference"],
    )


def differing(first: PaperRow, second: PaperRow) -> list[str]:
    """The settings in which two rows of the study differ, in words; more than one is no clean comparison."""
    one, other = (paper_2019_overrides(row) for row in (first, second))
    ignored = {"name", *LABELS_OF_RUNS}
    paths = [
        path for path in dict.fromkeys([*one, *other]) if path not in ignored and one.get(path) != other.get(path)
    ]
    return [path.rpartition(".")[2].replace("_", " ").replace("scans", "scans left out") for path in paths]


def predicted_lesion(scores: Iterable[SliceScore]) -> int:
    """Pixels that were called lesion."""
    return sum(score.counts[2] + score.counts[5] + score.counts[8] for score in scores)


def _check_comparable(runs: Sequence[StudyRun]) -> None:
    scored = {tuple((score.part, score.scan, score.slice) for score in run.scores) for run in runs}
    if len(scored) > 1:
        raise DataError("exported runs", "of the given split were not scored on the same slices", _names(runs))


def _names(runs: Iterable[StudyRun]) -> list[str]:
    return [run.file_name for run in runs]


def _as_in_the_study(run: StudyRun) -> bool:
    """Whether it scores a weight file in the study's own way; others are weights scored again."""
    options = ExperimentSpec.parse(run.spec).evaluation
    return run.kind == "evaluate" and run.imported and options == EvaluationOptions()


def _leaves_out(run: StudyRun) -> bool:
    """Whether it trained without the subjects that it is scored on; of a weight file nobody knows."""
    return run.settings["dataset.split.kind"] in FOLDED and not run.imported


def _key(settings: Mapping[str, Any], *more: str) -> str:
    return json.dumps({path: value for path, value in settings.items() if path not in (*LABELS_OF_RUNS, *more)})


def _rows_by_key() -> dict[str, list[PaperRow]]:
    variants = [paper_2019_overrides(row) for row in PAPER_2019_ROWS]
    specs: list[ExperimentSpec] = Submission(spec={"dataset": {"id": "any"}}, variants=variants).expand()
    rows: dict[str, list[PaperRow]] = {}
    for row, spec in zip(PAPER_2019_ROWS, specs, strict=True):
        rows.setdefault(_key(spec.settings()), []).append(row)
    return rows


def _grouped(runs: Iterable[StudyRun]) -> list[Group]:
    found: dict[tuple[str, str], list[StudyRun]] = {}
    for run in runs:
        found.setdefault(_repeated(run), []).append(run)
    return [_group(same) for same in found.values()]


def _repeated(run: StudyRun) -> tuple[str, str]:
    """What repeats have in common. Imported weights repeat nothing: nobody knows their seeds."""
    if run.imported:
        return run.training_hash, run.evaluation_hash
    return "trained" if run.kind == "train" else "scored again", _key(run.settings)


def _group(runs: Sequence[StudyRun]) -> Group:
    ordered = sorted(runs, key=lambda run: int(run.spec["training"]["seed"]))
    return Group(" / ".join(dict.fromkeys(run.name for run in ordered)), tuple(ordered))


def _weights(runs: Sequence[StudyRun]) -> dict[str, Group]:
    found = {}
    for run in runs:
        row = _named_row(run.name)
        found[row or run.name] = Group(row or run.name, (run,))
    order = [row.name for row in PAPER_2019_ROWS]
    return dict(sorted(found.items(), key=lambda one: order.index(one[0]) if one[0] in order else len(order)))


def _named_row(name: str) -> str | None:
    """The row that a run of imported weights is named after, as ``shuffled_1_0601-...`` is after Shuffled 1."""
    words = name.lower().replace("_", " ")
    fitting = [row.name for row in PAPER_2019_ROWS if f"{words} ".startswith(f"{row.name.lower()} ")]
    return max(fitting, key=len, default=None)


def _folds(runs: Sequence[StudyRun]) -> list[Fold]:
    found: dict[tuple[str, int, str], list[StudyRun]] = {}
    for run in runs:
        settings = run.settings
        # Trained folds and those scored again make one whole if they were scored alike; no setting tells the version.
        key = (_key(settings, "dataset.split.fold"), settings["training.seed"], run.evaluation_hash)
        found.setdefault(key, []).append(run)
    return [
        Fold(same[0].name, seed, tuple(sorted(same, key=lambda run: int(run.settings["dataset.split.fold"]))))
        for (_, seed, _), same in found.items()
    ]
