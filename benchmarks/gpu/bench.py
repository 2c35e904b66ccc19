"""The state that all sections share: device, subjects, failures, and parts left out for lack of time."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.gpu.clock import Clock, OutOfTime
from benchmarks.gpu.device import DEFAULT, Device, Found, Timing, arithmetic
from benchmarks.gpu.subjects import Sizes, Subject
from benchmarks.machine import log
from pipeline.attribution import integrated_gradients, measured_batch_size

CHUNK = 64  # rows of a pass in float64, which fit into the memory of any GPU


@dataclass
class Bench:
    """The state of one run of the benchmarks."""

    device: Device
    sizes: Sizes
    subjects: list[Subject] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # one line each
    cuts: list[str] = field(default_factory=list)  # parts left out for lack of time
    _chunks: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Run one part. A failure, or a lack of time, is recorded, and the caller continues with the next part."""
        log(what)
        try:
            yield
        except OutOfTime:
            self.cuts.append(what)
        except Exception as error:  # the other parts are still worth measuring
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            self.failures.append(f"{what}: {type(error).__name__}: {lines[0]}")
        with suppress(RuntimeError):  # after some CUDA errors every call fails: the next part reports it
            self.device.release()

    def each(self, clock: Clock, what: str) -> Iterator[tuple[Subject, Clock]]:
        """Every subject with its share of the remaining time."""
        for index, subject in enumerate(self.subjects):
            log(f"{what}: {subject.name}")
            yield subject, clock.part(1 / (len(self.subjects) - index))

    def timed(self, run: Callable[[], Found], clock: Clock) -> Timing[Found]:
        """`Device.timed` of one side.

        Raises:
            MemoryError: it does not fit into memory.
        """
        found = self.device.timed({"": run}, clock, self.sizes.rounds)
        if not found:
            raise MemoryError("this does not fit into the memory of the device")
        return found[""]

    def chunk(self, subject: Subject) -> int:
        """Rows of the chunk that `measured_batch_size` finds, as in runs; at most the largest of these sizes."""
        if subject.name not in self._chunks:
            with arithmetic(DEFAULT):
                found = measured_batch_size([subject.member], subject.images)
            self._chunks[subject.name] = min(found, self.sizes.chunks[-1])
            self.device.release()
        return self._chunks[subject.name]

    def rate(self, subject: Subject, dtype: torch.dtype) -> float:
        """Gradient rows per second in this dtype, with chunks of `CHUNK` rows, after a warm-up call."""
        member, count = deepcopy(subject.member).to(dtype), min(CHUNK // 8, len(subject.images))
        images, targets = subject.images[:count].to(dtype), subject.targets[:count]
        seconds = 0.0
        for _ in range(2):
            started = self.device.now()
            integrated_gradients(member, images, targets, baselines=subject.black, n_steps=8, internal_batch_size=CHUNK)
            seconds = self.device.now() - started
        return 8 * count / seconds


def percent(value: float | Tensor) -> str:
    """A share with three digits: 0.000123 is 0.0123%."""
    return f"{100 * float(value):.3g}%"
