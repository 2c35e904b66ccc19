"""Statistics of runs: cosines, rank correlations, intervals of means and rates, distributions in bounded memory.

numpy and scipy only. `Sketch` counts in bins whose width is 1 % of their value, so that its quantiles are within half a
percent of numpy's on any number of values (the guarantee of DDSketch: Masson, Rim and Lee, VLDB 2019).
`Histogram` counts in bins of equal width between two known bounds. `Moments` keeps exact means and variances.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

SMALLEST, LARGEST = 1e-6, 1e4  # a sketch counts smaller values as 0, larger ones as LARGEST
_LOG = np.log(1.01)
_BINS = int(np.log(LARGEST / SMALLEST) / _LOG) + 2
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95)
BARS = 12  # a sketch's histogram has at least so many bars if its range has bins for them
BARS_PER_DECADE = (16, 32, 64, 128)
LINEAR_BINS = 2**16
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean or a rate over images with its 95 % interval."""

    value: float
    low: float
    high: float
    images: int


def wilson(rate: float, images: int) -> Estimate:
    """A rate with Wilson's score interval (1927) at 95 %.

    `images` counts independent images: several donors per image sharpen the rate, not the interval.
    """
    z = 1.96
    centre = (rate + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * math.sqrt(rate * (1 - rate) / images + z**2 / (4 * images**2))
    return Estimate(rate, max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half)), images)


def exceeds(one: Estimate, other: Estimate) -> bool:
    """Whether one rate is above another at 95 %: Newcombe's interval of the difference (1998, method 10) is above 0."""
    return one.value - other.value > math.hypot(one.value - one.low, other.high - other.value)


def bootstrap_mean(values: Doubles, weights: Doubles | None = None, *, seed: int) -> Estimate:
    """Mean over images with its percentile bootstrap interval at 95 % (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: (n,), NaN for an image without a value; those are left out.
        weights: (n,) non-negative: the estimate is sum(values) / sum(weights), as a ratio of means.
        seed: determines the resamples; equal seeds give equal intervals.
    """
    from scipy.stats import bootstrap

    known = ~np.isnan(values)
    values, weights = values[known], np.ones(int(known.sum())) if weights is None else weights[known]
    n = len(values)
    if not n or not weights.sum() > 0:
        return Estimate(np.nan, np.nan, np.nan, n)
    value = float(values.sum() / weights.sum())
    if n == 1:
        return Estimate(value, value, value, n)

    def ratio(values: Doubles, weights: Doubles, axis: int) -> Doubles:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(values.sum(axis) / weights.sum(axis))

    found = bootstrap(
        (values, weights), ratio, paired=True, n_resamples=RESAMPLES, batch=100, method="percentile",
        random_state=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = np.nanpercentile(found.bootstrap_distribution, [2.5, 97.5])  # a resample may have no weight
    return Estimate(value, float(low), float(high), n)


def cosines(one: Doubles, other: Doubles, *, reference: bool = False) -> Doubles:
    """Cosine of each row, (n, k) twice -> (n,), -1..1. Two rows of zeros have 1, one such row has 0.

    With `reference`, rows of `one` are compared with: NaN for those that are zero.
    """
    norms = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    product, both = np.einsum("nk,nk->n", one, other), norms[0] * norms[1]
    undefined = ((norms[0] == 0) & (norms[1] == 0)).astype(np.float64)
    if reference:
        undefined[norms[0] == 0] = np.nan
    return np.asarray(np.clip(np.divide(product, both, out=undefined, where=both > 0), -1, 1))


def rank_correlations(one: Doubles, other: Doubles, *, reference: bool = False) -> Doubles:
    """Spearman's rank correlation of each row, (n, k) twice -> (n,), -1..1; ties share their mean rank.

    Two constant rows have 1, one such row has 0. With `reference`, NaN for rows of `one` that are constant.
    """
    return cosines(_centred_ranks(one), _centred_ranks(other), reference=reference)


def _centred_ranks(values: Doubles) -> Doubles:
    """Ranks within each row minus their mean, (n, k) -> (n, k); ties share their mean rank."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values, axis=1) - (values.shape[1] + 1) / 2, np.float64)


def cosine_distance(one: Doubles, other: Doubles) -> float:
    """1 - cosine of two vectors (k,) without negative numbers, 0..1. Two zero vectors have 0, one zero vector has 1."""
    if not one.any() or not other.any():
        return float(one.any() or other.any())
    one, other = one / np.linalg.norm(one), other / np.linalg.norm(other)
    return float(((one - other) ** 2).sum() / 2)  # = 1 - cosine, without its loss of digits near 0


class Moments:
    """Running mean and variance of arrays, exact in float64 (merged batch by batch: Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Doubles = np.zeros(0)
        self._squares: Doubles = np.zeros(0)

    def add(self, values: Doubles) -> None:
        """Add values (n, ...)."""
        n, mean = len(values), values.mean(axis=0)
        squares = ((values - mean) ** 2).sum(axis=0)
        if not self.count:
            self.count, self.mean, self._squares = n, mean, squares
            return
        total, delta = self.count + n, mean - self.mean
        self.mean = self.mean + delta * (n / total)
        self._squares = self._squares + squares + delta**2 * (self.count * n / total)
        self.count = total

    @property
    def std(self) -> Doubles:
        """Standard deviation, population."""
        return np.sqrt(self._squares / max(1, self.count))


class Histogram:
    """Counts of values between two bounds in bins of equal width; a quantile is the middle of its bin."""

    def __init__(self, low: float, high: float) -> None:
        self._edges = np.linspace(low, high, LINEAR_BINS + 1)
        self._counts = np.zeros(LINEAR_BINS, np.int64)
        self._seen = (high, low)  # smallest, largest

    def add(self, values: Doubles) -> None:
        """Add values (n,); rounding may have put them slightly beyond the bounds."""
        values = np.clip(values, self._edges[0], self._edges[-1])
        self._counts += np.histogram(values, self._edges)[0]
        self._seen = (min(self._seen[0], float(values.min())), max(self._seen[1], float(values.max())))

    def quantile(self, q: float) -> float:
        """The smallest value that a share `q` of the values does not exceed, to half a bin."""
        so_far = np.cumsum(self._counts)
        index = int(np.searchsorted(so_far, int(np.ceil(q * so_far[-1]))))
        return float(np.clip((self._edges[index] + self._edges[index + 1]) / 2, *self._seen))


class Sketch:
    """The distribution of any number of non-negative values, in 10 kB.

    Args:
        limit: an edge between two bins, so that the values above it are counted exactly: adaptive runs end just below
            their tolerance. More than 0.
    """

    def __init__(self, limit: float = 1.0) -> None:
        self._limit = limit
        self._first = int(np.floor(np.log(SMALLEST / limit) / _LOG))
        self._bins = np.zeros(_BINS + 1, np.int32)  # the first counts values below SMALLEST
        self._sum = 0.0

    def add(self, values: Sequence[float | None]) -> None:
        """Add values; signs are dropped, None and values that are not finite are left out."""
        known = np.abs(np.array([value for value in values if value is not None], np.float64))
        known = np.minimum(known[np.isfinite(known)], LARGEST)
        self._sum += float(known.sum())
        bins = np.zeros(len(known), np.int64)
        counted = known >= SMALLEST
        steps = (
            np.ceil(np.log(known[counted] / self._limit) / _LOG).astype(np.int64) - 1
        )  # the limit itself is below it
        bins[counted] = np.clip(steps - self._first + 1, 1, _BINS)
        self._bins += np.bincount(bins, minlength=_BINS + 1).astype(np.int32)

    @property
    def count(self) -> int:
        """Number of values added."""
        return int(self._bins.sum())

    @property
    def mean(self) -> float | None:
        """Mean of the values; None without values."""
        return self._sum / self.count if self.count else None

    @property
    def share_above(self) -> float | None:
        """Share of the values above the limit, exact; None without values."""
        return float(self._bins[1 - self._first :].sum() / self.count) if self.count else None

    def quantile(self, q: float) -> float | None:
        """As numpy.quantile (linear), within half a percent; None without values."""
        if not self.count:
            return None
        rank = q * (self.count - 1)
        low, high = (self._at(int(end)) for end in (np.floor(rank), np.ceil(rank)))
        return float(low + (high - low) * (rank - np.floor(rank)))

    def share_below(self, bound: float) -> float | None:
        """Share of the values below a bound, which is rounded to the nearest bin; None without values."""
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
        """`edges` (k + 1) and `counts` (k); values below SMALLEST are in the first bar."""
        if not self.count:
            return {"edges": [], "counts": []}
        logs = np.log10(np.maximum(self._values(), SMALLEST) / self._limit)
        seen = logs[self._bins > 0]
        per_decade = next((many for many in BARS_PER_DECADE if np.ptp(seen) * many >= BARS), BARS_PER_DECADE[-1])
        bars = np.floor(logs * per_decade).astype(np.int64)
        first, last = (int(bars[self._bins > 0][end]) for end in (0, -1))
        inside = (bars >= first) & (bars <= last)
        counts = np.bincount(bars[inside] - first, weights=self._bins[inside])
        edges = self._limit * 10.0 ** (np.arange(first, last + 2) / per_decade)
        return {"edges": [float(f"{edge:.4g}") for edge in edges], "counts": counts.astype(int).tolist()}

    def _values(self) -> Doubles:
        """The middle of each bin."""
        return np.concatenate([[0.0], self._limit * np.exp((self._first + np.arange(_BINS) + 0.5) * _LOG)])
