"""Laws of the numerics, checked on a device. `tests/laws/test_devices.py` runs them on every device of a machine."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields
from functools import cache
from typing import Any, get_args

import torch
from torch import Tensor, nn

from benchmarks.gpu.bench import Bench, percent
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.device import FLOAT32, arithmetic
from benchmarks.gpu.subjects import settle
from benchmarks.machine import table
from benchmarks.trials import relative_errors
from pipeline.attribution import (
    Attribution,
    Baseline,
    baseline_stack,
    fit_profile,
    input_x_gradient,
    integrated_gradients,
    measured_batch_size,
    prepare,
    saliency,
)
from pipeline.attribution.ensemble import predict, target_outputs
from pipeline.attribution.fast_members import Variant
from pipeline.attribution.path import UNIFORM
from pipeline.spec.choices import Method

TOLERANCE = 0.03  # of `prepare` and of nested levels
KINDS = ("black", "mean", "blurred:sigma=2", "opposite", "uniform:n=1", "gaussian:n=1")

CPU = torch.device("cpu")

Law = Callable[[torch.device], str]


def section(bench: Bench, clock: Clock) -> str:
    """Markdown of this section."""
    rows: list[list[str]] = []
    for law in LAWS:
        name = law.__name__.replace("_", " ")
        with bench.attempt(f"law: {name}"):
            clock.need()
            rows.append([name, law(bench.device.torch)])
    return f"## Laws of the numerics on this device\n\n{table(['law', 'measured'], rows)}"


def members(device: torch.device, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    """Two small ReLU networks with batch norm, the same on every device."""
    return [member.to(device, dtype) for member in deepcopy(_members())]


@cache
def _members() -> list[nn.Module]:
    found: list[nn.Module] = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        member = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
            nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16 * 64, 10),
        )  # fmt: skip
        settle(member, images(CPU))
        found.append(member.requires_grad_(False))
    return found


def images(device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random images (6, 3, 16, 16)."""
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def targets(device: torch.device) -> Tensor:
    """A class for each image, (6,)."""
    return torch.arange(6).to(device)


def baselines(device: torch.device) -> tuple[Tensor, Tensor]:
    """Baselines of several kinds for each image, (6, 6, 3, 16, 16), and their weights (6,)."""
    kinds = [Baseline.parse(kind) for kind in KINDS]
    return baseline_stack(kinds, images(device), [str(index) for index in range(6)])


def explained(device: torch.device, dtype: torch.dtype, **options: Any) -> Attribution:
    """Attribution of the images by both networks and all baselines."""
    stack, weights = baselines(CPU)
    return integrated_gradients(
        members(device, dtype),
        images(device, dtype),
        targets(device),
        baselines=stack.to(device, dtype),
        baseline_weights=weights,
        **{"n_steps": 16} | options,
    )


def largest_error(found: Tensor, exact: Tensor) -> float:
    """The largest relative L1 error of any row; maps and figures (N, ...) of any device."""
    return (
        relative_errors(found.cpu().reshape(len(found), -1), exact.cpu().double().reshape(len(exact), -1)).max().item()
    )


def every_figure_in_float64_is_that_of_a_cpu(device: torch.device) -> str:
    """Maps, spread, sensitivity, outputs, deltas, error estimates and curves."""
    found, exact = (explained(where, torch.float64) for where in (device, CPU))
    errors = {}
    for name in (field.name for field in fields(Attribution) if field.name != "converged"):
        own, theirs = getattr(found, name).cpu().double(), getattr(exact, name).double()
        errors[name] = float((own - theirs).abs().max() / theirs.abs().max())
    worst = max(errors, key=lambda name: errors[name])
    assert errors[worst] <= 1e-9, f"{worst} differs by {errors[worst]:.1e} of its largest value"
    return f"{worst} differs most, by {errors[worst]:.1e} of its largest value"


def maps_in_float32_are_those_of_float64(device: torch.device) -> str:
    """With TF32 off."""
    with arithmetic(FLOAT32):
        error = largest_error(explained(device, torch.float32).mean, explained(CPU, torch.float64).mean)
    assert error <= 2e-3, f"a map differs by {percent(error)}"
    return f"largest error {percent(error)}"


def maps_do_not_depend_on_the_chunk(device: torch.device) -> str:
    """In float64: small and odd chunks, and one for all rows."""
    exact = explained(device, torch.float64, internal_batch_size=5000).mean
    error = max(
        largest_error(explained(device, torch.float64, internal_batch_size=size).mean, exact) for size in (7, 101)
    )
    assert error <= 1e-9, f"a map differs by {percent(error)}"
    return f"largest difference {error:.1e}"


def an_input_of_nan_does_not_change_other_maps(device: torch.device) -> str:
    """One image of NaN in a batch that shares chunks."""
    member, black = members(device, torch.float64)[0], torch.zeros(1, 1, 3, 16, 16, device=device)
    x = images(device, torch.float64)
    broken = x.clone()
    broken[3] = torch.nan
    whole, found = (
        integrated_gradients(member, own, targets(device), baselines=black, internal_batch_size=64).mean
        for own in (x, broken)
    )
    others = torch.arange(6) != 3
    error = largest_error(found[others], whole[others])
    assert found[3].isnan().all(), "the map of the image of NaN is not NaN"
    assert error <= 1e-9, f"another map differs by {percent(error)}"
    return f"largest difference {error:.1e}"


def a_linear_model_gives_weight_times_difference(device: torch.device) -> str:
    """The closed form, for every quadrature rule."""
    torch.manual_seed(0)
    linear = nn.Linear(3 * 16 * 16, 10).double().to(device)
    model = nn.Sequential(nn.Flatten(), linear)
    x, y, black = images(device, torch.float64), targets(device), torch.zeros(1, 1, 3, 16, 16, device=device)
    exact = x * linear.weight.detach()[y].view_as(x)
    error = max(
        largest_error(integrated_gradients(model, x, y, baselines=black, method=method, n_steps=7).mean, exact)
        for method in get_args(Method)
    )
    assert error <= 1e-12, f"a map differs by {percent(error)}"
    return f"largest error {error:.1e}"


def nested_levels_stop_where_those_of_a_cpu_do(device: torch.device) -> str:
    """Converged maps are also within twice the tolerance of maps with 96 nodes."""
    found, same = (explained(where, torch.float64, tolerance=TOLERANCE) for where in (device, CPU))
    exact = explained(CPU, torch.float64, n_steps=96).mean
    assert torch.equal(found.evaluations.cpu(), same.evaluations), "evaluations differ from those of a CPU"
    assert found.converged is not None
    done = found.converged.cpu()
    error = largest_error(found.mean.cpu()[done], exact[done])
    assert done.any(), "no map converged"
    assert error <= 2 * TOLERANCE, f"a converged map is off by {percent(error)}"
    return f"{int(done.sum())} of {len(done)} converged, largest error {percent(error)} of {TOLERANCE:.0%}"


def fitted_nodes_lead_to_the_map_of_even_nodes(device: torch.device) -> str:
    """The measured chunk is a power of two within its bounds."""
    model, x, y = members(device)[0], images(device), targets(device)
    options: dict[str, Any] = {"baselines": torch.zeros(1, 1, 3, 16, 16, device=device)}
    profile, size = fit_profile(model, x, y, **options), measured_batch_size([model], x)
    even, fitted = (
        integrated_gradients(model, x, y, n_steps=256, profile=nodes, **options).mean for nodes in (UNIFORM, profile)
    )
    error = largest_error(fitted, even)
    assert error <= 0.04, f"a map differs by {percent(error)}"
    assert size in {2**power for power in range(3, 11)}, f"the measured chunk is {size}"
    return f"largest difference {percent(error)}; chunks of {size}"


def a_prepared_member_stays_within_the_tolerance(device: torch.device) -> str:
    """On images that were not used for the choice; flags of the process are restored."""
    member, x = members(device)[0], images(device)
    flags = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    ways = prepare(member, x[:3], tolerance=TOLERANCE)
    given, fast = (_maps(one, x[3:]) for one in (member, ways.member))
    error = largest_error(fast, given)
    assert ways.choice.error <= TOLERANCE / 2, f"chosen with an error of {percent(ways.choice.error)}"
    assert error <= TOLERANCE, f"{ways.choice.name}: a map differs by {percent(error)}"
    assert flags == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32), "TF32 flags were changed"
    return f"{ways.choice.name}, {ways.choice.speedup:.2f} times as fast, largest difference {percent(error)}"


def members_run_in_16_bits(device: torch.device) -> str:
    """Both types, under autocast and whole, give the member's maps within 30 %."""
    member, x = members(device)[0], images(device)
    given, errors = _maps(member, x), {}
    for dtype in (torch.float16, torch.bfloat16):
        for whole in (False, True):
            variant = Variant(deepcopy(member), channels_last=True, dtype=dtype, whole=whole)
            name = f"{str(dtype).removeprefix('torch.')} {'whole' if whole else 'autocast'}"
            errors[name] = largest_error(_maps(variant, x), given)
    shown = ", ".join(f"{name} {percent(error)}" for name, error in errors.items())
    assert max(errors.values()) <= 0.3, shown
    return shown


def predictions_and_simple_gradients_are_those_of_a_cpu(device: torch.device) -> str:
    """`predict`, `target_outputs`, `saliency` and `input_x_gradient`, in float64."""
    found, exact = (_simple(where) for where in (device, CPU))
    error = max(largest_error(own, theirs) for own, theirs in zip(found, exact, strict=True))
    assert error <= 1e-9, f"one differs by {percent(error)}"
    return f"largest difference {error:.1e}"


def baselines_are_those_of_a_cpu(device: torch.device) -> str:
    """Several kinds, in float32."""
    with arithmetic(FLOAT32):
        error = float((baselines(device)[0].cpu() - baselines(CPU)[0]).abs().max())
    assert error <= 1e-6, f"a value differs by {error:.1e}"
    return f"largest difference {error:.1e}"


def maps_are_captums(device: torch.device) -> str:
    """Every rule that both define alike, on a smooth network in float64; captum keeps its nodes in float32."""
    from captum.attr import IntegratedGradients

    torch.manual_seed(0)
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(768, 24), nn.Tanh(), nn.Linear(24, 10)).double().to(device)
    x, y, black = images(device, torch.float64), targets(device), torch.zeros(1, 1, 3, 16, 16, device=device)
    error = 0.0
    for method in get_args(Method):
        if method != "riemann_trapezoid":  # captum's weights of it sum to 1 - 1/n
            theirs = IntegratedGradients(smooth).attribute(x, target=y, n_steps=20, method=method)
            ours = integrated_gradients(smooth, x, y, baselines=black, n_steps=20, method=method).mean
            error = max(error, largest_error(ours, theirs.detach()))
    assert error <= 1e-6, f"a map differs by {percent(error)}"
    return f"largest difference {error:.1e}"


def _maps(member: nn.Module, x: Tensor) -> Tensor:
    black = torch.zeros(1, 1, 3, 16, 16, device=x.device)
    return integrated_gradients(member, x, targets(x.device)[: len(x)], baselines=black, n_steps=16).mean


def _simple(device: torch.device) -> list[Tensor]:
    both, x, y = members(device, torch.float64), images(device, torch.float64), targets(device)
    return [
        predict(both, x, batch_size=5),
        target_outputs(both, x, y, output="log_probability", batch_size=5),
        saliency(both, x, y).mean,
        input_x_gradient(both, x, y).mean,
    ]


LAWS: tuple[Law, ...] = (
    every_figure_in_float64_is_that_of_a_cpu,
    maps_in_float32_are_those_of_float64,
    maps_do_not_depend_on_the_chunk,
    an_input_of_nan_does_not_change_other_maps,
    a_linear_model_gives_weight_times_difference,
    nested_levels_stop_where_those_of_a_cpu_do,
    fitted_nodes_lead_to_the_map_of_even_nodes,
    a_prepared_member_stays_within_the_tolerance,
    members_run_in_16_bits,
    predictions_and_simple_gradients_are_those_of_a_cpu,
    baselines_are_those_of_a_cpu,
    maps_are_captums,
)
