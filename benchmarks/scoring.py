"""How long re-scoring a run takes, beside the plain way: 500 slices, maps of 256 pixels, masks of 512.

    python benchmarks/scoring.py [--runs 3] [--head softmax]

The slices are drawn: a liver with up to six lesions through each of three scans, and noise of a sigmoid in the maps.
The plain way is what one would write first: ``numpy.load``, whole slices, ``numpy.bincount``, and
``scipy.ndimage.label`` over each slice and over each scan. Both give the same counts and lesions.
"""

import argparse
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from liverseg_core import scoring
from liverseg_core.data.manifest import Manifest, SliceEntry
from liverseg_core.maps import decode
from liverseg_core.metrics import FULL, SoftFacts
from liverseg_core.spec import EvaluationOptions

SIZE, NATIVE, SCANS = 256, 512, {8: 167, 9: 162, 10: 171}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--head", choices=["grey-sigmoid", "softmax"], default="grey-sigmoid")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest, labels = draw()
        maps = Path(folder) / "maps.npz"
        write_maps(maps, manifest, labels, options.head)
        print(f"{len(labels)} slices, {options.head}, maps {maps.stat().st_size / 2**20:.0f} MiB")
        wanted = {"min_lesion 20": {"min_lesion": 20}, "all options": {"min_lesion": 20, "largest_component": True}}
        for name, changes in wanted.items():
            report(name, options.runs, manifest, labels, maps, EvaluationOptions(threshold=0.6, **changes))


def report(name: str, runs: int, manifest: Any, labels: Any, maps: Path, options: EvaluationOptions) -> None:
    soft = {("val", e.scan, e.slice): SoftFacts(0, 0, 0, 0, 0, 0, (0,) * 9) for e in manifest.slices}
    parts = {"val": range(len(labels))}
    scored, seconds, cpu = timed(lambda: scoring.rescore(manifest, labels, maps, parts, soft, options), runs)
    print(f"{name:14} {seconds:.2f} s a run ({cpu:.2f} s CPU), {len(scored[1])} lesions of slices and scans")
    if not options.largest_component:
        expected, plain, plain_cpu = timed(lambda: plain_way(manifest, labels, maps, options), 1)
        assert expected == ([one.counts for one in scored[0]], len(scored[1])), "the two ways differ"
        print(f"{'plain way':14} {plain:.2f} s a run ({plain_cpu:.2f} s CPU), {plain_cpu / cpu:.1f} times the CPU")


def timed(work: Any, runs: int) -> tuple[Any, float, float]:
    wall, cpu = [], []
    for _ in range(runs):
        start, start_cpu = time.monotonic(), time.process_time()
        result = work()
        wall.append(time.monotonic() - start)
        cpu.append(time.process_time() - start_cpu)
    return result, min(wall), min(cpu)


def draw() -> tuple[Manifest, Any]:
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:NATIVE, :NATIVE]
    keys = sorted((f"{scan}_{number}" for scan, n in SCANS.items() for number in range(n)))
    entries = tuple(SliceEntry("val", *map(int, key.split("_")), "", "") for key in keys)
    lesions = {scan: random.uniform([40, 180, 150, 4], [120, 330, 300, 16], (6, 4)) for scan in SCANS}
    labels = np.zeros((len(keys), NATIVE, NATIVE), np.uint8)
    for place, entry in enumerate(entries):
        labels[place][((rows - 256) / 110) ** 2 + ((columns - 225) / 125) ** 2 < 1] = 1
        for depth, row, column, radius in lesions[entry.scan]:
            square = (rows - row) ** 2 + (columns - column) ** 2 + (3 * (entry.slice - depth)) ** 2 / 4
            labels[place][square < radius**2] = 2
    return Manifest(NATIVE, NATIVE, entries, dict.fromkeys(SCANS, "one"), True), labels


def write_maps(path: Path, manifest: Manifest, labels: Any, head: str) -> None:
    random = np.random.default_rng(1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for place, entry in enumerate(manifest.slices):
            levels = np.array([0, 0.498, 0.99])[labels[place, ::2, ::2]]
            noise = random.normal(0, 0.02, levels.shape) * (levels > 0)  # real maps are all but 0 outside the body
            smooth = np.clip(ndimage.gaussian_filter(levels, 1.2) + noise, 0, 0.999)
            lesion = np.clip(smooth * 2 - 1, 0, 1)
            grey, classes = smooth, np.stack([np.clip(smooth * 2, 0, 1) - lesion, lesion])
            u = np.rint((grey if head == "grey-sigmoid" else classes) * FULL).astype(np.uint16)
            with file.open(f"val/{entry.key}.npy", "w") as out:
                np.save(out, u)


def plain_way(manifest: Manifest, labels: Any, maps: Path, options: EvaluationOptions) -> tuple[list[Any], int]:
    counts: dict[int, tuple[int, ...]] = {}
    found = 0
    with np.load(maps) as file:
        for scan in SCANS:
            own = sorted((e.slice, place) for place, e in enumerate(manifest.slices) if e.scan == scan)
            volumes: tuple[list[Any], list[Any]] = ([], [])
            for _, place in own:
                small = decode(file[f"val/{manifest.slices[place].key}"], options)
                pair = labels[place].copy(), small.repeat(2, 0).repeat(2, 1)
                for side, volume in zip(pair, volumes, strict=True):
                    numbers, n = ndimage.label(side == 2, np.ones((3, 3)))
                    areas = np.bincount(numbers.ravel())
                    side[(areas < options.min_lesion)[numbers] & (side == 2)] = 1
                    found += int((areas[1:] >= options.min_lesion).sum()) if n else 0
                    volume.append(side == 2)
                counts[place] = tuple(np.bincount((pair[0] * np.uint8(3) + pair[1]).ravel(), minlength=9).tolist())
            found += sum(ndimage.label(np.stack(volume), np.ones((3, 3, 3)))[1] for volume in volumes)
    return [counts[place] for place in range(len(labels))], found


if __name__ == "__main__":
    main()
