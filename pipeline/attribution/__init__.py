"""The numerics: Integrated Gradients of one batch in memory. torch only; a notebook can use it alone.

    from pipeline.attribution import integrated_gradients

Read in this order: path, baselines, rows, integrated_gradients, ensemble, convergence, fitting,
precision.
"""

from pipeline.attribution.baselines import baseline_stack
from pipeline.attribution.fitting import fit_profile
from pipeline.attribution.integrated_gradients import (
    Attribution,
    input_x_gradient,
    integrated_gradients,
    saliency,
)
from pipeline.attribution.path import Profile
from pipeline.attribution.precision import Prepared, measured_batch_size, prepare
from pipeline.declarations import Baseline

__all__ = [
    "Attribution",
    "Baseline",
    "Prepared",
    "Profile",
    "baseline_stack",
    "fit_profile",
    "input_x_gradient",
    "integrated_gradients",
    "measured_batch_size",
    "prepare",
    "saliency",
]
