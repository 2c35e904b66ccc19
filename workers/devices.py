"""Assignment of worker processes to GPUs and CPU cores, as environment variables of each process.

This module does not import torch, so that the supervisor stays small.
"""

import os
import subprocess
import sys
from collections.abc import Mapping

from pipeline.errors import UsageError


def seats(device: str, concurrency: int | None, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the environment variables to set for each worker process.

    A process sees at most one GPU, as cuda:0, so that it allocates no memory on another process's GPU. On CPUs the
    processes share the cores.

    Args:
        device: auto, cpu, cuda or cuda:N. "auto" is cuda if the machine has a GPU, else cpu.
        concurrency: number of processes, assigned to the GPUs in turn; None is one for each GPU, or one on a CPU.
        environment: the supervisor's environment, which may restrict the GPUs or set the number of threads.

    Raises:
        UsageError: `device` has another value, or the machine does not have that GPU.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"unknown device {device!r}; use auto, cpu, cuda, or cuda:N for one GPU")
    gpus = [] if kind == "cpu" else _gpus(environment)
    if number:
        if int(number) >= len(gpus):
            raise UsageError(f"device {device!r}: this machine has {len(gpus)} visible GPUs; use --device auto or cpu")
        gpus = [gpus[int(number)]]
    if kind == "cuda" and not gpus:
        raise UsageError("device 'cuda': this machine has no visible GPU; use --device auto or cpu")
    count = concurrency or max(len(gpus), 1)
    if gpus:
        dealt = [gpus[index % len(gpus)] for index in range(count)]
        return [{"ATTRIBATCH_DEVICE": "cuda:0", "CUDA_VISIBLE_DEVICES": gpu} for gpu in dealt]
    cores = max(len(os.sched_getaffinity(0)) // count, 1)
    threads = {} if "OMP_NUM_THREADS" in environment else {"OMP_NUM_THREADS": str(cores)}
    return [{"ATTRIBATCH_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": "", **threads} for _ in range(count)]


def _gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the values that CUDA_VISIBLE_DEVICES may contain, in order. A child process counts the GPUs with torch."""
    command = [sys.executable, "-P", "-c", "import torch; print(torch.cuda.device_count())"]
    counted = subprocess.run(command, env=dict(environment), capture_output=True, check=True)  # noqa: S603 - a fixed list of words: this interpreter and the code above, no shell
    count = int(counted.stdout)
    named = environment.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(count)] if named is None else named.split(",")[:count]
