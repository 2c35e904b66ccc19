"""The sides to compare with: captum, and a loop without a library."""

import warnings
from typing import Any

import torch
from torch import Tensor

from benchmarks.trials import Trial

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from captum.attr import IntegratedGradients

__all__ = ["IntegratedGradients", "captum_maps", "loop_maps"]


def captum_maps(t: Trial, n_steps: int = 50, **options: Any) -> Tensor:
    """Maps by captum, with a loop over members and baselines, as a user would write it."""
    total = torch.zeros_like(t.images)
    for member in t.members:
        explain = IntegratedGradients(member)
        for start, weight in zip(t.baselines, t.weights.tolist(), strict=True):
            found = explain.attribute(t.images, start.expand_as(t.images), target=t.targets, n_steps=n_steps, **options)
            total += weight / len(t.members) * found
    return total


def loop_maps(t: Trial, n_steps: int) -> Tensor:
    """Maps by a plain loop, in which the midpoints of one path are one batch."""
    alphas = ((torch.arange(n_steps) + 0.5) / n_steps).view(-1, 1, 1, 1)
    total = torch.zeros_like(t.images)
    for member in t.members:
        for stack, weight in zip(t.baselines, t.weights.tolist(), strict=True):
            for i, image in enumerate(t.images):
                start = stack[i if len(stack) > 1 else 0]
                points = (start + alphas * (image - start)).requires_grad_()
                (gradient,) = torch.autograd.grad(member(points)[:, t.targets[i]].sum(), points)
                total[i] += weight / len(t.members) * gradient.mean(0) * (image - start)
    return total
