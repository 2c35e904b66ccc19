"""Former place of names that `pipeline.attribution` exports; it goes in 0.3."""

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    from pipeline import attribution

    found = getattr(attribution, name)
    warnings.warn("pipeline.tuning is now pipeline.attribution", DeprecationWarning, stacklevel=2)
    return found
