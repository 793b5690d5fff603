import dataclasses

import numpy as np
import pytest

from liverseg_core import checkpoints
from liverseg_core.backend import changed_from, keras, out_of_memory_named
from liverseg_core.errors import Interrupted, SpecError, TrainingFailed, WeightsError
from liverseg_core.losses import study_dice
from liverseg_core.networks import build_network
from liverseg_core.records import EpochRecord
from liverseg_core.spec import EarlyStopping, ExperimentSpec, ModelOptions
from liverseg_core.training import (
    _Pace,
    _Training,
    best_epoch,
    evaluate_weights,
    prepare_backend,
    run_experiment,
    stays_empty,
    stopped_early,
)
from liverseg_core.weights import read_weights
from tests.core.test_tensorboard import read_scalar


def spec(*, training=None, **sections):
    base = {"dataset": {"id": "tiny"}, "data": {"image_size": 32}, "model": {"filters": 2, "depth": 2}}
    options = {"epochs": 4, "batch_size": 4, "early_stopping": {"patience": None}, **(training or {})}
    return ExperimentSpec.parse({**base, "training": options, **sections})


def train(chosen, tiny, workdir, listener, resume_from=None, begun=(), keep_every_s=300.0):
    workdir.mkdir(exist_ok=True)
    prepare_backend(chosen)
    return run_experiment(chosen, *tiny, workdir, listener, resume_from, begun, keep_every_s)


def val_loss(chosen, tiny, weights):
    """Batch Dice loss over the val part, from the formula alone."""
    manifest, cache = tiny
    model = build_network(32, chosen.model)
    model.set_weights(read_weights(weights, chosen.model))
    val = [index for index, entry in enumerate(manifest.slices) if entry.part == "val"]
    total = 0.0
    for start in range(0, len(val), chosen.training.batch_size):
        rows = val[start : start + chosen.training.batch_size]
        y, p = cache.masks[rows], model.predict_on_batch(cache.images[rows][..., None])[..., 0]
        total += len(rows) * (1 - (2 * (y * p).sum() + 1) / ((y**2).sum() + (p**2).sum() + 1))
    return total / len(val)


@pytest.fixture(scope="module")
def straight(tiny, tmp_path_factory):
    """Four epochs without a break."""
    from tests.core.conftest import Listener

    workdir = tmp_path_factory.mktemp("straight")
    listener = Listener()
    return train(spec(), tiny, workdir, listener), listener, workdir


def without_clock(record):
    return dataclasses.replace(record, seconds=0, images_per_second=0)


def test_events_tell_the_whole_story(straight, tiny):
    _, listener, _ = straight
    n_train = sum(entry.part == "train" for entry in tiny[0].slices)
    steps = n_train // 4
    assert listener.phases == ["building", "training", "evaluating"]
    assert [step[:3] for step in listener.steps] == [(e, s, steps) for e in range(1, 5) for s in range(1, steps + 1)]
    assert all(rate > 0 and left >= 0 for *_, rate, left in listener.steps)
    assert 0 < listener.steps[-1][4] < listener.steps[steps][4]  # the last validation is still to come
    assert [record.epoch for record in listener.records] == [1, 2, 3, 4]
    for record in listener.records:
        assert record.dice == pytest.approx(1 - record.loss)
        assert record.val_dice == pytest.approx(1 - record.val_loss)
        assert record.learning_rate == 0.001


def test_it_learns(straight):
    _, listener, _ = straight
    assert listener.records[-1].loss < listener.records[0].loss


def test_the_result_names_its_files_and_scores_every_val_and_test_slice(straight, tiny):
    result, _, workdir = straight
    names = {"weights": "weights.npz", "probabilities": "probabilities.npz", "tensorboard": "events.out.tfevents"}
    assert result.artifacts == {kind: workdir / name for kind, name in names.items()}
    scored = [(entry.part, entry.scan, entry.slice) for entry in tiny[0].slices if entry.part != "train"]
    assert sorted((s.part, s.scan, s.slice) for s in result.scores) == sorted(scored)
    assert result.epochs == 4


def test_every_checkpoint_stays_until_the_listener_deletes_it(straight):
    """Only who has booked a newer one may delete: the trainer can be epochs ahead of the ledger."""
    _, listener, workdir = straight
    kept = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert kept == [f"epoch-0000{epoch}.npz" for epoch in (1, 2, 3, 4)]
    assert [path.name for path in listener.checkpoints] == kept


def test_a_run_stopped_and_resumed_ends_with_the_same_bits(straight, tiny, tmp_path, listen):
    result, listener, _ = straight
    broken = listen(stop_when=lambda so_far: bool(so_far.steps) and so_far.steps[-1][:2] == (3, 2))
    with pytest.raises(Interrupted):
        train(spec(), tiny, tmp_path / "broken", broken)
    assert [record.epoch for record in broken.records] == [1, 2]

    resumed = listen()
    again = train(spec(), tiny, tmp_path / "resumed", resumed, resume_from=broken.checkpoints[-1])

    assert resumed.steps[0][:2] == (3, 1)
    assert resumed.changed_from is None
    records = broken.records + resumed.records
    assert [without_clock(r) for r in records] == [without_clock(r) for r in listener.records]
    assert again.scores == result.scores
    for kind in ("weights", "probabilities"):
        assert again.artifacts[kind].read_bytes() == result.artifacts[kind].read_bytes(), kind
    # Its times are those of the clock, so the file of events is not the same; it holds all epochs all the same.
    assert read_scalar(again.artifacts["tensorboard"], "val_dice") == [
        (record.epoch, np.float32(record.val_dice)) for record in listener.records
    ]


def test_an_epoch_that_was_begun_is_gone_on_with_to_the_same_bits(straight, tiny, tmp_path, listen):
    result, listener, _ = straight
    broken = listen(stop_when=lambda so_far: bool(so_far.steps) and so_far.steps[-1][:2] == (3, 2))
    with pytest.raises(Interrupted):
        train(spec(), tiny, tmp_path / "broken", broken)
    begun = tmp_path / "broken" / "checkpoints" / "begun.npz"
    resumed = listen()
    again = train(spec(), tiny, tmp_path / "resumed", resumed, broken.checkpoints[-1], [begun])
    steps = listener.steps[0][2]
    before = listener.losses[2 * steps : 2 * steps + 2]
    assert resumed.within == (3, before)
    assert resumed.steps[0][:2] == (3, 3)
    assert broken.losses + resumed.losses == listener.losses
    records = broken.records + resumed.records
    assert [without_clock(r) for r in records] == [without_clock(r) for r in listener.records]
    assert all(record.seconds > 0 < record.images_per_second for record in records)
    assert again.artifacts["weights"].read_bytes() == result.artifacts["weights"].read_bytes()


def test_what_was_begun_counts_only_after_the_epochs_that_it_follows(straight, tiny, tmp_path, listen):
    result, _, workdir = straight
    files, bases = [], [None]
    for number, place in enumerate([(2, 1), (3, 1), (3, 2)]):  # interrupted again and again
        broken = listen(stop_when=lambda so_far, at=place: bool(so_far.steps) and so_far.steps[-1][:2] == at)
        with pytest.raises(Interrupted):
            train(spec(), tiny, tmp_path / f"{number}", broken, bases[-1], files)
        files.append(tmp_path / f"{number}" / "checkpoints" / "begun.npz")
        bases.extend(broken.checkpoints)
    second, third = bases[1:]
    torn, other = tmp_path / "torn.npz", tmp_path / "other.npz"
    torn.write_bytes(files[2].read_bytes()[:-100])
    checkpoints.save(other, dataclasses.replace(checkpoints.load(files[2]), training_hash="another"))
    useless = [torn, other, tmp_path / "gone.npz"]
    for number, (base, begun, expected) in enumerate(
        [
            (third, [*files, *useless], (3, 3)),
            (third, [*files[:2], *useless], (3, 2)),
            (second, files, (2, 2)),
            (workdir / "checkpoints" / "epoch-00002.npz", files, (3, 1)),  # the same epochs, but of another run
            (None, files, (1, 1)),
        ]
    ):
        resumed = listen()
        again = train(spec(), tiny, tmp_path / f"again-{number}", resumed, base, begun)
        assert resumed.steps[0][:2] == expected
        assert again.artifacts["weights"].read_bytes() == result.artifacts["weights"].read_bytes()


def test_the_state_within_an_epoch_is_kept_from_time_to_time(tiny, tmp_path, listen):
    """So that what a killed trainer loses is bounded, however long an epoch takes."""
    seen = []

    def killed(so_far):
        if so_far.steps and so_far.steps[-1][:2] == (1, 3):
            seen.append(len(checkpoints.load(tmp_path / "checkpoints" / "begun.npz").begun.measured))
            raise ZeroDivisionError
        return False

    with pytest.raises(ZeroDivisionError):
        train(spec(), tiny, tmp_path, listen(stop_when=killed), keep_every_s=0.0)
    assert seen == [2]


def test_no_room_for_the_state_within_an_epoch_is_no_error(tiny, tmp_path, listen, monkeypatch):
    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save", no_room)
    stopped = listen(stop_when=lambda so_far: len(so_far.steps) == 2)
    with pytest.raises(Interrupted):
        train(spec(), tiny, tmp_path, stopped)


def test_a_resume_on_other_hardware_or_threads_is_told(straight, tiny, tmp_path, listen):
    _, _, workdir = straight
    kept = checkpoints.load(workdir / "checkpoints" / "epoch-00003.npz")
    assert {"processor", "device", "threads", "keras", "tensorflow", "numpy"} <= kept.provenance.keys()
    other = {"processor": "Some Processor 7", "device": "Some GPU", "threads": "99", "tensorflow": "1.0"}
    checkpoints.save(tmp_path / "other.npz", dataclasses.replace(kept, provenance=kept.provenance | other))
    resumed = listen()
    train(spec(), tiny, tmp_path / "resumed", resumed, resume_from=tmp_path / "other.npz")
    assert resumed.changed_from == other
    assert [record.epoch for record in resumed.records] == [4]


def test_what_decides_bits():
    here = {"backend": "tensorflow", "keras": "3", "processor": "A", "device": "cpu:0", "cores": "8", "threads": "2"}
    assert changed_from(here, here) == {}
    assert changed_from(here | {"processor": "B", "keras": "2"}, here) == {"processor": "B", "keras": "2"}
    assert changed_from(here | {"cores": "4"}, here) == {}  # two threads are two threads
    assert changed_from(here | {"cores": "4", "threads": "0"}, here | {"threads": "0"}) == {"cores": "4"}
    assert changed_from({"backend": "jax", "cores": "4"}, {"backend": "jax", "cores": "8"}) == {"cores": "4"}
    old = {"backend": "tensorflow", "keras": "3", "cores": "8", "threads": "2"}  # before the hardware was kept
    assert changed_from(old, here) == {}


def test_without_the_random_states_a_resumed_run_would_differ(straight, tiny, tmp_path, listen):
    """Shows that the test above can fail: the same resume with the generators of a fresh model."""
    result, _, workdir = straight
    kept = checkpoints.load(workdir / "checkpoints" / "epoch-00003.npz")
    assert len(kept.random) == 2
    fresh = [np.array([state[0], 0], state.dtype) for state in kept.random]
    assert not any(np.array_equal(a, b) for a, b in zip(kept.random, fresh, strict=True))
    checkpoints.save(tmp_path / "forgot.npz", dataclasses.replace(kept, random=fresh))
    again = train(spec(), tiny, tmp_path / "resumed", listen(), resume_from=tmp_path / "forgot.npz")
    assert again.artifacts["weights"].read_bytes() != result.artifacts["weights"].read_bytes()


def test_resuming_a_finished_run_only_scores(straight, tiny, tmp_path, listen):
    result, _, workdir = straight
    listener = listen()
    again = train(spec(), tiny, tmp_path, listener, resume_from=workdir / "checkpoints" / "epoch-00004.npz")
    assert listener.steps == []
    assert again.scores == result.scores


def test_early_stopping_restores_the_best_epoch(tiny, tmp_path, listen):
    """Such a learning rate makes the val loss jump, so that the best epoch is not the last."""
    chosen = spec(training={"epochs": 40, "learning_rate": 0.1, "early_stopping": {"patience": 2}})
    listener = listen()
    result = train(chosen, tiny, tmp_path, listener)
    losses = [record.val_loss for record in listener.records]
    assert result.best_epoch == 1 + int(np.argmin(losses))
    assert result.epochs == len(losses) == result.best_epoch + 2 < 40
    assert val_loss(chosen, tiny, result.artifacts["weights"]) == pytest.approx(min(losses), abs=1e-6)
    assert min(losses) != pytest.approx(losses[-1], abs=1e-6)


def test_the_last_epoch_s_weights_where_they_are_asked_for(tiny, tmp_path, listen):
    rule = {"patience": 2, "restore": "last"}
    chosen = spec(training={"epochs": 40, "learning_rate": 0.1, "early_stopping": rule})
    listener = listen()
    result = train(chosen, tiny, tmp_path, listener)
    assert val_loss(chosen, tiny, result.artifacts["weights"]) == pytest.approx(
        listener.records[-1].val_loss, abs=1e-6
    )
    assert checkpoints.load(listener.checkpoints[-1]).best == []


def history(*losses):
    return [EpochRecord(n, 0, 0, loss, 1 - loss, 0.001, 1, 1) for n, loss in enumerate(losses, start=1)]


@pytest.mark.parametrize(
    ("losses", "best", "stopped"),
    [
        ((), 0, False),
        ((0.5,), 1, False),
        ((0.5, 0.6, 0.6), 1, True),
        ((0.5, 0.5, 0.5), 1, True),  # equal is no improvement
        ((0.5, 0.6, 0.4999999), 3, False),  # any improvement is one
        ((0.5, 0.6, 0.4, 0.7), 3, False),
        ((0.5, 0.6, 0.4, 0.7, 0.41), 3, True),
    ],
)
@pytest.mark.parametrize("monitor", ["val_loss", "val_dice"])
def test_patience_of_two(losses, best, stopped, monitor):
    rule = EarlyStopping(patience=2, monitor=monitor)
    assert best_epoch(history(*losses), rule) == best
    assert stopped_early(history(*losses), rule) is stopped
    assert not stopped_early(history(*losses), EarlyStopping(patience=None))


@pytest.mark.parametrize(
    ("values", "epochs", "stopped"),
    [
        ((), 1, False),
        ((0.01,), 2, False),
        ((0.01, 0.0109), 2, True),  # within 0.001 of the empty prediction's 0.01
        ((0.01, 0.0111), 2, False),
        ((0.3, 0.01, 0.01), 2, True),
        ((0.01, 0.3, 0.01), 2, False),
        ((0.01, 0.01), None, False),
    ],
)
def test_a_run_that_finds_nothing_stops_where_that_is_asked_for(values, epochs, stopped):
    rule = EarlyStopping(collapsed=epochs)
    assert stays_empty(history(*(1 - value for value in values)), rule, 0.01) is stopped


@pytest.mark.parametrize(("head", "batch_by"), [("grey-sigmoid", "scan"), ("softmax", "slices")])
def test_a_network_that_says_background_everywhere_stops(tiny, tmp_path, listen, head, batch_by):
    chosen = spec(
        training={"epochs": 3, "learning_rate": 1e-9, "early_stopping": {"patience": None, "collapsed": 2}},
        model={"filters": 2, "depth": 2, "head": head},
        data={"image_size": 32, "batch_by": batch_by},
    )
    prepare_backend(chosen)
    training = _Training(chosen, *tiny, tmp_path, listen())
    *others, kernel, bias = training.model.get_weights()
    background = np.full_like(bias, -50.0)
    if head == "softmax":
        background[0] = 50.0
    training.model.set_weights([*others, np.zeros_like(kernel), background])
    training.run()
    assert len(training.history) == 2
    assert training.history[-1].val_dice == pytest.approx(training.empty_dice, abs=1e-6)
    assert 0 < training.empty_dice < 0.1
    found = _Training(chosen, *tiny, tmp_path / "found", listen())  # as it begins it finds something everywhere
    found.run()
    assert len(found.history) == 3


@pytest.mark.parametrize(
    ("part", "kind", "message"),
    [
        ("train", "masks", "loss became nan at epoch 1, step 1"),
        ("train", "images", "weights became NaN or infinite in epoch 1"),  # ReLU hides NaN from the loss
        ("val", "masks", "loss became nan at epoch 1, validation"),
    ],
)
def test_a_loss_that_is_not_finite_fails_the_run(tiny, tmp_path, listen, part, kind, message):
    manifest, cache = tiny
    pixels = np.array(getattr(cache, kind))
    pixels[[entry.part == part for entry in manifest.slices]] = np.nan
    poisoned = (manifest, dataclasses.replace(cache, **{kind: pixels}))
    with pytest.raises(TrainingFailed, match=f"{message}.*learning_rate") as caught:
        train(spec(), poisoned, tmp_path, listen())
    assert caught.value.reason == "loss-not-finite"
    assert not (tmp_path / "weights.npz").exists()


def test_no_room_on_host_or_device_fails_the_run_with_advice():
    import tensorflow as tf

    exhausted = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")  # real ones take 10 s
    for ask in (lambda: np.empty(1 << 50), lambda: _raise(exhausted)):
        with pytest.raises(TrainingFailed, match="batch_size") as caught, out_of_memory_named():
            ask()
        assert caught.value.reason == "device-out-of-memory"


def _raise(error):
    raise error


def test_other_errors_pass_unchanged():
    with pytest.raises(ZeroDivisionError), out_of_memory_named():
        1 / 0  # noqa: B018


def test_checkpoints_of_another_experiment_or_damaged_ones_are_refused(straight, tiny, tmp_path, listen):
    _, _, workdir = straight
    good = workdir / "checkpoints" / "epoch-00004.npz"
    with pytest.raises(WeightsError, match="another experiment"):
        train(spec(training={"seed": 1}), tiny, tmp_path, listen(), resume_from=good)
    (tmp_path / "torn.npz").write_bytes(good.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="no intact npz"):
        train(spec(), tiny, tmp_path, listen(), resume_from=tmp_path / "torn.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(WeightsError, match="no checkpoint"):
        train(spec(), tiny, tmp_path, listen(), resume_from=tmp_path / "other.npz")


def test_a_batch_larger_than_the_train_part_is_refused(tiny, tmp_path, listen):
    with pytest.raises(SpecError, match="no step would run"):
        train(spec(training={"batch_size": 1000}), tiny, tmp_path, listen())


def test_weights_that_exist_score_as_they_did_after_training(straight, tiny, tmp_path, listen):
    result, _, _ = straight
    prepare_backend(spec())
    listener = listen()
    again = evaluate_weights(spec(), *tiny, result.artifacts["weights"], tmp_path, listener)
    assert again.scores == result.scores
    assert (again.best_epoch, again.epochs) == (0, 0)
    assert listener.phases == ["building", "evaluating"]


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_other_optimizers_train_and_resume(tiny, tmp_path, listen, optimizer):
    chosen = spec(training={"optimizer": optimizer, "epochs": 2})
    whole = train(chosen, tiny, tmp_path / "whole", listen())
    first = tmp_path / "whole" / "checkpoints" / "epoch-00001.npz"
    again = train(chosen, tiny, tmp_path / "again", listen(), resume_from=first)
    assert again.artifacts["weights"].read_bytes() == whole.artifacts["weights"].read_bytes()


@pytest.mark.parametrize("batch_dice", [True, False])
def test_the_curve_is_the_batch_dice_of_the_first_step(tiny, tmp_path, listen, batch_dice):
    """One batch an epoch without dropout: the epoch's loss is that of the fresh network."""
    n = sum(entry.part == "train" for entry in tiny[0].slices)
    chosen = spec(
        training={"epochs": 1, "batch_size": n, "batch_dice": batch_dice},
        model={"filters": 2, "depth": 2, "dropout": 0.0},
    )
    listener = listen()
    train(chosen, tiny, tmp_path, listener)
    manifest, cache = tiny
    rows = [index for index, entry in enumerate(manifest.slices) if entry.part == "train"]
    y = cache.masks[rows][..., None]
    p = build_network(32, ModelOptions(filters=2, depth=2, dropout=0.0)).predict_on_batch(
        cache.images[rows][..., None]
    )
    expected = float(study_dice(y, keras.ops.convert_to_tensor(p)))
    each = [float(study_dice(y[one : one + 1], keras.ops.convert_to_tensor(p[one : one + 1]))) for one in range(n)]
    (record,) = listener.records
    assert record.dice == pytest.approx(expected, abs=1e-6)
    assert record.loss == pytest.approx(1 - (expected if batch_dice else np.mean(each)), abs=1e-6)
    assert np.mean(each) != pytest.approx(expected, abs=1e-3)


def test_the_time_left_counts_validation_from_the_first_epoch_on():
    pace = _Pace(epochs=3, steps=4, samples=8, validation_steps=1.5)
    pace.marks.extend(pace.marks[0] + seconds for seconds in (2.0, 4.0))
    # Two of four steps are done at 2 s each; a validation is guessed at 3 s.
    assert pace.seconds_left(1, 2) == pytest.approx(2 * 2 + 3 + 2 * (4 * 2 + 3))
    pace.epoch_done(validation_seconds=7.0)
    pace.marks.append(pace.marks[0] + 1.0)
    assert pace.seconds_left(2, 1) == pytest.approx(3 * 1 + 7 + 1 * (4 * 1 + 7))


def test_the_first_step_which_builds_the_graph_says_nothing_of_the_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("liverseg_core.training.time.monotonic", lambda: now[0])
    pace = _Pace(epochs=1, steps=4, samples=8, validation_steps=0)
    for took in (60.0, 1.0, 3.0):
        now[0] += took
        pace.step_done()
    # Two steps of 2 s on average after the one of 60 s; one step is left.
    assert pace.seconds_left(1, 3) == pytest.approx(2)
    assert pace.images_per_second == pytest.approx(2 / 2)


def test_a_validation_is_guessed_in_steps(tiny, tmp_path, listen):
    manifest, cache = tiny
    val = sum(entry.part == "val" for entry in manifest.slices)
    for crop, larger in ((None, 1), (16, 4)):
        chosen = spec(data={"image_size": 32, "crop": crop, "sampling": "lesion-balanced"})
        training = _Training(chosen, manifest, cache, tmp_path, listen())
        # Slices in batches of 4, one of three ways through the network; a cut-out of half the side is a quarter.
        assert training._validation_steps() == pytest.approx(val / 4 / 3 * larger)


# --- options beyond the study -------------------------------------------------------------------------------------

RICH = {
    "data": {"image_size": 32, "augmentation": "small-rotations", "sampling": "lesion-balanced", "min_lesion": 3},
    "model": {"filters": 2, "depth": 2, "head": "softmax", "normalization": "batch"},
    "training": {"epochs": 2, "loss": "lesion-dice-cross-entropy", "schedule": {"kind": "cosine", "warmup": 1}},
}
SCANS = {
    "data": {"image_size": 32, "batch_by": "scan", "augmentation": {"noise": 0.05, "flip": True}},
    "model": {"filters": 2, "depth": 2, "normalization": "group", "network": "unet-2.5d", "window": 3},
    "training": {"epochs": 2, "loss": "focal-tversky", "schedule": {"kind": "exponential"}},
}

CUT = {
    **RICH,
    "data": {**RICH["data"], "crop": 16},
    "model": {**RICH["model"], "network": "unet-2.5d", "window": 3, "subpixel": 2},
}


@pytest.mark.parametrize("options", [RICH, SCANS, CUT], ids=["rich", "scans", "cut-outs and sub-pixels"])
def test_every_option_resumes_to_the_same_bits(tiny, tmp_path, listen, options):
    chosen = spec(**options)
    whole = listen()
    result = train(chosen, tiny, tmp_path / "whole", whole)
    resumed = listen()
    again = train(chosen, tiny, tmp_path / "again", resumed, resume_from=whole.checkpoints[0])
    assert [without_clock(r) for r in resumed.records] == [without_clock(r) for r in whole.records[1:]]
    assert again.artifacts["weights"].read_bytes() == result.artifacts["weights"].read_bytes()
    # Measured beside another loss, not derived from it.
    for record in whole.records:
        assert 0 < record.dice < 1
        assert record.dice != pytest.approx(1 - record.loss, abs=1e-3)
        assert record.val_dice != pytest.approx(1 - record.val_loss, abs=1e-3)


def test_wherever_a_training_is_interrupted_it_goes_on_from_there(tiny, tmp_path, listen):
    """Between steps, in each of the two passes over a step's pieces, in validation."""
    chosen = spec(**{**SCANS, "training": {**SCANS["training"], "epochs": 1}})
    asked = []
    whole = listen(stop_when=lambda so_far: asked.append(len(so_far.records)))
    result = train(chosen, tiny, tmp_path / "whole", whole)
    within = asked.count(0)  # the rest was asked while it scored
    steps = set()
    for limit in np.linspace(0, within - 1, 4).astype(int):
        times = iter(range(limit))
        broken, resumed = listen(stop_when=lambda _, times=times: next(times, None) is None), listen()
        with pytest.raises(Interrupted):
            train(chosen, tiny, tmp_path / f"broken-{limit}", broken)
        begun = tmp_path / f"broken-{limit}" / "checkpoints" / "begun.npz"
        again = train(chosen, tiny, tmp_path / f"again-{limit}", resumed, None, [begun])
        assert broken.losses + resumed.losses == whole.losses
        assert [without_clock(r) for r in resumed.records] == [without_clock(r) for r in whole.records]
        assert again.artifacts["weights"].read_bytes() == result.artifacts["weights"].read_bytes()
        steps.add(len(broken.steps))
    assert {0, len(whole.steps)} < steps


def test_the_learning_rate_follows_its_schedule(tiny, tmp_path, listen):
    n = sum(entry.part == "train" for entry in tiny[0].slices)
    chosen = spec(training={"epochs": 3, "batch_size": n, "schedule": {"kind": "cosine", "warmup": 1, "final": 0.5}})
    listener = listen()
    train(chosen, tiny, tmp_path, listener)
    assert [record.learning_rate for record in listener.records] == pytest.approx([0.001, 0.001, 0.0005])
    variables = checkpoints.load(listener.checkpoints[-1]).optimizer
    assert any(value.shape == () and value == np.float32(0.0005) for value in variables)  # it was really used


def test_another_learning_rate_at_the_second_epoch_gives_other_weights(straight, tiny, tmp_path, listen):
    _, listener, workdir = straight
    first = checkpoints.load(workdir / "checkpoints" / "epoch-00001.npz").weights
    stepped = listen()
    train(spec(training={"schedule": {"kind": "step"}}), tiny, tmp_path, stepped)
    kept = [checkpoints.load(path).weights for path in stepped.checkpoints]
    plain = [checkpoints.load(path).weights for path in listener.checkpoints]
    assert all(np.array_equal(a, b) for a, b in zip(first, kept[0], strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(plain[1], kept[1], strict=True))  # a tenth from the third on
    assert not all(np.array_equal(a, b) for a, b in zip(plain[2], kept[2], strict=True))


def test_dice_beside_another_loss_is_the_study_s(tiny, tmp_path, listen):
    """One batch an epoch without dropout, so the first record is about the fresh network."""
    n = sum(entry.part == "train" for entry in tiny[0].slices)
    model = {"filters": 2, "depth": 2, "dropout": 0.0}
    chosen = spec(training={"epochs": 1, "batch_size": n, "loss": "dice-cross-entropy"}, model=model)
    listener = listen()
    train(chosen, tiny, tmp_path, listener)
    rows = [index for index, entry in enumerate(tiny[0].slices) if entry.part == "train"]
    p = build_network(32, chosen.model).predict_on_batch(tiny[1].images[rows][..., None])
    y = tiny[1].masks[rows][..., None]
    assert listener.records[0].dice == pytest.approx(
        (2 * (y * p).sum() + 1) / ((y**2).sum() + (p**2).sum() + 1), abs=1e-6
    )


def test_balancing_lesions_that_are_not_there_is_refused(tiny, tmp_path, listen):
    chosen = spec(data={"image_size": 32, "sampling": "lesion-balanced", "min_lesion": 10**6})
    with pytest.raises(SpecError, match="no train slice holds a lesion"):
        train(chosen, tiny, tmp_path, listen())
    assert not (tmp_path / "checkpoints").exists()


def test_a_batch_size_beyond_the_train_part_is_fine_for_scans(tiny, tmp_path, listen):
    chosen = spec(training={"batch_size": 1000, "epochs": 1}, data={"image_size": 32, "batch_by": "scan"})
    listener = listen()
    train(chosen, tiny, tmp_path, listener)
    assert [step[:3] for step in listener.steps] == [(1, s + 1, 2) for s in range(len(tiny[0].scans("train")))]
    [record] = listener.records
    assert record.dice == 1 - record.loss


def test_a_stop_is_heard_between_the_pieces_of_a_scan(tiny, tmp_path, listen):
    listener, asked = listen(), []

    def stop(so_far):
        asked.append(len(so_far.steps))
        return len(asked) == 3

    listener.stop_when = stop
    chosen = spec(training={"batch_size": 1}, data={"image_size": 32, "batch_by": "scan"})
    with pytest.raises(Interrupted):
        train(chosen, tiny, tmp_path, listener)
    assert listener.steps == []
