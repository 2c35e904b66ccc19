"""The first pass, over the rows: the classes, and a random sample of each. Reads no map and no image.

The sample of a class is its rows with the smallest hashes of (seed, row): the same in any order and
batches, and a smaller sample is part of a larger one. It holds at most 256 rows a class and 10,000 in all, but at least
6 a class.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from db.records import ImageRow, ImageState
from pipeline.analysis.audit.thresholds import MIN_IMAGES
from pipeline.runs.view import By, class_of, natural

PER_CLASS = 256
IN_ALL = 10_000
FAILED = 20  # failed rows that are kept for the report
_Heap: TypeAlias = list[tuple[int, int, ImageRow]]  # minus the hash, the row's number, the row: the largest hash first


@dataclass
class Survey:
    """The counts and samples of a run's rows."""

    images: int = 0  # with a map
    counts: Counter[str] = field(default_factory=Counter)  # images by class
    sample: Mapping[str, list[ImageRow]] = field(default_factory=dict)  # by class, the smallest hash first
    explained: Mapping[str, list[ImageRow]] = field(default_factory=dict)  # likewise, if the map explains the class
    failed: Counter[str] = field(default_factory=Counter)  # images by reason
    failures: list[ImageRow] = field(default_factory=list)  # the first 20 that failed

    @property
    def names(self) -> list[str]:
        """Classes in natural order."""
        return sorted(self.counts, key=natural)


class _Sample:
    """The rows of each class with the smallest hashes; fewer of each as classes become more."""

    def __init__(self) -> None:
        self._heaps: dict[str, _Heap] = {}

    def offer(self, name: str, priority: int, row: ImageRow) -> None:
        heap = self._heaps.setdefault(name, [])
        heapq.heappush(heap, (-priority, row.row, row))
        while len(heap) > self._most():
            heapq.heappop(heap)

    def taken(self) -> dict[str, list[ImageRow]]:
        """Rows by class, classes in natural order, rows by their hash."""
        most = self._most()
        names = sorted(self._heaps, key=natural)
        return {name: [row for _, _, row in sorted(self._heaps[name], reverse=True)[:most]] for name in names}

    def _most(self) -> int:
        return max(MIN_IMAGES, min(PER_CLASS, IN_ALL // max(1, len(self._heaps))))


def survey(rows: Iterable[ImageRow], by: By, seed: int) -> Survey:
    """Read all rows of a run once."""
    found, every, explained = Survey(), _Sample(), _Sample()
    for row in rows:
        if row.state is ImageState.FAILED:
            found.failed[row.error or "unknown reason"] += 1
            if len(found.failures) < FAILED:
                found.failures.append(row)
        elif row.state is ImageState.DONE:
            found.images += 1
            name = class_of(row, by)
            if name is None:
                continue
            found.counts[name] += 1
            priority = _hash(seed, row.row)
            every.offer(name, priority, row)
            if row.target == name:
                explained.offer(name, priority, row)
    found.sample, found.explained = every.taken(), explained.taken()
    return found


def _hash(seed: int, row: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{row}".encode(), digest_size=8).digest())
