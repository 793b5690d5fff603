import io
import re

import numpy as np
import pytest
from PIL import Image

from liverseg_core import figures
from liverseg_core.errors import DataError
from liverseg_core.maps import open_maps, read_map

FULL = 65535


def decoded(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def near(pixels: np.ndarray, colour: str) -> int:
    """How many pixels have a colour such as ``#2468b4``."""
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return int((np.abs(pixels - wanted).max(axis=2) < 8).sum())


def panels(name: str = "val 8_12") -> figures.Panels:
    """CT at grey 200 in its right half; the mask is liver above and lesion below, the prediction the other way."""
    image, truth = np.zeros((40, 40), np.uint8), np.ones((40, 40), np.uint8)
    image[:, 20:], truth[20:] = 200, 2
    grey = np.full((20, 20), FULL, np.uint16)
    grey[10:] = FULL // 2
    return figures.Panels(name, image, truth, grey, (0.5, 0.25, None))


def panel_means(png: bytes, columns: int) -> list[list[float]]:
    """Mean grey of the upper and lower half of every panel of a one-row figure, in 0..1."""
    pixels = decoded(png)[:, :, 0] / 255
    side = (7.2 - 0.2 - 0.05 * (columns - 1)) / columns
    dpi, top = 200, 0.2 + (0.19 if columns == 6 else 0.05)
    found = []
    for column in range(columns):
        left = round(dpi * (0.2 + column * (side + 0.05))) + 4
        right, upper, middle = left + round(dpi * side) - 8, round(dpi * top) + 4, round(dpi * (top + side / 2))
        lower = round(dpi * (top + side)) - 4
        found.append([pixels[upper : middle - 4, left:right].mean(), pixels[middle + 4 : lower, left:right].mean()])
    return found


def test_figure_2_has_train_orange_and_val_blue():
    picture = decoded(figures.curves([1, 2, 3], [0.2, 0.5, 0.7], [0.1, 0.4, 0.6]))
    assert near(picture, "#d9730d") > 100
    assert near(picture, "#2468b4") > 100


def test_one_epoch_is_enough_for_a_curve():
    assert near(decoded(figures.curves([1], [0.2], [0.1])), "#2468b4") > 10


def test_four_panels_are_prediction_quantised_mask_and_ct():
    found = panel_means(figures.four_panels([panels()]), 4)
    # Lesion is white, liver grey 0.5; the CT is 200/255 in half of its pixels.
    assert found[0] == pytest.approx([1, 0.5], abs=0.02)
    assert found[1] == pytest.approx([1, 0.5], abs=0.02)
    assert found[2] == pytest.approx([0.5, 1], abs=0.02)
    assert found[3] == pytest.approx([0.39, 0.39], abs=0.02)


def test_six_panels_show_the_predicted_lesion_beside_the_true_one():
    found = panel_means(figures.six_panels([panels()]), 6)
    assert found[0] == pytest.approx([1, 0.5], abs=0.02)
    assert found[1] == pytest.approx([0.5, 1], abs=0.02)
    assert found[2] == pytest.approx([0, 0.5], abs=0.02)
    assert found[3] == pytest.approx([0.5, 0], abs=0.02)
    assert found[4] == pytest.approx([1, 0], abs=0.02)
    assert found[5] == pytest.approx([0, 1], abs=0.02)


def test_the_same_arguments_give_the_same_bytes():
    for draw in (figures.four_panels, figures.six_panels):
        assert draw([panels(), panels()]) == draw([panels(), panels()])
        assert draw([panels()]) != draw([panels("val 8_13")])
    assert figures.curves([1], [0.2], [0.1]) == figures.curves([1], [0.2], [0.1])


def test_a_softmax_map_is_read_as_expected_grey_and_likeliest_class():
    # Rows: certain parenchyma, certain lesion, certain background, 40 % background 35 % parenchyma 25 % lesion.
    liver = np.array([[FULL], [0], [0], [round(0.35 * FULL)]], np.uint16)
    lesion = np.array([[0], [FULL], [0], [round(0.25 * FULL)]], np.uint16)
    probabilities = np.stack([liver, lesion])
    assert figures.predicted_labels(probabilities).ravel().tolist() == [1, 2, 0, 0]
    expected = [127 / 255, 1, 0, 0.35 * 127 / 255 + 0.25]
    assert figures.expected_grey(probabilities).ravel() == pytest.approx(expected, abs=1e-4)


def test_the_dice_of_the_panels_are_one_label_against_the_rest():
    # Truth by row: liver 3 + 26 + 1, lesion 0 + 4 + 6. Liver: 2*26/(2*26+6+4), lesion: 2*6/(2*6+1+4).
    counts = (58, 2, 0, 3, 26, 1, 0, 4, 6)
    assert figures.study_dice(0.9, counts) == (0.9, pytest.approx(52 / 62), pytest.approx(12 / 17))
    assert figures.study_dice(0.9, (58, 2, 5, 3, 26, 1, 0, 0, 0))[2] is None


@pytest.mark.parametrize("content", [None, b"", b"no zip", "another key"])
def test_a_map_that_cannot_be_read_is_named(tmp_path, content):
    place = tmp_path / "maps.npz"
    if content == "another key":
        np.savez(place, **{"val/1_2": np.zeros((2, 2), np.uint16)})
    elif content is not None:
        place.write_bytes(content)
    with pytest.raises(DataError, match=r"^(maps\.npz: cannot be opened|val/1_1: has no readable probability map)"):  # noqa: SIM117
        with open_maps(place) as maps:
            read_map(maps, "val/1_1")


def test_the_histogram_stacks_parts():
    picture = decoded(figures.histogram({"A": {"train": 10, "val": 10}, "B": {"test": 20}}, "subject"))
    train, val, test = (near(picture, colour) for colour in ("#d9730d", "#2468b4", "#7a828a"))
    assert train == pytest.approx(val, rel=0.02)
    assert test == pytest.approx(train + val, rel=0.02)


@pytest.mark.parametrize("name", ["$\\frac{", "猫" * 50, "x" * 100, "\x07"])
def test_names_of_subjects_do_no_harm(name):
    assert figures.histogram({name: {"train": 3}}, "subject").startswith(b"\x89PNG")


def test_a_hundred_scans_fit():
    assert figures.histogram({str(n): {"train": n} for n in range(1, 101)}, "scan").startswith(b"\x89PNG")


def test_no_version_or_time_is_written_into_the_files():
    assert not re.search(rb"Matplotlib|tEXt|tIME", figures.side_by_side([panels().image] * 2, ["a", "b"]))


@pytest.mark.study
def test_real_slices_fill_their_panels(study):
    from liverseg_core.data.png import read_image, read_labels

    names = [study / "liver_ct" / "val" / kind / "8_400.png" for kind in ("images", "masks")]
    image, truth = read_image(names[0].read_bytes(), "i"), read_labels(names[1].read_bytes(), "m")
    u = (truth[::2, ::2] * np.float64(FULL / 2)).astype(np.uint16)
    found = panel_means(figures.four_panels([figures.Panels("val 8_400", image, truth, u, (1, 1, 1))]), 4)
    assert np.mean(found[3]) == pytest.approx(image.mean() / 255, rel=0.05)
    assert np.mean(found[2]) == pytest.approx(truth.mean() / 2, rel=0.1)
    assert np.mean(found[0]) == pytest.approx(truth.mean() / 2, rel=0.1)
