"""Nodes, weights, convergence order, and what packing must not change."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import integrated_gradients
from pipeline.attribution.path import UNIFORM, Profile, first_level, next_level, quadrature
from pipeline.spec.choices import METHODS
from tests.support.networks import smooth_mlp


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [2, 3, 7, 50, 129])
def test_weights_sum_to_one_and_nodes_ascend_within_the_path(method: str, n: int) -> None:
    nodes = quadrature(method, n)  # type: ignore[arg-type]
    assert nodes.weights.sum().item() == pytest.approx(1, abs=1e-13)
    assert nodes.difference.sum().item() == pytest.approx(0, abs=1e-13)
    assert (nodes.weights >= 0).all()
    assert nodes.alphas.min() >= 0
    assert nodes.alphas.max() <= 1
    assert (nodes.alphas.diff() > 0).all()


@pytest.mark.parametrize("n", [1, 2, 5, 16, 50])
def test_gausslegendre_is_exact_up_to_degree_2n_minus_1(n: int) -> None:
    """Gausslegendre integrates polynomials of degree 2n minus 1 exactly."""
    nodes = quadrature("gausslegendre", n)
    for degree in range(2 * n):
        assert (nodes.weights * nodes.alphas**degree).sum().item() == pytest.approx(1 / (degree + 1), abs=1e-12)


def test_nested_levels_are_the_trapezoid_of_all_nodes_so_far() -> None:
    level, total = first_level(), 9
    alphas, weights = level.alphas, level.weights
    for _ in range(3):
        finer = next_level(total)
        alphas, weights = torch.cat([alphas, finer.alphas]), torch.cat([weights / 2, finer.weights / 2])
        total = 2 * total - 1
        order = alphas.argsort()
        whole = quadrature("riemann_trapezoid", total)
        torch.testing.assert_close(alphas[order], whole.alphas)
        torch.testing.assert_close(weights[order], whole.weights)


def errors(member: nn.Module, x: Tensor, targets: Tensor, method: str, steps: list[int]) -> list[float]:
    start = torch.zeros_like(x[:1])[None]
    exact = integrated_gradients(member, x, targets, baselines=start, method="gausslegendre", n_steps=1024).mean
    found = [
        integrated_gradients(member, x, targets, baselines=start, method=method, n_steps=n).mean  # type: ignore[arg-type]
        for n in steps
    ]
    return [((f - exact).abs().sum() / exact.abs().sum()).item() for f in found]


@pytest.mark.parametrize(
    ("method", "order"), [("riemann_left", 1), ("riemann_right", 1), ("riemann_middle", 2), ("riemann_trapezoid", 2)]
)
def test_the_error_on_a_smooth_network_falls_by_order(method: str, order: int) -> None:
    """On a smooth network the error falls with the order of the rule."""
    x = 3 * torch.rand(4, 12, dtype=torch.float64)
    coarse, fine = errors(smooth_mlp(0), x, torch.arange(4), method, [33, 65])
    assert coarse / fine == pytest.approx((64 / 32 if "trap" in method else 65 / 33) ** order, rel=0.1)


def test_gausslegendre_has_twelve_digits_at_32_nodes() -> None:
    """On a smooth network gausslegendre is exact to twelve digits at 32 nodes."""
    (error,) = errors(smooth_mlp(0), torch.rand(4, 12, dtype=torch.float64), torch.arange(4), "gausslegendre", [32])
    assert error < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("method", ["riemann_middle", "riemann_trapezoid", "gausslegendre"])
def test_the_error_on_a_relu_network_falls_as_one_over_n(
    method: str, digits: tuple[Tensor, Tensor], trained: list[nn.Module]
) -> None:
    """On a relu network the error falls as one over n whatever the rule."""
    images, labels = digits
    members = [m.double() for m in deepcopy(trained)]
    coarse, fine = errors(members[0], images[:16].double(), labels[:16], method, [16, 128])
    assert 8 / 2 < coarse / fine < 8 * 2


BENT = Profile((0.0, 0.05, 0.1, 0.15, 0.25, 0.4, 0.5, 0.7, 1.0))
OPTIONS = [{"n_steps": 7}, {"tolerance": 0.02, "max_steps": 65}]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [option | {"profile": profile} for option in OPTIONS for profile in (UNIFORM, BENT)]
)
def test_packing_changes_nothing(
    options: dict[str, object], digits: tuple[Tensor, Tensor], trained: list[nn.Module]
) -> None:
    images, labels = digits[0][:5].double(), digits[1][:5]
    members = [m.double() for m in deepcopy(trained)]
    start = torch.rand(2, 5, 1, 16, 16, dtype=torch.float64)
    runs = [
        integrated_gradients(members, images, labels, baselines=start, internal_batch_size=size, **options)  # type: ignore[arg-type]
        for size in (1000, 64, 7, 1)
    ]
    for run in runs[1:]:
        for name in ("mean", "std", "error_estimate", "convergence_delta", "path_outputs", "path_gradients", "output"):
            torch.testing.assert_close(
                getattr(run, name), getattr(runs[0], name), rtol=1e-9, atol=1e-12, equal_nan=True, msg=name
            )
        assert (run.evaluations == runs[0].evaluations).all()


@pytest.mark.parametrize("profile", [UNIFORM, BENT])
def test_neighbours_and_order_change_nothing(
    profile: Profile | None, digits: tuple[Tensor, Tensor], trained: list[nn.Module]
) -> None:
    images, labels = digits[0][:6], digits[1][:6]
    options = {"baselines": torch.zeros(1, 1, 1, 16, 16), "tolerance": 0.02, "profile": profile}
    together = integrated_gradients(trained, images, labels, **options)  # type: ignore[arg-type]
    backwards = integrated_gradients(trained, images.flip(0), labels.flip(0), **options)  # type: ignore[arg-type]
    torch.testing.assert_close(backwards.mean.flip(0), together.mean, rtol=1e-4, atol=1e-6)
    for i in range(6):
        alone = integrated_gradients(trained, images[i : i + 1], labels[i : i + 1], **options)  # type: ignore[arg-type]
        assert alone.evaluations[0] == together.evaluations[i]
        torch.testing.assert_close(alone.mean[0], together.mean[i], rtol=1e-4, atol=1e-6)


def test_float32_sums_do_not_drift_over_a_thousand_steps(
    digits: tuple[Tensor, Tensor], trained: list[nn.Module]
) -> None:
    images, labels = digits[0][:4], digits[1][:4]
    single, double = (
        integrated_gradients(
            trained, images, labels, baselines=torch.zeros(1, 1, 1, 16, 16), n_steps=1024, precision=precision
        ).mean
        for precision in ("float32", "float64")
    )
    assert single.dtype == double.dtype == torch.float32
    assert ((single - double).abs().sum() / double.abs().sum()).item() < 2e-5


def test_an_input_that_overflows_leaves_its_neighbours_alone(
    digits: tuple[Tensor, Tensor], trained: list[nn.Module]
) -> None:
    images, labels = digits[0][:3].clone(), digits[1][:3]
    start = torch.zeros(1, 1, 1, 16, 16)
    clean = integrated_gradients(trained, images, labels, baselines=start, n_steps=5)
    images[1] = torch.nan
    found = integrated_gradients(trained, images, labels, baselines=start, n_steps=5)
    assert found.mean[1].isnan().all()
    torch.testing.assert_close(found.mean[[0, 2]], clean.mean[[0, 2]], rtol=1e-4, atol=1e-6)
