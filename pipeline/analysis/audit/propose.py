"""Where a class might lean on more than its object: windows that hold more of its attribution than of other classes'.

Proposes only. Classes differ in where their evidence lies, so nearly every class has such windows, with small
p-values, on clean data too; `interventions` decides. Knows nothing of pixels or models.

A window's share of an image is the part of the positive attribution (summed over channels first) that lies in it.

Order: by how much the share exceeds that of the other classes, per pixel of the window's side (divided by its area,
specks would win; undivided, the largest windows would), once for the mean and once for the 90th percentile (a mark on a
part of the images). Standard deviations are no order: on digits a black margin with 1 % of the attribution, but the
same 1 % in every image, came before a mark that held 29 %. Measured on networks whose digits bear a mark: where its
removal costs 20 points, its window was the first or the second of its class by the mean.

p-value: per class and window two linear statistics, the mean share and the mean squared share (which answers to an
upper tail), each standardised by its exact mean and variance under a random assignment of images to classes; the larger
one is held against the maximum over all classes, windows and both statistics in every permutation (Westfall and
Young's single-step max-T, 1993). It is thus corrected for everything that was tried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.runs.view import Floats

FRACTIONS = (1 / 8, 3 / 16, 1 / 4, 3 / 8)  # of the shorter side; the stride is half of it
LENGTHS = (3 / 8, 1 / 2, 5 / 8, 1.0)  # of a strip along a border, of that border; its thickness is one of THICKNESSES
THICKNESSES = (1 / 8, 3 / 16, 1 / 4)
LEAST = 6  # images that a class needs, and that a test needs: on fewer nothing is tested
# where a candidate comes from: places of the class, of a cluster of its maps, or the colours of its images
Kind = Literal["window", "cluster", "colour"]
Boxes = NDArray[np.int64]  # (k, 4): x0, y0, x1, y1 in pixels, x1 and y1 exclusive
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Candidate:
    """A window that holds more of a class's attribution than of the other classes'."""

    class_name: str
    region: Box
    share: float  # mean share in the class, 0..1
    share_elsewhere: float  # mean share in the other classes
    score: float  # excess over the other classes, per side of the window as a part of the image's: larger is stranger
    p_value: float
    order: tuple[int, ...]  # positions in the class's examined images, largest share first
    leaning: int  # examined images whose share exceeds the 95th percentile of the other classes
    kind: Kind = "window"


def windows(height: int, width: int) -> Boxes:
    """Squares at several sizes that overlap by about half, and strips along every border, (k, 4)."""
    boxes: list[Box] = []
    for fraction in FRACTIONS:
        side = max(2, round(fraction * min(height, width)))
        boxes += [(x, y, x + side, y + side) for y in _starts(height, side) for x in _starts(width, side)]
    for part in LENGTHS:
        for fraction in THICKNESSES:
            thick = max(2, round(fraction * min(height, width)))
            across, down = max(2, round(part * width)), max(2, round(part * height))
            boxes += [(x, y, x + across, y + thick) for y in (0, height - thick) for x in _starts(width, across)]
            boxes += [(x, y, x + thick, y + down) for x in (0, width - thick) for y in _starts(height, down)]
    return np.array(sorted(set(boxes)), dtype=np.int64)


def _starts(length: int, side: int) -> list[int]:
    steps = max(1, round(2 * (length - side) / side))
    return [int(start) for start in np.linspace(0, length - side, steps + 1).round()]


def window_shares(maps: Floats, boxes: Boxes) -> Floats:
    """Share of each image's positive attribution in each window: maps (n, H, W) -> (n, k), 0..1.

    An image without positive attribution has share 0 everywhere.
    """
    sums = np.zeros((len(maps), maps.shape[1] + 1, maps.shape[2] + 1))  # float64: differences of running sums
    np.cumsum(np.cumsum(np.clip(maps, 0, None), axis=1, dtype=np.float64), axis=2, out=sums[:, 1:, 1:])
    x0, y0, x1, y1 = boxes.T
    held = sums[:, y1, x1] - sums[:, y0, x1] - sums[:, y1, x0] + sums[:, y0, x0]
    total = sums[:, -1:, -1:].reshape(-1, 1)
    share: Floats = np.divide(held, total, out=np.zeros_like(held), where=total > 0).astype(np.float32)
    return share


class Scan:
    """The shares of all classes in all windows, and their permutation test.

    The p-values of a scan hold for all classes and windows at once, so that further candidates may be picked among
    the windows in any way: by a cluster's images, or grown to the shape of a mark.

    Args:
        shares: (n, k) per class, from `window_shares`; a class with fewer than 6 images is left out.
        boxes: the windows (k, 4).
        permutations: how often images are dealt to classes at random.
        seed: of the permutations.
    """

    def __init__(self, shares: Mapping[str, Floats], boxes: Boxes, *, permutations: int, seed: int) -> None:
        self.boxes = boxes
        self.shares = {name: part for name, part in shares.items() if len(part) >= LEAST}
        self.names = list(self.shares) if len(self.shares) >= 2 else []
        if self.names:
            self._table = np.concatenate(list(self.shares.values()))  # (N, k), sorted by class
            counts = np.array([len(part) for part in self.shares.values()])
            self._ends, self._counts = np.cumsum(counts), counts
            self._limits, self._scores = permuted(self._table, counts, permutations, np.random.default_rng(seed))

    def proposed(self) -> list[Candidate]:
        """The strangest windows of each class, at most 5 that overlap little, strangest first.

        Nothing where there are fewer than two classes: there is nothing to compare.
        """
        found = []
        for name in self.names:
            own, others = self.shares[name], self._others(name)
            found += [self._candidate(name, *one, "window") for one in _strangest(own, others, self.boxes)]
        return sorted(found, key=lambda one: -one.score)

    def of_cluster(self, name: str, members: Sequence[int]) -> Candidate | None:
        """The strangest window of some images of a class, if they hold more there than the other classes' images."""
        if name not in self.names:
            return None
        own, others = self.shares[name][list(members)], self._others(name)
        excess = (own.mean(axis=0) - others.mean(axis=0)) / sides(self.boxes)
        window = int(excess.argmax())
        if excess[window] <= 0:
            return None
        found = self._candidate(name, window, float(excess[window]), "cluster")
        order = tuple(int(members[place]) for place in np.argsort(-own[:, window], kind="stable"))
        leaning = int((own[:, window] > np.quantile(others[:, window], 0.95)).sum())
        return replace(found, order=order, leaning=leaning)

    def _others(self, name: str) -> Floats:
        index = self.names.index(name)
        return np.delete(self._table, np.s_[self._ends[index] - self._counts[index] : self._ends[index]], axis=0)

    def _candidate(self, name: str, window: int, score: float, kind: Kind) -> Candidate:
        own, others = self.shares[name][:, window], self._others(name)[:, window]
        reached = int((self._limits >= self._scores[self.names.index(name), window]).sum())
        x0, y0, x1, y1 = (int(value) for value in self.boxes[window])
        return Candidate(
            class_name=name,
            region=(x0, y0, x1, y1),
            share=float(own.mean()),
            share_elsewhere=float(others.mean()),
            score=score,
            p_value=(1 + reached) / (1 + len(self._limits)),
            order=tuple(int(i) for i in np.argsort(-own, kind="stable")),
            leaning=int((own > np.quantile(others, 0.95)).sum()),
            kind=kind,
        )


def _strangest(own: Floats, others: Floats, boxes: Boxes) -> list[tuple[int, float]]:
    """Windows with the largest excess per side: 3 by the mean, then 2 more by the 90th percentile."""
    side = sides(boxes)
    by_mean = (own.mean(axis=0) - others.mean(axis=0)) / side
    by_tail = (np.quantile(own, 0.9, axis=0) - np.quantile(others, 0.9, axis=0)) / side
    kept: list[tuple[int, float]] = []
    for excess, most in ((by_mean, 3), (by_tail, 5)):
        for window in np.argsort(-excess, kind="stable"):
            if excess[window] <= 0 or len(kept) >= most:
                break
            if all(overlap(boxes[window], boxes[other]) <= 0.25 for other, _ in kept):
                kept.append((int(window), float(excess[window])))
    return kept


def sides(boxes: Boxes) -> NDArray[np.float64]:
    """Root of each box's area, as a part of the largest square's."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    square = boxes[:, 2] - boxes[:, 0] == boxes[:, 3] - boxes[:, 1]
    return np.asarray(np.sqrt(area / area[square].max(initial=1)), np.float64)


def permuted(
    table: Floats, counts: NDArray[np.int64], draws: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The largest statistic of each permutation (draws,), and the statistics as they are (classes, k)."""
    both = _standardised(np.concatenate([table, table**2], axis=1))
    scores = _sums(both, counts).reshape(len(counts), 2, -1).max(axis=1)
    return np.array([_sums(both[rng.permutation(len(both))], counts).max() for _ in range(draws)]), scores


def _standardised(values: Floats) -> Floats:
    """Columns with mean 0 and variance 1; a constant column becomes 0."""
    centred = values - values.mean(axis=0, dtype=np.float64)
    spread = centred.std(axis=0)
    found: Floats = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9).astype(np.float32)
    return found


def _sums(values: Floats, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Class means of standardised columns, in units of their standard deviation under permutation."""
    total = int(counts.sum())
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    scale = np.sqrt(counts * (total - counts) / max(1, total - 1))  # hypergeometric: sampling without replacement
    return np.add.reduceat(values, starts, axis=0) / scale[:, None]


def area_of(box: Sequence[int] | Boxes) -> int:
    """Pixels of a box."""
    return int((box[2] - box[0]) * (box[3] - box[1]))


def shared_area(one: Sequence[int] | Boxes, other: Sequence[int] | Boxes) -> int:
    """Pixels that two boxes have in common."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return int(max(0, width) * max(0, height))


def overlap(one: Sequence[int] | Boxes, other: Sequence[int] | Boxes) -> float:
    """Common area, as a part of the smaller box."""
    return shared_area(one, other) / min(area_of(one), area_of(other))
