"""Images per second against captum and a plain loop, each at its fastest setting for the same error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from benchmarks.machine import interleaved, log, profiled, table
from benchmarks.networks import accuracy, scans, small_resnet, trained
from benchmarks.peers import IntegratedGradients, captum_maps, loop_maps
from benchmarks.trials import BLACK, CALIBRATION, EIGHT, TARGET, Trial, fewest, trial
from pipeline.attribution import prepare
from pipeline.attribution.path import UNIFORM

KINDS = {"1 x 1": (1, BLACK, 16), "1 x 8": (1, EIGHT, 8), "3 x 8": (3, EIGHT, 8)}
CAPTUM_METHODS = ("gausslegendre", "riemann_middle", "riemann_trapezoid", "riemann_right")
CHUNKS = (32, 128, 512)  # rows in a forward and backward pass

Maps = Callable[[], Tensor]


@dataclass(frozen=True)
class Side:
    """One way to compute the maps, at a setting that meets the target."""

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
        log(f"{name}: {len(sides)} sides, alternating")
        rows += _timed(name, t, sides)
        notes.append(_fitting_cost(name, t))
    header = ["members x baselines", "side", "setting", "median error", "p90 error", "images/s", "of captum's best"]
    return (
        f"## Speed at equal error, float32\n\n{scans().name}, 28 x 28; residual ReLU networks trained here (held-out "
        f"accuracy {', '.join(f'{accuracy(m):.1%}' for m in trained())}), logit of the predicted class, "
        f"{KINDS['1 x 1'][2]} held-out pictures ({KINDS['1 x 8'][2]} with 8 baselines: {', '.join(EIGHT)}). "
        f"Each side at the fewest steps whose 90th-percentile error is at most {TARGET:.0%}, and at its fastest chunk: "
        f"internal_batch_size of {', '.join(map(str, CHUNKS))}, captum with every method; the plain loop takes the "
        "midpoints of one path at a time. *Fitted*: nodes of `fit_profile`; *prepared*: the member of "
        "`precision=auto`.\n\n"
        f"{table(header, rows)}\n\n"
        f"Nodes were fitted on {CALIBRATION} pictures of the training set that no side explains. {' '.join(notes)}\n\n"
        f"{verdict(rows)} {_why()}"
    )


def verdict(rows: list[list[str]]) -> str:
    """The ratios of the last column against the targets, and the factors that they consist of."""
    parts = []
    for name in KINDS:
        ratio = {row[1]: float(row[-1]) for row in rows if row[0] == name}
        given, fitted, prepared = (ratio[f"attribatch{way}"] for way in ("", ", fitted", ", fitted, prepared"))
        parts.append(
            f"{name}: {prepared:.1f} times captum's best ({given:.2f} by chunks and packing, x {fitted / given:.2f} by "
            f"fitted nodes, x {prepared / fitted:.2f} by the prepared members), "
            f"{prepared / ratio['captum, defaults']:.1f} times its defaults"
        )
    return (
        "**Against the targets** (3 times captum in pure float32; 8 and 7 times on a CPU with bfloat16 matrix "
        f"units). {'; '.join(parts)}."
    )


def _why() -> str:
    """The share of convolutions in captum's time, which every arrangement of float32 passes has to pay."""
    member, images = small_resnet().eval().requires_grad_(False), scans().held_out[0][:16]
    explain = partial(IntegratedGradients(member).attribute, images, target=0, internal_batch_size=128)
    products, rest = profiled(explain)
    return (
        f"Profile of captum here: {products:.0%} of the time in convolutions and matmuls ({rest}). If all "
        f"other operations were free, equal steps would be at most {1 / products:.1f} times as fast; any further "
        "speed-up must come from fewer steps or faster convolutions."
    )


def _sides(t: Trial) -> list[Side]:
    ways = [prepare(member, t.images[:16]) for member in t.members]
    fast = tuple(way.member for way in ways)
    names = ", ".join(sorted({way.choice.name for way in ways}))
    found = [Side("captum, defaults", "gausslegendre, 50 steps, one chunk", partial(captum_maps, t))]
    captum = {method: partial(captum_maps, t, method=method) for method in CAPTUM_METHODS}
    found.append(_best("captum, best", captum, t))
    n = fewest(partial(loop_maps, t), t)
    found.append(Side("plain loop", f"riemann_middle, {n} steps", partial(loop_maps, t, n)))
    fitted = partial(t.maps, profile=t.profile)
    given = {method: partial(t.maps, method=method) for method in ("riemann_middle", "gausslegendre")}
    found.append(_best("attribatch", given, t))
    found.append(_best("attribatch, fitted", {"riemann_middle": fitted}, t))
    prepared = {f"{names}, riemann_middle": partial(fitted, members=fast)}
    found.append(_best("attribatch, fitted, prepared", prepared, t))
    return found


def _best(name: str, methods: Mapping[str, Callable[..., Tensor]], t: Trial) -> Side:
    """The method that needs the fewest steps, then the chunk that is fastest."""
    steps = {method: fewest(partial(maps, internal_batch_size=128), t) for method, maps in methods.items()}
    method = min(steps, key=lambda m: steps[m])
    runs = {chunk: partial(methods[method], steps[method], internal_batch_size=chunk) for chunk in CHUNKS}
    seconds = interleaved(runs, rounds=1)
    chunk = min(seconds, key=lambda c: seconds[c])
    return Side(name, f"{method}, {steps[method]} steps, chunks of {chunk}", runs[chunk])


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
    """A sentence with the number of pictures from which the fit of the nodes saves time."""
    even, better = (fewest(partial(t.maps, profile=profile), t) for profile in (UNIFORM, t.profile))
    count = len(t.members) * len(t.weights)
    cost, saved = CALIBRATION // 2 * (33 + 96) * count, (even - better) * count
    if saved <= 0:
        return f"{name}: the fit cost {cost:,} evaluations and saved none."
    pays = f"pays from {-(-cost // saved):,} pictures on"
    return f"{name}: the fit cost {cost:,} evaluations, saves {saved} of {even * count} a picture: {pays}."
