import pytest

from liverseg_core.tensorboard import write_events
from tests import factories


def opened(path):
    """The file as TensorBoard reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(path))
    found.Reload()
    return found


def read_scalar(path, name):
    """(epoch, value) of every event."""
    return [(event.step, event.value) for event in opened(path).Scalars(name)]


def test_tensorboard_reads_every_epoch_back(tmp_path):
    history = [
        factories.epoch_record(epoch, loss=1 / epoch, dice=0.25, val_loss=0.5, val_dice=0.75, seconds=60)
        for epoch in (1, 2, 3)
    ]
    write_events(tmp_path / "events.out.tfevents.run-1", history)
    found = opened(tmp_path)
    assert sorted(found.Tags()["scalars"]) == ["dice", "learning_rate", "loss", "val_dice", "val_loss"]
    loss = found.Scalars("loss")
    assert [event.step for event in loss] == [1, 2, 3]
    assert [event.value for event in loss] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [event.value for event in found.Scalars("val_dice")] == [0.75] * 3
    assert loss[1].wall_time - loss[0].wall_time == pytest.approx(60)
    assert found.Scalars("learning_rate")[0].value == pytest.approx(1e-3)
