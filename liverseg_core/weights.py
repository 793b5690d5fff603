"""Weights of a network as plain arrays: their shapes, the study's HDF5 files, and the one format kept.

Nothing here imports Keras, and no file is ever unpickled: an HDF5 file yields arrays and nothing else.
"""

import math
import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from liverseg_core.crash_points import crash_point
from liverseg_core.errors import WeightsError
from liverseg_core.spec import ModelOptions

Array = NDArray[np.float32]
Shape = tuple[int, ...]

MAX_FILE_BYTES = 2 * 1024**3
"""The largest weights file that is opened."""

MAX_LAYERS = 1_000
"""The most layers, or weights of one layer, that an HDF5 file may list."""

NORMALIZED = {
    "none": (),
    "batch": ("gamma", "beta", "moving_mean", "moving_variance"),
    "group": ("gamma", "beta"),
    "instance": ("gamma", "beta"),
}
"""Weights of a normalization layer, in order."""


def network_shapes(options: ModelOptions) -> list[tuple[str, Shape]]:
    """Every weight of a network in order, as ``("encoder1_conv1/kernel", (3, 3, 1, 4))`` and so on.

    Kernels are (height, width, channels in, channels out), biases and all of a normalization's weights (channels
    out,). The study's networks hold 121,725 numbers for 4 filters and 485,813 for 8.
    """
    normalized = NORMALIZED[options.normalization]
    shapes: list[tuple[str, Shape]] = []
    for layer, size, received, given in _convolutions(options):
        shapes += [(f"{layer}/kernel", (size, size, received, given)), (f"{layer}/bias", (given,))]
        if layer != "output":
            shapes += [(f"{layer}_norm/{weight}", (given,)) for weight in normalized]
        if layer == "bottom_conv2" and options.network == "convlstm-unet":
            shapes += _memory(given)
    return shapes


def _memory(channels: int) -> list[tuple[str, Shape]]:
    """Weights of the convolutional LSTM; its four gates share each array."""
    cell, gates = "bottom_lstm/conv_lstm_cell", 4 * channels
    kernels = [(f"{cell}/{kernel}", (3, 3, channels, gates)) for kernel in ("kernel", "recurrent_kernel")]
    return [*kernels, (f"{cell}/bias", (gates,))]


def _convolutions(options: ModelOptions) -> list[tuple[str, int, int, int]]:
    """(layer, kernel size, channels in, channels out) of every convolution, in order."""
    filters, depth = options.filters, options.depth
    widths = [filters * 2**level for level in range(depth + 1)]
    names = [f"encoder{level + 1}" for level in range(depth)] + ["bottom"]
    within = options.subpixel**2
    found, channels = [], within * (options.window if options.network == "unet-2.5d" else 1)
    for name, width in zip(names, widths, strict=True):
        found += [(f"{name}_conv1", 3, channels, width), (f"{name}_conv2", 3, width, width)]
        channels = width
    for level in reversed(range(depth)):
        name, width = f"decoder{level + 1}", widths[level]
        found += [(f"{name}_up", 2, channels, width), (f"{name}_conv1", 3, 2 * width, width)]
        found += [(f"{name}_conv2", 3, width, width)]
        channels = width
    if options.head == "softmax":
        return [*found, ("output", 1, filters, 3 * within)]
    return [*found, ("decoder1_conv3", 3, filters, 2 * within), ("output", 1, 2 * within, within)]


def check_weights(arrays: Sequence[NDArray[Any]], options: ModelOptions, where: str) -> list[Array]:
    """The arrays as float32, once they are known to fit the network.

    Raises:
        WeightsError: a shape differs (the first one is named), a value is no float or is not finite.
    """
    checked = []
    for expected, array in zip_longest(network_shapes(options), arrays):
        if expected is None or array is None or expected[1] != array.shape:
            raise _misfit(expected, array, options, where)
        checked.append(_finite_float32(array, f"{where}: {expected[0]}"))
    return checked


def _finite_float32(array: NDArray[Any], where: str) -> Array:
    if array.dtype.kind != "f":
        raise WeightsError(where, "must hold floating-point numbers", str(array.dtype))
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(values).all():
        raise WeightsError(where, "holds NaN, infinity or a number beyond float32; its training diverged")
    return values


def _misfit(
    expected: tuple[str, Shape] | None, array: NDArray[Any] | None, options: ModelOptions, where: str
) -> WeightsError:
    place = expected[0] if expected else f"after output/bias ({len(network_shapes(options))} weights)"
    wanted = f"shape {expected[1]}" if expected else "no further weight"
    return WeightsError(
        f"{where}: {place}",
        f"{_described(options)} needs {wanted} here; set the section model to what the file was trained with",
        "no further weight" if array is None else f"shape {array.shape}",
    )


def _described(options: ModelOptions) -> str:
    """In words what decides the shapes; beyond filters and depth only what the study did not have."""
    words = f"a network with model.filters {options.filters} and model.depth {options.depth}"
    changed = options.model_dump(
        exclude_defaults=True, include={"network", "window", "head", "normalization", "subpixel"}
    )
    return words + "".join(f", model.{field} {value}" for field, value in changed.items())


# --- our own format: an npz with one plain array a weight ------------------------------------------------------


def write_weights(path: Path, arrays: Sequence[NDArray[Any]], options: ModelOptions) -> None:
    """Write ``arrays`` to ``path``, whole or not at all, as an npz that any NumPy can read.

    Members are named by position and layer, ``000.encoder1_conv1.kernel``, so that sorting restores the order.

    Raises:
        WeightsError: as :func:`check_weights`.
    """
    checked = check_weights(arrays, options, path.name)
    names = [name.replace("/", ".") for name, _ in network_shapes(options)]
    write_npz(
        path, {f"{number:03d}.{name}": array for number, (name, array) in enumerate(zip(names, checked, strict=True))}
    )


def read_weights(path: Path, options: ModelOptions) -> list[Array]:
    """Read what :func:`write_weights` wrote.

    Raises:
        WeightsError: no such file, or its arrays do not fit the network.
    """
    arrays = read_npz(path)
    return check_weights([arrays[name] for name in sorted(arrays)], options, path.name)


def write_npz(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write an uncompressed npz atomically: temporary file, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        crash_point("file-written")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of an npz; nothing is unpickled.

    Raises:
        WeightsError: no such file, or no intact npz of plain arrays.
    """
    try:
        with path.open("rb") as file:
            _refuse_unless_npz(file)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise WeightsError(path.name, f"cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(path.name, f"is no intact npz file of plain arrays ({error})") from None


def _refuse_unless_npz(file: BinaryIO) -> None:
    if not zipfile.is_zipfile(file):
        raise ValueError("not a zip archive, or cut short")
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{size:,} bytes unpacked, the most is {MAX_FILE_BYTES:,}")
    file.seek(0)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync a folder
            os.fsync(handle)
    finally:
        os.close(handle)


# --- the study's format: Keras 2 "weights only" HDF5 -----------------------------------------------------------


def read_hdf5_weights(path: Path, options: ModelOptions) -> list[Array]:
    """Read a Keras 2 "weights only" HDF5 file in the order of its ``layer_names``.

    Only floating-point data sets stored in the file itself are read: soft and external links, external storage
    and model files are refused.

    Raises:
        WeightsError: another kind of file, arrays that do not fit the network (the first is named), or options of a
            network that the study did not have.
    """
    import h5py

    _refuse_unless_the_study_s(options)
    _refuse_giants(options)
    _refuse_unless_hdf5(path)
    try:
        with h5py.File(path, "r") as file:
            return check_weights(_hdf5_arrays(file, network_shapes(options), path.name), options, path.name)
    except WeightsError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise WeightsError(path.name, f"is a damaged HDF5 file ({error})") from None


def _refuse_giants(options: ModelOptions) -> None:
    """Before a file is opened: one that holds nothing may promise arrays of any size."""
    size = 4 * sum(math.prod(shape) for _, shape in network_shapes(options))
    if size > MAX_FILE_BYTES:
        problem = (
            f"with model.depth {options.depth} gives weights of more than {MAX_FILE_BYTES:,} bytes; choose fewer"
        )
        raise WeightsError("model.filters", problem, options.filters)


def _refuse_unless_the_study_s(options: ModelOptions) -> None:
    study = ModelOptions()
    for field in ("network", "head", "normalization"):
        if getattr(options, field) != getattr(study, field):
            problem = f"HDF5 files are read for the study's network alone; set it to {getattr(study, field)}."
            raise WeightsError(f"model.{field}", problem, getattr(options, field))


def _refuse_unless_hdf5(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(8)
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(path.name, f"cannot be read: {error.strerror or error}") from None
    if start != b"\x89HDF\r\n\x1a\n":
        raise WeightsError(path.name, "is no HDF5 file; give a Keras 2 weights file (save_weights, .h5)", start)
    if size > MAX_FILE_BYTES:
        raise WeightsError(path.name, f"is larger than {MAX_FILE_BYTES:,} bytes", size)


def _hdf5_arrays(file: Any, shapes: list[tuple[str, Shape]], where: str) -> list[NDArray[Any]]:
    """The data sets of every listed layer; each is looked at before it is read."""
    if "model_config" in file.attrs or "model_weights" in file:
        raise WeightsError(where, "holds a whole model; only weights files are read: save it with save_weights")
    if "layer_names" not in file.attrs:
        raise WeightsError(where, "has no layer_names; give a Keras 2 weights file (save_weights, .h5)")
    arrays: list[NDArray[Any]] = []
    for layer in _names(file, "layer_names", where):
        group = _own(file, layer, where)
        if "weight_names" not in group.attrs:
            raise WeightsError(f"{where}: {layer}", "has no weight_names; give a Keras 2 weights file")
        for name in _names(group, "weight_names", where):
            expected = shapes[len(arrays)] if len(arrays) < len(shapes) else None
            arrays.append(_dataset(group, name, expected, where))
    return arrays


def _names(place: Any, attribute: str, where: str) -> list[str]:
    values = np.atleast_1d(place.attrs[attribute])
    if values.ndim != 1 or len(values) > MAX_LAYERS:
        raise WeightsError(f"{where}: {attribute}", f"must be a plain list of at most {MAX_LAYERS} names")
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]


def _own(group: Any, name: str, where: str) -> Any:
    """The member ``a/b/c`` of a group, each step a hard link inside this file."""
    import h5py

    place = group
    for step in name.split("/"):
        if not isinstance(place, h5py.Group) or step in ("", ".", "..") or step not in place.keys():  # noqa: SIM118
            raise WeightsError(f"{where}: {name}", "is listed in the file but not in it")
        if not isinstance(place.get(step, getlink=True), h5py.HardLink):
            raise WeightsError(f"{where}: {name}", "is a link; only data stored in the file itself is read")
        place = place[step]
    return place


def _dataset(group: Any, name: str, expected: tuple[str, Shape] | None, where: str) -> NDArray[Any]:
    """One data set as an array; where it cannot fit, an empty stand-in of its shape, so that nothing is read."""
    import h5py

    data = _own(group, name, where)
    if not isinstance(data, h5py.Dataset) or data.shape is None:
        raise WeightsError(f"{where}: {name}", "is no array")
    if data.external or data.is_virtual:
        raise WeightsError(f"{where}: {name}", "keeps its data in another file; only data in the file itself is read")
    if data.dtype.kind != "f":
        raise WeightsError(f"{where}: {name}", "must hold floating-point numbers", str(data.dtype))
    if expected is None or data.shape != expected[1]:
        return np.broadcast_to(np.float32(0), data.shape)
    return np.asarray(data[()])
