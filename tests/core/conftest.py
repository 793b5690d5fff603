"""What the laboratory's tests share: a tiny drawn data set, the study's val part, and a listener."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from liverseg_core.data.archive import pack_folder, read_archive
from liverseg_core.data.cache import SliceCache, open_cache
from liverseg_core.data.manifest import Manifest
from liverseg_core.phantom import draw_phantom
from liverseg_core.records import EpochRecord, Step

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@dataclass
class Listener:
    """Keeps every event; asks to stop once ``stop_when`` says so of the steps so far."""

    stop_when: Callable[["Listener"], bool] = lambda listener: False
    phases: list[str] = field(default_factory=list)
    steps: list[tuple[int, int, int, float, float]] = field(default_factory=list)
    records: list[EpochRecord] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)
    changed_from: dict[str, str] | None = None
    within: tuple[int, list[float]] | None = None
    losses: list[float] = field(default_factory=list)

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def resumed_elsewhere(self, changed_from: dict[str, str]) -> None:
        self.changed_from = changed_from

    def resumed_within(self, epoch: int, losses: Sequence[float]) -> None:
        self.within = epoch, list(losses)

    def step(self, step: Step) -> None:
        self.losses.append(step.loss)
        self.steps.append((step.epoch, step.number, step.steps, step.images_per_second, step.seconds_left))

    def epoch(self, record: EpochRecord, checkpoint: Path) -> None:
        assert checkpoint.is_file()
        self.records.append(record)
        self.checkpoints.append(checkpoint)

    def should_stop(self) -> bool:
        return self.stop_when(self)


@pytest.fixture
def listen() -> type[Listener]:
    return Listener


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, SliceCache]:
    """A drawn data set of 40-pixel slices, cached at 32."""
    folder = tmp_path_factory.mktemp("tiny")
    draw_phantom(folder / "drawn", subjects=4, slices=6, size=40, seed=3)
    pack_folder(folder / "drawn", folder / "tiny.zip")
    manifest = read_archive(folder / "tiny.zip")
    return manifest, open_cache(folder / "tiny.zip", manifest, 32, folder / "cache")


@pytest.fixture(scope="session")
def study_val(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Manifest, SliceCache]]:
    """Size -> the study's 500 val slices (and a few train slices) at that size."""
    folder = tmp_path_factory.mktemp("study")
    for kind in ("images", "masks"):
        shutil.copytree(study / "liver_ct" / "val" / kind, folder / "val" / kind)
        (folder / "train" / kind).mkdir(parents=True)
        for path in sorted((study / "liver_ct" / "train" / kind).glob("0_*.png"))[:2]:
            shutil.copy(path, folder / "train" / kind)
    archive = folder / "val.zip"
    pack_folder(folder, archive)
    manifest = read_archive(archive)
    return lambda size: (manifest, open_cache(archive, manifest, size, folder / "cache"))
