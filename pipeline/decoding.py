"""Reads the images of a unit ahead of whoever computes them, in a bounded pool of threads."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from db.records import Entry, ImageRow
from pipeline import telemetry
from pipeline.datasets import Source, check_there, read_image, to_pixels
from pipeline.describing import failed_row
from pipeline.errors import UnreadableImage
from pipeline.explaining import Picture
from pipeline.spec import Preprocess

DECODERS = 4  # threads: Pillow lets go of the interpreter while it decodes
PARTS = 4  # of a unit: while one is computed the next are decoded


@dataclass(frozen=True, slots=True)
class Decoder:
    """Reads images of one run's source as its models see them."""

    run_id: str
    source: Source
    preprocess: Preprocess
    max_pixels: int
    threads: int = DECODERS

    @telemetry.stage("decode")
    def one(self, entry: Entry) -> Picture | ImageRow:
        """The picture of an entry, or the row that says why there is none."""
        try:
            decoded = read_image(self.source, entry, max_pixels=self.max_pixels)
            return Picture(entry, decoded.sha256, to_pixels(decoded.image, self.preprocess, key=entry.key))
        except UnreadableImage as error:
            return failed_row(self.run_id, entry, str(error))

    def ahead(self, entries: Sequence[Entry], parts: int = PARTS) -> Iterator[tuple[list[Picture], list[ImageRow]]]:
        """Entries in order, in equal parts, each as pictures and failed rows; what follows is read meanwhile.

        Raises:
            SourceUnavailable: the folder or bucket of all images is away.
        """
        pool = ThreadPoolExecutor(self.threads, "attribatch-decode")
        try:
            coming = iter([pool.submit(self.one, entry) for entry in entries])
            while part := list(islice(coming, -(-len(entries) // parts))):
                found = [future.result() for future in part]
                failed = [row for row in found if isinstance(row, ImageRow)]
                if failed:  # one image that is gone is a failed row; a source that is away comes back
                    check_there(self.source)
                yield _pictures(found), failed
        finally:
            pool.shutdown(cancel_futures=True)

    def pictures(self, entries: Sequence[Entry]) -> list[Picture]:
        """Those of some entries that can be read."""
        return [picture for pictures, _ in self.ahead(entries, 1) for picture in pictures]


def _pictures(found: Iterable[Picture | ImageRow]) -> list[Picture]:
    return [one for one in found if isinstance(one, Picture)]
