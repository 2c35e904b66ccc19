"""Where the nodes of a path stand in alpha, what each weighs, and how the rule's own error can be seen.

Nodes and weights are those of captum, but for the trapezoid: captum's weights sum to 1 - 1/n, ours to 1.

The error of a rule is estimated without another evaluation: the even and the odd nodes alone are two coarser rules, and
their difference says how far the whole is from converged (`convergence.error_estimate`). Each half is weighted by the
cells of its nodes (the part of [0, 1] nearest to each), so that both are of second order. With equal weights, as one
would first write it, the halves of a midpoint rule are shifted against each other by a step, and where F is smooth the
estimate measures that shift: 3 to 7 times the true error for probabilities and blurred baselines.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.declarations import METHODS, Method

FIRST_LEVEL = 9  # nodes of the coarsest nested level: alpha = 0, 1/8, ..., 1


@dataclass(frozen=True, slots=True)
class Nodes:
    """Alphas of one sweep, the weights of the rule, and those of the difference of its halves."""

    alphas: Tensor  # (A,) float64 in [0, 1]
    weights: Tensor  # (A,) float64, sums to 1
    difference: Tensor  # (A,) float64, sums to 0: even nodes' rule minus odd nodes'; NaN for one node

    @property
    def on_both_ends(self) -> bool:
        """Whether the first node is the baseline and the last the input."""
        return bool(self.alphas[0] == 0 and self.alphas[-1] == 1)


def quadrature(method: Method, n_steps: int) -> Nodes:
    """Nodes and weights of a rule on [0, 1].

    Args:
        method: one of `pipeline.declarations.METHODS`.
        n_steps: gradient evaluations, at least 1 (2 for the trapezoid, whose nodes include both ends).

    Raises:
        ValueError: an unknown method, or too few steps for it.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is none of: {', '.join(METHODS)}")
    least = 2 if method == "riemann_trapezoid" else 1
    if n_steps < least:
        raise ValueError(f"n_steps is {n_steps}; {method} needs at least {least}")
    index = torch.arange(n_steps, dtype=torch.float64)
    weights = torch.full((n_steps,), 1 / n_steps, dtype=torch.float64)
    if method == "gausslegendre":
        alphas, weights = _gausslegendre(n_steps)
    elif method == "riemann_trapezoid":
        alphas, weights = index / (n_steps - 1), torch.full_like(weights, 1 / (n_steps - 1))
        weights[0] = weights[-1] = weights[0] / 2
    else:
        shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[method]
        alphas = (index + shift) / n_steps
    return Nodes(alphas, weights, _difference(alphas, one_sided=method in ("riemann_left", "riemann_right")))


def first_level() -> Nodes:
    """The coarsest nested level: a trapezoid whose even nodes are the level before it, and its odd ones midpoints."""
    return quadrature("riemann_trapezoid", FIRST_LEVEL)


def next_level(nodes_so_far: int) -> Nodes:
    """Midpoints that refine a nested trapezoid of 2**k + 1 nodes to 2**(k+1) + 1."""
    return quadrature("riemann_middle", nodes_so_far - 1)


def _difference(alphas: Tensor, *, one_sided: bool) -> Tensor:
    if len(alphas) == 1:
        return torch.full_like(alphas, torch.nan)
    difference = torch.zeros_like(alphas)
    for half, sign in ((slice(0, None, 2), 1), (slice(1, None, 2), -1)):
        nodes = alphas[half]
        # The one-sided rules' own error is a shift of half a step: theirs shall show in the difference.
        difference[half] = sign * (torch.full_like(nodes, 1 / len(nodes)) if one_sided else _cells(nodes))
    return difference


def _cells(nodes: Tensor) -> Tensor:
    """Widths of the parts of [0, 1] that are nearest to each node."""
    edges = torch.cat([nodes.new_zeros(1), (nodes[1:] + nodes[:-1]) / 2, nodes.new_ones(1)])
    return edges.diff()


def _gausslegendre(n: int) -> tuple[Tensor, Tensor]:
    # Golub & Welsch (1969): nodes are the eigenvalues of the Jacobi matrix of the Legendre polynomials.
    k = torch.arange(1, n, dtype=torch.float64)
    beta = k / (4 * k * k - 1).sqrt()
    roots, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return (roots + 1) / 2, vectors[0] ** 2
