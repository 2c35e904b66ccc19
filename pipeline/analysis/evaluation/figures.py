"""Figures of pairs of maps, and intervals of means over images. torch and numpy only."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.analysis.evaluation.results import Estimate

Floats = NDArray[np.float64]

RESAMPLES = 2000
_AT_A_TIME = 100  # resamples


def ranks(values: Tensor) -> Tensor:
    """Ranks within each row, ties averaged: (N, P) -> (N, P) float64, 1..P."""
    ordered, order = values.sort(dim=1)
    first = torch.ones_like(ordered[:, :1], dtype=torch.bool)
    group = torch.cat([first, ordered.diff(dim=1) != 0], 1).cumsum(1) - 1  # (N, P) of equal values
    position = torch.arange(1, values.shape[1] + 1, dtype=torch.float64, device=values.device).expand(group.shape)
    empty = torch.zeros_like(position)
    total = empty.scatter_add(1, group, position)
    count = empty.scatter_add(1, group, torch.ones_like(position))
    return empty.scatter(1, order, (total / count).gather(1, group))


def rank_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's rank correlation of each row, (N, P) twice -> (N,) float64.

    NaN where a row of `one` is constant, 0 where only that of `other` is: it tells nothing of the order in `one`.
    """
    one, other = (r - r.mean(1, keepdim=True) for r in (ranks(one), ranks(other)))
    return cosine(one, other)


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine of each row, (N, P) twice -> (N,) float64. NaN where `one` is 0, 0 where only `other` is."""
    one, other = one.double(), other.double()
    sizes = one.norm(dim=1), other.norm(dim=1)
    found = (one * other).sum(1) / (sizes[0] * sizes[1])
    return torch.where((sizes[0] > 0) & (sizes[1] == 0), 0.0, found)


def estimate(values: Floats, weights: Floats | None = None, *, seed: int) -> Estimate:
    """Mean over images with its percentile bootstrap interval at 95 % (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: (n,), NaN where an image has none; those are left out.
        weights: (n,) non-negative: the estimate is sum(values) / sum(weights), as a ratio of means.
        seed: of the resampling.
    """
    known = ~np.isnan(values)
    values, weights = values[known], np.ones(int(known.sum())) if weights is None else weights[known]
    n = len(values)
    if not n or not weights.sum() > 0:
        return Estimate(np.nan, np.nan, np.nan, n)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(0, RESAMPLES, _AT_A_TIME):
        drawn = rng.integers(0, n, (_AT_A_TIME, n))
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(values[drawn].sum(1) / weights[drawn].sum(1))
    low, high = np.nanpercentile(np.concatenate(found), [2.5, 97.5])
    return Estimate(float(values.sum() / weights.sum()), float(low), float(high), n)
