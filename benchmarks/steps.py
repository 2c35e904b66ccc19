"""Evaluations to reach an error: by rule, fixed or adaptive, with even or fitted nodes, one profile or several."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.machine import log, table
from benchmarks.networks import accuracy, scans, trained
from benchmarks.trials import BLACK, LADDER, NOISE, TARGET, Trial, fewest, fitted, relative_errors, trial
from pipeline.attribution.path import UNIFORM, Profile
from pipeline.spec.choices import METHODS, Output

OUTPUTS: tuple[Output, ...] = ("logit", "probability")
TOLERANCES = tuple(0.002 * step for step in range(40, 4, -1))  # 8 % down to 1 %


def section() -> str:
    """Markdown of this section."""
    rows = []
    for kinds in (BLACK, NOISE):
        for output in OUTPUTS:
            log(f"steps: {kinds[0]}, {output}")
            t = trial(kinds, output)
            sides = {method: partial(t.maps, method=method) for method in METHODS}
            sides["riemann_middle, fitted nodes"] = partial(t.maps, profile=t.profile)
            rows += [[kinds[0], output, side, *_fixed(maps, t)] for side, maps in sides.items()]
            rows.append([kinds[0], output, "nested levels, image by image", *_adaptive(t, UNIFORM)])
            rows.append([kinds[0], output, "nested levels, fitted nodes", *_adaptive(t, t.profile)])
    header = ["baseline", "output", "rule", "evaluations per image", "median error", "p90 error"]
    return (
        f"## Evaluations to an error of {TARGET:.0%} at the 90th percentile\n\n"
        f"{len(t.images)} held-out pictures of {scans().name}, a residual ReLU network (accuracy "
        f"{accuracy(trained()[0]):.1%}), predicted class, one path per image; error = relative L1 against float64 with "
        f"1,024 steps; steps of {', '.join(map(str, LADDER[10:]))}. Nested levels: the loosest tolerance that meets "
        f"the target, mean evaluations.\n\n{table(header, rows)}\n\n"
        "### One profile for all baselines of a run, or one for each kind?\n\nBlack and uniform noise together; nodes "
        "even, fitted once over both, or fitted to each kind separately, as runs do. Median / p90 error.\n\n"
        f"{table(['output', 'nodes of each path', 'even', 'one profile', 'one for each kind'], _shared())}"
    )


def _fixed(maps: Callable[[int], Tensor], t: Trial) -> list[str]:
    n = fewest(maps, t)
    return [str(n), *_errors(t.errors(maps(n)))]


def _adaptive(t: Trial, profile: Profile | tuple[Profile, ...]) -> list[str]:
    """The loosest tolerance whose 90th percentile meets the target."""
    low, high = 0, len(TOLERANCES) - 1
    while low < high:
        middle = (low + high) // 2
        if t.errors(t.run(tolerance=TOLERANCES[middle], profile=profile).mean).quantile(0.9) <= TARGET:
            high = middle
        else:
            low = middle + 1
    found = t.run(tolerance=TOLERANCES[high], profile=profile)
    spent = f"{found.evaluations.double().mean():.0f} (tolerance {TOLERANCES[high]:.1%})"
    return [spent, *_errors(t.errors(found.mean))]


def _errors(errors: Tensor) -> list[str]:
    return [f"{errors.median():.2%}", f"{errors.quantile(0.9):.2%}"]


def _shared() -> list[list[str]]:
    rows = []
    for output in OUTPUTS:
        log(f"steps: one profile or several, {output}")
        both = [trial(kinds, output) for kinds in (BLACK, NOISE)]
        profiles = ((UNIFORM,) * 2, fitted(BLACK + NOISE, output, shared=True), fitted(BLACK + NOISE, output))
        for n in (8, 16, 32):
            cells = []
            for own in profiles:
                maps = torch.stack([t.maps(n, profile=p).double() for t, p in zip(both, own, strict=True)]).mean(0)
                exact = torch.stack([t.exact for t in both]).mean(0)
                cells.append(" / ".join(_errors(relative_errors(maps, exact))))
            rows.append([output, str(n), *cells])
    return rows
