"""Figures and maps per class from one pass over the maps.

Memory depends on the number of classes and pixels, not on that of images. Means and variances are exact; medians of
maps are those of at most 32 random maps of a class; quantiles of figures are within half a percent (`Sketch`). If the
maps of all classes do not fit, they are kept on a coarser grid: means over blocks of `step` x `step` pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.records import ImageRow
from pipeline.analysis.audit.results import ClassFigures, ClassMaps
from pipeline.analysis.statistics import Doubles, Moments, Sketch
from pipeline.runs.view import By, Floats, class_of

MEDIAN_OF = 32
MAP_BYTES = 512 * 2**20  # the maps of all classes take at most so many bytes
_PIXEL_BYTES = 4 * 8 + 4 * MEDIAN_OF
SKETCHED = ("completeness_gap", "error_estimate", "member_disagreement", "baseline_sensitivity")
SKETCHED_OVERALL = (*SKETCHED, "border_share", "gini", "probability")  # over all images, for their histograms
CORNERS = ("top_left_share", "top_right_share", "bottom_left_share", "bottom_right_share")
AVERAGED = ("border_share", "center_share", *CORNERS, "center_x", "center_y", "entropy", "gini", "sign_agreement")


def block_step(classes: int, height: int, width: int) -> int:
    """The smallest block side, in pixels, at which the maps of all classes fit `MAP_BYTES`."""
    step = 1
    while classes * math.ceil(height / step) * math.ceil(width / step) * _PIXEL_BYTES > MAP_BYTES:
        step += 1
    return step


def blocks(maps: NDArray[Any], step: int) -> Doubles:
    """Means over blocks of step x step pixels, (n, H, W) -> (n, h, w); blocks at the edges may be smaller."""
    if step == 1:
        return np.asarray(maps, np.float64)
    rows, columns = np.arange(0, maps.shape[1], step), np.arange(0, maps.shape[2], step)
    sums = np.add.reduceat(np.add.reduceat(maps, rows, axis=1, dtype=np.float64), columns, axis=2)
    sizes = np.outer(np.diff([*rows, maps.shape[1]]), np.diff([*columns, maps.shape[2]]))
    return np.asarray(sums / sizes, np.float64)


class ClassSums:
    """Everything that is reduced over the images of one class.

    Args:
        step: side, in pixels, of the blocks over which maps are averaged.
        tolerance: error estimates above it are counted.
        sketched: columns of the index whose distribution is kept.
    """

    def __init__(self, step: int, tolerance: float, sketched: Sequence[str] = SKETCHED) -> None:
        self._sketched = sketched
        self._step = step
        self._maps, self._absolute, self._spread = Moments(), Moments(), Moments()
        self._kept: list[Floats] = []  # for the median
        self._averages = {name: Moments() for name in AVERAGED}
        self.sketches = {name: Sketch() for name in (*sketched, "difference")}
        self.sketches["error_estimate"] = Sketch(tolerance)
        self._right, self._labelled, self.images = 0, 0, 0

    def add_maps(self, maps: Floats, spreads: Floats | None, keep: Sequence[bool]) -> None:
        """Add maps (n, H, W) and spreads over members; those of `keep` are kept for the median."""
        small = blocks(maps, self._step)
        self._maps.add(small)
        self._absolute.add(blocks(np.abs(maps), self._step))
        if spreads is not None:
            self._spread.add(blocks(spreads, self._step))
        self._kept += [one.astype(np.float32) for one in small[np.asarray(keep, bool)]]

    def add_rows(self, rows: Sequence[ImageRow]) -> None:
        """Add the figures that the index has of rows."""
        self.images += len(rows)
        labelled = [row for row in rows if row.label is not None]
        self._labelled += len(labelled)
        self._right += sum(row.label == row.predicted for row in labelled)
        for name in self._sketched:
            self.sketches[name].add([getattr(row, name) for row in rows])
        differences = [
            abs(row.output - row.baseline_output)
            for row in rows
            if row.output is not None and row.baseline_output is not None
        ]
        self.sketches["difference"].add(differences)
        for name in AVERAGED:
            self._average(name, [getattr(row, name) for row in rows])

    def figures(self, name: str, pixels: int) -> ClassFigures:
        """The figures of the class, whose maps have so many pixels."""
        means = {key: float(one.mean) if one.count else None for key, one in self._averages.items()}
        x, y = self._averages["center_x"], self._averages["center_y"]
        gap, error, spread, baselines = (self.sketches[key] for key in SKETCHED)
        return ClassFigures(
            class_name=name,
            images=self.images,
            accuracy=self.accuracy,
            completeness_gap=gap.quantile(0.5),
            error_estimate=error.quantile(0.5),
            error_estimate_p90=error.quantile(0.9),
            error_above=error.share_above,
            border_share=means["border_share"],
            corner_shares=tuple(means[name] for name in CORNERS),
            center_share=means["center_share"],
            center=(means["center_x"], means["center_y"]),
            center_spread=float(np.hypot(x.std, y.std)) if x.count and y.count else None,
            entropy=means["entropy"],
            gini=means["gini"],
            effective_pixels=None if means["entropy"] is None else float(pixels ** means["entropy"]),
            member_disagreement=spread.quantile(0.5),
            sign_agreement=means["sign_agreement"],
            baseline_sensitivity=baselines.quantile(0.5),
            distributions={key: self.sketches[key].to_dict() for key in self._sketched},
            maps=self.maps(),
        )

    @property
    def accuracy(self) -> float | None:
        """Part of the labeled images whose prediction is their label; None without labels."""
        return self._right / self._labelled if self._labelled else None

    def maps(self) -> ClassMaps | None:
        """The class in maps (h, w); None if no map was added."""
        if not self._maps.count:
            return None
        return ClassMaps(
            mean=self._maps.mean.astype(np.float32),
            mean_absolute=self._absolute.mean.astype(np.float32),
            std=self._maps.std.astype(np.float32),
            median=np.median(np.stack(self._kept), axis=0).astype(np.float32) if self._kept else None,
            median_images=len(self._kept),
            member_std=self._spread.mean.astype(np.float32) if self._spread.count else None,
        )

    def _average(self, name: str, values: Sequence[float | None]) -> None:
        known = np.array([value for value in values if value is not None], np.float64)
        known = known[np.isfinite(known)]
        if len(known):
            self._averages[name].add(known)


def by_class(rows: Sequence[ImageRow], by: By) -> dict[str, list[int]]:
    """Positions of a batch's rows by their class."""
    found: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        if (name := class_of(row, by)) is not None:
            found.setdefault(name, []).append(position)
    return found
