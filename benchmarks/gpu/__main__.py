"""`make gpu` measures the engine and captum on a GPU and prints Markdown. Progress goes to stderr.

Requirements: torch and captum, and torchvision for two of the three networks; no internet access. Each section has a
share of the time; the report lists the parts that were left out. Exit code 1 if a part failed.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module

import torch
from torch import Tensor

from benchmarks.gpu import subjects
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.device import Device
from benchmarks.gpu.subjects import Subject

SECONDS = 440.0  # of 8 minutes; the imports, and the last call of a section, come in addition
SECTIONS = {"laws": 10, "arithmetic": 12, "speed": 52, "chunks": 14, "rates": 12}  # shares of the time


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--device", default="cuda", help="a torch device; cuda by default")
    parser.add_argument(
        "--small", action="store_true", help="tiny networks and images: runs all of the code in seconds"
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"time for all sections; {SECONDS:.0f} by default"
    )
    asked = parser.parse_args(arguments)
    if unknown := set(asked.sections) - set(SECTIONS):
        parser.error(f"no section {unknown.pop()!r}; there are {', '.join(SECTIONS)}")
    device = Device(torch.device(asked.device))
    if device.is_cuda and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; to run the small form on a CPU: --small --device cpu")
    if not device.is_cuda:
        torch.set_num_threads(1)  # several on shared cores wait for each other
    bench = Bench(device, subjects.SMALL if asked.small else subjects.FULL)
    clock = Clock(asked.seconds)
    print(f"# Figures of a GPU\n\nMeasured on {device.describe()}.")
    if asked.small:
        print("\nSmall form: a test of the code. The figures are not results.")
    chosen = [name for name in SECTIONS if name in asked.sections or not asked.sections]
    if chosen != ["laws"]:
        print(f"\n{_subjects(bench)}", flush=True)
    for index, name in enumerate(chosen):
        shares = [SECTIONS[one] for one in chosen[index:]]
        print(f"\n{_section(bench, name, clock.part(shares[0] / sum(shares)))}", flush=True)
    print(f"\nTook {asked.seconds - clock.left:.0f} s of {asked.seconds:.0f}.")
    return 1 if bench.failures else 0


def _subjects(bench: Bench) -> str:
    """Build the networks. Returns a line for each network, built or missing."""
    images, source = subjects.images_of(bench.sizes)
    lines = [f"{bench.sizes.images} images of {bench.sizes.pixels} x {bench.sizes.pixels}: {source}."]
    build: dict[str, Callable[[Device, Tensor], Subject]] = {
        name: partial(subjects.random_subject, name, bench.sizes) for name in bench.sizes.networks
    }
    build["EfficientNet-Lite0"] = subjects.lite0_subject
    for name, subject in build.items():
        with bench.attempt(f"building {name}"):
            try:
                bench.subjects.append(subject(bench.device, images))
                lines.append(f"{name}: {bench.subjects[-1].weights}.")
            except ModuleNotFoundError as error:
                lines.append(f"{name}: missing; install {str(error.name).replace('_', '-')}.")
    bench.subjects.sort(key=Subject.flop)  # later networks use the time that cheap ones leave
    return "\n".join(f"- {line}" for line in lines + _notes(bench))


def _section(bench: Bench, name: str, clock: Clock) -> str:
    """Markdown of a section, with a line for each part that failed, and for those left out."""
    text = f"## {name.capitalize()}"
    failed, cut = len(bench.failures), len(bench.cuts)
    with bench.attempt(name):
        section: Callable[[Bench, Clock], str] = import_module(f"benchmarks.gpu.{name}").section
        text = section(bench, clock)
    return "\n\n".join([text, *_notes(bench, failed, cut)])


def _notes(bench: Bench, failed: int = 0, cut: int = 0) -> list[str]:
    """A line for each new failure, and one for all parts that were left out."""
    notes = [f"**Failed**: {line}" for line in bench.failures[failed:]]
    if bench.cuts[cut:]:
        notes.append(f"**Left out for lack of time**: {'; '.join(bench.cuts[cut:])}.")
    return notes


if __name__ == "__main__":
    sys.exit(main())
