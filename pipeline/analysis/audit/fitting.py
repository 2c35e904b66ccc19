"""Grows a candidate window to the shape of what it found: marks are wider than windows, or between two of them.

The mean share of the images that lean on the window, minus that of the other classes, is smoothed over 3 x 3 cells; the
connected cells around the window that hold a third of the peak or more give the box. The permutation test was
made for the window: its p-value says that there is more here than elsewhere, whatever shape the place is given then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.analysis.audit.propose import Box, Candidate, area_of, shared_area
from pipeline.runs.view import Floats

CELLS = 32  # a side of the grid has at most
PART = 1 / 3  # of the peak
FILL = 0.4  # of a box that its cells fill at least
LARGEST, AT_BORDER = 0.15, 0.3  # of the image that a box covers at most, and one that reaches the border
SAME = 0.7  # intersection over union from which two boxes are one
LEAN = (6, 24)  # images whose mean gives the shape, at least and at most


def grid_step(height: int, width: int) -> int:
    """Side of a cell in pixels."""
    return -(-max(height, width) // CELLS)


def grid_shares(maps: Floats, step: int) -> Floats:
    """Share of each image's positive attribution in each cell, maps (n, H, W) -> (n, h, w); 0 where there is none."""
    positive = np.clip(maps, 0, None).astype(np.float64)
    rows, columns = np.arange(0, maps.shape[1], step), np.arange(0, maps.shape[2], step)
    sums = np.add.reduceat(np.add.reduceat(positive, rows, axis=1), columns, axis=2)
    total = sums.sum(axis=(1, 2), keepdims=True)
    found: Floats = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0).astype(np.float32)
    return found


def fit_all(
    candidates: Sequence[Candidate], grids: Mapping[str, Floats], size: tuple[int, int], step: int
) -> list[Candidate]:
    """The candidates, each followed by its fitted shape where that is another one. `grids` from `grid_shares`."""
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
    """A candidate at another place, with what the images have there. `elsewhere` from `means_elsewhere`."""
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


def union_share(one: Box, other: Box) -> float:
    """Intersection over union."""
    common = shared_area(one, other)
    return common / (area_of(one) + area_of(other) - common)
