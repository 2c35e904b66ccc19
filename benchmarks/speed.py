"""Images a second against captum's IntegratedGradients, at equal error and at equal steps."""

import warnings

import torch
from torch import Tensor, nn

from benchmarks.machine import interleaved, table
from benchmarks.networks import digits, photographs, relative_errors, trained, zoo
from pipeline.attribution import baseline_stack, integrated_gradients
from pipeline.declarations import Baseline

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from captum.attr import IntegratedGradients

IMAGES = 32
TARGET = 0.03
KINDS = {
    "1 x 1": (1, ("black",)),
    "1 x 8": (1, ("black", "white", "blurred:sigma=2", "mean", "uniform:n=4")),
    "3 x 8": (3, ("black", "white", "blurred:sigma=2", "mean", "uniform:n=4")),
}
STEPS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
ZOO = {"resnet18": 224, "resnet50": 224, "vgg16": 224, "mobilenet_v3_large": 224, "vit_b_16": 224, "swin_t": 224}


def section() -> str:
    """Markdown of this section."""
    rows = [row for name in KINDS for row in _equal_error(name)]
    header = ["members x baselines", "side", "setting", "p90 error", "images/s", "ratio"]
    zoo_rows = [_equal_steps(name, size) for name, size in ZOO.items()]
    return (
        f"## Speed against captum, at equal error\n\n{IMAGES} held-out scans, bagged residual ReLU networks, logit; "
        f"the cheapest setting of each side whose 90th-percentile error is at most {TARGET:.0%} (captum: every method, "
        f"every internal_batch_size of 64, 256 and all; captum's defaults in a row of their own). Ratios are against "
        f"captum's best setting.\n\n{table(header, rows)}\n\n"
        "### At equal steps, torchvision networks\n\n16 gausslegendre steps, black baseline, photographs of 224 x 224, "
        "random weights (speed alone); captum with its best of three chunk sizes.\n\n"
        f"{table(['network', 'captum images/s', 'attribatch images/s', 'ratio'], zoo_rows)}"
    )


def captum_maps(
    members: tuple[nn.Module, ...], images: Tensor, labels: Tensor, stack: Tensor, weights: Tensor, **options: object
) -> Tensor:
    """What a user of captum writes: a loop over members and baselines."""
    total = torch.zeros_like(images)
    for member in members:
        explain = IntegratedGradients(member)
        for start, weight in zip(stack, weights.float(), strict=True):
            baseline = start.expand_as(images)
            total += weight * explain.attribute(images, baseline, target=labels, **options) / len(members)
    return total


def _equal_error(name: str) -> list[list[str]]:
    count, kinds = KINDS[name]
    members = trained()[:count]
    images, labels = digits()[0][1400 : 1400 + IMAGES], digits()[1][1400 : 1400 + IMAGES]
    stack, weights = baseline_stack([Baseline.parse(k) for k in kinds], images, [str(i) for i in range(IMAGES)])
    common = {"baselines": stack, "baseline_weights": weights}
    exact = integrated_gradients(members, images, labels, n_steps=1024, precision="float64", **common).mean  # type: ignore[arg-type]

    def ours(**options: object) -> Tensor:
        return integrated_gradients(members, images, labels, **common, **options).mean  # type: ignore[arg-type]

    def theirs(**options: object) -> Tensor:
        return captum_maps(members, images, labels, stack, weights, **options)

    def p90(maps: Tensor) -> float:
        return relative_errors(maps, exact).quantile(0.9).item()

    mine = [{"n_steps": n, "method": m} for m in ("riemann_middle", "gausslegendre") for n in STEPS]
    mine += [{"tolerance": t} for t in (0.06, 0.05, 0.04, 0.03)]
    best = {"attribatch": _fastest(ours, mine, p90), "captum, best": _fastest(theirs, _captum_settings(), p90)}
    sides = {
        "captum, defaults": theirs,
        "captum, best": lambda: theirs(**best["captum, best"]),
        "attribatch": lambda: ours(**best["attribatch"]),
    }
    seconds = interleaved(sides)
    settings = {"captum, defaults": {"n_steps": 50, "method": "gausslegendre"}, **best}
    rows = []
    for side, run in sides.items():
        shown = ", ".join(f"{key}={value}" for key, value in settings[side].items())
        ratio = seconds["captum, best"] / seconds[side]
        rows.append([name, side, shown, f"{p90(run()):.2%}", f"{IMAGES / seconds[side]:.1f}", f"{ratio:.2f}"])
    return rows


def _captum_settings() -> list[dict[str, object]]:
    methods = ("gausslegendre", "riemann_middle", "riemann_trapezoid", "riemann_right")
    return [
        {"n_steps": n, "method": m, "internal_batch_size": b}
        for m in methods
        for b in (64, 256, None)
        for n in STEPS[3:]
    ]


def _fastest(run, settings: list[dict[str, object]], p90) -> dict[str, object]:  # type: ignore[no-untyped-def]
    """Of each family the cheapest setting that meets the target, then the fastest of these."""
    good: dict[str, dict[str, object]] = {}
    for setting in settings:
        family = str({key: value for key, value in setting.items() if key not in ("n_steps", "tolerance")})
        if family not in good and p90(run(**setting)) <= TARGET:
            good[family] = setting
    seconds = interleaved({key: (lambda s=s: run(**s)) for key, s in good.items()}, rounds=3)
    return good[min(seconds, key=lambda key: seconds[key])]


def _equal_steps(name: str, size: int) -> list[str]:
    member, images = zoo(name), photographs(2, size)
    labels = torch.tensor([0, 1])
    black = torch.zeros(1, 1, 3, size, size)
    options = {"n_steps": 16, "method": "gausslegendre"}
    explain = IntegratedGradients(member)
    chunks = {
        f"captum {b}": lambda b=b: explain.attribute(images, target=labels, internal_batch_size=b, **options)
        for b in (8, 16, None)
    }
    ours = {"attribatch": lambda: integrated_gradients(member, images, labels, baselines=black, **options)}  # type: ignore[arg-type]
    seconds = interleaved(chunks | ours, rounds=2)
    mine = seconds.pop("attribatch")
    theirs = min(seconds.values())
    return [name, f"{2 / theirs:.3f}", f"{2 / mine:.3f}", f"{theirs / mine:.2f}"]
