"""The numerics: Integrated Gradients of one batch in memory. Imports torch and nothing else.

    from pipeline.attribution import integrated_gradients

Reading order: path, baselines, batch, integrated_gradients, ensemble, convergence; then `node_fit` (nodes fitted to a
model) and `fast_members` (the fastest verified way to run a member).
"""

from pipeline.attribution.baselines import baseline_stack
from pipeline.attribution.fast_members import (
    AS_GIVEN,
    DEFAULT_TOLERANCE,
    Choice,
    Prepared,
    measured_batch_size,
    prepare,
    products,
)
from pipeline.attribution.integrated_gradients import (
    Attribution,
    input_x_gradient,
    integrated_gradients,
    saliency,
)
from pipeline.attribution.node_fit import fit_profile
from pipeline.attribution.path import Profile
from pipeline.spec.choices import Baseline

__all__ = [
    "AS_GIVEN",
    "DEFAULT_TOLERANCE",
    "Attribution",
    "Baseline",
    "Choice",
    "Prepared",
    "Profile",
    "baseline_stack",
    "fit_profile",
    "input_x_gradient",
    "integrated_gradients",
    "measured_batch_size",
    "prepare",
    "products",
    "saliency",
]
