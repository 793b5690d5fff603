"""Decoded and resized slices on disk, shared by every process of a host through memory maps."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liverseg_core.data.manifest import Manifest
from liverseg_core.data.pixels import image_of, labels_of, open_archive
from liverseg_core.data.png import MASK_VALUES
from liverseg_core.disk import sync
from liverseg_core.errors import DataError

Progress = Callable[[int, int], None]

LOOK_AGAIN_S = 0.1
"""How often it looks whether another process has built what it needs."""


@dataclass(frozen=True)
class SliceCache:
    """All slices of a data set in the manifest's order; read-only maps, which stay on disk while it is in use.

    Attributes:
        images: float32 ``[n, S, S]``, 0..1.
        masks: float32 ``[n, S, S]``, 0..1: the grey mask (0, 127, 255) resized like an image, over 255.
        labels: uint8 ``[n, H, W]`` at native size, 0 background, 1 liver, 2 lesion.
    """

    images: NDArray[np.float32]
    masks: NDArray[np.float32]
    labels: NDArray[np.uint8]


def open_cache(
    archive: Path, manifest: Manifest, image_size: int, root: Path, progress: Progress | None = None
) -> SliceCache:
    """Map the data set at one size, building it first where no process has done so.

    A build happens under a lock between processes, in a folder that is renamed when everything is on disk, so
    a second process waits and shares, and a torn build is never seen. Needs 8 * n * S * S bytes of disk.

    Args:
        archive: the data set as one zip, see ``archive.py``.
        manifest: what it holds.
        image_size: side S of the network's input.
        root: the host's cache folder; made if absent.
        progress: called with (slices done, all slices) while building, and while another process builds; may raise
            to give up.

    Raises:
        DataError: the archive does not hold what the manifest says.
    """
    home = root / manifest.content_hash
    cache = _open(home, manifest, image_size)
    if cache is None:
        home.mkdir(parents=True, exist_ok=True)
        tell, n = progress or _silent, len(manifest.slices)
        with _lock(home / "lock", lambda: tell(0, n)):
            cache = _open(home, manifest, image_size)
            if cache is None:
                _build(archive, manifest, image_size, home, tell)
                cache = _open(home, manifest, image_size)
    if cache is None:
        raise DataError(str(home), "the cache vanished while it was being opened; start again")
    with contextlib.suppress(OSError):
        os.utime(home)  # what was not used for longest goes first, see trim
    return cache


def open_built(manifest: Manifest, image_size: int, root: Path) -> SliceCache | None:
    """As :func:`open_cache` where everything is decoded; None: that would need the archive."""
    return _open(root / manifest.content_hash, manifest, image_size)


def built(root: Path) -> Iterator[tuple[Path, float, int]]:
    """Data sets that have decoded slices: their folders, when they were used last (seconds since 1970), and bytes."""
    for lock in root.glob("*/lock"):
        home = lock.parent
        if size := _bytes(home):
            yield home, _used_at(home), size


def remove(home: Path) -> int:
    """Remove a data set's decoded slices, unless a process uses or builds some; the bytes that went."""
    try:
        with (home / "lock").open("a") as building, (home / "used").open("a") as using:
            for one in (building, using):
                fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = _bytes(home)
            for folder in [*home.glob("size-*"), home / "labels", *home.glob("building-*")]:
                shutil.rmtree(folder, ignore_errors=True)
            return size - _bytes(home)
    except (BlockingIOError, FileNotFoundError):
        return 0


def _used_at(home: Path) -> float:
    for name in ("used", "lock"):  # one of an older release has but the lock
        with contextlib.suppress(OSError):
            return (home / name).stat().st_mtime
    return 0.0


def _bytes(home: Path) -> int:
    walk = os.walk(home)  # which goes on where a folder is gone
    return sum(_allocated(Path(parent) / name) for parent, _, names in walk for name in names)


def _allocated(path: Path) -> int:
    """Bytes that a file takes on disk; 0 for what another process has just removed."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def resize_bilinear(image: NDArray[Any], size: int) -> NDArray[np.float32]:
    """Bilinear resize to a square as ``tf.image.resize`` does it: half-pixel centres, no antialiasing.

    Output pixel i reads the input at (i + 0.5) * in / out - 0.5; halving gives the mean of 2 x 2.

    Args:
        image: ``[..., H, W]``, any number type.
        size: side of the result.

    Returns:
        float32 ``[..., size, size]`` in the units of ``image``.
    """
    pixels = image.astype(np.float32)
    if pixels.shape[-2:] == (size, size):
        return pixels
    low, high, weight = _neighbours(pixels.shape[-1], size)
    rows = pixels[..., low] + (pixels[..., high] - pixels[..., low]) * weight
    low, high, weight = _neighbours(pixels.shape[-2], size)
    top, bottom = rows[..., low, :], rows[..., high, :]
    resized: NDArray[np.float32] = top + (bottom - top) * weight[:, None]
    return resized


def _neighbours(length: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Lower and upper neighbour of every output pixel and the upper one's weight, all ``[size]``."""
    scale = np.float32(length) / np.float32(size)
    place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(place)
    low = np.maximum(floor, 0).astype(np.int64)
    high = np.minimum(np.ceil(place), length - 1).astype(np.int64)
    return low, high, place - floor


def _open(home: Path, manifest: Manifest, size: int) -> SliceCache | None:
    """The maps, or None where one is absent or not of the right shape; nobody removes them meanwhile."""
    using = _use(home)
    if using is None:
        return None
    cache = _mapped(home, manifest, size)
    if cache is None:
        os.close(using)
    else:
        weakref.finalize(cache, os.close, using)
    return cache


def _use(home: Path) -> int | None:
    """A shared lock that keeps :func:`remove` away until it is closed; None: there is nothing to use."""
    try:
        using = os.open(home / "used", os.O_RDONLY | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    fcntl.flock(using, fcntl.LOCK_SH)
    with contextlib.suppress(PermissionError):  # somebody else's
        os.utime(using)
    return using


def _mapped(home: Path, manifest: Manifest, size: int) -> SliceCache | None:
    n = len(manifest.slices)
    images = _map(_sized(home, size) / "images.npy", (n, size, size), np.float32)
    masks = _map(_sized(home, size) / "masks.npy", (n, size, size), np.float32)
    labels = _labels(home, manifest)
    if images is None or masks is None or labels is None:
        return None
    return SliceCache(images, masks, labels)


def _labels(home: Path, manifest: Manifest) -> NDArray[np.uint8] | None:
    return _map(home / "labels" / "labels.npy", (len(manifest.slices), manifest.height, manifest.width), np.uint8)


def _map(path: Path, shape: tuple[int, ...], dtype: type) -> NDArray[Any] | None:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == dtype else None


def _build(archive: Path, manifest: Manifest, size: int, home: Path, progress: Progress) -> None:
    """Fill the folders of this size and of the labels; runs under the lock."""
    for torn in home.glob("building-*"):
        shutil.rmtree(torn)
    work = Path(tempfile.mkdtemp(prefix="building-", dir=home))
    try:
        _fill(archive, manifest, size, work, progress)
        _publish(work / "sized", _sized(home, size))
        if _labels(home, manifest) is None:
            _publish(work / "labels", home / "labels")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fill(archive: Path, manifest: Manifest, size: int, work: Path, progress: Progress) -> None:
    n = len(manifest.slices)
    images = _new(work / "sized" / "images.npy", (n, size, size), np.float32)
    masks = _new(work / "sized" / "masks.npy", (n, size, size), np.float32)
    labels = _new(work / "labels" / "labels.npy", (n, manifest.height, manifest.width), np.uint8)
    grey = np.array(MASK_VALUES, np.uint8)
    with open_archive(archive) as bundle:
        for index, entry in enumerate(manifest.slices):
            image = image_of(bundle, entry)
            label = labels_of(bundle, entry)
            _check_pixels(entry.image_path, image, entry.image_sha256)
            _check_pixels(entry.mask_path, label, entry.mask_sha256)
            images[index] = resize_bilinear(image, size) / np.float32(255)
            masks[index] = resize_bilinear(grey[label], size) / np.float32(255)
            labels[index] = label
            progress(index + 1, n)
    for array in (images, masks, labels):
        array.flush()


def _check_pixels(name: str, pixels: NDArray[np.uint8], expected: str) -> None:
    if hashlib.sha256(pixels.tobytes()).hexdigest() != expected:
        raise DataError(name, "is not the file that was imported; import the data set again")


def _new(path: Path, shape: tuple[int, ...], dtype: type) -> Any:
    path.parent.mkdir(exist_ok=True)
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _publish(folder: Path, target: Path) -> None:
    """Put a finished folder in its place, its bytes on disk first."""
    for path in [*folder.iterdir(), folder]:
        sync(path)
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)
    sync(target.parent)


@contextlib.contextmanager
def _lock(path: Path, waits: Callable[[], None]) -> Iterator[None]:
    """Hold a lock between processes; the kernel frees it when its holder dies. ``waits`` is called meanwhile."""
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waits()
                time.sleep(LOOK_AGAIN_S)
            else:
                break
        yield


def _sized(home: Path, size: int) -> Path:
    return home / f"size-{size}"


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""
