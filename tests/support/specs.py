"""A small valid run specification."""

from typing import Any

from pipeline.spec.choices import Baseline
from pipeline.spec.run_spec import ModelSpec, Preprocess, RunSpec

MODEL = ModelSpec("a.py:make", "w.pt", "ab" * 32, "cd" * 32, Preprocess(8, 8, 1), ("cat", "dog"))


def spec(**changes: Any) -> RunSpec:
    return RunSpec((MODEL,), (Baseline.parse("black"), Baseline.parse("color:0.1,0.2,0.3")), **changes)
