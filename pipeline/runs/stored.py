"""What an export is made from, streamed: rows, and batches of them with their maps and pixels."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from db.records import ImageRow, ImageState, Run
from pipeline.errors import SourceUnavailable, UnreadableImage
from pipeline.spec.run_spec import RunSpec

Floats = NDArray[np.float32]
BATCH = 32  # images held at a time


@dataclass(frozen=True)
class Material:
    """Some images of one run. `rows` starts anew with each call."""

    run: Run
    spec: RunSpec
    rows: Callable[[], Iterator[ImageRow]]
    count: Callable[[], int]
    read_maps: Callable[[Sequence[ImageRow]], Floats]  # (n, C, H, W)
    read_image: Callable[[ImageRow], Floats]  # (C, H, W) in [0, 1]

    def done(self) -> Iterator[ImageRow]:
        """Rows that have a map."""
        return (row for row in self.rows() if row.state is ImageState.DONE)

    def with_maps(self) -> Iterator[tuple[list[ImageRow], Floats]]:
        """Rows that have a map, and their maps (n, C, H, W), `BATCH` at a time."""
        done = self.done()
        while batch := list(islice(done, BATCH)):
            yield batch, self.read_maps(batch)

    def with_images(self) -> Iterator[tuple[ImageRow, Floats, Floats]]:
        """Each row that has a map and whose file is as it was: the map and the pixels, (C, H, W)."""
        for batch, maps in self.with_maps():
            for row, one in zip(batch, maps, strict=True):
                try:
                    pixels = self.read_image(row)
                except (UnreadableImage, SourceUnavailable):
                    continue
                yield row, one, pixels


def safe_name(row: ImageRow) -> str:
    """A file name for an image, without its ending: unique in its run, of letters, digits, '.', '_' and '-' alone."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", row.key.rpartition(".")[0] or row.key)
    return f"{row.row:08}-{stem[-80:].strip('._')}"
