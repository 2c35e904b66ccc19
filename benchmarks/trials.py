"""The data of accuracy benchmarks: pictures, paths, converged maps and fitted nodes, each computed once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks import scans, trained
from pipeline.attribution import Attribution, Profile, baseline_stack, fit_profile, integrated_gradients
from pipeline.attribution.ensemble import predict
from pipeline.spec.choices import Baseline, Output

BLACK = ("black",)
NOISE = ("uniform:n=1",)
EIGHT = ("black", "white", "blurred:sigma=2", "mean", "uniform:n=4")  # 8 baseline images
CALIBRATION = 32  # pictures that nodes are fitted on
REFERENCE_STEPS = 1024  # float64 midpoints of one path, or of all paths of a member together
FIRST = 12  # steps of the trial from which the first guess is extrapolated
TARGET = 0.03  # relative L1 error at the 90th percentile
LADDER = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256)


@dataclass(frozen=True)
class Trial:
    """Held-out pictures with their paths, explained by the first members."""

    members: tuple[nn.Module, ...]
    output: Output
    images: Tensor  # (N, 1, 28, 28)
    targets: Tensor  # (N,) the ensemble's prediction
    baselines: Tensor  # (K, N or 1, 1, 28, 28)
    weights: Tensor  # (K,)
    exact: Tensor  # (N, 1, 28, 28) float64
    profile: tuple[Profile, ...]  # one for each baseline, fitted on other pictures

    def run(self, members: tuple[nn.Module, ...] | None = None, **options: Any) -> Attribution:
        """`integrated_gradients` of this trial."""
        return integrated_gradients(
            members or self.members,
            self.images,
            self.targets,
            baselines=self.baselines,
            baseline_weights=self.weights,
            output=self.output,
            **{"internal_batch_size": 128} | options,
        )

    def maps(self, n_steps: int, *, members: tuple[nn.Module, ...] | None = None, **options: Any) -> Tensor:
        """Only the maps, (N, 1, 28, 28)."""
        return self.run(members, n_steps=n_steps, **options).mean

    def errors(self, maps: Tensor) -> Tensor:
        """Relative L1 error of each map, (N,) float64."""
        return relative_errors(maps, self.exact)


def relative_errors(maps: Tensor, exact: Tensor) -> Tensor:
    """L1 error of each map relative to the exact one, (N,) float64."""
    return (maps.double() - exact).flatten(1).abs().sum(1) / exact.flatten(1).abs().sum(1)


def fewest(maps: Callable[[int], Tensor], t: Trial, target: float = TARGET) -> int:
    """The fewest steps of the ladder that meet the target, or its last if none does.

    A guess (errors fall as 1/n), then rung by rung.
    """

    def p90(rung: int) -> float:
        return t.errors(maps(LADDER[rung])).quantile(0.9).item()

    wanted = FIRST * t.errors(maps(FIRST)).quantile(0.9).item() / target
    rung = min(range(len(LADDER)), key=lambda rung: abs(LADDER[rung] - wanted))
    if p90(rung) <= target:
        while rung and p90(rung - 1) <= target:
            rung -= 1
    else:
        while rung < len(LADDER) - 1 and p90(rung := rung + 1) > target:
            pass
    return LADDER[rung]


@cache
def trial(kinds: tuple[str, ...], output: Output, *, members: int = 1, images: int = 16) -> Trial:
    """The trial of these baselines."""
    pictures, targets, stack, weights = paths(kinds, images)
    exact = sum((_converged(m, kinds, output, images) for m in range(members)), torch.zeros(1)) / members
    chosen = trained()[:members]
    profile = fitted(kinds, output, members)
    return Trial(chosen, output, pictures, targets, stack, weights, exact, profile)


def paths(kinds: tuple[str, ...], count: int, *, calibrate: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Held-out pictures (or those to calibrate on), the ensemble's predictions, baselines and weights."""
    pictures = (scans().calibration if calibrate else scans().held_out)[0][:count]
    targets = predict(trained(), pictures, batch_size=64).argmax(1)
    digests = [f"{'calibration' if calibrate else 'held out'} {index}" for index in range(count)]
    return pictures, targets, *baseline_stack([Baseline.parse(kind) for kind in kinds], pictures, digests)


@cache
def fitted(kinds: tuple[str, ...], output: Output, members: int = 1, *, shared: bool = False) -> tuple[Profile, ...]:
    """Nodes for each baseline, fitted on the calibration pictures: to its kind, or once over all kinds."""
    pictures, targets, stack, _ = paths(kinds, CALIBRATION, calibrate=True)
    options: dict[str, Any] = {"output": output, "internal_batch_size": 128}
    sizes = [len(stack)] if shared else [Baseline.parse(kind).n for kind in kinds]
    profiles: list[Profile] = []
    for some in torch.split(stack, sizes):
        profiles += [fit_profile(trained()[:members], pictures, targets, baselines=some, **options)] * len(some)
    return tuple(profiles)


@cache
def _converged(member: int, kinds: tuple[str, ...], output: Output, count: int) -> Tensor:
    """Maps of one member by float64 midpoints."""
    pictures, targets, stack, weights = paths(kinds, count)
    return integrated_gradients(
        trained()[member],
        pictures,
        targets,
        baselines=stack,
        baseline_weights=weights,
        output=output,
        n_steps=REFERENCE_STEPS // len(weights),
        precision="float64",
        internal_batch_size=64,  # larger chunks of doubles were half as fast
    ).mean
