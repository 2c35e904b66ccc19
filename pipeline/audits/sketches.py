"""Distributions of figures in bounded memory: counts in bins whose width is 2 % of their value.

Quantiles are within 1 % of numpy's on all values (the guarantee of DDSketch: Masson, Rim and Lee, VLDB 2019), whatever
the number of values; a sketch is 6 kB.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST, MOST = 1e-6, 1e4  # smaller values count as 0, larger ones as MOST
_LOG = np.log(1.02)
_FIRST = round(np.log(LEAST) / _LOG)
_BINS = round(np.log(MOST) / _LOG) - _FIRST + 1
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95)
PER_DECADE = 16  # bars of a histogram


class Sketch:
    """The distribution of non-negative values."""

    def __init__(self) -> None:
        self._bins = np.zeros(_BINS + 1, np.int32)  # the first counts what is below LEAST
        self._sum = 0.0

    def add(self, values: Sequence[float | None]) -> None:
        """Add values; None and what is not finite is left out, signs are dropped."""
        known = np.abs(np.array([value for value in values if value is not None], np.float64))
        known = np.minimum(known[np.isfinite(known)], MOST)
        self._sum += float(known.sum())
        places = np.zeros(len(known), np.int64)
        there = known >= LEAST
        places[there] = np.clip(np.rint(np.log(known[there]) / _LOG).astype(np.int64) - _FIRST + 1, 1, _BINS)
        self._bins += np.bincount(places, minlength=_BINS + 1).astype(np.int32)

    @property
    def count(self) -> int:
        """How many values it has seen."""
        return int(self._bins.sum())

    @property
    def mean(self) -> float | None:
        """Their mean; None where there are none."""
        return self._sum / self.count if self.count else None

    def quantile(self, q: float) -> float | None:
        """As numpy.quantile (linear), within 1 %; None where there are no values."""
        if not self.count:
            return None
        rank = q * (self.count - 1)
        low, high = (self._at(int(place)) for place in (np.floor(rank), np.ceil(rank)))
        return float(low + (high - low) * (rank - np.floor(rank)))

    def share_above(self, limit: float) -> float | None:
        """Part of the values above a limit, which is taken to the nearest bin; None where there are none."""
        if not self.count:
            return None
        return float(self._bins[_values() > limit].sum() / self.count)

    def share_below(self, limit: float) -> float | None:
        """Part of the values below a limit, likewise."""
        return None if not self.count else float(self._bins[_values() < limit].sum() / self.count)

    def to_dict(self) -> dict[str, Any]:
        """Count, mean, quantiles, and a histogram of 16 bars per decade over the range that has values."""
        return {
            "images": self.count,
            "mean": self.mean,
            "quantiles": {str(q): self.quantile(q) for q in QUANTILES},
            "histogram": self._histogram(),
        }

    def _at(self, rank: int) -> float:
        return float(_values()[np.searchsorted(np.cumsum(self._bins), rank, side="right")])

    def _histogram(self) -> dict[str, list[float] | list[int]]:
        """`edges` (k + 1) and `counts` (k); values below LEAST stand in the first bar."""
        if not self.count:
            return {"edges": [], "counts": []}
        logs = np.log10(np.maximum(_values(), LEAST)) * PER_DECADE
        bars = np.floor(logs + 1e-9).astype(np.int64)
        seen = bars[self._bins > 0]
        inside = (bars >= seen.min()) & (bars <= seen.max())
        counts = np.bincount(bars[inside] - seen.min(), weights=self._bins[inside])
        edges = 10.0 ** (np.arange(seen.min(), seen.max() + 2) / PER_DECADE)
        return {"edges": [float(f"{edge:.4g}") for edge in edges], "counts": counts.astype(int).tolist()}


def _values() -> NDArray[np.float64]:
    """The value that each bin stands for."""
    return np.concatenate([[0.0], np.exp((_FIRST + np.arange(_BINS)) * _LOG)])
