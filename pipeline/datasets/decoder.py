"""Reads the images of a unit ahead of their computation, in a bounded pool of threads."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from db.records import Entry
from pipeline import telemetry
from pipeline.datasets import Source, check_there, read_image, to_pixels
from pipeline.errors import UnreadableImage
from pipeline.spec.run_spec import Preprocess

DECODERS = 4  # threads: Pillow lets go of the interpreter while it decodes
PARTS = 4  # parts of a unit: while one is computed the next ones are decoded


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded image of a run."""

    entry: Entry
    sha256: str
    pixels: NDArray[np.float32]  # (C, H, W) in [0, 1]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image that could not be decoded, and the reason."""

    entry: Entry
    error: str


@dataclass(frozen=True, slots=True)
class Decoder:
    """Reads images of one source as the models see them."""

    source: Source
    preprocess: Preprocess
    max_pixels: int
    threads: int = DECODERS

    @telemetry.stage("decode")
    def one(self, entry: Entry) -> Picture | Unreadable:
        """The picture of an entry, or the reason why it cannot be read."""
        try:
            decoded = read_image(self.source, entry, max_pixels=self.max_pixels)
            return Picture(entry, decoded.sha256, to_pixels(decoded.image, self.preprocess, key=entry.key))
        except UnreadableImage as error:
            return Unreadable(entry, str(error))

    def ahead(self, entries: Sequence[Entry], parts: int = PARTS) -> Iterator[tuple[list[Picture], list[Unreadable]]]:
        """Entries in order, in equal parts, each as pictures and failures. The next part is decoded meanwhile.

        Raises:
            SourceUnavailable: the folder or bucket of all images is away.
        """
        pool = ThreadPoolExecutor(self.threads, "attribatch-decode")
        try:
            coming = iter([pool.submit(self.one, entry) for entry in entries])
            while part := list(islice(coming, -(-len(entries) // parts))):
                found = [future.result() for future in part]
                failed = [one for one in found if isinstance(one, Unreadable)]
                if failed:  # a missing image is a failed row; a missing source is an outage
                    check_there(self.source)
                yield _pictures(found), failed
        finally:
            pool.shutdown(cancel_futures=True)

    def pictures(self, entries: Sequence[Entry]) -> list[Picture]:
        """Those of some entries that can be read."""
        return [picture for pictures, _ in self.ahead(entries, 1) for picture in pictures]


def _pictures(found: Iterable[Picture | Unreadable]) -> list[Picture]:
    return [one for one in found if isinstance(one, Picture)]
