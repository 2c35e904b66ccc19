"""The labeled images of a source: the readable ones, their split into training and holdout, and batches of pixels.

All images are decoded once before the training, so that unreadable ones are named and left out. Their pixels stay in
memory if they fit (8 bits a value). Otherwise they are decoded again in each epoch, ahead of its batches.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from db.records import Entry
from pipeline.datasets.decoder import Decoder, Picture
from pipeline.datasets.sampling import hash_key, hold_out
from pipeline.errors import DatasetError, UnreadableImage
from pipeline.models.training.ensemble_manifest import Skipped

CACHE_BYTES = 2**30  # largest size of the pixels kept in memory
AT_ONCE = 256  # images that are requested together from the decoder

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Images:
    """N readable images, in the order of the listing."""

    entries: Sequence[Entry]
    labels: Tensor  # (N,) int64
    class_names: tuple[str, ...]  # sorted
    skipped: tuple[Skipped, ...]
    decoder: Decoder
    pixels: Bytes | None  # (N, C, H, W); None if they exceed the cache

    def batches(self, rows: Sequence[int], size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pixels (n, C, H, W) float32 in [0, 1] and labels (n,) of some rows, in their order, `size` at a time.

        Raises:
            UnreadableImage: one has changed since it was listed.
        """
        coming = self._pictures(rows) if self.pixels is None else None
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            if self.pixels is not None:
                pixels = torch.from_numpy(self.pixels[some]).float() / 255
            else:
                pixels = torch.from_numpy(np.stack([picture.pixels for picture in islice(coming or (), len(some))]))
            yield pixels, self.labels[some]

    def _pictures(self, rows: Sequence[int]) -> Iterator[Picture]:
        """Pictures of some rows, decoded again ahead of their use."""
        for start in range(0, len(rows), AT_ONCE):
            some = [self.entries[row] for row in rows[start : start + AT_ONCE]]
            for pictures, failed in self.decoder.ahead(some):
                if failed:
                    raise UnreadableImage(f"{failed[0].error}; training needs it unchanged")
                yield from pictures


def class_names(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The labels of some entries, sorted.

    Raises:
        DatasetError: an image has none, or there are fewer than two.
    """
    names: set[str] = set()
    for entry in entries:
        if entry.label is None:
            raise DatasetError(f"image {entry.key!r} has no label; put images into class folders, or give a manifest")
        names.add(entry.label)
    if len(names) < 2:
        raise DatasetError(f"all images are of class {min(names)!r}; a classifier needs two classes or more")
    return tuple(sorted(names))


def read_images(entries: Sequence[Entry], decoder: Decoder, *, cache_bytes: int = CACHE_BYTES) -> Images:
    """The images that can be read, and the names of those that cannot.

    Raises:
        DatasetError: as `class_names`, or no image of a class can be read.
        SourceUnavailable: the place of all images is away.
    """
    names = class_names(entries)
    good, skipped, kept = list[Entry](), list[Skipped](), list[Bytes]()
    size = decoder.preprocess
    room = cache_bytes // (size.channels * size.height * size.width)
    for start in range(0, len(entries), AT_ONCE):
        for pictures, failed in decoder.ahead(entries[start : start + AT_ONCE]):
            good += [picture.entry for picture in pictures]
            skipped += [Skipped(one.entry.key, one.error) for one in failed]
            if len(good) <= room:
                kept += [np.rint(picture.pixels * 255).astype(np.uint8) for picture in pictures]
            else:
                kept.clear()
    readable = {entry.label for entry in good}
    if lost := [name for name in names if name not in readable]:
        raise DatasetError(f"no image of class {lost[0]!r} can be read; the first that failed: {skipped[0].reason}")
    index = {name: number for number, name in enumerate(names)}
    labels = torch.tensor([index[str(entry.label)] for entry in good])
    return Images(good, labels, names, tuple(skipped), decoder, np.stack(kept) if len(kept) == len(good) else None)


def split(images: Images, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows to train on and rows held out: the same share of each class, drawn by image key. One of each class stays."""
    labels, rows = images.labels.tolist(), range(len(images.entries))
    held = hold_out(rows, share, group=labels.__getitem__, key=lambda row: hash_key(seed, images.entries[row].key))
    return [row for row in rows if row not in held], sorted(held)
