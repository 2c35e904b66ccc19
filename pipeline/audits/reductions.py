"""Figures and mean maps per class, from one pass over the maps. Knows nothing of shortcuts.

Sums are float64 and need 16 bytes per class and pixel, whatever the number of images; medians come from the rows.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from db.records import ImageRow
from pipeline.audits.material import By, Floats, class_of, classes_of
from pipeline.audits.results import ClassFigures


class MapSums:
    """Running sums of maps and of their absolute values, per class."""

    def __init__(self, names: Sequence[str], size: tuple[int, int]) -> None:
        self._index = {name: index for index, name in enumerate(names)}
        self._counts = np.zeros(len(names), np.int64)
        self._sums = np.zeros((2, len(names), *size))  # signed, absolute

    def add(self, names: Sequence[str | None], maps: Floats) -> None:
        """Add maps (n, H, W), one class name each; a name that was not announced, or None, is left out."""
        known = [self._index.get(name, -1) if name is not None else -1 for name in names]
        for index in set(known) - {-1}:
            part = maps[np.array(known) == index]
            self._counts[index] += len(part)
            self._sums[0, index] += part.sum(axis=0, dtype=np.float64)
            self._sums[1, index] += np.abs(part).sum(axis=0, dtype=np.float64)

    def means(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean map and mean absolute map (H, W) of a class."""
        index = self._index[name]
        signed, absolute = self._sums[:, index] / max(1, int(self._counts[index]))
        return signed.astype(np.float32), absolute.astype(np.float32)


def figures(rows: Sequence[ImageRow], sums: MapSums, by: By) -> tuple[ClassFigures, ...]:
    """One `ClassFigures` per class of the rows, which all have maps."""
    found = []
    for name, part in classes_of(rows, by).items():
        signed, absolute = sums.means(name)
        errors = [row.error_estimate for row in part]
        found.append(
            ClassFigures(
                class_name=name,
                images=len(part),
                accuracy=accuracy(part),
                completeness_gap=_quantile([row.completeness_gap for row in part], 0.5),
                error_estimate=_quantile(errors, 0.5),
                error_estimate_p90=_quantile(errors, 0.9),
                border_share=_mean([row.border_share for row in part]),
                member_disagreement=_quantile([row.member_disagreement for row in part], 0.5),
                mean_map=signed,
                mean_absolute_map=absolute,
            )
        )
    return tuple(found)


def reduce_maps(batch: Sequence[ImageRow], maps: Floats, sums: MapSums, by: By) -> None:
    """Add one batch of rows and their maps (n, H, W) to the sums."""
    sums.add([class_of(row, by) for row in batch], maps)


def accuracy(rows: Sequence[ImageRow]) -> float | None:
    """Part of the labelled images whose prediction is their label; None where nothing is labelled."""
    return _mean([float(row.label == row.predicted) for row in rows if row.label is not None])


def _known(values: Sequence[float | None]) -> NDArray[np.float64]:
    found = np.array([value for value in values if value is not None], dtype=np.float64)
    return found[np.isfinite(found)]


def _quantile(values: Sequence[float | None], q: float) -> float | None:
    found = _known(values)
    return float(np.quantile(found, q)) if len(found) else None


def _mean(values: Sequence[float | None]) -> float | None:
    found = _known(values)
    return float(found.mean()) if len(found) else None
