"""Members: registered models, their weights, their preprocessing, and ensemble training."""

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    """Names that were here before 0.2, with a warning; they go in 0.3."""
    if name == "ModelRequest":
        from pipeline.spec.request import ModelRequest

        new, found = "pipeline.spec.request", ModelRequest
    elif name in ("load", "resolve", "weights_digest"):
        from pipeline.models import registry

        new, found = "pipeline.models.registry", getattr(registry, name)
    else:
        raise AttributeError(f"module 'pipeline.models' has no attribute {name!r}")
    warnings.warn(f"pipeline.models.{name} is now {new}.{name}", DeprecationWarning, stacklevel=2)
    return found
