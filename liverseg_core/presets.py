"""The study of 2019 as data: every row of its Tables 5 and 6, and how to run each again.

Where a preset differs from the study: validation is over the whole val part in order, at the training batch size;
the best epoch's weights are scored (the study saved them, but scored some rows at the last epoch); "Shuffled 2",
which repeats "Shuffled 1", takes another seed.
"""

from dataclasses import dataclass
from typing import Any

TABLE_6_COLUMNS = ("loss", "dice", "precision", "recall", "dice_liver", "dice_tumor")
"""Column order of Table 6; the names are those of ``liverseg_core.metrics.aggregate``."""

EMPTY_PREDICTION = {
    256: {"dice": 0.20143, "dice_liver": 0.20852, "dice_tumor": 0.20143},
    512: {"dice": 0.04951, "dice_liver": 0.05154, "dice_tumor": 0.04951},
}
"""Image size -> what a prediction without any liver scores on the study's val part, in percent: with p = 0 every
Dice is the mean over slices of 1 / (sum y^2 + 1)."""


PAPER_2019_OVERRIDE = "as in the study: scans of one person may lie on both sides"
"""Why the study's own split may be used although subjects lie in train and val (``dataset.split.override``)."""


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One experiment of the study.

    Attributes:
        name: as printed.
        run_id: Table 5's, None where the study printed none.
        printed: Table 6 in percent in the order of :data:`TABLE_6_COLUMNS`, misprints included.
        batch_size, image_size, filters, learning_rate: Table 5, for "Remove shuffle 5" from its file name.
        epochs: the most epochs, from the study's file names.
        shuffle: whether train slices were shuffled.
        removed: whether scans 0 and 1 were left out of train.
        augmented: whether the study's data augmentation was on.
        seed: of our repetition; the study's are unknown.
    """

    name: str
    run_id: str | None
    printed: tuple[float, float, float, float, float, float]
    batch_size: int = 32
    image_size: int = 256
    filters: int = 4
    learning_rate: float = 1e-3
    epochs: int = 50
    shuffle: bool = True
    removed: bool = False
    augmented: bool = False
    seed: int = 0


PAPER_2019_ROWS = (
    PaperRow("Shuffled 1", "0605-180358", (3.663, 96.337, 99.53, 57.927, 94.502, 5.386), epochs=30),
    PaperRow("Shuffled 2", "0605-180456", (4.395, 95.605, 98.822, 85.7, 94.099, 2.95), epochs=30, seed=1),
    PaperRow("Not shuffled", "0605-180517", (15.447, 84.553, 90.328, 85.465, 83.459, 0.201), shuffle=False),
    PaperRow("lr5e-3", "0605-180538", (99.799, 0.201, 0, 0, 0.209, 0.201), learning_rate=5e-3, shuffle=False),
    PaperRow(
        "lr5e-4", "0605-180555", (14.633, 85.367, 95.099, 76.411, 86.026, 0.201), learning_rate=5e-4, shuffle=False
    ),
    PaperRow("Remove shuffle", "0605-180618", (4.253, 95.747, 98.654, 78.65, 94.212, 3.678), removed=True),
    PaperRow("DA", "0605-180636", (7.838, 92.162, 97.598, 89.396, 94.205, 0.201), augmented=True),
    PaperRow(
        "DA lr5e-4",
        "0605-180653",
        (11.345, 88.655, 97.158, 89.322, 93.158, 0.201),
        learning_rate=5e-4,
        augmented=True,
    ),
    PaperRow("DA remove", "0605-180713", (35.396, 64.604, 94.673, 7.92, 59.793, 0.201), removed=True, augmented=True),
    PaperRow(
        "Remove shuffle 2",
        "0606-143205",
        (26.761, 93.239, 95.723, 90.185, 92.307, 0.203),
        batch_size=128,
        filters=8,
        removed=True,
    ),
    PaperRow(
        "Remove shuffle 3",
        "0606-144801",
        (6.84, 93.161, 95.791, 90.082, 92.197, 0.201),
        batch_size=64,
        filters=8,
        removed=True,
    ),
    PaperRow(
        "Remove shuffle 4",
        "0606-145938",
        (4.755, 95.245, 96.963, 91.944, 94.603, 0.201),
        batch_size=64,
        filters=8,
        epochs=60,
        removed=True,
    ),
    PaperRow("Remove shuffle 5", None, (3.003, 96.997, 98.767, 85.962, 95.798, 6.422), batch_size=1, removed=True),
    PaperRow("Shuffle b4", "0606-170239", (2.931, 97.069, 98.855, 84.578, 96.14, 5.006), batch_size=4, epochs=30),
    PaperRow(
        "Shuffled 512 b4",
        "0606-173115",
        (4.395, 95.605, 98.822, 85.7, 94.099, 2.95),
        batch_size=4,
        image_size=512,
        epochs=30,
    ),
)


def paper_2019_overrides(row: PaperRow) -> dict[str, Any]:
    """The row as one of ``Submission.variants``: dotted path -> value, every setting written out."""
    overrides: dict[str, Any] = {
        "name": row.name,
        "dataset.split.override": PAPER_2019_OVERRIDE,
        "data.shuffle": row.shuffle,
        "data.image_size": row.image_size,
        "data.augmentation": "paper-2019" if row.augmented else "none",
        "model.filters": row.filters,
        "training.learning_rate": row.learning_rate,
        "training.batch_size": row.batch_size,
        "training.epochs": row.epochs,
        "training.seed": row.seed,
    }
    return {**overrides, "dataset.exclude.scans": [0, 1]} if row.removed else overrides
