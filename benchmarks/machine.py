"""What the figures were measured on, and how two sides are timed."""

import datetime
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

_STARTED = time.monotonic()

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
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}"
    )


def log(line: str) -> None:
    """Progress: minutes and seconds since the start, and what is being done."""
    minutes, seconds = divmod(int(time.monotonic() - _STARTED), 60)
    print(f"{minutes:3}:{seconds:02}  {line}", flush=True)


def interleaved(sides: Mapping[Side, Callable[[], object]], *, rounds: int = 5) -> dict[Side, float]:
    """Median seconds of each side, run in turns after one warm-up each."""
    times: dict[Side, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for _ in range(rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
