"""Describes the machine of a measurement, and times several sides against each other."""

import datetime
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

_STARTED = time.monotonic()

PRODUCTS = ("conv", "mm", "linear", "attention")  # in the names of operations that multiply matrices
Side = TypeVar("Side")  # type of the name of a side


def describe() -> str:
    """Processor, cores, vector instruction sets, versions and date in one line."""
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
    """Print a line of progress, after the minutes and seconds since the start."""
    minutes, seconds = divmod(int(time.monotonic() - _STARTED), 60)
    print(f"{minutes:3}:{seconds:02}  {line}", file=sys.stderr, flush=True)


def interleaved(sides: Mapping[Side, Callable[[], object]], *, rounds: int = 5) -> dict[Side, float]:
    """Median processor seconds of each side. After one warm-up each, the sides run alternately, `rounds` times.

    On one thread of an idle machine they equal seconds; on a shared one they exclude the time of other programs.
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
    """Share of the time in convolutions and matmuls, and the three most expensive other operations."""
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
