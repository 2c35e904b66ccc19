"""Compares two runs over the same images: the distance of each image's two maps, and the images that moved most.

Figures of each pair of maps:

    cosine            of the signed maps, over all their values: 1 the same up to a positive factor, -1 the opposite.
                      Where one run stored channels and the other their sum, both are summed first
    rank_correlation  Spearman's, over pixels, of the absolute map summed over channels; ties share their mean rank
    distance          L1 of the difference over the mean L1 of the two maps, 0..2: for maps that are close, the
                      relative L1 error of one against the other

Two maps for which a figure is not defined (all zero, or constant) count as equal (1), one such map as unrelated to the
other (0). Quantiles come from histograms of 65,536 bins. Memory does not grow with the number of images: it holds one
batch of maps, 64 numbers a class and the listed images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from db.objects import Objects
from db.pair_queries import count_unmatched, iter_pairs
from db.records import Drift, ImageRow, Run
from db.session import Engine
from pipeline.analysis.drift import CellSums, drift_of
from pipeline.analysis.statistics import Doubles, Histogram, cosines, rank_correlations
from pipeline.errors import UsageError
from pipeline.record_format import numbered
from pipeline.runs.view import BATCH_BYTES, By, Floats, class_of
from pipeline.spec.describe import Difference, differences
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.arrays import layout_of
from pipeline.storage.reader import read_maps

MOST = 256  # pairs of maps that are read at a time


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of one figure over the shared images, each right to 1/65,536 of its range."""

    p10: float
    median: float
    p90: float


@dataclass(frozen=True, slots=True)
class Moved:
    """One image in both runs. Rows are those of the runs' indexes."""

    key: str
    row_a: int
    row_b: int
    cosine: float
    rank_correlation: float
    distance: float
    predicted_a: str | None
    predicted_b: str | None


@dataclass(frozen=True, slots=True)
class ClassComparison:
    """The shared images of one class of run A. `cosine` is the mean.

    `drift` and `ndcg` are those of `pipeline.analysis.drift`.
    """

    class_name: str
    images: int
    drift: float
    ndcg: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of two runs over the images that have a map in both."""

    run_a: str
    run_b: str
    by: By
    spec: tuple[Difference, ...]
    shared_images: int
    only_a: int  # images with a map only in A
    only_b: int
    changed_files: int  # shared images whose bytes differ
    flips: int  # shared images that are predicted differently
    cosine: Quantiles
    rank_correlation: Quantiles
    distance: Quantiles
    drift: float  # of B against A over all shared images
    ndcg: float
    class_drift: float | None  # the largest of classes that have enough images
    classes: tuple[ClassComparison, ...]
    changed: tuple[Moved, ...]  # the lowest cosine first

    def figures(self) -> dict[str, float | None]:
        """The figures that a gate can compare: medians over the shared images, the share of flips, and the drifts."""
        return {
            "cosine": self.cosine.median,
            "rank_correlation": self.rank_correlation.median,
            "distance": self.distance.median,
            "flip_share": self.flips / self.shared_images,
            "drift": self.drift,
            "class_drift": self.class_drift,
            "ndcg": self.ndcg,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        data = asdict(self)
        data = {"a": data.pop("run_a"), "b": data.pop("run_b")} | data
        data["classes"] = [{"class": one.pop("class_name")} | one for one in data["classes"]]
        return numbered(data)


FIGURES = ("cosine", "rank_correlation", "distance", "flip_share", "drift", "class_drift", "ndcg")


def compare(database: Engine, objects: Objects, a: Run, b: Run, *, by: By = "predicted", limit: int = 20) -> Comparison:
    """Compare two runs image by image. Memory does not grow with the number of images.

    Args:
        database: index of both runs.
        objects: store of both runs' maps.
        a: the run that is compared with.
        b: the other one.
        by: classes are the predicted ones of A, or its labels.
        limit: images to list.

    Raises:
        UsageError: no image has a map in both, or the maps differ in height or width.
        ObjectMissing: a map that the index names is gone.
    """
    spec_a, spec_b = RunSpec.from_json(a.spec), RunSpec.from_json(b.spec)
    values = _values_of_a_map(a, spec_a, b, spec_b)
    sums, pairs = Sums(by, limit), iter_pairs(database, a.id, b.id)
    while batch := list(islice(pairs, batch_size(values))):
        sums.add(batch, read_maps(objects, [row for row, _ in batch]), read_maps(objects, [row for _, row in batch]))
    if not sums.images:
        raise UsageError(f"runs {a.id} and {b.id} share no image that has a map in both (images are matched by key)")
    moved = sums.drift(a.id, b.id)
    return Comparison(
        run_a=a.id,
        run_b=b.id,
        by=by,
        spec=differences(a, b),
        shared_images=sums.images,
        only_a=count_unmatched(database, a.id, b.id),
        only_b=count_unmatched(database, b.id, a.id),
        changed_files=sums.changed_files,
        flips=sums.flips,
        cosine=sums.quantiles("cosine"),
        rank_correlation=sums.quantiles("rank_correlation"),
        distance=sums.quantiles("distance"),
        drift=moved.drift,
        ndcg=moved.ndcg,
        class_drift=moved.class_drift,
        classes=sums.classes(moved),
        changed=tuple(sums.changed),
    )


def _values_of_a_map(a: Run, spec_a: RunSpec, b: Run, spec_b: RunSpec) -> int:
    """Numbers in the larger of two maps."""
    one, other = layout_of(a, spec_a), layout_of(b, spec_b)
    if (one.height, one.width) != (other.height, other.width):
        raise UsageError(
            f"maps of run {a.id} are {one.height} x {one.width} (height x width), those of run {b.id} "
            f"{other.height} x {other.width}: compare runs whose models take the same input"
        )
    return max(one.channels, other.channels) * one.height * one.width


@dataclass(frozen=True, slots=True)
class Alike:
    """Figures of n pairs of maps, each (n,) float64."""

    cosine: Doubles
    rank_correlation: Doubles
    distance: Doubles


def alike(one: Floats, other: Floats) -> Alike:
    """How alike pairs of maps are.

    Args:
        one: maps (n, C, H, W), finite.
        other: likewise; C may differ, then both are summed over channels.
    """
    if one.shape[1] != other.shape[1]:
        one, other = one.sum(axis=1, keepdims=True), other.sum(axis=1, keepdims=True)
    signed = [each.reshape(len(each), -1).astype(np.float64) for each in (one, other)]
    pixels = [np.abs(each.sum(axis=1, dtype=np.float64)).reshape(len(each), -1) for each in (one, other)]
    sizes = np.abs(signed[0]).sum(axis=1) + np.abs(signed[1]).sum(axis=1)
    apart = np.abs(signed[0] - signed[1]).sum(axis=1)
    distance = np.divide(2 * apart, sizes, out=np.zeros(len(one)), where=sizes > 0)
    return Alike(cosines(*signed), rank_correlations(*pixels), distance)


@dataclass
class Sums:
    """Running sums over pairs of maps.

    Args:
        by: class of an image, as run A has it.
        limit: images to list.
    """

    by: By
    limit: int
    images: int = 0
    changed_files: int = 0
    flips: int = 0
    changed: list[Moved] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._cells = CellSums(), CellSums()
        self._histograms = {"cosine": Histogram(-1, 1), "rank_correlation": Histogram(-1, 1)}
        self._histograms["distance"] = Histogram(0, 2)
        self._cosines: dict[str, float] = {}

    def add(self, pairs: Sequence[tuple[ImageRow, ImageRow]], one: Floats, other: Floats) -> None:
        """Add pairs of rows with their maps (n, C, H, W) in run A and in run B."""
        found = alike(one, other)
        names = [class_of(row, self.by) for row, _ in pairs]
        for cells, maps in zip(self._cells, (one, other), strict=True):
            cells.add(names, maps.sum(axis=1))
        for name, histogram in self._histograms.items():
            histogram.add(getattr(found, name))
        for class_name, cosine in zip(names, found.cosine.tolist(), strict=True):
            if class_name is not None:
                self._cosines[class_name] = self._cosines.get(class_name, 0.0) + cosine
        self.images += len(pairs)
        self.changed_files += sum(_changed(a, b) for a, b in pairs)
        self.flips += sum(a.predicted != b.predicted for a, b in pairs)
        moved = self.changed + [_moved(pair, found, index) for index, pair in enumerate(pairs)]
        self.changed = sorted(moved, key=lambda each: (each.cosine, each.key, each.row_a))[: self.limit]

    def quantiles(self, name: str) -> Quantiles:
        """Of a figure, over all pairs."""
        return Quantiles(*(self._histograms[name].quantile(share) for share in (0.1, 0.5, 0.9)))

    def drift(self, run_a: str, run_b: str) -> Drift:
        """Of run B against run A, over the pairs."""
        return drift_of(run_b, self._cells[1], run_a, self._cells[0])

    def classes(self, drift: Drift) -> tuple[ClassComparison, ...]:
        """The classes of run A, the one that moved most first."""
        found = [
            ClassComparison(
                c.class_name, c.images, c.drift or 0.0, c.ndcg or 0.0, self._cosines[c.class_name] / c.images
            )
            for c in drift.classes
        ]
        return tuple(sorted(found, key=lambda each: (-each.drift, each.class_name)))


def batch_size(map_values: int) -> int:
    """Pairs of maps of so many values that are read at a time: both maps and their ranks are in memory."""
    return max(1, min(MOST, BATCH_BYTES // (8 * map_values)))


def _changed(one: ImageRow, other: ImageRow) -> bool:
    if one.sha256 and other.sha256:
        return one.sha256 != other.sha256
    return one.version != other.version


def _moved(pair: tuple[ImageRow, ImageRow], found: Alike, index: int) -> Moved:
    a, b = pair
    return Moved(
        key=a.key,
        row_a=a.row,
        row_b=b.row,
        cosine=float(found.cosine[index]),
        rank_correlation=float(found.rank_correlation[index]),
        distance=float(found.distance[index]),
        predicted_a=a.predicted,
        predicted_b=b.predicted,
    )
