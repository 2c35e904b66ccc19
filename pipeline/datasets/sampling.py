"""A seeded random sample of a run's maps, with the images that can still be read."""

import hashlib
import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from db.records import ImageRow
from pipeline.errors import UnreadableImage

Floats = NDArray[np.float32]

_TRIES = 4  # rows that are tried for each image wanted


@dataclass(frozen=True)
class Sample:
    """Rows and their pixels (C, H, W), in random order; and keys of images that are gone or have changed."""

    rows: Sequence[ImageRow]
    pixels: Sequence[Floats]
    gone: Sequence[str]


def draw(rows: Iterable[ImageRow], wanted: int, seed: int, read: Callable[[ImageRow], Floats]) -> Sample:
    """The same rows for the same seed, whatever their order; all where there are no more. Memory: the sample's.

    Args:
        rows: with a map.
        wanted: images, at least 1.
        seed: of the draw.
        read: pixels of a row; raises UnreadableImage.
    """
    drawn = heapq.nsmallest(
        _TRIES * wanted,
        rows,
        key=lambda row: (hashlib.sha256(f"{seed}/evaluate/{row.sha256}/{row.key}".encode()).digest(), row.row),
    )
    kept: list[ImageRow] = []
    pixels: list[Floats] = []
    gone: list[str] = []
    for row in drawn:
        if len(kept) == wanted:
            break
        try:
            pixels.append(read(row))
        except UnreadableImage:
            gone.append(row.key)
        else:
            kept.append(row)
    return Sample(kept, pixels, gone)
