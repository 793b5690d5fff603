import h5py
import numpy as np
import pytest

from liverseg_core.errors import WeightsError
from liverseg_core.spec import ModelOptions
from liverseg_core.weights import network_shapes, read_hdf5_weights, read_weights, write_weights

FILTERS, DEPTH = 2, 1
OPTIONS = ModelOptions(filters=FILTERS, depth=DEPTH)
SHAPES = network_shapes(OPTIONS)


def arrays():
    draw = np.random.default_rng(0)
    return [draw.standard_normal(shape).astype(np.float32) for _, shape in SHAPES]


def write_hdf5(path, values, *, layers=None):
    """A Keras 2 weights file: two weights a layer, layers without weights in between."""
    with h5py.File(path, "w") as file:
        names = [name.split("/")[0] for name, _ in SHAPES[::2]]
        file.attrs["layer_names"] = [name.encode() for name in (layers or ["input", *names])]
        file.create_group("input").attrs["weight_names"] = np.array([], "S1")
        for number, name in enumerate(names):
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}_1/kernel:0".encode(), f"{name}_1/bias:0".encode()]
            for kind, value in zip(("kernel:0", "bias:0"), values[2 * number : 2 * number + 2], strict=True):
                group.create_dataset(f"{name}_1/{kind}", data=value)
    return path


@pytest.fixture
def hdf5(tmp_path):
    return write_hdf5(tmp_path / "study.h5", arrays())


def refused(path, *, filters=FILTERS, depth=DEPTH, read=read_hdf5_weights):
    with pytest.raises(WeightsError) as caught:
        read(path, ModelOptions(filters=filters, depth=depth))
    return str(caught.value)


def test_shapes_of_the_smallest_network():
    """Worked by hand from the study's description for 2 filters and one pooling."""
    assert [shape for name, shape in SHAPES if name.endswith("kernel")] == [
        (3, 3, 1, 2), (3, 3, 2, 2),  # encoder
        (3, 3, 2, 4), (3, 3, 4, 4),  # bottom
        (2, 2, 4, 2), (3, 3, 4, 2), (3, 3, 2, 2), (3, 3, 2, 2),  # decoder
        (1, 1, 2, 1),
    ]  # fmt: skip


def test_shapes_of_what_the_study_did_not_have():
    """By hand for 2 filters and one pooling; the names and their order are held against Keras in test_networks."""
    options = ModelOptions(
        network="convlstm-unet", window=3, head="softmax", normalization="batch", filters=FILTERS, depth=DEPTH
    )
    shapes = network_shapes(options)
    assert shapes[:6] == [
        ("encoder1_conv1/kernel", (3, 3, 1, 2)), ("encoder1_conv1/bias", (2,)),
        ("encoder1_conv1_norm/gamma", (2,)), ("encoder1_conv1_norm/beta", (2,)),
        ("encoder1_conv1_norm/moving_mean", (2,)), ("encoder1_conv1_norm/moving_variance", (2,)),
    ]  # fmt: skip
    assert [shape for name, shape in shapes if name.startswith("bottom_lstm")] == [
        (3, 3, 4, 16), (3, 3, 4, 16), (16,)
    ]  # fmt: skip
    assert shapes[-2:] == [("output/kernel", (1, 1, 2, 3)), ("output/bias", (3,))]
    assert len(shapes) == 7 * 6 + 3 + 2
    assert network_shapes(ModelOptions(network="unet-2.5d", window=7))[0] == ("encoder1_conv1/kernel", (3, 3, 7, 4))


@pytest.mark.parametrize(("filters", "parameters"), [(4, 121_725), (8, 485_813)])
def test_parameter_counts(filters, parameters):
    assert sum(np.prod(shape) for _, shape in network_shapes(ModelOptions(filters=filters))) == parameters


def test_an_hdf5_file_is_read_in_its_layer_order(hdf5):
    found = read_hdf5_weights(hdf5, OPTIONS)
    assert all(np.array_equal(a, b) for a, b in zip(found, arrays(), strict=True))


def test_our_own_format_comes_back_bit_for_bit_with_layer_names(tmp_path):
    write_weights(tmp_path / "weights.npz", arrays(), OPTIONS)
    found = read_weights(tmp_path / "weights.npz", OPTIONS)
    assert all(np.array_equal(a, b) for a, b in zip(found, arrays(), strict=True))
    with np.load(tmp_path / "weights.npz") as file:
        assert file.files[:3] == ["000.encoder1_conv1.kernel", "001.encoder1_conv1.bias", "002.encoder1_conv2.kernel"]
    assert [path.name for path in tmp_path.iterdir()] == ["weights.npz"]


def test_every_weight_of_a_trained_network_comes_back(tmp_path):
    """The running statistics of batch normalization and the LSTM's kernels too."""
    from liverseg_core.networks import build_network

    options = ModelOptions(
        network="convlstm-unet", window=3, head="softmax", normalization="batch", filters=2, depth=1
    )
    draw = np.random.default_rng(1)
    values = [draw.random(shape, dtype=np.float32) for _, shape in network_shapes(options)]
    model, again = (build_network(16, options, seed=seed) for seed in (1, 2))
    model.set_weights(values)
    write_weights(tmp_path / "weights.npz", model.get_weights(), options)
    again.set_weights(read_weights(tmp_path / "weights.npz", options))
    assert all(np.array_equal(a, b) for a, b in zip(again.get_weights(), values, strict=True))
    images = draw.random((2, 16, 16, 3), dtype=np.float32)
    assert np.array_equal(again(images), model(images))


@pytest.mark.parametrize(
    ("field", "value"), [("normalization", "batch"), ("head", "softmax"), ("network", "unet-2.5d")]
)
def test_weights_of_another_kind_of_network_are_refused_in_words(tmp_path, field, value):
    options = ModelOptions(
        **{"filters": FILTERS, "depth": DEPTH, "window": 3 if field == "network" else 1, field: value}
    )
    write_weights(tmp_path / "weights.npz", arrays(), OPTIONS)
    with pytest.raises(WeightsError, match=f"model.{field} {value}"):
        read_weights(tmp_path / "weights.npz", options)


@pytest.mark.parametrize(
    ("field", "value", "study"),
    [("normalization", "group", "none"), ("head", "softmax", "grey-sigmoid"), ("network", "unet-2.5d", "unet")],
)
def test_hdf5_files_are_the_study_s_network_alone(hdf5, field, value, study):
    with pytest.raises(WeightsError, match=f"model.{field}: .* set it to {study}. Received: '{value}'"):
        read_hdf5_weights(hdf5, ModelOptions(filters=FILTERS, depth=DEPTH, **{field: value}))


def test_the_first_differing_layer_is_named_with_both_shapes(hdf5):
    message = refused(hdf5, filters=4)
    assert "encoder1_conv1/kernel" in message
    assert "(3, 3, 1, 4)" in message
    assert "(3, 3, 1, 2)" in message


def test_too_few_and_too_many_layers(hdf5):
    message = refused(hdf5, depth=2)  # encoder2 has the shapes of the file's bottom block; then they part
    assert "bottom_conv1/kernel" in message
    assert "(3, 3, 4, 8)" in message
    assert "(2, 2, 4, 2)" in message
    with h5py.File(hdf5, "a") as file:
        names = list(file.attrs["layer_names"])
        file.attrs["layer_names"] = names[:-1]
    assert "output/kernel" in refused(hdf5)
    with h5py.File(hdf5, "a") as file:
        file.attrs["layer_names"] = [*names, names[1]]
    assert "no further weight here" in refused(hdf5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_numbers_that_are_no_finite_float32(tmp_path, bad):
    values = [value.astype(np.float64) for value in arrays()]
    values[3][0] = bad
    message = refused(write_hdf5(tmp_path / "bad.h5", values))
    assert "encoder1_conv2/bias" in message
    assert "NaN" in message


def test_integers_are_refused(tmp_path):
    values = arrays()
    values[0] = values[0].astype(np.int32)
    assert "floating-point" in refused(write_hdf5(tmp_path / "bad.h5", values))


def test_other_kinds_of_file(tmp_path, hdf5):
    (tmp_path / "text.h5").write_text("no weights")
    assert "is no HDF5 file" in refused(tmp_path / "text.h5")
    assert "cannot be read" in refused(tmp_path / "absent.h5")
    (tmp_path / "torn.h5").write_bytes(hdf5.read_bytes()[:3000])
    assert "damaged" in refused(tmp_path / "torn.h5")


def test_whole_models_and_other_hdf5_files(tmp_path):
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["model_config"] = "{}"
        file.create_group("model_weights")
    assert "whole model" in refused(tmp_path / "model.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1.0]
    assert "layer_names" in refused(tmp_path / "other.h5")


def replace_first_kernel(hdf5, make):
    with h5py.File(hdf5, "a") as file:
        group = file["encoder1_conv1/encoder1_conv1_1"]
        del group["kernel:0"]
        make(group)


def test_links_are_refused(tmp_path, hdf5):
    write_hdf5(tmp_path / "other.h5", arrays())
    target = "encoder1_conv1/encoder1_conv1_1/kernel:0"
    replace_first_kernel(hdf5, lambda group: group.update({"kernel:0": h5py.SoftLink("/" + target)}))
    assert "is a link" in refused(hdf5)
    external = h5py.ExternalLink(tmp_path / "other.h5", target)
    replace_first_kernel(hdf5, lambda group: group.update({"kernel:0": external}))
    assert "is a link" in refused(hdf5)


def test_data_in_other_files_is_refused(tmp_path, hdf5):
    (tmp_path / "secret").write_bytes(bytes(72))

    def outside(group):
        group.create_dataset("kernel:0", (3, 3, 1, 2), "f4", external=[(str(tmp_path / "secret"), 0, 72)])

    replace_first_kernel(hdf5, outside)
    assert "in another file" in refused(hdf5)

    def virtual(group):
        layout = h5py.VirtualLayout((3, 3, 1, 2), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (3, 3, 1, 2))
        group.create_virtual_dataset("kernel:0", layout)

    replace_first_kernel(hdf5, virtual)
    assert "in another file" in refused(hdf5)


def test_a_huge_array_is_refused_unread(hdf5):
    replace_first_kernel(hdf5, lambda group: group.create_dataset("kernel:0", (10**6, 10**6), "f4", chunks=(64, 64)))
    assert "(1000000, 1000000)" in refused(hdf5)


def test_a_listed_layer_that_is_absent_and_a_group_for_an_array(hdf5):
    replace_first_kernel(hdf5, lambda group: group.create_group("kernel:0"))
    assert "is no array" in refused(hdf5)
    replace_first_kernel(hdf5, lambda group: None)
    assert "not in it" in refused(hdf5)


def test_a_torn_or_foreign_npz(tmp_path):
    write_weights(tmp_path / "weights.npz", arrays(), OPTIONS)
    whole = (tmp_path / "weights.npz").read_bytes()
    (tmp_path / "torn.npz").write_bytes(whole[:-100])
    assert "no intact npz" in refused(tmp_path / "torn.npz", read=read_weights)
    flipped = bytearray(whole)
    flipped[200] ^= 1  # inside the first array
    (tmp_path / "flipped.npz").write_bytes(flipped)
    assert "no intact npz" in refused(tmp_path / "flipped.npz", read=read_weights)
    assert "cannot be read" in refused(tmp_path / "absent.npz", read=read_weights)


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "objects.npz", np.array([{"a": 1}], dtype=object))
    assert "no intact npz" in refused(tmp_path / "objects.npz", read=read_weights)


def test_misfits_are_not_written(tmp_path):
    with pytest.raises(WeightsError, match="encoder1_conv1/kernel"):
        write_weights(tmp_path / "weights.npz", arrays()[1:], OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_giants_is_refused_before_the_file_is_opened(tmp_path):
    with pytest.raises(WeightsError, match=r"model\.filters.*more than 2,147,483,648 bytes"):
        read_hdf5_weights(tmp_path / "not there.h5", ModelOptions(filters=256, depth=6))
