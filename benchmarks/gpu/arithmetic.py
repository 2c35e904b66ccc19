"""The arithmetic error of TF32, float16 and bfloat16: maps of each network against float64 at the same nodes."""

from collections.abc import Iterator
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu.bench import CHUNK, Bench, percent
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.device import ARITHMETIC, DEFAULT, FLOAT32, TF32, arithmetic
from benchmarks.gpu.subjects import Subject
from benchmarks.machine import table
from benchmarks.trials import relative_errors
from pipeline.attribution import integrated_gradients
from pipeline.attribution.fast_members import Variant

NAMES = {
    FLOAT32: "float32, no TF32",
    DEFAULT: "float32 by torch's defaults: TF32 in convolutions",
    TF32: "TF32 in convolutions and matmuls",
}
HEADER = ["network", "arithmetic", "median error", "p90 error", "largest", "rows/s", "of float32"]


def section(bench: Bench, clock: Clock) -> str:
    """Markdown of this section."""
    rows: list[list[str]] = []
    for subject, own in bench.each(clock, "arithmetic"):
        with bench.attempt(f"arithmetic of {subject.name}"):
            rows.extend(_rows(bench, subject, own))
    return (
        f"## Arithmetic error against float64, same nodes\n\n{bench.sizes.images} images, "
        f"{bench.sizes.arithmetic_steps} midpoints, black baseline, logit of the predicted class. Error: relative L1 "
        "distance of a map from the map of the same network and nodes in float64. 16-bit types run under "
        "autocast or, *whole*, with the weights cast; gradients of float16 are scaled, as in the engine.\n\n"
        f"{table(HEADER, rows)}"
    )


def _rows(bench: Bench, subject: Subject, clock: Clock) -> Iterator[list[str]]:
    count, reference = len(subject.images) * bench.sizes.arithmetic_steps, 0.0
    clock.need(count / bench.rate(subject, torch.float64))
    exact = _maps(bench, subject, deepcopy(subject.member).double(), torch.float64)
    for name, kind, member in _members(subject):
        with arithmetic(kind):
            timing = bench.timed(partial(_maps, bench, subject, member, torch.float32), clock)
        reference = reference or timing.seconds
        errors = relative_errors(timing.found, exact)
        figures = [percent(errors.quantile(q)) for q in (0.5, 0.9, 1.0)]
        yield [subject.name, name, *figures, f"{count / timing.seconds:.0f}", f"{reference / timing.seconds:.2f}"]


def _members(subject: Subject) -> Iterator[tuple[str, str, nn.Module]]:
    """Name, arithmetic of float32 products, and member. The first, float32 without TF32, is the reference of speed."""
    assert set(NAMES) == set(ARITHMETIC)
    for kind, name in NAMES.items():
        yield name, kind, subject.member
    for dtype in (torch.float16, torch.bfloat16):
        for whole in (False, True):
            name = f"{str(dtype).removeprefix('torch.')}, {'whole' if whole else 'autocast'}"
            variant = Variant(deepcopy(subject.member), dtype=dtype, whole=whole)
            yield name, DEFAULT, variant.eval().requires_grad_(False)


def _maps(bench: Bench, subject: Subject, member: nn.Module, dtype: torch.dtype) -> Tensor:
    return integrated_gradients(
        member,
        subject.images.to(dtype),
        subject.targets,
        baselines=subject.black,
        n_steps=bench.sizes.arithmetic_steps,
        internal_batch_size=CHUNK if dtype == torch.float64 else bench.chunk(subject),
    ).mean
