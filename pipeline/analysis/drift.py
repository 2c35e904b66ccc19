"""Drift: how far the absolute attribution moved from one run to another, class by class.

A map is summed over channels, its absolute value over each of 8 x 8 cells of the image (pixels on an edge are split).
Averaged over images that is a vector of 64 numbers, for each predicted class and for all images together.

    drift        1 - cosine of the two runs' vectors over all images: 0 the same places, 1 no place in common. The
                 size of the maps does not count, nor do their signs
    ndcg         how well the ranking of cells in the new run has the old run's strongest cells first: nDCG with the
                 old run's cells as relevance (linear gain, log2 discount, ties averaged), 1 the same ranking
    class_drift  the largest drift of a class that both runs have 5 images of or more

Memory is 64 numbers per class and one batch of maps; it does not grow with the number of images.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from math import prod

import numpy as np

from db.objects import Objects
from db.queries import iter_images
from db.records import ClassDrift, Drift, ImageRow, ImageState, Run
from db.session import Engine
from pipeline.analysis.statistics import Doubles, cosine_distance
from pipeline.runs.view import BATCH_BYTES, Floats
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.arrays import layout_of
from pipeline.storage.reader import read_maps

CELLS = 8  # on each side
MIN_CLASS_IMAGES = 5  # images of a class in both runs; classes with fewer do not count for `class_drift`
MOST = 256  # maps that are read at a time


class CellSums:
    """Running sums of absolute attribution in cells, per class and over all."""

    def __init__(self) -> None:
        self.total: Doubles = np.zeros(CELLS * CELLS)
        self.by_class: dict[str, Doubles] = {}
        self.counts: dict[str, int] = {}

    def add(self, names: Sequence[str | None], maps: Floats) -> None:
        """Add maps (n, H, W), one class name each; those without a name count only for the total."""
        height, width = maps.shape[1:]
        cells = _overlaps(height) @ np.abs(maps).astype(np.float64) @ _overlaps(width).T  # (n, 8, 8)
        for name, vector in zip(names, cells.reshape(len(maps), -1), strict=True):
            self.total += vector
            if name is not None:
                self.by_class[name] = self.by_class.get(name, 0) + vector
                self.counts[name] = self.counts.get(name, 0) + 1


def sum_cells(rows: Iterable[ImageRow], read: Callable[[Sequence[ImageRow]], Floats], map_values: int) -> CellSums:
    """The cells of a run in one pass.

    Args:
        rows: those that have a map.
        read: gives maps (n, C, H, W) of some rows.
        map_values: numbers in one map, C x H x W: bounds how many are read at a time.
    """
    sums, remaining = CellSums(), iter(rows)
    size = max(1, min(MOST, BATCH_BYTES // (4 * map_values)))
    while batch := list(islice(remaining, size)):
        sums.add([row.predicted for row in batch], read(batch).sum(axis=1))
    return sums


def drift_between(database: Engine, objects: Objects, run: Run, previous: Run) -> Drift:
    """The drift of a run from an earlier one, read from their stored maps. Memory does not grow with their images.

    Args:
        database: index of both runs.
        objects: store of both runs' maps.
        run: the later run.
        previous: the earlier run.

    Raises:
        ObjectMissing: a map that the index names is gone.
    """

    def cells(of: Run) -> CellSums:
        one, _ = layout_of(of, RunSpec.from_json(of.spec)).arrays()["mean"]
        rows = iter_images(database, of.id, ImageState.DONE)
        return sum_cells(rows, lambda batch: read_maps(objects, batch), prod(one))

    return drift_of(run.id, cells(run), previous.id, cells(previous))


def drift_of(run_id: str, after: CellSums, previous_run_id: str, before: CellSums) -> Drift:
    """The drift of a run from an earlier one.

    Args:
        run_id: id of the later run.
        after: absolute attribution of the later run, by class and cell.
        previous_run_id: id of the earlier run.
        before: absolute attribution of the earlier run, likewise.
    """
    names = sorted({*after.by_class, *before.by_class})
    classes = tuple(_class_drift(name, before, after) for name in names)
    counted = [c.drift for c in classes if c.drift is not None and min(c.images, c.images_before) >= MIN_CLASS_IMAGES]
    return Drift(
        run_id=run_id,
        previous_run_id=previous_run_id,
        drift=cosine_distance(before.total, after.total),
        ndcg=ndcg(before.total, after.total),
        class_drift=max(counted, default=None),
        classes=classes,
    )


def ndcg(relevance: Doubles, scores: Doubles) -> float:
    """Normalized discounted cumulative gain of a ranking, 0..1: linear gain, log2 discount, ties averaged.

    Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, 2002; ties as McSherry and Najork, 2008.
    Without any relevance it is 1 if all scores are 0 too, else 0.
    """
    from sklearn.metrics import ndcg_score

    if not relevance.any():
        return float(not scores.any())
    return min(1.0, float(ndcg_score(relevance[None], scores[None])))  # rounding may exceed 1


def _class_drift(name: str, before: CellSums, after: CellSums) -> ClassDrift:
    old, new = before.by_class.get(name), after.by_class.get(name)
    counts = (after.counts.get(name, 0), before.counts.get(name, 0))
    if old is None or new is None:
        return ClassDrift(name, *counts, None, None)
    return ClassDrift(name, *counts, cosine_distance(old, new), ndcg(old, new))


def _overlaps(pixels: int) -> Doubles:
    """Share of each pixel in each cell, (CELLS, pixels): every column sums to 1."""
    edges = np.linspace(0, pixels, CELLS + 1)[:, None]
    starts = np.arange(pixels)
    inside = np.minimum(edges[1:], starts + 1) - np.maximum(edges[:-1], starts)
    return np.asarray(np.clip(inside, 0, None), np.float64)
