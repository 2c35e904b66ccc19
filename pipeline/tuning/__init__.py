"""The same maps for less: nodes fitted to a model, and the fastest way to run it that its maps allow. torch only.

Each is measured once, on a few inputs, and verified on them; the caller remembers what was found.
"""

from pipeline.tuning.fitting import fit_profile
from pipeline.tuning.precision import (
    AS_GIVEN,
    DEFAULT_TOLERANCE,
    Choice,
    Prepared,
    measured_batch_size,
    prepare,
    products,
)

__all__ = [
    "AS_GIVEN",
    "DEFAULT_TOLERANCE",
    "Choice",
    "Prepared",
    "fit_profile",
    "measured_batch_size",
    "prepare",
    "products",
]
