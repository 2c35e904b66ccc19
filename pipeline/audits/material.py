"""What an audit is given: a run's rows, and three functions that read maps, read images and ask the model.

Pure: nothing here opens a file, a database or a network, so that an audit can be tested on arrays.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from db.records import ImageRow, ImageState, Run
from pipeline.spec import RunSpec

By = Literal["predicted", "label"]
Floats = NDArray[np.float32]

BATCH_BYTES = 32 * 2**20  # of float32 values that are read at a time: bounds the memory, whatever the data set's size


@dataclass(frozen=True)
class Material:
    """One run, as audits see it. H and W are those of the model's input.

    `maps` gives mean attribution maps (n, C, H, W) float32, C = 1 where channels were summed; `images` the pixels of
    the model's input (n, C, H, W) float32 in [0, 1]; `predict` takes such pixels and gives the ensemble's mean
    probability (n, classes) float32. All three answer in the order in which they are asked.
    """

    run: Run
    spec: RunSpec
    rows: Sequence[ImageRow]  # of the whole run, done and failed
    maps: Callable[[Sequence[ImageRow]], Floats]
    images: Callable[[Sequence[ImageRow]], Floats]
    predict: Callable[[Floats], Floats]
    available: Callable[[ImageRow], bool] = lambda _: True  # whether `images` can still read it

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input, in pixels."""
        return self.spec.preprocess.height, self.spec.preprocess.width

    @property
    def batch(self) -> int:
        """Images that are read, or asked about, at a time."""
        height, width = self.size
        return max(1, min(256, BATCH_BYTES // (4 * self.spec.preprocess.channels * height * width)))

    def done(self) -> list[ImageRow]:
        """The rows that have a map."""
        return [row for row in self.rows if row.state is ImageState.DONE]

    def failed(self) -> list[ImageRow]:
        """The rows that have none, each with the reason in `error`."""
        return [row for row in self.rows if row.state is ImageState.FAILED]

    def read_maps(self, rows: Sequence[ImageRow]) -> Iterator[tuple[Sequence[ImageRow], Floats]]:
        """Batches of rows with their maps (n, H, W), summed over channels: one batch in memory at a time."""
        for batch in batches(rows, self.batch):
            yield batch, self.maps(batch).sum(axis=1)

    def read_images(self, rows: Sequence[ImageRow]) -> Floats:
        """Pixels (n, C, H, W) of a few rows, read in batches."""
        return np.concatenate([self.images(batch) for batch in batches(rows, self.batch)])

    def ask(self, pixels: Floats) -> NDArray[np.int64]:
        """Index of the predicted class (n,) of pixels (n, C, H, W), asked in batches."""
        parts = [self.predict(pixels[i : i + self.batch]).argmax(axis=1) for i in range(0, len(pixels), self.batch)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def batches(rows: Sequence[ImageRow], size: int) -> Iterator[Sequence[ImageRow]]:
    """Consecutive slices of at most `size` rows."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def classes_of(rows: Sequence[ImageRow], by: By) -> Mapping[str, list[ImageRow]]:
    """Rows by class, classes in natural order ('2' before '10'). Rows without the name of a class are left out."""
    groups: dict[str, list[ImageRow]] = {}
    for row in rows:
        if (name := class_of(row, by)) is not None:
            groups.setdefault(name, []).append(row)
    return {name: groups[name] for name in sorted(groups, key=_natural)}


def class_of(row: ImageRow, by: By) -> str | None:
    """The class that a row counts for."""
    return row.predicted if by == "predicted" else row.label


def _natural(name: str) -> tuple[int, int, str]:
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)
