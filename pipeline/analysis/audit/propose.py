"""Proposes windows that hold more of a class's attribution than of the other classes'.

Classes differ in the location of their evidence, so nearly every class has such windows, with small p-values, on clean
data too; `measure` and `decide` test them.

Candidates are ordered by the excess of the share over that of the other classes, divided by the side of the window
(divided by the area, specks would win; undivided, the largest windows would). The excess is taken once for the mean and
once for the 90th percentile (a mark on a part of the images). Standard deviations do not give a useful order: on digits
a black margin with 1 % of the attribution, but the same 1 % in every image, came before a mark with 29 %. On networks
whose digits have a mark whose removal costs 20 points, its window was the first or the second of its class by the mean.

Each candidate is followed by its shape, because marks are wider than windows, or between two of them. The mean share
of the images that lean on the window, minus that of the other classes, is smoothed over 3 x 3 cells. The connected
cells around the window that have a third of the peak or more give the box. Its p-value is the window's.

The p-value of a class and window comes from two linear statistics: the mean share, and the mean squared share, which
responds to an upper tail. Each is standardized by its exact mean and variance under a random assignment of images to
classes. The larger one is compared with the maximum over all classes, windows and both statistics in every permutation
(Westfall and Young's single-step max-T, 1993). It is thus corrected for everything that was tried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.audit.boxes import Box, Boxes, overlap, sides, union_share
from pipeline.analysis.audit.thresholds import MIN_IMAGES, SAME
from pipeline.runs.view import Floats

# where a candidate comes from: places of the class, of a cluster of its maps, or the colors of its images
Kind = Literal["window", "cluster", "colour"]
PART = 1 / 3  # of the peak, from which a cell belongs to the shape
FILL = 0.4  # smallest share of a shape's box that its cells fill
LARGEST, AT_BORDER = 0.15, 0.3  # largest share of the image that a shape's box covers, and one that reaches the border
LEAN = (6, 24)  # smallest and largest number of images whose mean gives the shape


@dataclass(frozen=True)
class Candidate:
    """A window that holds more of a class's attribution than of the other classes'."""

    class_name: str
    region: Box
    share: float  # mean share in the class, 0..1
    share_elsewhere: float  # mean share in the other classes
    score: float  # excess over the other classes, per side of the window as a part of the image's
    p_value: float
    order: tuple[int, ...]  # positions in the class's examined images, largest share first
    leaning: int  # examined images whose share exceeds the 95th percentile of the other classes
    kind: Kind = "window"


class Scan:
    """The shares of all classes in all windows, and their permutation test.

    The p-values of a scan hold for all classes and windows at once, so that further candidates may be picked among
    the windows in any way: by a cluster's images, or grown to the shape of a mark.

    Args:
        shares: (n, k) per class, from `window_shares`; a class with fewer than 6 images is left out.
        boxes: the windows (k, 4).
        permutations: number of random assignments of images to classes.
        seed: determines the permutations.
    """

    def __init__(self, shares: Mapping[str, Floats], boxes: Boxes, *, permutations: int, seed: int) -> None:
        self.boxes = boxes
        self.shares = {name: part for name, part in shares.items() if len(part) >= MIN_IMAGES}
        self.names = list(self.shares) if len(self.shares) >= 2 else []
        if self.names:
            self._table = np.concatenate(list(self.shares.values()))  # (N, k), sorted by class
            counts = np.array([len(part) for part in self.shares.values()])
            self._ends, self._counts = np.cumsum(counts), counts
            self._limits, self._scores = permuted(self._table, counts, permutations, np.random.default_rng(seed))

    def proposed(self) -> list[Candidate]:
        """The windows of each class with the largest excess, at most 5 that overlap little, largest excess first.

        Empty with fewer than two classes.
        """
        found = []
        for name in self.names:
            own, others = self.shares[name], self._others(name)
            found += [self._candidate(name, *one, "window") for one in _strangest(own, others, self.boxes)]
        return sorted(found, key=lambda one: -one.score)

    def of_cluster(self, name: str, members: Sequence[int]) -> Candidate | None:
        """The window with the largest excess of some images of a class; None if no window has an excess."""
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


def permuted(
    table: Floats, counts: NDArray[np.int64], draws: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Statistics of a table under random assignments of its rows to classes.

    Args:
        table: (N, k), rows sorted by class.
        counts: rows of each class, which sum to N.
        draws: number of permutations.
        rng: draws the permutations.

    Returns:
        The largest statistic of each permutation, (draws,), and the statistics of the table itself, (classes, k).
    """
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
    """Class means of standardized columns, in units of their standard deviation under permutation."""
    total = int(counts.sum())
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    scale = np.sqrt(counts * (total - counts) / max(1, total - 1))  # hypergeometric: sampling without replacement
    return np.add.reduceat(values, starts, axis=0) / scale[:, None]


def fit_all(
    candidates: Sequence[Candidate], grids: Mapping[str, Floats], size: tuple[int, int], step: int
) -> list[Candidate]:
    """The candidates, each followed by its fitted shape if that is a new one.

    Args:
        candidates: windows, in the order in which they are tested.
        grids: shares per class, (n, h, w), from `grid_shares`.
        size: height and width of the images, in pixels.
        step: side of a cell, in pixels.
    """
    elsewhere = means_elsewhere(grids)
    found: list[Candidate] = []
    for one in candidates:
        found.append(one)
        fitted = _fitted(one, grids, elsewhere[one.class_name], size, step)
        own = [other.region for other in found if other.class_name == one.class_name]
        if fitted is not None and all(union_share(fitted.region, box) < SAME for box in own):
            found.append(fitted)
    return found


def means_elsewhere(grids: Mapping[str, Floats]) -> dict[str, Floats]:
    """Mean of all other classes' images, (h, w) per class."""
    sums = {name: grid.sum(axis=0) for name, grid in grids.items()}
    images = sum(len(grid) for grid in grids.values())
    every = sum(sums.values(), start=np.zeros((), np.float32))
    return {name: (every - sums[name]) / max(1, images - len(grids[name])) for name in grids}


def _fitted(
    one: Candidate, grids: Mapping[str, Floats], elsewhere: Floats, size: tuple[int, int], step: int
) -> Candidate | None:
    from scipy import ndimage

    grid = grids[one.class_name]
    leaning = list(one.order[: min(LEAN[1], max(LEAN[0], one.leaning))])
    excess = ndimage.uniform_filter(grid[leaning].mean(axis=0) - elsewhere, 3, mode="constant")
    x0, y0, x1, y1 = one.region
    inside = np.s_[y0 // step : -(-y1 // step), x0 // step : -(-x1 // step)]
    peak = float(excess[inside].max())
    labels, _ = ndimage.label(excess >= PART * peak)
    cells = labels == labels[inside].flat[int(excess[inside].argmax())]
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    cut = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    touches = rows[0] == 0 or columns[0] == 0 or rows[-1] == cells.shape[0] - 1 or columns[-1] == cells.shape[1] - 1
    most = (AT_BORDER if touches else LARGEST) * cells.size
    if peak <= 0 or cells[cut].mean() < FILL or cells[cut].size > most:
        return None
    region = (
        int(columns[0]) * step,
        int(rows[0]) * step,
        min(size[1], (int(columns[-1]) + 1) * step),
        min(size[0], (int(rows[-1]) + 1) * step),
    )
    return moved(one, region, grids, elsewhere, step)


def moved(one: Candidate, region: Box, grids: Mapping[str, Floats], elsewhere: Floats, step: int) -> Candidate:
    """A candidate moved to another place, with the shares of the images there.

    Args:
        one: a candidate whose region is replaced.
        region: its new place, in pixels.
        grids: shares per class, (n, h, w), from `grid_shares`.
        elsewhere: mean of the other classes, (h, w), from `means_elsewhere`.
        step: side of a cell, in pixels.
    """
    x0, y0, x1, y1 = region
    cut = np.s_[:, y0 // step : -(-y1 // step), x0 // step : -(-x1 // step)]
    shares = grids[one.class_name][cut].sum(axis=(1, 2))
    others = [part[cut].sum(axis=(1, 2)) for name, part in grids.items() if name != one.class_name]
    return replace(
        one,
        region=region,
        leaning=int((shares > np.quantile(np.concatenate(others), 0.95)).sum()),
        share=float(shares.mean()),
        share_elsewhere=float(elsewhere[cut[1:]].sum()),
        order=tuple(sorted(one.order, key=lambda place: -float(shares[place]))),
    )
