"""A run's curves as an event file that TensorBoard opens."""

import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from liverseg_core.records import EpochRecord

SCALARS = ("loss", "dice", "val_loss", "val_dice", "learning_rate")


def write_events(path: Path, history: Sequence[EpochRecord]) -> Path:
    """Write one event a finished epoch with the scalars ``loss, dice, val_loss, val_dice, learning_rate``.

    The times are those of a training without pauses that ends now, so that TensorBoard's relative axis shows hours
    of training. TensorBoard opens files whose name holds ``tfevents``.

    Returns:
        ``path``.
    """
    # The record writer alone: tensorboard's EventFileWriter would load TensorFlow, which JAX runs do without.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    ended = list(accumulate(record.seconds for record in history))
    begin = time.time() - ended[-1] if ended else time.time()
    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=begin, file_version="brain.Event:2").SerializeToString())
        for record, seconds in zip(history, ended, strict=True):
            values = [Summary.Value(tag=name, simple_value=getattr(record, name)) for name in SCALARS]
            event = Event(wall_time=begin + seconds, step=record.epoch, summary=Summary(value=values))
            writer.write(event.SerializeToString())
    return path
