"""The numerics: Integrated Gradients of one batch in memory. torch only; a notebook can use it alone.

    from pipeline.attribution import integrated_gradients

Read in this order: path, baselines, rows, integrated_gradients, ensemble, convergence. Speed is `pipeline.tuning`'s.
"""

from pipeline.attribution.baselines import baseline_stack
from pipeline.attribution.integrated_gradients import (
    Attribution,
    input_x_gradient,
    integrated_gradients,
    saliency,
)
from pipeline.attribution.path import Profile
from pipeline.declarations import Baseline

__all__ = [
    "Attribution",
    "Baseline",
    "Profile",
    "baseline_stack",
    "input_x_gradient",
    "integrated_gradients",
    "saliency",
]
