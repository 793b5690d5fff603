import io
import itertools

import numpy as np
import pytest
from PIL import Image

from liverseg_core import overlays
from liverseg_core.data.manifest import Manifest, SliceEntry
from liverseg_core.maps import open_maps, read_map
from liverseg_core.metrics import SoftFacts, count_3x3
from liverseg_core.overlays import FOUND, MISSED, OUTLINE, TOO_MUCH, alone, over, prediction_classes, truth_classes
from liverseg_core.scoring import counted, largest_liver, rescore
from liverseg_core.spec import EvaluationOptions

Y, V, B, W = FOUND, TOO_MUCH, MISSED, OUTLINE


def pixels(png: bytes) -> list[list[tuple[int, ...]]]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "RGB"
        return [[tuple(map(int, one)) for one in row] for row in np.array(image)]


def prediction_over(image, truth, prediction, label, style):
    return over(image, prediction_classes(truth, prediction, label, style), style)


def truth_over(image, truth, label, style):
    return over(image, truth_classes(truth, label, style), style)


def grey(value: int) -> tuple[int, int, int]:
    return (value, value, value)


def test_each_pixel_has_the_colour_of_what_it_is():
    # Truth and prediction in one row of five: background, lesion in both, predicted alone, true alone, liver in both.
    image = np.array([[10, 100, 100, 100, 50]], np.uint8)
    truth = np.array([[0, 2, 0, 2, 1]], np.uint8)
    prediction = np.array([[0, 2, 2, 0, 1]], np.uint8)
    # Two fifths of 100 and three fifths of the colour, rounded down:
    # yellow 240, 228, 66 -> 920/5, 884/5, 398/5; vermillion 213, 94, 0 -> 839/5, 482/5, 200/5;
    # blue 86, 180, 233 -> 458/5, 740/5, 899/5.
    found, too_much, missed = (184, 176, 79), (167, 96, 40), (91, 148, 179)
    # The predicted liver is pixels 1, 2 and 4; each lies on the rim of a picture of one row, so all are edge; where
    # the lesion is coloured that wins.
    assert pixels(prediction_over(image, truth, prediction, "lesion", "fill")) == [[
        grey(10), found, too_much, missed, W
    ]]  # fmt: skip
    # Liver: in both at 1 and 4, predicted alone at 2, true alone at 3. 50: yellow (100 + 720) / 5, 784/5, 298/5.
    # The edge of the predicted lesion, 1 and 2, is below the colours.
    assert pixels(prediction_over(image, truth, prediction, "liver", "fill")) == [[
        grey(10), found, too_much, missed, (164, 156, 59)
    ]]  # fmt: skip
    assert pixels(truth_over(image, truth, "lesion", "fill")) == [[grey(10), found, grey(100), found, W]]


def test_a_contour_is_the_edge_of_each_area():
    # A lesion of 3 x 3 with a rim of one pixel of background; the prediction is one column further right.
    truth, prediction = np.zeros((5, 6), np.uint8), np.zeros((5, 6), np.uint8)
    truth[1:4, 1:4] = prediction[1:4, 2:5] = 2
    image = np.full((5, 6), 7, np.uint8)
    o = grey(7)
    # Found: columns 2 and 3, all edge, since an area two wide has no inside. Missed: column 1, too much: column 4.
    row = [o, B, Y, Y, V, o]
    assert pixels(prediction_over(image, truth, prediction, "lesion", "contour")) == [[o] * 6, row, row, row, [o] * 6]
    # The truth alone: its middle pixel is inside and stays CT.
    ring = [o, Y, Y, Y, o, o]
    assert pixels(truth_over(image, truth, "lesion", "contour")) == [
        [o] * 6, ring, [o, Y, o, Y, o, o], ring, [o] * 6
    ]  # fmt: skip
    # Of the liver: the area is the same, lesions being part of it, and the lesion's edge lies below its own edge.
    assert truth_over(image, truth, "liver", "contour") == truth_over(image, truth, "lesion", "contour")


def test_the_rim_of_a_picture_is_an_edge():
    assert overlays.edge(np.ones((3, 3), bool)).tolist() == [[True] * 3, [True, False, True], [True] * 3]


@pytest.mark.parametrize("style", ["fill", "contour"])
def test_colours_alone_give_the_same_over_the_ct(style):
    """As Pillow lays one picture over another; it rounds, where colours are rounded down."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (40, 50), np.uint8)
    truth, prediction = random.integers(0, 3, (2, 40, 50), np.uint8)
    classes = prediction_classes(truth, prediction, "lesion", style)
    with Image.open(io.BytesIO(alone(classes, style))) as layer:
        assert layer.mode == "P"
        laid = Image.alpha_composite(Image.fromarray(image).convert("RGBA"), layer.convert("RGBA"))
    difference = np.array(laid.convert("RGB")).astype(int) - np.array(pixels(over(image, classes, style)))
    assert np.abs(difference).max() <= 1
    assert not difference[classes <= 1].any()


def linear(colour):
    c = np.array(colour) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear sRGB under D65."""
    m = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x = m @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira and Fernandes 2009, Table 1, severity 1.
EYES = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def nearest(colours: list[tuple[int, int, int]], ct: int) -> float:
    """The smallest difference (CIE 1976) between two of the mixed colours and the grey, for any eyes."""
    mixed = [tuple((2 * ct + 3 * one) // 5 for one in colour) for colour in colours]
    return min(
        float(np.linalg.norm(lab(np.array(eye) @ linear(a)) - lab(np.array(eye) @ linear(b))))
        for eye in EYES.values()
        for a, b in itertools.combinations([*mixed, grey(ct)], 2)
    )


@pytest.mark.parametrize("ct", [40, 100, 140, 180])
def test_colours_are_told_apart_with_any_kind_of_cones(ct):
    """A difference of 2.3 is just noticeable; this is six times as much."""
    assert nearest([FOUND, TOO_MUCH, MISSED], ct) > 14


def test_green_would_be_taken_for_grey():
    """The test above can fail: Okabe and Ito's bluish green, in place of yellow."""
    assert nearest([(0, 158, 115), TOO_MUCH, MISSED], 140) < 14


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize(("head", "least"), [("grey", 0), ("grey", 5), ("softmax", 5)])
def test_what_is_shown_is_what_is_counted(tmp_path, head, least, largest):
    """Pixels of one slice give the very counts that scoring the whole run gives, also where they hang on the scan."""
    random = np.random.default_rng(3)
    entries = tuple(SliceEntry("val", 4, number, "", "") for number in range(5))
    labels = np.kron(random.integers(0, 3, (5, 6, 7), dtype=np.uint8), np.ones((1, 4, 4), np.uint8))
    height, width = labels.shape[1:]
    shape = (12, 14) if head == "grey" else (2, 12, 14)
    level = 65536 if head == "grey" else 32768
    # Zero in three of four pixels: else all that is predicted would hang together.
    maps = {
        f"val/{e.key}": random.integers(0, level, shape, np.uint16) * (random.random(shape[-2:]) < 0.25)
        for e in entries
    }
    np.savez_compressed(tmp_path / "maps.npz", **maps)
    options = EvaluationOptions(min_lesion=least, largest_component=largest)
    soft = {("val", 4, e.slice): SoftFacts(0, 0, 0, 0, 0, 0, (0,) * 9) for e in entries}
    manifest = Manifest(height, width, entries, {4: "4"}, True)
    scored, _ = rescore(manifest, labels, tmp_path / "maps.npz", {"val": range(5)}, soft, options)
    kept = largest_liver(tmp_path / "maps.npz", list(maps), (height, width), options) if largest else [None] * 5
    with open_maps(tmp_path / "maps.npz") as file:
        for number, name in enumerate(maps):
            shown = counted(labels[number], read_map(file, name), options, kept[number])
            assert count_3x3(*shown) == scored[number].counts
    if least or largest:  # else the options did nothing here, and the test would see nothing
        plain, _ = rescore(manifest, labels, tmp_path / "maps.npz", {"val": range(5)}, soft, EvaluationOptions())
        assert [one.counts for one in plain] != [one.counts for one in scored]
