"""All calls that differ between a CUDA device and a CPU, and the arithmetic of float32 products."""

import datetime
import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from benchmarks import machine, peaks
from benchmarks.gpu.clock import Clock, OutOfTime

# name -> precision of float32 matmuls, TF32 in cuDNN's convolutions
ARITHMETIC = {
    "torch's defaults": ("highest", True),
    "float32": ("highest", False),
    "TF32": ("high", True),
}
DEFAULT, FLOAT32, TF32 = ARITHMETIC

Found = TypeVar("Found")  # type of the result of a side


@dataclass(frozen=True)
class Timing(Generic[Found]):
    """Measurements of one side."""

    found: Found  # result of the first call
    seconds: float  # median over the rounds
    peak_bytes: int  # during the first call


@dataclass(frozen=True)
class Device:
    """The device of a measurement. Every CUDA call of these benchmarks is made here."""

    torch: torch.device

    @property
    def is_cuda(self) -> bool:
        """Whether it is a CUDA device."""
        return self.torch.type == "cuda"

    def describe(self) -> str:
        """The device and the versions that the figures depend on."""
        if not self.is_cuda:
            return machine.describe()
        found = torch.cuda.get_device_properties(self.torch)
        return (
            f"{found.name} (compute capability {found.major}.{found.minor}, {found.multi_processor_count} "
            f"multiprocessors, {found.total_memory / 2**30:.0f} GiB), torch {torch.__version__}, CUDA "
            f"{torch.version.cuda}, Python {platform.python_version()}, "
            f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}"
        )

    def now(self) -> float:
        """Seconds on a clock, after the device has finished its work."""
        if self.is_cuda:
            torch.cuda.synchronize(self.torch)
        return time.perf_counter()

    def reset_peak(self) -> None:
        """Start a new measurement of peak memory. On a CPU it has no effect."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats(self.torch)

    def peak_bytes(self) -> int:
        """Peak memory of tensors since `reset_peak`; on a CPU, the peak of the process since its start."""
        if self.is_cuda:
            return torch.cuda.max_memory_allocated(self.torch)
        return peaks.peak() * 2**20

    def release(self) -> None:
        """Return unused memory to the device."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def timed(self, sides: Mapping[str, Callable[[], Found]], clock: Clock, rounds: int) -> dict[str, Timing[Found]]:
        """Median seconds of each side. After one warm-up call each, the sides run alternately.

        Args:
            sides: functions by name.
            clock: limit of this measurement. Fewer rounds are run if the time is short.
            rounds: timed calls of each side at most.

        Returns:
            One timing for each side that fits into memory.

        Raises:
            OutOfTime: no time is left for one round.
        """
        first: dict[str, tuple[Found, int]] = {}
        once = 0.0
        for name, side in sides.items():
            clock.need()
            self.reset_peak()
            started = self.now()
            try:
                found = side()
            except (torch.OutOfMemoryError, MemoryError):
                found = None
            if found is None:
                self.release()  # outside the handler, because its traceback refers to the tensors
            else:
                once += self.now() - started
                first[name] = found, self.peak_bytes()
        rounds = min(rounds, int(clock.left / once)) if first else rounds
        if rounds < 1:
            raise OutOfTime
        times: dict[str, list[float]] = {name: [] for name in first}
        for _ in range(rounds):
            for name, seconds in times.items():
                started = self.now()
                sides[name]()
                seconds.append(self.now() - started)
        return {name: Timing(found, statistics.median(times[name]), peak) for name, (found, peak) in first.items()}


@contextmanager
def arithmetic(name: str) -> Iterator[None]:
    """Set the arithmetic of float32 products to one of `ARITHMETIC`. On a CPU all three are the same."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _set_arithmetic(*ARITHMETIC[name])
    try:
        yield
    finally:
        _set_arithmetic(*before)


def _set_arithmetic(matmuls: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(matmuls)
    torch.backends.cudnn.allow_tf32 = convolutions
