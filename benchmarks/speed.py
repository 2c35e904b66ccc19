"""Images a second against captum's IntegratedGradients and a plain loop, each side at its best for the same error."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from benchmarks.machine import interleaved, log, table
from benchmarks.networks import accuracy, scans, trained
from benchmarks.peers import captum_maps, loop_maps
from benchmarks.trials import BLACK, CALIBRATION, EIGHT, TARGET, Trial, fewest, trial
from pipeline.attribution.path import UNIFORM
from pipeline.tuning import measured_batch_size, prepare

KINDS = {"1 x 1": (1, BLACK, 16), "1 x 8": (1, EIGHT, 8), "3 x 8": (3, EIGHT, 8)}
CAPTUM_METHODS = ("gausslegendre", "riemann_middle", "riemann_trapezoid", "riemann_right")
CAPTUM_CHUNKS = (32, 128, None)

Maps = Callable[[], Tensor]


@dataclass(frozen=True)
class Side:
    """One way to have the maps, at a setting that meets the target."""

    name: str
    setting: str
    maps: Maps


def section() -> str:
    """Markdown of this section."""
    rows, notes = [], []
    for name, (members, kinds, images) in KINDS.items():
        log(f"{name}: reference maps")
        t = trial(kinds, "logit", members=members, images=images)
        log(f"{name}: the best setting of each side")
        sides = _sides(t)
        log(f"{name}: {len(sides)} sides in turns")
        rows += _timed(name, t, sides)
        notes.append(_fitting_cost(name, t))
    header = ["members x baselines", "side", "setting", "median error", "p90 error", "images/s", "of captum's best"]
    return (
        f"## Speed at equal error, float32\n\n{scans().name}, 28 x 28; residual ReLU networks trained here (held-out "
        f"accuracy {', '.join(f'{accuracy(m):.1%}' for m in trained())}), logit of the predicted class, "
        f"{KINDS['1 x 1'][2]} held-out pictures ({KINDS['1 x 8'][2]} with 8 baselines: {', '.join(EIGHT)}). "
        f"Each side at the fewest steps whose 90th-percentile error is at most {TARGET:.0%}, and at its fastest chunk: "
        f"captum with every method and internal_batch_size of {', '.join(map(str, CAPTUM_CHUNKS))}; the plain loop "
        "takes the midpoints of one path at a time; attribatch riemann_middle. *Fitted*: nodes of `fit_profile`; "
        "*prepared*: the member that `precision=auto` chose.\n\n"
        f"{table(header, rows)}\n\n"
        f"Nodes were fitted on {CALIBRATION} pictures of the training set that no side explains. {' '.join(notes)}"
    )


def _sides(t: Trial) -> list[Side]:
    ways = [prepare(member, t.images[:16]) for member in t.members]
    fast = tuple(way.member for way in ways)
    names = ", ".join(sorted({way.choice.name for way in ways}))
    sizes = {members: measured_batch_size(members, t.images) for members in (t.members, fast)}
    found = [Side("captum, defaults", "gausslegendre, 50 steps, one chunk", partial(captum_maps, t)), _best_captum(t)]
    n = fewest(partial(loop_maps, t), t)
    found.append(Side("plain loop", f"riemann_middle, {n} steps", partial(loop_maps, t, n)))
    for name, members, profile in (
        ("attribatch", t.members, UNIFORM),
        ("attribatch, fitted", t.members, t.profile),
        ("attribatch, fitted, prepared", fast, t.profile),
    ):
        maps = partial(t.maps, members=members, internal_batch_size=sizes[members], profile=profile)
        n = fewest(maps, t)
        setting = f"{n} steps, chunks of {sizes[members]}{f', {names}' if members is fast else ''}"
        found.append(Side(name, setting, partial(maps, n)))
    return found


def _timed(name: str, t: Trial, sides: list[Side]) -> list[list[str]]:
    seconds = interleaved({side.name: side.maps for side in sides}, rounds=3)
    rows = []
    for side in sides:
        errors, rate = t.errors(side.maps()), len(t.images) / seconds[side.name]
        ratio = seconds["captum, best"] / seconds[side.name]
        figures = [f"{errors.median():.2%}", f"{errors.quantile(0.9):.2%}", f"{rate:.1f}", f"{ratio:.2f}"]
        rows.append([name, side.name, side.setting, *figures])
    return rows


def _fitting_cost(name: str, t: Trial) -> str:
    """From how many pictures on the fit has paid for itself."""
    even, better = (fewest(partial(t.maps, profile=profile), t) for profile in (UNIFORM, t.profile))
    count = len(t.members) * len(t.weights)
    cost, saved = CALIBRATION // 2 * (33 + 96) * count, (even - better) * count
    if saved <= 0:
        return f"{name}: the fit cost {cost:,} evaluations and saved none."
    pays = f"pays from {-(-cost // saved):,} pictures on"
    return f"{name}: the fit cost {cost:,} evaluations, saves {saved} of {even * count} a picture: {pays}."


def _best_captum(t: Trial) -> Side:
    """The method that needs the fewest steps, then the chunk that is fastest."""
    steps = {
        method: fewest(partial(captum_maps, t, method=method, internal_batch_size=64), t) for method in CAPTUM_METHODS
    }
    method = min(steps, key=lambda m: steps[m])
    best = partial(captum_maps, t, steps[method], method=method)
    runs = {chunk: partial(best, internal_batch_size=chunk) for chunk in CAPTUM_CHUNKS}
    seconds = interleaved(runs, rounds=1)
    chunk = min(seconds, key=lambda c: seconds[c])
    return Side("captum, best", f"{method}, {steps[method]} steps, chunks of {chunk or 'all'}", runs[chunk])
