"""Strict reading of untrusted PNG files: everything that can be refused is refused before a pixel is decoded."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from liverseg_core.errors import DataError

MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 16 * 2**20
MAX_RATIO = 1100
"""Deflate cannot reach 1,032 : 1, so a header that promises more is cut short or lies."""

MASK_VALUES = (0, 127, 255)
"""Grey value of label 0 background, 1 liver, 2 lesion in a mask file."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_CHANNELS = {0: 1, 2: 3}
_COLOUR_NAMES = {3: "a palette", 4: "grey with alpha", 6: "RGB with alpha"}


def read_image(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode one 8-bit grey slice.

    Args:
        data: the PNG file; grey, or RGB whose three channels are equal.
        name: where it lies, for the error.

    Returns:
        uint8 ``[H, W]``, 0..255.

    Raises:
        DataError: no PNG, damaged, too large, 16-bit, palette, alpha, animated, or a colour picture.
    """
    pixels = _decode(data, name)
    if pixels.ndim == 2:
        return pixels
    grey: NDArray[np.uint8] = np.ascontiguousarray(pixels[..., 0])
    if not (np.array_equal(grey, pixels[..., 1]) and np.array_equal(grey, pixels[..., 2])):
        raise DataError(name, "is a colour picture; save it as 8-bit grey")
    return grey


def read_labels(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode one mask to labels 0 background, 1 liver, 2 lesion.

    Returns:
        uint8 ``[H, W]`` in {0, 1, 2}.

    Raises:
        DataError: as :func:`read_image`, or a value other than 0, 127, 255.
    """
    mask = read_image(data, name)
    found = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    strange = [int(value) for value in found if value not in MASK_VALUES]
    if strange:
        raise DataError(
            name,
            "a mask holds only 0 (background), 127 (liver) and 255 (lesion); "
            "write these values, without smoothing or lossy formats in between",
            strange,
        )
    table = np.zeros(256, np.uint8)
    table[list(MASK_VALUES)] = (0, 1, 2)
    return table[mask]


def write_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 ``[H, W]`` as 8-bit grey PNG; the same pixels give the same bytes."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=9)
    return out.getvalue()


def _decode(data: bytes, name: str) -> NDArray[np.uint8]:
    """Pixels as uint8 ``[H, W]`` or ``[H, W, 3]``."""
    plain = plain_png(data, name)
    try:
        with Image.open(io.BytesIO(plain), formats=("PNG",)) as image:
            return np.array(image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error) as error:
        raise DataError(name, f"cannot be decoded ({error}); write it again") from error


def plain_png(data: bytes, name: str) -> bytes:
    """The same picture as header, pixels and end alone.

    So no text, camera data, colour profile or animation of an untrusted file ever reaches the decoder or the store.

    Args:
        data: the PNG file.
        name: where it lies, for the error.

    Raises:
        DataError: as :func:`read_image`, but for what only pixels tell.
    """
    if len(data) > MAX_FILE_BYTES:
        raise DataError(name, f"is larger than {MAX_FILE_BYTES // 2**20} MiB; one slice a file", len(data))
    if not data:
        raise DataError(name, "is empty (0 bytes); write it again")
    if not data.startswith(_SIGNATURE):
        raise DataError(name, "is no PNG file; save it as 8-bit grey PNG", data[:8])
    chunks = list(_chunks(data, name))
    kinds = [kind for kind, _ in chunks]
    if not kinds or kinds[0] != b"IHDR" or kinds.count(b"IHDR") != 1 or kinds[-1] != b"IEND" or b"IDAT" not in kinds:
        raise DataError(name, "is damaged or cut short: header, pixels or end are missing; write it again")
    _check_header(chunks[0][1], len(data), name)
    if b"tRNS" in kinds:
        raise DataError(name, "has transparency; save it as 8-bit grey")
    if b"acTL" in kinds:
        raise DataError(name, "is animated; one slice a file")
    _check_pixel_bytes(chunks, name)
    kept = [raw for kind, raw in chunks if kind in (b"IHDR", b"IDAT")]
    return _SIGNATURE + b"".join(kept) + _END


def _check_pixel_bytes(chunks: list[tuple[bytes, bytes]], name: str) -> None:
    """Refuse too few or too many pixels: the decoder would fill the missing ones with zeros and say nothing."""
    width, height, _, colour = struct.unpack_from(">IIBB", chunks[0][1], 8)
    expected = height * (width * _CHANNELS[colour] + 1)
    inflate = zlib.decompressobj()
    packed = b"".join(raw[8:-4] for kind, raw in chunks if kind == b"IDAT")
    try:
        found = len(inflate.decompress(packed, expected + 1))
    except zlib.error as error:
        raise DataError(name, f"cannot be decoded ({error}); write it again") from error
    if found != expected or not inflate.eof or inflate.unused_data:
        raise DataError(name, "cannot be decoded: it holds too few or too many pixels; write it again")


def _chunks(data: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Kind and raw bytes (length and checksum included) of every chunk."""
    place = len(_SIGNATURE)
    while place < len(data):
        if place + 12 > len(data):
            raise DataError(name, "is cut short; write or copy it again", f"{len(data)} bytes")
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data):
            raise DataError(name, "is cut short; write or copy it again", f"{len(data)} bytes")
        if zlib.crc32(data[place + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise DataError(name, f"is damaged: wrong checksum in its {kind!r} part; copy it again")
        yield kind, data[place:end]
        place = end


def _check_header(raw: bytes, file_bytes: int, name: str) -> None:
    if len(raw) != 25:
        raise DataError(name, "is damaged: its header has the wrong length; write it again")
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", raw, 8)
    if colour not in _CHANNELS:
        raise DataError(name, "must be 8-bit grey; convert it", _COLOUR_NAMES.get(colour, f"colour type {colour}"))
    if depth != 8:
        raise DataError(name, "must have 8 bits a channel; window it and save it as 8-bit grey", f"{depth} bits")
    if interlaced:
        raise DataError(name, "is interlaced; save it without")
    if not 0 < width * height <= MAX_PIXELS:
        raise DataError(name, f"must have 1 to {MAX_PIXELS:,} pixels; make it smaller", f"{width} x {height}")
    if height * (width * _CHANNELS[colour] + 1) > MAX_RATIO * file_bytes:
        raise DataError(
            name,
            "promises more pixels than its size can hold; it is cut short or hostile",
            f"{width} x {height} in {file_bytes} bytes",
        )
