"""Exported runs sorted into what the study's page shows: by row of Table 6, by split, by kind; and their scores."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from liverseg_core.errors import DataError
from liverseg_core.metrics import dice, pool
from liverseg_core.presets import PAPER_2019_ROWS, PaperRow, paper_2019_overrides
from liverseg_core.records import SliceScore
from liverseg_core.spec import ExperimentSpec
from liverseg_core.study import StudyRun
from liverseg_core.submission import Submission

FOLDED = ("subject-folds", "leave-one-subject-out")

SPLIT_AND_BUDGET = ("dataset.split.kind", "dataset.split.folds", "dataset.split.fold", "training.epochs")
"""Settings in which one recipe may differ from itself on another kind of split."""

LABELS_OF_RUNS = ("dataset.id", "dataset.split.override", "training.seed")
"""Settings in which repeats of one experiment may differ."""


@dataclass(frozen=True, slots=True)
class Group:
    """Repeats of one experiment: runs whose settings differ in the seed alone."""

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
        weights: the study's own weights by the row that they belong to.
        retrained: runs trained here, by row.
        others: further experiments on the paper split.
        elsewhere: experiments on other splits that are no folds.
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
        trained = [*self.retrained.values(), *self.others]
        return next((one for one in trained if _key(one.runs[0].settings, *SPLIT_AND_BUDGET) == key), None)


def sort_runs(runs: Sequence[StudyRun]) -> Sorted:
    """Sort exported runs.

    Raises:
        DataError: runs on the paper split that were not scored on the same slices, or different data sets.
    """
    if len({run.dataset["content_hash"] for run in runs}) > 1:
        raise DataError("exported runs", "are of different data sets; make a page of each", _names(runs))
    kinds = [(run, run.settings["dataset.split.kind"]) for run in runs]
    paper = [run for run, split in kinds if split == "given"]
    _check_comparable(paper)
    trained = [run for run in paper if run.kind == "train"]
    groups = _grouped(trained)
    rows = _rows_by_key()
    found = Sorted(
        weights=_weights([run for run in paper if run.kind == "evaluate"]),
        retrained={row.name: groups[key] for key, fitting in rows.items() if key in groups for row in fitting},
        others=[group for key, group in groups.items() if key not in rows],
        elsewhere=list(_grouped(run for run, split in kinds if split not in ("given", *FOLDED)).values()),
        folds=_folds([run for run, split in kinds if split in FOLDED]),
        references=[run for run in paper if run.kind == "reference"],
    )
    found.others.extend(_grouped(run for run in paper if run.kind == "rescore").values())
    return found


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


def _key(settings: Mapping[str, Any], *more: str) -> str:
    return json.dumps({path: value for path, value in settings.items() if path not in (*LABELS_OF_RUNS, *more)})


def _rows_by_key() -> dict[str, list[PaperRow]]:
    variants = [paper_2019_overrides(row) for row in PAPER_2019_ROWS]
    specs: list[ExperimentSpec] = Submission(spec={"dataset": {"id": "any"}}, variants=variants).expand()
    rows: dict[str, list[PaperRow]] = {}
    for row, spec in zip(PAPER_2019_ROWS, specs, strict=True):
        rows.setdefault(_key(spec.settings()), []).append(row)
    return rows


def _grouped(runs: Iterable[StudyRun]) -> dict[str, Group]:
    found: dict[str, list[StudyRun]] = {}
    for run in runs:
        found.setdefault(_key(run.settings), []).append(run)
    return {key: _group(same) for key, same in found.items()}


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
    found: dict[tuple[str, int], list[StudyRun]] = {}
    for run in runs:
        settings = run.settings
        found.setdefault((_key(settings, "dataset.split.fold"), settings["training.seed"]), []).append(run)
    return [
        Fold(same[0].name, seed, tuple(sorted(same, key=lambda run: int(run.settings["dataset.split.fold"]))))
        for (_, seed), same in found.items()
    ]
