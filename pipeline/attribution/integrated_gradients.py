"""Integrated Gradients of a batch, averaged over baselines and over an ensemble (Sundararajan, Taly, Yan 2017).

For a member F, input x, baseline x' and target output: attribution_i = (x_i - x'_i) * integral over alpha in [0, 1]
of dF/dx_i at x' + alpha (x - x'). The map of an image is the mean over its paths; a path is a (member, baseline) pair.

All rows (image x baseline x alpha) of a member are laid end to end and cut into chunks of one size, so every forward
and backward pass but the last is full for any number of images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.attribution import convergence, ensemble, path
from pipeline.attribution.batch import Problem, path_runs, problem_of
from pipeline.attribution.path import Profile
from pipeline.spec.choices import Method, Output, Precision


@dataclass(frozen=True, slots=True)
class Attribution:
    """Maps of N inputs and their figures. Maps are (N, ...) in the inputs' dtype, figures float64.

    If channels are summed, maps are (N, 1, ...), and members and baselines are compared after the sum.
    """

    mean: Tensor  # (N, ...) the map: mean over members and baselines
    std: Tensor  # (N, ...) over members, 0 for one
    sign_agreement: Tensor  # (N, ...) share of members with the sign of the mean
    baseline_sensitivity: Tensor  # (N,) mean distance, 0..2, between the maps of two baselines; NaN for one
    output: Tensor  # (N,) F(x) of the target, mean over members
    baseline_output: Tensor  # (N,) F(x') of the target, mean over paths
    convergence_delta: Tensor  # (N,) signed: sum of attributions - (F(x) - F(x')), mean over paths
    error_estimate: Tensor  # (N,) estimated relative L1 error of `mean`; NaN where a path has one node
    converged: Tensor | None  # (N,) bool: error_estimate <= tolerance; None without a tolerance
    evaluations: Tensor  # (N,) int64: gradient evaluations spent
    path_alphas: Tensor  # (A,) ascending, of the first baseline's nodes
    path_outputs: Tensor  # (N, A) F(alpha), mean over paths; NaN where the image was finished before
    path_gradients: Tensor  # (N, A) mean absolute gradient, mean over paths; NaN likewise

    @property
    def completeness_gap(self) -> Tensor:
        """(N,) |convergence_delta| relative to |F(x) - F(x')|."""
        return convergence.completeness_gap(self.convergence_delta, self.output, self.baseline_output)


def integrated_gradients(
    members: nn.Module | Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    baselines: Tensor,
    baseline_weights: Tensor | None = None,
    method: Method = "riemann_middle",
    n_steps: int = 50,
    tolerance: float | None = None,
    max_steps: int = 513,
    profile: Profile | Sequence[Profile] = path.UNIFORM,
    output: Output = "logit",
    internal_batch_size: int | None = None,
    precision: Precision = "float32",
    sum_channels: bool = False,
) -> Attribution:
    """Attribute the target outputs of a batch to its inputs.

    Args:
        members: one module or several, each (N, ...) float -> (N, classes); put in eval mode for the call. Rows must
            be independent of each other, which eval mode ensures for usual layers.
        inputs: (N, ...) float, of any shape.
        targets: (N,) int64, in 0..classes-1.
        baselines: (K, N, ...), or (K, 1, ...) for baselines that all inputs share.
        baseline_weights: (K,) non-negative; equal shares by default.
        method: quadrature rule, see `pipeline.spec.choices.METHODS`. Not used with a tolerance.
        n_steps: gradient evaluations per path. Not used with a tolerance.
        tolerance: relative L1 error, above 0: nested trapezoid levels (9, 17, 33, ... nodes, each reusing all
            before) until an image's `error_estimate` meets it.
        max_steps: with a tolerance, the largest number of nodes per path, 9 or more. Images that need more are not
            `converged`.
        profile: positions of the nodes of Riemann rules and nested levels, see `fit_profile`; evenly spaced by default.
            One for all baselines, or one for each.
        output: explained output: "logit", "probability" or "log_probability" of the target.
        internal_batch_size: rows of one forward and backward pass; chosen from the input's size by default.
        precision: "float32" computes in the inputs' own dtype (float64 stays float64), "float64" on copies in double,
            "bfloat16" runs the members under autocast.
        sum_channels: sum maps over the inputs' first dimension after N; the error estimate stays that of all channels.

    Raises:
        ValueError: shapes that do not fit, targets out of range, unknown names.
    """
    problem, members = problem_of(
        members,
        inputs,
        targets,
        baselines,
        baseline_weights=baseline_weights,
        output=output,
        internal_batch_size=internal_batch_size,
        precision=precision,
    )
    adaptive = tolerance is not None
    if adaptive and max_steps < path.FIRST_LEVEL:
        raise ValueError(f"max_steps is {max_steps}; the first level has {path.FIRST_LEVEL} nodes")
    profiles = [profile] * len(baselines) if isinstance(profile, Profile) else profile
    if len(profiles) != len(baselines):
        raise ValueError(f"{len(profiles)} profiles for {len(baselines)} baselines; give one, or one for each")
    first = [path.first_level(one) if adaptive else path.quadrature(method, n_steps, one) for one in profiles]
    rule: Method = "riemann_trapezoid" if adaptive else method
    sums = _Sums(problem, len(members))
    with ensemble.frozen(members):
        sums.take_ends(members, path.stack(first))
        spent = len(first[0].alphas)
        active = torch.arange(len(inputs), device=inputs.device)
        sums.refine(members, path.stack(first), active)
        error = sums.error_estimate(rule)
        while tolerance is not None and 2 * spent - 1 <= max_steps:
            active = (error > tolerance).nonzero()[:, 0]
            if not len(active):
                break
            sums.refine(members, path.stack([path.next_level(spent, one) for one in profiles]), active)
            spent = 2 * spent - 1
            error = sums.error_estimate(rule)
    converged = None if tolerance is None else error <= tolerance
    return sums.result(inputs.dtype, error, converged, sum_channels=sum_channels)


def input_x_gradient(
    members: nn.Module | Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    output: Output = "logit",
    sum_channels: bool = False,
) -> Attribution:
    """Input times gradient: one node at alpha = 1 on the path from zero.

    Args:
        members: one module or several, each (N, ...) float -> (N, classes).
        inputs: (N, ...) float.
        targets: (N,) int64, in 0..classes-1.
        output: "logit", "probability" or "log_probability" of the target.
        sum_channels: sum maps over the inputs' first dimension after N.
    """
    zero = torch.zeros_like(inputs[:1])[None]
    return integrated_gradients(
        members,
        inputs,
        targets,
        baselines=zero,
        method="riemann_right",
        n_steps=1,
        output=output,
        sum_channels=sum_channels,
    )


def saliency(
    members: nn.Module | Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    output: Output = "logit",
    sum_channels: bool = False,
) -> Attribution:
    """Absolute gradient at the input (Simonyan et al. 2013), mean over members.

    Args:
        members: one module or several, each (N, ...) float -> (N, classes).
        inputs: (N, ...) float.
        targets: (N,) int64, in 0..classes-1.
        output: "logit", "probability" or "log_probability" of the target.
        sum_channels: sum maps over the inputs' first dimension after N.

    Returns:
        An Attribution whose deltas are NaN, because a gradient does not have completeness.
    """
    zero = torch.zeros_like(inputs[:1])[None]
    problem, members = problem_of(members, inputs, targets, zero, output=output, multiply=False)
    nodes = path.stack([path.quadrature("riemann_right", 1)])
    sums = _Sums(problem, len(members))
    with ensemble.frozen(members):
        sums.take_ends(members, nodes)
        sums.refine(members, nodes, torch.arange(len(inputs), device=inputs.device))
    sums.maps.abs_()
    sums.path_sums.fill_(torch.nan)
    return sums.result(inputs.dtype, sums.error_estimate("riemann_right"), None, sum_channels=sum_channels)


class _Sums:
    """Running sums of a batch: per member for spread, over all paths for the error, per path for completeness."""

    def __init__(self, problem: Problem, members: int) -> None:
        self.problem = problem
        inputs, (K, N) = problem.inputs, (len(problem.baselines), len(problem.inputs))
        self.maps = inputs.new_zeros(members, *inputs.shape)  # (M, N, ...)
        self.by_baseline = inputs.new_zeros(K, *inputs.shape) if K > 1 else None  # (K, N, ...) mean over members
        self.difference = torch.zeros_like(inputs)  # (N, ...) even nodes minus odd nodes, mean over all paths
        self.path_sums = torch.zeros(members, K, N, dtype=torch.float64, device=inputs.device)
        self.start = torch.zeros_like(self.path_sums)  # F(x') of every path
        self.end = torch.zeros_like(self.path_sums[:, 0])  # (M, N) F(x)
        self.evaluations = torch.zeros(N, dtype=torch.int64, device=inputs.device)
        self.curves: list[
            tuple[Tensor, Tensor]
        ] = []  # of each level: alphas (K, A), outputs and gradients (2, K, N, A)

    def take_ends(self, members: Sequence[nn.Module], nodes: path.Nodes) -> None:
        """F(x') and F(x) by forward passes, unless the nodes include both ends."""
        if nodes.on_both_ends:
            return
        for m, member in enumerate(members):
            self.start[m], self.end[m] = self.problem.ends(member)

    def refine(self, members: Sequence[nn.Module], nodes: path.Nodes, active: Tensor) -> None:
        """Evaluate nodes for the active inputs (n,) and merge them: a later level halves the weight of all before."""
        first = not self.curves
        keep = 0.0 if first else 0.5
        (K, A), N = nodes.alphas.shape, len(self.evaluations)
        curve = torch.full((2, K, N, A), torch.nan, dtype=torch.float64).to(self.evaluations.device)
        curve[:, :, active] = 0
        difference = torch.zeros_like(self.difference[active]) if first else self.maps[:, active].mean(0)
        if self.by_baseline is not None:
            self.by_baseline[:, active] *= keep
        for m, member in enumerate(members):
            parts, apart, sums, outputs, gradients = _sweep(self.problem, member, nodes, active)
            part = torch.tensordot(self.problem.weights.to(parts), parts, 1)
            if self.by_baseline is not None:
                self.by_baseline[:, active] += (1 - keep) / len(members) * parts
            difference += (apart if first else -part) / len(members)  # a later level is the odd half to all before
            self.maps[m, active] = keep * self.maps[m, active] + (1 - keep) * part
            self.path_sums[m][:, active] = keep * self.path_sums[m][:, active] + (1 - keep) * sums
            curve[:, :, active] += torch.stack([outputs, gradients]) / len(members)
            if first and nodes.on_both_ends:
                self.start[m], self.end[m] = outputs[:, :, 0], outputs[0, :, -1]
        self.difference[active] = difference
        self.curves.append((nodes.alphas.to(curve.device), curve))
        self.evaluations[active] += len(members) * K * A

    def error_estimate(self, method: Method) -> Tensor:
        """(N,) float64."""
        return convergence.error_estimate(self.difference, self.maps.mean(0), method)

    def result(self, dtype: torch.dtype, error: Tensor, converged: Tensor | None, *, sum_channels: bool) -> Attribution:
        """The figures of all inputs, maps in `dtype`."""
        maps, by_baseline = self.maps, self.by_baseline
        if sum_channels:
            maps = maps.sum(2, keepdim=True)
            by_baseline = None if by_baseline is None else by_baseline.sum(2, keepdim=True)
        mean, std, agreement = ensemble.statistics(maps)
        weights = self.problem.weights
        deltas = self.path_sums - (self.end[:, None] - self.start)  # (M, K, N)
        alphas, (outputs, gradients) = self._mean_curves()
        return Attribution(
            mean=mean.to(dtype),
            std=std.to(dtype),
            sign_agreement=agreement.to(dtype),
            baseline_sensitivity=torch.full_like(error, torch.nan)
            if by_baseline is None
            else ensemble.mean_distance(by_baseline, weights),
            output=self.end.mean(0),
            baseline_output=torch.tensordot(weights, self.start.mean(0), 1),
            convergence_delta=torch.tensordot(weights, deltas.mean(0), 1),
            error_estimate=error,
            converged=converged,
            evaluations=self.evaluations,
            path_alphas=alphas,
            path_outputs=outputs,
            path_gradients=gradients,
        )

    def _mean_curves(self) -> tuple[Tensor, Tensor]:
        """Alphas (A,) of the first baseline's nodes, and outputs and gradients (2, N, A) there, mean over paths."""
        at, order = torch.cat([alphas[0] for alphas, _ in self.curves]).sort()
        own = torch.cat([curve[:, 0] for _, curve in self.curves], 2)[..., order]
        mean = self.problem.weights[0] * own
        for k, weight in enumerate(self.problem.weights[1:], 1):
            there = torch.full_like(own, torch.nan)
            for level in range(len(self.curves), 0, -1):  # an image that was finished before knows fewer levels
                x, order = torch.cat([alphas[k] for alphas, _ in self.curves[:level]]).sort()
                y = torch.cat([curve[:, k] for _, curve in self.curves[:level]], 2)[..., order]
                there = torch.where(there.isnan(), path.interpolate(at, x, y), there)
            mean = mean + weight * there
        return at, torch.where(own.isnan(), torch.nan, mean)


def _sweep(
    problem: Problem, member: nn.Module, nodes: path.Nodes, active: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All rows (input x baseline x alpha) of one member.

    Returns:
        Maps of each baseline (K, n, ...); the difference of the rule's halves, mean over baselines (n, ...); and per
        path, float64: attribution sums (K, n), outputs (K, n, A) and mean absolute gradients (K, n, A).
    """
    n, (K, A) = len(active), nodes.alphas.shape
    device, inputs = problem.inputs.device, problem.inputs
    maps, difference = inputs.new_zeros(K, n, *inputs.shape[1:]), inputs.new_zeros(n, *inputs.shape[1:])
    columns = torch.stack([nodes.weights, nodes.difference], 1).to(inputs)  # (K, 2, A)
    alphas = nodes.alphas.to(inputs).view(K, A, *[1] * (inputs.dim() - 1))
    shares, which = problem.weights.tolist(), active.tolist()
    sums = torch.zeros(n * K, dtype=torch.float64, device=device)
    figures = torch.zeros(2, n * K * A, dtype=torch.float64, device=device)  # output, mean |gradient|
    targets = problem.targets[active].repeat_interleave(K * A)
    for chunk in problem.chunks(n * K * A):
        points = inputs.new_empty(chunk.stop - chunk.start, *inputs.shape[1:])
        runs = list(path_runs(chunk, A))
        for path_index, rows, steps in runs:
            i, k = divmod(path_index, K)
            start, end = problem.ends_of(which[i], k)
            torch.addcmul(start, end - start, alphas[k, steps], out=points[rows])
        outputs, gradient = problem.gradient(member, points, targets[chunk])
        gradient = gradient.flatten(1)
        figures[0, chunk] = outputs.double()
        figures[1, chunk] = torch.linalg.vector_norm(gradient, 1, dim=1) / gradient.shape[1]
        # Path by path, not one product over the chunk: overflow of one input must not reach other inputs.
        for path_index, rows, steps in runs:
            i, k = divmod(path_index, K)
            part = (columns[k][:, steps] @ gradient[rows]).view(2, *inputs.shape[1:])
            if problem.multiply:
                start, end = problem.ends_of(which[i], k)
                part *= end - start
            sums[path_index] += part[0].sum(dtype=torch.float64)
            maps[k, i].add_(part[0])
            difference[i].add_(part[1], alpha=shares[k])
    outputs, gradients = figures.view(2, n, K, A).transpose(1, 2)  # each (K, n, A)
    return maps, difference, sums.view(n, K).T, outputs, gradients
