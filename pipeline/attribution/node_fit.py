"""Fits the nodes of a path to the changes of a model's gradients: once, on a few inputs, for all later inputs.

On ReLU CNNs this halves the error at equal cost for probabilities, which saturate along the path; for logits it lowers
it by 5 to 50 %. A fit to each single image would cost as much as it saves.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.attribution import ensemble
from pipeline.attribution.batch import Problem, problem_of
from pipeline.attribution.integrated_gradients import integrated_gradients
from pipeline.attribution.path import UNIFORM, Profile
from pipeline.spec.choices import Output

_CELLS = 32  # equal parts of the path in which the change is measured
_TRIAL_STEPS, _REFERENCE_STEPS = 16, 64


def fit_profile(
    members: nn.Module | Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    baselines: Tensor,
    baseline_weights: Tensor | None = None,
    output: Output = "logit",
    internal_batch_size: int | None = None,
) -> Profile:
    """Fit the positions of nodes to these members.

    Every second input is measured, and the others validate: unless the fitted nodes lower the mean relative error of
    their maps, the uniform profile is returned. 16 to 32 inputs are enough; each costs about 65 evaluations per path.

    Args:
        members: one module or several, each (N, ...) float -> (N, classes).
        inputs: (N, ...) float, a few real ones.
        targets: (N,) int64, in 0..classes-1.
        baselines: (K, N, ...), or (K, 1, ...) for shared baselines.
        baseline_weights: (K,) non-negative; equal shares by default.
        output: "logit", "probability" or "log_probability" of the target.
        internal_batch_size: rows of one pass; chosen from the input's size by default.

    Returns:
        The fitted profile, or the uniform one.
    """
    options: Any = {
        "baseline_weights": baseline_weights,
        "output": output,
        "internal_batch_size": internal_batch_size,
    }

    def every_second(first: int) -> tuple[Tensor, Tensor, Tensor]:
        own = baselines.shape[1] > 1
        return inputs[first::2], targets[first::2], baselines[:, first::2] if own else baselines

    x, y, start = every_second(0)
    problem, members = problem_of(members, x, y, start, **options)
    with ensemble.frozen(members):
        profile = Profile.of_change(_changes(problem, members))
    if profile == UNIFORM or len(inputs) < 2:
        return UNIFORM

    x, y, start = every_second(1)

    def maps(steps: int, nodes: Profile) -> Tensor:
        found = integrated_gradients(members, x, y, baselines=start, n_steps=steps, profile=nodes, **options)
        return found.mean.flatten(1).double()

    exact = maps(_REFERENCE_STEPS, UNIFORM)
    even, fitted = (
        ((maps(_TRIAL_STEPS, nodes) - exact).abs().sum(1) / exact.abs().sum(1)).nan_to_num().mean()
        for nodes in (UNIFORM, profile)
    )
    return profile if fitted < even else UNIFORM


def _changes(problem: Problem, members: Sequence[nn.Module]) -> Tensor:
    """(cells,) change of the integrand within each cell, as a share of each input's own, mean over inputs and paths."""
    changes = torch.zeros(_CELLS, dtype=torch.float64)
    for member in members:
        for start, weight in zip(problem.baselines, problem.weights.tolist(), strict=True):
            diff, before, steps = problem.inputs - start, None, []
            for edge in range(_CELLS + 1):
                integrand = problem.gradient(member, start + edge / _CELLS * diff, problem.targets)[1] * diff
                if before is not None:
                    steps.append((integrand - before).flatten(1).abs().sum(1, dtype=torch.float64))
                before = integrand
            change = torch.stack(steps, 1)  # (N, cells)
            changes += weight * (change / change.sum(1, keepdim=True)).nan_to_num().mean(0).cpu()
    return changes
