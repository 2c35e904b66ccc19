"""Images per second against captum's IntegratedGradients: both at their defaults, and ours at captum's error.

The error of a map is its relative L1 distance from a reference with many midpoints. The target is the 90th percentile
of captum's errors at its defaults, over the images. Ours uses the fewest nodes that meet it.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import CHUNK, Bench, percent
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.device import DEFAULT, FLOAT32, Timing, arithmetic
from benchmarks.gpu.subjects import Subject
from benchmarks.machine import log, table
from benchmarks.peers import captum_maps
from benchmarks.trials import Trial, fewest, relative_errors
from pipeline.attribution import Prepared, fit_profile, integrated_gradients, prepare
from pipeline.attribution.path import UNIFORM

REFERENCE_SHARE = 0.35  # of the time of a network, for its reference maps
AGREE = 1e-4  # largest relative L1 distance from captum's maps, same nodes in float64; captum's weights are float32
COMPARED, COMPARED_STEPS = 4, 8  # images and nodes of these maps
TRIED_ON = 4  # images for `prepare`, as in runs
HEADER = ["network", "arithmetic", "side", "setting", "median error", "p90 error", "images/s", "of captum's best",
          "peak GiB"]  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One method to compute the maps."""

    name: str
    setting: str
    maps: Callable[[], Tensor]
    aims: bool = False  # its nodes are chosen to meet the target


def section(bench: Bench, clock: Clock) -> str:
    """Markdown of this section."""
    rows: list[list[str]] = []
    lines: list[str] = []
    for subject, own in bench.each(clock, "speed"):
        with bench.attempt(f"speed of {subject.name}"):
            trial, ways = _trial(bench, subject, own, lines)
            for index, kind in enumerate((DEFAULT, FLOAT32)):
                with bench.attempt(f"speed of {subject.name}, {kind}"), arithmetic(kind):
                    rows += _rows(bench, subject, trial, ways, kind, own.part((0.5, 1.0)[index]))
    return (
        f"## Images per second\n\n{bench.sizes.images} images, black baseline, logit of the predicted class; median of "
        "alternating calls after one warm-up each, with the device synchronized before and after each. Error: relative "
        "L1 distance of a map from the reference; p90: 90th percentile over the images. *Equal error*: the fewest "
        "nodes of `benchmarks.trials.LADDER` whose p90 error is at most that of captum at its defaults. *Fitted*: "
        "nodes of `fit_profile`; *prepared*: the member of `prepare`; both from other images. *float32*: TF32 off; "
        "torch's defaults use it in convolutions. Errors of networks with random weights are larger than those of "
        "trained ones.\n\n"
        f"{table(HEADER, rows)}\n\n" + "\n".join(f"- {x}" for x in lines)
    )


def _trial(bench: Bench, subject: Subject, clock: Clock, lines: list[str]) -> tuple[Trial, Prepared]:
    """Images with reference maps and fitted nodes, and the prepared member. Adds lines about each to `lines`."""
    exact, how = _reference(bench, subject, clock.part(REFERENCE_SHARE))
    lines.append(f"{subject.name}, reference: {how}.")
    clock.need()
    started, count = bench.device.now(), len(subject.others)
    targets = subject.member(subject.others).argmax(1)
    chunk = bench.chunk(subject)
    profile = fit_profile(subject.member, subject.others, targets, baselines=subject.black, internal_batch_size=chunk)
    fitted = bench.device.now()
    ways = prepare(subject.member, subject.others[:TRIED_ON], baselines=subject.black)
    lines.append(
        f"{subject.name}: nodes fitted to {count} images in {fitted - started:.1f} s"
        f"{' (even nodes were as good)' if profile == UNIFORM else ''}; member prepared in "
        f"{bench.device.now() - fitted:.1f} s: {ways.choice.name}, difference of maps {percent(ways.choice.error)}, "
        f"{ways.choice.speedup:.2f} times as fast."
    )
    weights = torch.ones(1)
    trial = Trial(
        (subject.member,), "logit", subject.images, subject.targets, subject.black, weights, exact, (profile,)
    )
    apart = _distance_from_captum(trial)
    lines.append(
        f"{subject.name}: maps of captum and ours at the same nodes in float64 differ by {percent(apart)} at most."
    )
    if not apart <= AGREE:
        bench.failures.append(
            f"{subject.name}: our maps differ from captum's by {percent(apart)}, above {percent(AGREE)}"
        )
    return trial, ways


def _distance_from_captum(t: Trial) -> float:
    """The largest relative L1 distance of our maps from captum's at the same nodes, in float64."""
    double = replace(
        t,
        members=tuple(deepcopy(member).double() for member in t.members),
        images=t.images[:COMPARED].double(),
        targets=t.targets[:COMPARED],
        baselines=t.baselines.double(),
    )
    options: dict[str, Any] = {"method": "gausslegendre", "internal_batch_size": COMPARED * COMPARED_STEPS}
    theirs = captum_maps(double, COMPARED_STEPS, **options)
    return relative_errors(double.maps(COMPARED_STEPS, **options), theirs).max().item()


def _reference(bench: Bench, subject: Subject, clock: Clock) -> tuple[Tensor, str]:
    """Reference maps in float64 with as many nodes as the time allows, or else in float32.

    Raises:
        OutOfTime: the time is too short for float32 too.
    """
    log(f"{subject.name}: reference maps")
    member, rows = deepcopy(subject.member).double(), len(subject.images)
    rate, needed = bench.rate(subject, torch.float64), 0.0

    def maps(own: torch.nn.Module, dtype: torch.dtype, steps: int) -> tuple[Tensor, str]:
        found = integrated_gradients(
            own,
            subject.images.to(dtype),
            subject.targets,
            baselines=subject.black,
            n_steps=steps,
            internal_batch_size=CHUNK,
        )
        return found.mean.double(), f"its estimated error {percent(found.error_estimate.quantile(0.9))} (p90)"

    for steps in bench.sizes.reference_steps:
        needed = rows * steps / rate
        if needed <= clock.left:
            exact, estimate = maps(member, torch.float64, steps)
            return exact, f"float64, {steps} midpoints, {estimate}"
    steps = bench.sizes.reference_steps[0]
    with arithmetic(FLOAT32):
        clock.need(rows * steps / bench.rate(subject, torch.float32))
        exact, estimate = maps(subject.member, torch.float32, steps)
    return exact, (
        f"float32 with TF32 off, {steps} midpoints, {estimate}; float64 at {rate:.0f} rows/s would have taken "
        f"{needed:.0f} s for its fewest nodes, {bench.sizes.reference_steps[-1]}"
    )


def _rows(bench: Bench, subject: Subject, t: Trial, ways: Prepared, kind: str, clock: Clock) -> list[list[str]]:
    """All sides with one arithmetic: first their settings are chosen, then they are timed together."""
    sides, target = _sides(bench, subject, t, ways, clock)
    found = bench.device.timed({side.name: side.maps for side in sides}, clock, bench.sizes.rounds)
    best = min(found[side.name].seconds for side in sides if side.name in found and side.name.startswith("captum"))
    return [[subject.name, kind, *_cells(side, t, found.get(side.name), best, target)] for side in sides]


def _cells(side: Side, t: Trial, timing: Timing[Tensor] | None, best: float, target: float) -> list[str]:
    if timing is None:
        return [side.name, f"{side.setting}: does not fit into memory", *["-"] * 5]
    errors = t.errors(timing.found)
    missed = side.aims and not errors.quantile(0.9).item() <= target
    return [
        side.name,
        side.setting + (" (the target is not met)" if missed else ""),
        percent(errors.median()),
        percent(errors.quantile(0.9)),
        f"{len(t.images) / timing.seconds:.3g}",
        f"{best / timing.seconds:.2f}",
        f"{timing.peak_bytes / 2**30:.1f}",
    ]


def _sides(bench: Bench, subject: Subject, t: Trial, ways: Prepared, clock: Clock) -> tuple[list[Side], float]:
    """All sides, and the target p90 error."""
    steps, chunk = bench.sizes.steps, bench.chunk(subject)
    theirs = _captum_chunk(bench, t, clock)
    best = partial(captum_maps, t, steps, internal_batch_size=theirs)
    target = t.errors(best()).quantile(0.9).item()
    sides = [
        Side("captum, defaults", f"gausslegendre, {steps} steps, one chunk", partial(captum_maps, t, steps)),
        Side("captum, best chunk", f"gausslegendre, {steps} steps, chunks of {theirs}", best),
        Side(
            "attribatch, defaults of the call", f"{steps} midpoints", partial(t.maps, steps, internal_batch_size=None)
        ),
    ]
    fitted = partial(t.maps, internal_batch_size=chunk, profile=t.profile)
    setting = f"{steps} midpoints, fitted, chunks of {chunk}"
    sides.append(Side("attribatch, defaults of a run", setting, partial(fitted, steps)))
    equal = {
        "equal error": ("", partial(t.maps, internal_batch_size=chunk)),
        "equal error, fitted": (", fitted", fitted),
        "equal error, fitted, prepared": (f", fitted, {ways.choice.name}", partial(fitted, members=(ways.member,))),
    }
    for name, (setting, maps) in equal.items():
        n = fewest(_within(clock, maps), t, target)
        sides.append(
            Side(f"attribatch, {name}", f"{n} midpoints{setting}, chunks of {chunk}", partial(maps, n), aims=True)
        )
    return sides, target


def _within(clock: Clock, maps: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    """The same maps, or OutOfTime after the deadline."""

    def timed(n: int) -> Tensor:
        clock.need()
        return maps(n)

    return timed


def _captum_chunk(bench: Bench, t: Trial, clock: Clock) -> int:
    """The `internal_batch_size` with which captum is fastest."""
    maps = partial(captum_maps, t, bench.sizes.steps)
    sides = {str(chunk): partial(maps, internal_batch_size=chunk) for chunk in bench.sizes.captum_chunks}
    found = bench.device.timed(sides, clock, 1)
    if not found:
        raise MemoryError(f"captum with chunks of {bench.sizes.captum_chunks[0]} rows does not fit into memory")
    return int(min(found, key=lambda name: found[name].seconds))
