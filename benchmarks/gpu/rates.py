"""Matmul rates of the device, and the share of them that the gradients of each network reach."""

from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.device import FLOAT32, TF32, arithmetic
from benchmarks.gpu.subjects import Subject
from benchmarks.machine import table
from pipeline.attribution import integrated_gradients

# name -> dtype of the factors, arithmetic of float32 products
PRODUCTS = {
    "float64": (torch.float64, FLOAT32),
    FLOAT32: (torch.float32, FLOAT32),
    TF32: (torch.float32, TF32),
    "float16": (torch.float16, FLOAT32),
    "bfloat16": (torch.bfloat16, FLOAT32),
}


def section(bench: Bench, clock: Clock) -> str:
    """Markdown of this section."""
    rates = _rates(bench, clock.part(0.2))
    rows: list[list[str]] = []
    for subject, own in bench.each(clock, "rates"):
        with bench.attempt(f"share of the rates, {subject.name}"):
            rows.append(_row(bench, subject, rates, own))
    size = bench.sizes.matmul
    header = ["network", "GFLOP a row", "chunk"]
    header += [f"{kind}: TFLOP/s (of its matmul rate)" for kind in (FLOAT32, TF32)]
    return (
        f"## Share of the device's matmul rates\n\nMatmul of {size} x {size} random values, TFLOP/s:\n\n"
        f"{table(list(rates), [[f'{rate / 1e12:.2f}' for rate in rates.values()]])}\n\n"
        "Forward and backward passes of `integrated_gradients` at the measured chunk, operations counted by torch's "
        "FLOP counter (convolutions, matmuls and attention). *float32*: TF32 off; *TF32*: in convolutions and "
        f"matmuls.\n\n{table(header, rows)}"
    )


def _rates(bench: Bench, clock: Clock) -> dict[str, float]:
    """FLOP/s of a square matmul, by name of `PRODUCTS`."""
    size, found = bench.sizes.matmul, {}
    for name, (dtype, kind) in PRODUCTS.items():
        generator = torch.Generator(bench.device.torch).manual_seed(0)
        one, other = (
            torch.randn(size, size, generator=generator, device=bench.device.torch).to(dtype) for _ in range(2)
        )
        with arithmetic(kind):
            seconds = bench.timed(partial(torch.matmul, one, other), clock).seconds
        found[name] = 2 * size**3 / seconds
    return found


def _row(bench: Bench, subject: Subject, rates: dict[str, float], clock: Clock) -> list[str]:
    chunk = bench.chunk(subject)
    steps = max(2 * chunk, 64) // len(subject.images)
    run = partial(
        integrated_gradients,
        subject.member,
        subject.images,
        subject.targets,
        baselines=subject.black,
        n_steps=steps,
        internal_batch_size=chunk,
    )
    with FlopCounterMode(display=False) as counter:
        run()
    flop, shares = counter.get_total_flops(), []
    for kind in (FLOAT32, TF32):
        with arithmetic(kind):
            rate = flop / bench.timed(run, clock).seconds
        shares.append(f"{rate / 1e12:.3g} ({rate / rates[kind]:.0%})")
    return [subject.name, f"{flop / (len(subject.images) * steps) / 1e9:.3g}", str(chunk), *shares]
