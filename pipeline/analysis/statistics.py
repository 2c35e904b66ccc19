"""Distributions of figures in bounded memory: counts in bins whose width is 1 % of their value.

Quantiles are within half a percent of numpy's on all values (the guarantee of DDSketch: Masson, Rim and Lee, VLDB
2019), whatever the number of values; a sketch is 10 kB. One limit may be given that is an edge between two bins, so
that the values above it are counted exactly: adaptive runs end just below their tolerance.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST, MOST = 1e-6, 1e4  # smaller values count as 0, larger ones as MOST
_LOG = np.log(1.01)
_BINS = int(np.log(MOST / LEAST) / _LOG) + 2
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95)
BARS = 12  # of a histogram at least, where there are bins for them
PER_DECADE = (16, 32, 64, 128)  # bars of a histogram


class Sketch:
    """The distribution of non-negative values.

    Args:
        limit: the values above it are counted exactly, and it is an edge of the histogram; more than 0.
    """

    def __init__(self, limit: float = 1.0) -> None:
        self._limit = limit
        self._first = int(np.floor(np.log(LEAST / limit) / _LOG))
        self._bins = np.zeros(_BINS + 1, np.int32)  # the first counts what is below LEAST
        self._sum = 0.0

    def add(self, values: Sequence[float | None]) -> None:
        """Add values; None and what is not finite is left out, signs are dropped."""
        known = np.abs(np.array([value for value in values if value is not None], np.float64))
        known = np.minimum(known[np.isfinite(known)], MOST)
        self._sum += float(known.sum())
        places = np.zeros(len(known), np.int64)
        there = known >= LEAST
        steps = np.ceil(np.log(known[there] / self._limit) / _LOG).astype(np.int64) - 1  # the limit itself is below it
        places[there] = np.clip(steps - self._first + 1, 1, _BINS)
        self._bins += np.bincount(places, minlength=_BINS + 1).astype(np.int32)

    @property
    def count(self) -> int:
        """How many values it has seen."""
        return int(self._bins.sum())

    @property
    def mean(self) -> float | None:
        """Their mean; None where there are none."""
        return self._sum / self.count if self.count else None

    @property
    def share_above(self) -> float | None:
        """Part of the values above the limit, exactly; None where there are none."""
        return float(self._bins[1 - self._first :].sum() / self.count) if self.count else None

    def quantile(self, q: float) -> float | None:
        """As numpy.quantile (linear), within half a percent; None where there are no values."""
        if not self.count:
            return None
        rank = q * (self.count - 1)
        low, high = (self._at(int(place)) for place in (np.floor(rank), np.ceil(rank)))
        return float(low + (high - low) * (rank - np.floor(rank)))

    def share_below(self, bound: float) -> float | None:
        """Part of the values below a bound, which is taken to the nearest bin; None where there are none."""
        return float(self._bins[self._values() < bound].sum() / self.count) if self.count else None

    def to_dict(self) -> dict[str, Any]:
        """Count, mean, quantiles, and a histogram over the range that has values."""
        return {
            "images": self.count,
            "mean": self.mean,
            "quantiles": {str(q): self.quantile(q) for q in QUANTILES},
            "histogram": self._histogram(),
        }

    def _at(self, rank: int) -> float:
        return float(self._values()[np.searchsorted(np.cumsum(self._bins), rank, side="right")])

    def _histogram(self) -> dict[str, list[float] | list[int]]:
        """`edges` (k + 1) and `counts` (k); values below LEAST stand in the first bar."""
        if not self.count:
            return {"edges": [], "counts": []}
        logs = np.log10(np.maximum(self._values(), LEAST) / self._limit)
        seen = logs[self._bins > 0]
        per_decade = next((many for many in PER_DECADE if np.ptp(seen) * many >= BARS), PER_DECADE[-1])
        bars = np.floor(logs * per_decade).astype(np.int64)
        first, last = (int(bars[self._bins > 0][end]) for end in (0, -1))
        inside = (bars >= first) & (bars <= last)
        counts = np.bincount(bars[inside] - first, weights=self._bins[inside])
        edges = self._limit * 10.0 ** (np.arange(first, last + 2) / per_decade)
        return {"edges": [float(f"{edge:.4g}") for edge in edges], "counts": counts.astype(int).tolist()}

    def _values(self) -> NDArray[np.float64]:
        """The value that each bin stands for, its middle."""
        return np.concatenate([[0.0], self._limit * np.exp((self._first + np.arange(_BINS) + 0.5) * _LOG)])
