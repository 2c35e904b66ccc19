"""What the figures were measured on, and how two sides are timed."""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

_STARTED = time.monotonic()

PRODUCTS = ("conv", "mm", "linear", "attention")  # in the names of operations that multiply matrices
Side = TypeVar("Side")  # what names a side


def describe() -> str:
    """Processor, cores, instruction sets that matter, versions, date."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    matrix = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    family = next((line.split(":")[1].strip() for line in lines if line.startswith("cpu family")), "?")
    return (
        f"{', '.join(names) or platform.processor()} (family {family}; {', '.join(matrix) or 'no vector flags'}), "
        f"{torch.get_num_threads()} thread of {os.cpu_count()} (load {os.getloadavg()[0]:.0f}), "
        f"torch {torch.__version__}, Python {platform.python_version()}, "
        f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}"
    )


def log(line: str) -> None:
    """Progress: minutes and seconds since the start, and what is being done."""
    minutes, seconds = divmod(int(time.monotonic() - _STARTED), 60)
    print(f"{minutes:3}:{seconds:02}  {line}", flush=True)


def interleaved(sides: Mapping[Side, Callable[[], object]], *, rounds: int = 5) -> dict[Side, float]:
    """Median processor seconds of each side, run in turns after one warm-up each.

    On one thread of an idle machine they are seconds; on a shared one they leave out the time that others had.
    """
    times: dict[Side, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for _ in range(rounds):
        for name, side in sides.items():
            started = time.process_time()
            side()
            times[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def profiled(run: Callable[[], object]) -> tuple[float, str]:
    """The share of the time in convolutions and matmuls, and the three operations that cost most beside them."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    spent = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in found.key_averages()}
    total, products = sum(spent.values()), sum(t for name, t in spent.items() if any(p in name for p in PRODUCTS))
    others = sorted((name for name in spent if not any(p in name for p in PRODUCTS)), key=lambda name: -spent[name])
    rest = ", ".join(f"{name} {spent[name] / total:.0%}" for name in others[:3])
    return products / total, rest


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
