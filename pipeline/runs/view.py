"""A run as analyses see it: its rows, and functions that read maps, read images and run the models.

Nothing here opens a file, a database or a network, so an analysis can be tested on arrays.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from db.records import ImageRow, ImageState, Run
from pipeline.spec.run_spec import RunSpec

By = Literal["predicted", "label"]
Floats = NDArray[np.float32]

BATCH_BYTES = 32 * 2**20  # float32 values read at a time: bounds the memory for any size of data set


@dataclass(frozen=True)
class RunView:
    """One run, as analyses see it. H and W are the height and width of the model's input.

    `rows` is iterated more than once and never held in memory. `maps` gives mean attribution maps (n, C, H, W) float32,
    with C = 1 if channels were summed. `spreads` gives their standard deviation over members, in the same shape.
    `images` gives the pixels of the model's input, (n, C, H, W) float32 in [0, 1]. `predict` takes such pixels and
    gives the ensemble's mean probability (n, classes) float32. All return results in the order of their arguments.
    """

    run: Run
    spec: RunSpec
    rows: Iterable[ImageRow]  # of the whole run, done and failed; can be iterated again
    maps: Callable[[Sequence[ImageRow]], Floats]
    images: Callable[[Sequence[ImageRow]], Floats]
    predict: Callable[[Floats], Floats]
    available: Callable[[ImageRow], bool] = lambda _: True  # whether `images` can still read the row
    spreads: Callable[[Sequence[ImageRow]], Floats] | None = None  # None for a single member

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input, in pixels."""
        return self.spec.preprocess.height, self.spec.preprocess.width

    @property
    def batch(self) -> int:
        """Number of images that are read or predicted at a time."""
        height, width = self.size
        return max(1, min(256, BATCH_BYTES // (4 * self.spec.preprocess.channels * height * width)))

    def done(self) -> Iterator[ImageRow]:
        """The rows that have a map."""
        return (row for row in self.rows if row.state is ImageState.DONE)

    def read_maps(self) -> Iterator[tuple[Sequence[ImageRow], Floats, Floats | None]]:
        """Batches of rows, their maps (n, H, W) and spreads (n, H, W), summed over channels: one batch in memory."""
        for batch in batches(self.done(), self.batch):
            spreads = None if self.spreads is None else self.spreads(batch).sum(axis=1)
            yield batch, self.maps(batch).sum(axis=1), spreads

    def read_images(self, rows: Sequence[ImageRow]) -> Floats:
        """Pixels (n, C, H, W) of a few rows, read in batches."""
        parts = [self.images(batch) for batch in batches(rows, self.batch)]
        return np.concatenate(parts) if parts else np.zeros((0, self.spec.preprocess.channels, *self.size), np.float32)

    def ask(self, pixels: Floats) -> NDArray[np.int64]:
        """Index of the predicted class (n,) of pixels (n, C, H, W), computed in batches."""
        parts = [self.predict(pixels[i : i + self.batch]).argmax(axis=1) for i in range(0, len(pixels), self.batch)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def batches(rows: Iterable[ImageRow], size: int) -> Iterator[Sequence[ImageRow]]:
    """Consecutive lists of at most `size` rows."""
    remaining = iter(rows)
    while batch := list(islice(remaining, size)):
        yield batch


def class_of(row: ImageRow, by: By) -> str | None:
    """The class that a row counts for."""
    return row.predicted if by == "predicted" else row.label


def natural(name: str) -> tuple[int, int, str]:
    """Sorts '2' before '10', and numbers before names."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)
