"""Which process computes where: one seat for each process, as settings of its environment. Imports no torch itself."""

import os
import subprocess
import sys
from collections.abc import Mapping

from pipeline.errors import UsageError


def seats(device: str, concurrency: int | None, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """What each worker process is given on top of the environment.

    A process sees one GPU at most, as cuda:0, so that none holds memory on another's. On CPUs the processes share the
    cores.

    Args:
        device: auto, cpu, cuda or cuda:N.
        concurrency: processes, dealt over the GPUs in turn; None is one for each GPU, or one.
        environment: of the supervisor.

    Raises:
        UsageError: the device is none of these, or is not there.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"device {device!r} is none of auto, cpu, cuda, cuda:0, cuda:1, ...")
    gpus = [] if kind == "cpu" else _gpus(environment)
    if number:
        if int(number) >= len(gpus):
            raise UsageError(f"device {device!r}: this machine shows {len(gpus)} GPUs; use --device auto or cpu")
        gpus = [gpus[int(number)]]
    if kind == "cuda" and not gpus:
        raise UsageError("device 'cuda': this machine shows no GPU; use --device auto or cpu")
    count = concurrency or max(len(gpus), 1)
    if gpus:
        dealt = [gpus[index % len(gpus)] for index in range(count)]
        return [{"ATTRIBATCH_DEVICE": "cuda:0", "CUDA_VISIBLE_DEVICES": gpu} for gpu in dealt]
    cores = max(len(os.sched_getaffinity(0)) // count, 1)
    threads = {} if "OMP_NUM_THREADS" in environment else {"OMP_NUM_THREADS": str(cores)}
    return [{"ATTRIBATCH_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": "", **threads} for _ in range(count)]


def _gpus(environment: Mapping[str, str]) -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name, in order. Counted in another process: this one stays small."""
    command = [sys.executable, "-P", "-c", "import torch; print(torch.cuda.device_count())"]
    counted = subprocess.run(command, env=dict(environment), capture_output=True, check=True)  # noqa: S603 - a fixed list of words: this interpreter and the code above, no shell
    count = int(counted.stdout)
    named = environment.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(count)] if named is None else named.split(",")[:count]
