"""How slices become batches: pure functions of (seed, epoch, sample), so that any step can be made again alone."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from liverseg_core.data.augmentation import (
    Cut,
    augment,
    copy_as_coded,
    copy_corrected,
    moves_between_pixels,
    section_of,
)
from liverseg_core.data.cache import SliceCache
from liverseg_core.data.manifest import Manifest, train_samples
from liverseg_core.data.targets import Planes, Targets, small_lesions
from liverseg_core.data.windows import channels_last, look, read_images, windows
from liverseg_core.errors import SpecError
from liverseg_core.metrics import LESION
from liverseg_core.spec import Augmentation, ExperimentSpec

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]
Numbers = NDArray[np.int64]

_ORDER, _SAMPLE, _LESION_ORDER, _SCAN_ORDER = 0, 1, 2, 3


def epoch_order(n: int, seed: int, epoch: int, shuffle: bool) -> Numbers:
    """The order of ``n`` samples in one epoch (counted from 1): a permutation of 0..n-1, int64 ``[n]``."""
    return _permutation(n, shuffle, seed, _ORDER, epoch)


class TrainPart:
    """The train part of an experiment and how it becomes batches.

    A step takes one or more *pieces*: one batch, or for ``data.batch_by: scan`` all slices of one scan,
    ``training.batch_size`` at a time.

    Args:
        spec: size, seed, sampling, targets and augmentation are used.
        manifest: names the slices.
        cache: holds their pixels at the network's size, in the same order.
        train: the train part, as indices into the manifest's slices.

    Raises:
        SpecError: sampling balanced by lesions where no train slice holds one.
    """

    def __init__(self, spec: ExperimentSpec, manifest: Manifest, cache: SliceCache, train: Sequence[int]) -> None:
        self.spec, self.cache, self.rows = spec, cache, np.asarray(train)
        crop = spec.data.crop is not None
        self.section = section_of(spec.data.augmentation) or (Augmentation() if crop else None)
        relabelled = small_lesions(cache, train, spec.data.min_lesion)
        self.targets = Targets(cache, spec.model.head, moves_between_pixels(self.section) or crop, relabelled)
        self.windows = windows(manifest, spec.model.window, train)
        self.scans = _places_by_scan(manifest, train) if spec.data.batch_by == "scan" else []
        self.lesions = self._lesions(manifest) if spec.data.sampling != "uniform" else []
        self._balanced = lru_cache(1)(self._draw_balanced)  # every step of an epoch asks

    @property
    def steps(self) -> int:
        """Steps of an epoch: one a scan, else floor(samples / batch size); as in the study, the rest is dropped."""
        return len(self.scans) or train_samples(self.spec, len(self.rows)) // self.spec.training.batch_size

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return len(self.rows) if self.scans else self.steps * self.spec.training.batch_size

    def pieces(self, epoch: int, step: int) -> int:
        """How many pieces a step has (``epoch`` from 1, ``step`` from 0)."""
        return len(_pieces(self._scan(epoch, step), self.spec.training.batch_size)) if self.scans else 1

    def piece(self, epoch: int, step: int, number: int = 0) -> Batch:
        """One piece of a step.

        Returns:
            Images float32 ``[B, S, S, window]``, 0..1 but for changes of grey values, which are not clipped; and
            targets float32 ``[B, S, S, 1]``, grey values 0..1 (beyond them by 0.1 for ``paper-2019``), or for softmax
            ``[B, S, S, 3]``, one-hot.
        """
        size = self.spec.training.batch_size
        if self.scans:
            return self.make(_pieces(self._scan(epoch, step), size)[number], epoch)
        positions = np.arange(step * size, (step + 1) * size)
        if self.lesions:
            return self.make(self._balanced(epoch)[positions], epoch, positions)
        n = train_samples(self.spec, len(self.rows))
        return self.make(epoch_order(n, self.spec.training.seed, epoch, self.spec.data.shuffle)[positions], epoch)

    def make(self, chosen: Numbers, epoch: int, draws: Numbers | None = None) -> Batch:
        """Samples by number: with n slices 0..n-1 as they are, or as a section changes them.

        Augmentations that add copies have two more: n..2n-1 turned, 2n..3n-1 with another brightness.

        Args:
            chosen: their numbers ``[B]``.
            epoch: from 1.
            draws: numbers of their random draws, ``chosen`` itself where no slice comes twice in an epoch.
        """
        kinds, places = np.divmod(chosen, len(self.rows))
        rows = self.rows[places]
        images, planes = look(self.cache, self.windows[rows]), self.targets.planes(rows)
        if self.section or kinds.any():
            changed = self._changed(images, planes, kinds, epoch, chosen if draws is None else draws)
            images, planes = (np.stack(pixels) for pixels in zip(*changed, strict=True))
        return channels_last(images), self.targets.encode(planes)

    def _changed(
        self, images: NDArray[np.float32], planes: Planes, kinds: Numbers, epoch: int, draws: Numbers
    ) -> Iterator[tuple[NDArray[np.generic], NDArray[np.generic]]]:
        copy = copy_as_coded if self.spec.data.augmentation == "paper-2019" else copy_corrected
        crop = self.spec.data.crop
        for window, plane, kind, draw in zip(images, planes, kinds, draws, strict=True):
            random = _generator(self.spec.training.seed, _SAMPLE, epoch, int(draw))
            if self.section:
                cut = Cut(crop, lesion=bool(self.lesions) and draw % 2 == 1) if crop else None
                yield augment(window, plane, self.section, random, cut)
            else:
                yield copy(kind, window, plane, random) if kind else (window, plane)

    def _scan(self, epoch: int, step: int) -> Numbers:
        order = epoch_order(len(self.scans), self.spec.training.seed, epoch, self.spec.data.shuffle)
        places: Numbers = self.scans[order[step]]
        return places

    def _draw_balanced(self, epoch: int) -> Numbers:
        """Places of an epoch's samples in turn: one of all slices, one of those with lesion.

        Both go through permutations that continue from epoch to epoch, so all slices come equally often; of those
        with lesion, all groups, and within a group all its slices.
        """
        every, lesion = (self.samples + 1) // 2, self.samples // 2
        chosen = np.empty(self.samples, np.int64)
        chosen[0::2] = self._stream(len(self.rows), (epoch - 1) * every, every, _ORDER)
        chosen[1::2] = self._with_lesion((epoch - 1) * lesion, lesion)
        return chosen

    def _with_lesion(self, start: int, count: int) -> Numbers:
        """Places ``start`` to ``start + count`` of an endless stream of slices with lesion, each group as often."""
        groups = len(self.lesions)
        if groups == 1:  # drawn as ever: the same spec must go on giving the same weights
            return self.lesions[0][self._stream(len(self.lesions[0]), start, count, _LESION_ORDER)]
        rounds = start // groups
        drawn = self._stream(groups, rounds * groups, start % groups + count, _SCAN_ORDER)
        begun, turns = drawn[: start % groups], drawn[start % groups :]
        chosen = np.empty(count, np.int64)
        for group, places in enumerate(self.lesions):
            mine = turns == group
            before = rounds + int(np.count_nonzero(begun == group))
            chosen[mine] = places[
                self._stream(len(places), before, int(np.count_nonzero(mine)), _LESION_ORDER, group)
            ]
        return chosen

    def _stream(self, n: int, start: int, count: int, *key: int) -> Numbers:
        """Numbers ``start`` to ``start + count`` of endless permutations of 0..n-1, one after another."""
        first, last = start // n, (start + count) // n
        seed, shuffle = self.spec.training.seed, self.spec.data.shuffle
        whole = [_permutation(n, shuffle, seed, *key, number + 1) for number in range(first, last + 1)]
        return np.concatenate(whole)[start - first * n :][:count]

    def _lesions(self, manifest: Manifest) -> list[Numbers]:
        """Groups of places with lesion that are drawn equally often: one for all, or one a scan."""
        found = np.flatnonzero([(self.targets.labels(row) == LESION).any() for row in self.rows])
        if not found.size:
            raise SpecError(
                "data.sampling",
                "no train slice holds a lesion (of data.min_lesion pixels); use uniform, or another train part",
                self.spec.data.sampling,
            )
        if self.spec.data.sampling == "lesion-balanced":
            return [found]
        return [found[places] for places in _places_by_scan(manifest, self.rows[found])]


class ValPart:
    """The val part, in order and unchanged.

    Attributes:
        groups: pieces that are measured together, each as indices into the manifest's slices: one batch of
            ``training.batch_size``, or for ``data.batch_by: scan`` all slices of one scan in such pieces.
    """

    def __init__(self, spec: ExperimentSpec, manifest: Manifest, cache: SliceCache, val: Sequence[int]) -> None:
        self.cache, self.targets = cache, Targets(cache, spec.model.head)
        self.windows = windows(manifest, spec.model.window)
        rows, size = np.asarray(val), spec.training.batch_size
        if spec.data.batch_by == "scan":
            self.groups = [_pieces(rows[places], size) for places in _places_by_scan(manifest, val)]
        else:
            self.groups = [[piece] for piece in _pieces(rows, size)]

    def piece(self, rows: Numbers) -> Batch:
        """Images and targets of slices, as :meth:`TrainPart.piece` gives them."""
        return read_images(self.cache, self.windows[rows]), self.targets.encode(self.targets.planes(rows))


def _pieces(rows: Numbers, size: int) -> list[Numbers]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _places_by_scan(manifest: Manifest, train: Sequence[int] | Numbers) -> list[Numbers]:
    """Per scan, by rising number: the places of its slices in ``train``."""
    scans = np.array([manifest.slices[index].scan for index in train])
    return [np.flatnonzero(scans == scan) for scan in np.unique(scans)]


def _permutation(n: int, shuffle: bool, *key: int) -> Numbers:
    if not shuffle:
        return np.arange(n)
    # Sorting random numbers, since NumPy may change how it shuffles.
    return np.argsort(_generator(*key).random(n), kind="stable")


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
