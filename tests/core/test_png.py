"""Reading untrusted PNG files."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from liverseg_core.data.png import MAX_FILE_BYTES, MAX_PIXELS, plain_png, read_image, read_labels, write_png
from liverseg_core.errors import DataError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
MASK = np.array([[0, 127], [255, 0]], np.uint8)


def saved(image: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int = 8, colour: int = 0, pixels: bytes = b"", *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body + chunk(b"IEND", b"")


def with_chunk(kind: bytes, body: bytes) -> bytes:
    """A good 3 x 4 picture with one more chunk behind its header."""
    good = write_png(GREY)
    return good[:33] + chunk(kind, body) + good[33:]


def test_grey_comes_back_as_it_was_written():
    assert np.array_equal(read_image(write_png(GREY), "a.png"), GREY)


def test_rgb_with_equal_channels_is_grey():
    colour = Image.fromarray(np.stack([GREY] * 3, -1))
    assert np.array_equal(read_image(saved(colour), "a.png"), GREY)


def test_mask_values_become_labels():
    assert read_labels(write_png(MASK), "m.png").tolist() == [[0, 1], [2, 0]]


def test_a_gamma_or_profile_does_not_change_pixels():
    data = with_chunk(b"gAMA", struct.pack(">I", 45455))
    assert np.array_equal(read_image(data, "a.png"), GREY)


def test_a_text_bomb_never_reaches_the_decoder():
    bomb = b"Comment\0\0" + zlib.compress(b"x" * 200_000_000, 9)
    assert np.array_equal(read_image(with_chunk(b"zTXt", bomb), "a.png"), GREY)


BAD = {
    "empty file": (b"", "0 bytes"),
    "text": (b"hello, this is no picture", "no PNG"),
    "JPEG": (b"\xff\xd8\xff\xe0" + bytes(100), "no PNG"),
    "signature alone": (b"\x89PNG\r\n\x1a\n", "cut short"),
    "header alone": (write_png(GREY)[:33], "cut short"),
    "no end": (write_png(GREY)[:-12], "cut short"),
    "one byte short": (write_png(GREY)[:-1], "cut short"),
    "something behind the end": (write_png(GREY) + b"PK\x03\x04", "cut short"),
    "no pixels": (b"\x89PNG\r\n\x1a\n" + write_png(GREY)[8:33] + chunk(b"IEND", b""), "missing"),
    "too few pixels": (png(4, 3, pixels=b"\0abcd"), "cannot be decoded"),
    "too many pixels": (png(4, 3, pixels=bytes(16)), "too few or too many"),
    "pixels without their checksum": (
        write_png(GREY)[:33] + chunk(b"IDAT", zlib.compress(bytes(15))[:-4]) + chunk(b"IEND", b""),
        "too few or too many",
    ),
    "interlaced": (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 2, 8, 0, 0, 0, 1)) + write_png(GREY)[33:],
        "interlaced",
    ),
    "pixels that do not inflate": (
        write_png(GREY)[:33] + chunk(b"IDAT", b"not zlib at all") + chunk(b"IEND", b""),
        "cannot be decoded",
    ),
    "16 bits": (saved(Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4))), "8 bits"),
    "1 bit": (saved(Image.new("1", (4, 3))), "8 bits"),
    "palette": (saved(Image.fromarray(GREY).convert("P")), "a palette"),
    "grey with alpha": (saved(Image.new("LA", (4, 3))), "grey with alpha"),
    "RGB with alpha": (saved(Image.new("RGBA", (4, 3))), "RGB with alpha"),
    "transparent grey": (saved(Image.fromarray(GREY), transparency=0), "transparency"),
    "colour": (saved(Image.new("RGB", (4, 3), (1, 2, 3))), "colour picture"),
    "animated": (with_chunk(b"acTL", struct.pack(">II", 2, 0)), "animated"),
    "50,000 x 50,000 pixels": (png(50_000, 50_000), "pixels"),
    "more pixels than its bytes can hold": (png(4000, 4000), "cut short or hostile"),
    "no width": (png(0, 3), "pixels"),
    "unknown colour type": (png(4, 3, colour=5), "colour type 5"),
    "two headers": (write_png(GREY)[:33] + write_png(GREY)[8:], "missing"),
    "header of the wrong length": (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"short") + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
        "wrong length",
    ),
}


@pytest.mark.parametrize(("data", "words"), BAD.values(), ids=BAD)
def test_refused_with_name_and_reason(data, words):
    with pytest.raises(DataError, match=words) as caught:
        read_image(data, "val/images/8_12.png")
    assert caught.value.path == "val/images/8_12.png"


def test_too_large_a_file_is_refused_unread():
    with pytest.raises(DataError, match="64 MiB"):
        read_image(bytes(MAX_FILE_BYTES + 1), "a.png")


def test_pixel_cap_is_exact():
    with pytest.raises(DataError, match="16,777,216 pixels"):
        read_image(png(MAX_PIXELS + 1, 1), "a.png")
    at_the_cap = png(4096, 4096, pixels=bytes(4096 * 4097))
    assert read_image(at_the_cap, "a.png").shape == (4096, 4096)


@pytest.mark.parametrize("value", [1, 2, 126, 128, 254])
def test_other_mask_values_are_named(value):
    mask = MASK.copy()
    mask[1, 1] = value
    with pytest.raises(DataError, match=rf"127 \(liver\).*Received: \[{value}\]"):
        read_labels(write_png(mask), "m.png")


@given(npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_any_picture_comes_back(pixels):
    assert np.array_equal(read_image(write_png(pixels), "a.png"), pixels)


@given(st.data())
def test_a_changed_byte_never_changes_pixels_silently(data):
    good = bytearray(write_png(GREY))
    good[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        pixels = read_image(bytes(good), "a.png")
    except DataError:
        return
    assert np.array_equal(pixels, GREY)


@given(st.binary(max_size=200))
def test_garbage_is_always_a_data_error(garbage):
    for data in (garbage, write_png(GREY)[:33] + garbage, png(4, 3, 8, 0, garbage)):
        try:
            read_image(data, "a.png")
        except DataError as error:
            assert error.path == "a.png"  # noqa: PT017 - most garbage is refused, some pixels are pixels


@pytest.mark.study
def test_the_studys_own_files_are_read(study):
    image = read_image((study / "liver_ct/train/images/0_46.png").read_bytes(), "0_46.png")
    assert image.shape == (512, 512)


@pytest.mark.parametrize("kind", [b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"iCCP", b"pHYs", b"prVt"])
def test_nothing_but_the_picture_is_kept(kind):
    told = with_chunk(kind, b"Comment\0Mustermann Erika")
    assert b"Mustermann" in told
    assert plain_png(told, "x.png") == write_png(GREY)
    np.testing.assert_array_equal(read_image(told, "x.png"), GREY)


def test_nothing_is_kept_in_the_end_of_a_picture():
    good = write_png(GREY)
    assert plain_png(good[:-12] + chunk(b"IEND", b"Mustermann"), "x.png") == good
    with pytest.raises(DataError):
        plain_png(good + b"Mustermann", "x.png")


def test_nothing_can_hide_behind_the_pixels():
    rows = b"".join(b"\0" + row.tobytes() for row in GREY)
    good = png(4, 3, 8, 0, rows)
    assert read_image(good, "x.png").tolist() == GREY.tolist()
    packed = zlib.compress(rows)
    hidden = good.replace(chunk(b"IDAT", packed), chunk(b"IDAT", packed + b"Mustermann"))
    assert hidden != good
    with pytest.raises(DataError, match="too few or too many pixels"):
        plain_png(hidden, "x.png")
