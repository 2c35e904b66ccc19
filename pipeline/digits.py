"""Former place of `pipeline.models.digits`; it goes in 0.3."""

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    from pipeline.models import digits

    found = getattr(digits, name)
    warnings.warn("pipeline.digits is now pipeline.models.digits", DeprecationWarning, stacklevel=2)
    return found
