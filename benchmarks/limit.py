"""torchvision networks: images per second against captum at equal steps, and share of the machine's best rate."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import interleaved, log, profiled, table
from benchmarks.networks import photographs, zoo
from benchmarks.peers import IntegratedGradients
from pipeline.attribution import integrated_gradients
from pipeline.attribution.fast_members import Variant

NETWORKS = {"mobilenet_v3_large": 8, "resnet18": 8, "resnet50": 8, "swin_t": 4, "vgg16": 2, "vit_b_16": 2}  # steps
SIZE = 224
TARGET_SHARE = 0.7  # of the machine's best FLOP/s, which each network should reach


@dataclass(frozen=True)
class Measured:
    """One network: seconds per photograph, floating-point operations, and the operations that take most time."""

    name: str
    captum: float
    given: float
    prepared: float
    flop: int
    profile: str


def section() -> str:
    """Markdown of this section."""
    best = _machine()
    limit = max(best.values())
    found = [_measure(name, steps) for name, steps in NETWORKS.items()]
    speed, shares = [], []
    for m in found:
        rates = [f"{1 / seconds:.3f}" for seconds in (m.captum, m.given, m.prepared)]
        speed.append([m.name, *rates, f"{m.captum / m.given:.2f}", f"{m.captum / m.prepared:.2f}"])
        rates = [f"{m.flop / s / 1e9:.0f} ({m.flop / s / limit:.0%})" for s in (m.captum, m.given, m.prepared)]
        shares.append([m.name, *rates, m.profile])
    peaks = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in best.items())
    return (
        "## torchvision networks at equal steps, float32\n\n8 gausslegendre steps (Swin 4, VGG-16 and ViT 2) in one "
        f"chunk, black baseline, one photograph of {SIZE} x {SIZE}, random weights (only speed is measured); both "
        "sides return the convergence delta. *Prepared*: batch norm folded and channels_last, the variant that "
        "`precision=auto` tries on this machine (it keeps the member as given if that is faster).\n\n"
        f"{_speed_table(speed)}\n\n### Share of the machine's limit\n\nBest rates of this machine, measured in the "
        f"same minutes, GFLOP/s: {peaks}. Achieved GFLOP/s, counted by torch's FLOP counter, and their share of the "
        "best rate; the last column is the prepared member's profile (torch profiler).\n\n"
        f"{table(['network', 'captum', 'as given', 'prepared', 'time of the prepared member'], shares)}\n\n"
        f"{verdict({m.name: (m.flop / m.captum / limit, m.flop / m.prepared / limit) for m in found})}"
    )


def verdict(shares: Mapping[str, tuple[float, float]]) -> str:
    """The networks that meet the target, and the speed-up over captum that the machine allows at equal steps."""
    met = [name for name, (_, ours) in shares.items() if ours >= TARGET_SHARE]
    bounds = ", ".join(f"{name} {1 / theirs:.1f}" for name, (theirs, _) in shares.items())
    return (
        f"Target: {TARGET_SHARE:.0%}; met by {', '.join(met) or 'none'}. captum's passes already run at the shares "
        f"above, so at equal steps in float32 the machine allows at most: {bounds} times captum."
    )


def _speed_table(rows: list[list[str]]) -> str:
    columns = ["captum images/s", "attribatch, as given", "prepared", "given / captum", "prepared / captum"]
    return table(["network", *columns], rows)


def _machine() -> dict[str, float]:
    """Best FLOP/s of this machine: a square matmul, and convolutions with the shapes of ResNet and VGG."""
    log("limit: best rates of the machine")
    square = torch.randn(2048, 2048)
    sides: dict[str, Callable[[], object]] = {"matmul 2048": lambda: square @ square}
    flop = {"matmul 2048": 2 * 2048**3}
    for width, size in ((64, 112), (128, 56), (256, 28)):
        for last in (False, True):
            layout = torch.channels_last if last else torch.contiguous_format
            convolution = nn.Conv2d(width, width, 3, padding=1).requires_grad_(False).to(memory_format=layout)
            batch = torch.randn(16, width, size, size).contiguous(memory_format=layout)
            name = f"convolution {width} x {size}{' channels_last' if last else ''}"
            sides[name] = partial(convolution, batch)
            flop[name] = 2 * 16 * size * size * width * width * 9
    seconds = interleaved(sides)
    return {name: flop[name] / seconds[name] for name in sides}


def _measure(name: str, steps: int) -> Measured:
    log(f"limit: {name}")
    given, image, target = zoo(name), photographs(1, SIZE), torch.tensor([0])
    fast = Variant(_without_batch_norm(given), channels_last=True).eval().requires_grad_(False)
    ours = {
        side: partial(_maps, member, image, target, steps) for side, member in (("given", given), ("prepared", fast))
    }
    explain = partial(
        IntegratedGradients(given).attribute, image, target=target, n_steps=steps, return_convergence_delta=True
    )
    with FlopCounterMode(display=False) as counter:
        ours["given"]()
    sides: dict[str, Callable[[], object]] = {"captum": explain, **ours}
    seconds = interleaved(sides, rounds=2)
    products, rest = profiled(ours["prepared"])
    shown = f"convolutions and matmuls {products:.0%}; {rest}"
    flop = counter.get_total_flops()
    return Measured(name, seconds["captum"], seconds["given"], seconds["prepared"], flop, shown)


def _without_batch_norm(member: nn.Module) -> nn.Module:
    if not any(isinstance(part, nn.BatchNorm2d) for part in member.modules()):
        return deepcopy(member)
    folded: nn.Module = fuse(member)
    return folded


def _maps(member: nn.Module, image: Tensor, target: Tensor, steps: int) -> Tensor:
    black = torch.zeros(1, 1, 3, SIZE, SIZE)
    return integrated_gradients(member, image, target, baselines=black, n_steps=steps, method="gausslegendre").mean
