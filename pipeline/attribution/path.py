"""Nodes of a path: their positions in alpha, their weights, and weights that estimate the error of the rule.

Nodes and weights are those of captum, except for the trapezoid: captum's weights sum to 1 - 1/n, ours to 1.

The error of a rule is estimated without another evaluation: the even and the odd nodes are two coarser rules, and their
difference measures the distance from convergence (`convergence.error_estimate`). Each half is weighted by the cells of
its nodes (the part of [0, 1] nearest to each), so that both are of second order. With equal weights the halves of a
midpoint rule would be shifted against each other by a step. For smooth F the estimate would measure that shift: 3 to 7
times the true error for probabilities and blurred baselines.

A `Profile` moves nodes to the changes of the integrand. It is piecewise linear, with one piece for each cell of the
first nested level, so a later level still halves the cells within a piece. The trapezoid of fitted nodes therefore
reuses every evaluation by the same sums as the uniform one. 64 pieces measured no better than 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.spec.choices import METHODS, Method

FIRST_LEVEL = 9  # nodes of the coarsest nested level: alpha = 0, 1/8, ..., 1

_FLOOR = 0.2  # share of fitted nodes spread evenly: 0 misses changes of images unlike the calibration images


@dataclass(frozen=True, slots=True)
class Profile:
    """Positions of nodes: a monotone warp alpha = W(u), linear between `FIRST_LEVEL` knots. Stored as its knots."""

    knots: tuple[float, ...] = tuple(index / (FIRST_LEVEL - 1) for index in range(FIRST_LEVEL))  # alpha at even u

    def __post_init__(self) -> None:
        steps = torch.tensor(self.knots).diff()
        if len(self.knots) != FIRST_LEVEL or self.knots[0] != 0 or self.knots[-1] != 1 or not bool((steps > 0).all()):
            raise ValueError(f"a profile has {FIRST_LEVEL} knots that ascend from 0 to 1, not {self.knots}")

    @classmethod
    def of_change(cls, change: Tensor) -> "Profile":
        """The profile for an integrand: the density of nodes is the root of its change, above a floor.

        Jumps of summed size r(alpha) in cells of width 1/p(alpha) leave an error of int r/p, least where p ~ sqrt(r).

        Args:
            change: (G,) change of the integrand within each of G even cells of the path, at least 0.
        """
        density = change.double().clamp(min=0).sqrt()
        if not density.sum() > 0:
            return cls()
        density = (1 - _FLOOR) * density / density.sum() + _FLOOR / len(density)
        reached = torch.cat([density.new_zeros(1), density.cumsum(0)])  # share of the nodes up to each edge
        even = torch.linspace(0, 1, FIRST_LEVEL, dtype=torch.float64)[1:-1]
        inner = interpolate(even, reached, torch.linspace(0, 1, len(reached), dtype=torch.float64))
        return cls((0.0, *inner.tolist(), 1.0))

    def warp(self, u: Tensor) -> Tensor:
        """W(u), float64 in [0, 1] as u is."""
        knots = torch.tensor(self.knots, dtype=torch.float64)
        return interpolate(u, torch.linspace(0, 1, len(knots), dtype=torch.float64), knots)


UNIFORM = Profile()


@dataclass(frozen=True, slots=True)
class Nodes:
    """Alphas of one sweep, weights of the rule and of the difference of its halves; (A,), or (K, A) for K paths."""

    alphas: Tensor  # (..., A) float64 in [0, 1]
    weights: Tensor  # (..., A) float64, sums to 1
    difference: Tensor  # (..., A) float64, sums to 0: even nodes' rule minus odd nodes'; NaN for one node

    @property
    def on_both_ends(self) -> bool:
        """Whether the first node is the baseline and the last the input."""
        return bool((self.alphas[..., 0] == 0).all() and (self.alphas[..., -1] == 1).all())


def stack(nodes: Sequence[Nodes]) -> Nodes:
    """Nodes of several paths, equally many each, as rows (K, A)."""
    columns = (torch.stack([getattr(one, name) for one in nodes]) for name in ("alphas", "weights", "difference"))
    return Nodes(*columns)


def quadrature(method: Method, n_steps: int, profile: Profile = UNIFORM) -> Nodes:
    """Nodes and weights of a rule on [0, 1].

    Args:
        method: one of `pipeline.spec.choices.METHODS`.
        n_steps: gradient evaluations, at least 1 (2 for the trapezoid, whose nodes include both ends).
        profile: positions of the cells of a Riemann rule; weights are their widths.

    Raises:
        ValueError: an unknown method, too few steps for it, or a profile for Gauss-Legendre, which has no cells.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is none of: {', '.join(METHODS)}")
    least = 2 if method == "riemann_trapezoid" else 1
    if n_steps < least:
        raise ValueError(f"n_steps is {n_steps}; {method} needs at least {least}")
    if method == "gausslegendre":
        if profile != UNIFORM:
            raise ValueError("gausslegendre takes no profile; use riemann_middle")
        alphas, weights = _gausslegendre(n_steps)
        return Nodes(alphas, weights, _difference(alphas))
    cells = n_steps - 1 if method == "riemann_trapezoid" else n_steps
    edges = profile.warp(torch.arange(cells + 1, dtype=torch.float64) / cells)
    weights = edges.diff()
    if method == "riemann_trapezoid":
        ends = weights.new_zeros(1)
        return Nodes(edges, (torch.cat([ends, weights]) + torch.cat([weights, ends])) / 2, _difference(edges))
    left, right = edges[:-1], edges[1:]
    alphas = {"riemann_left": left, "riemann_middle": (left + right) / 2, "riemann_right": right}[method]
    return Nodes(alphas, weights, _difference(alphas, None if method == "riemann_middle" else weights))


def first_level(profile: Profile = UNIFORM) -> Nodes:
    """The coarsest nested level: a trapezoid whose even nodes are the level before it, and its odd ones midpoints."""
    return quadrature("riemann_trapezoid", FIRST_LEVEL, profile)


def next_level(nodes_so_far: int, profile: Profile = UNIFORM) -> Nodes:
    """Midpoints that refine a nested trapezoid of 2**k + 1 nodes to 2**(k+1) + 1."""
    return quadrature("riemann_middle", nodes_so_far - 1, profile)


def interpolate(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Piecewise linear interpolation through (x, y), x (A,) ascending, y (..., A)."""
    if len(x) == 1:
        return y.expand(*y.shape[:-1], len(at))
    k = (torch.searchsorted(x, at, right=True) - 1).clamp(0, len(x) - 2)
    return y[..., k] + (at - x[k]) / (x[k + 1] - x[k]) * (y[..., k + 1] - y[..., k])


def _difference(alphas: Tensor, one_sided: Tensor | None = None) -> Tensor:
    """Weights of the even nodes' rule minus the odd nodes'. A one-sided rule gives its own weights."""
    if len(alphas) == 1:
        return torch.full_like(alphas, torch.nan)
    difference = torch.zeros_like(alphas)
    for half, sign in ((slice(0, None, 2), 1), (slice(1, None, 2), -1)):
        # One-sided rules are biased by half a step; keep their weights so that the estimate shows it.
        weights = _cells(alphas[half]) if one_sided is None else one_sided[half] / one_sided[half].sum()
        difference[half] = sign * weights
    return difference


def _cells(nodes: Tensor) -> Tensor:
    """Width of the part of [0, 1] that is nearest to each node."""
    edges = torch.cat([nodes.new_zeros(1), (nodes[1:] + nodes[:-1]) / 2, nodes.new_ones(1)])
    return edges.diff()


def _gausslegendre(n: int) -> tuple[Tensor, Tensor]:
    # Golub & Welsch (1969): nodes are the eigenvalues of the Jacobi matrix of the Legendre polynomials.
    k = torch.arange(1, n, dtype=torch.float64)
    beta = k / (4 * k * k - 1).sqrt()
    roots, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return (roots + 1) / 2, vectors[0] ** 2
