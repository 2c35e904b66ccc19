"""Fitted nodes: another path of nodes to the same map, sooner."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import Attribution, Profile, fit_profile, integrated_gradients
from pipeline.attribution.path import UNIFORM, first_level, next_level, quadrature
from pipeline.spec.choices import METHODS
from tests.support.networks import smooth_mlp

Digits = tuple[Tensor, Tensor]
BENT = Profile((0.0, 0.05, 0.1, 0.15, 0.25, 0.4, 0.5, 0.7, 1.0))
BLACK = torch.zeros(1, 1, 1, 16, 16, dtype=torch.float64)
RIEMANN = [method for method in METHODS if method != "gausslegendre"]


def relative_error(found: Tensor, exact: Tensor) -> Tensor:
    return (found - exact).flatten(1).abs().sum(1) / exact.flatten(1).abs().sum(1)


@pytest.fixture(scope="module")
def members(trained: list[nn.Module]) -> list[nn.Module]:
    return [deepcopy(member).double() for member in trained]


@pytest.fixture(scope="module")
def fitted(digits: Digits, members: list[nn.Module]) -> Profile:
    """For probabilities from black, on 16 scans that no test looks at."""
    return fit_profile(members, digits[0][100:116].double(), digits[1][100:116], baselines=BLACK, output="probability")


@pytest.mark.parametrize("method", RIEMANN)
@pytest.mark.parametrize("n", [2, 3, 7, 50, 129])
def test_fitted_weights_sum_to_one_and_nodes_ascend(method: str, n: int) -> None:
    """Fitted weights sum to one and nodes ascend within the path."""
    nodes = quadrature(method, n, BENT)  # type: ignore[arg-type]
    assert nodes.weights.sum().item() == pytest.approx(1, abs=1e-13)
    assert nodes.difference.sum().item() == pytest.approx(0, abs=1e-13)
    assert (nodes.weights >= 0).all()
    assert nodes.alphas.min() >= 0
    assert nodes.alphas.max() <= 1
    assert (nodes.alphas.diff() > 0).all()


def test_fitted_levels_are_the_trapezoid_of_all_nodes_so_far() -> None:
    level, total = first_level(BENT), 9
    alphas, weights = level.alphas, level.weights
    for _ in range(3):
        finer = next_level(total, BENT)
        alphas, weights = torch.cat([alphas, finer.alphas]), torch.cat([weights / 2, finer.weights / 2])
        total = 2 * total - 1
        order = alphas.argsort()
        whole = quadrature("riemann_trapezoid", total, BENT)
        torch.testing.assert_close(alphas[order], whole.alphas)
        torch.testing.assert_close(weights[order], whole.weights)


def test_the_uniform_profile_is_no_profile() -> None:
    for method in METHODS:
        assert (quadrature(method, 16, UNIFORM).alphas == quadrature(method, 16).alphas).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["riemann_middle", "riemann_trapezoid"])
def test_on_a_smooth_network_fitted_nodes_keep_the_second_order(method: str) -> None:
    x, targets, start = 3 * torch.rand(4, 12, dtype=torch.float64), torch.arange(4), torch.zeros(1, 1, 12)
    member = smooth_mlp(0)
    exact = integrated_gradients(member, x, targets, baselines=start, method="gausslegendre", n_steps=256).mean
    coarse, fine = (
        integrated_gradients(member, x, targets, baselines=start, method=method, n_steps=n, profile=BENT)  # type: ignore[arg-type]
        for n in (64 + (method == "riemann_trapezoid"), 128 + (method == "riemann_trapezoid"))
    )
    ratio = (coarse.mean - exact).abs().sum() / (fine.mean - exact).abs().sum()
    assert ratio.item() == pytest.approx(4, rel=0.1)
    assert fine.convergence_delta.abs().max() < 1e-3


@pytest.mark.slow
def test_fitted_nodes_lead_to_the_same_map(digits: Digits, members: list[nn.Module], fitted: Profile) -> None:
    images, labels = digits[0][:4].double(), digits[1][:4]
    even, other = (
        integrated_gradients(
            members, images, labels, baselines=BLACK, n_steps=2048, output="probability", profile=profile
        ).mean
        for profile in (UNIFORM, fitted)
    )
    assert relative_error(other, even).max() < 1e-3


@pytest.mark.slow
def test_fitted_nodes_take_a_seventh_off_the_error(digits: Digits, members: list[nn.Module], fitted: Profile) -> None:
    """Fitted nodes take a seventh off the error of probabilities from black."""
    images, labels = digits[0][:32].double(), digits[1][:32]
    options = {"baselines": BLACK, "output": "probability"}
    exact = integrated_gradients(members, images, labels, n_steps=1024, **options).mean  # type: ignore[arg-type]
    for n in (8, 16, 32):
        even, better = (
            relative_error(
                integrated_gradients(members, images, labels, n_steps=n, profile=profile, **options).mean,  # type: ignore[arg-type]
                exact,
            ).median()
            for profile in (UNIFORM, fitted)
        )
        assert better < even * 6 / 7, f"{n} nodes: even {even:.4f}, fitted {better:.4f}"


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"n_steps": 32}, {"tolerance": 1e-9, "max_steps": 33}])
def test_nine_estimates_in_ten_stay_within_a_factor_of_two(
    options: dict[str, float], digits: Digits, members: list[nn.Module], fitted: Profile
) -> None:
    """The estimate stays within a factor of two for nine images in ten."""
    images, labels = digits[0][:32].double(), digits[1][:32]
    for output, profile in (("probability", fitted), ("logit", BENT)):
        common = {"baselines": BLACK, "output": output}
        exact = integrated_gradients(members, images, labels, n_steps=1024, **common).mean  # type: ignore[arg-type]
        found = integrated_gradients(members, images, labels, profile=profile, **common, **options)  # type: ignore[arg-type]
        ratio = found.error_estimate / relative_error(found.mean, exact)
        within = ((ratio > 0.5) & (ratio < 2)).double().mean().item()
        assert within >= 0.9, f"{output}: {within:.2f} within a factor 2, median ratio {ratio.median():.2f}"


def test_levels_reuse_every_evaluation_of_fitted_nodes(digits: Digits, members: list[nn.Module]) -> None:
    images, labels = digits[0][:4].double(), digits[1][:4]
    common = {"baselines": BLACK, "profile": BENT}
    nested = integrated_gradients(members, images, labels, tolerance=1e-9, max_steps=33, **common)  # type: ignore[arg-type]
    whole = integrated_gradients(members, images, labels, method="riemann_trapezoid", n_steps=33, **common)  # type: ignore[arg-type]
    for name in ("mean", "std", "convergence_delta", "path_alphas", "path_outputs", "path_gradients", "evaluations"):
        torch.testing.assert_close(getattr(nested, name), getattr(whole, name), rtol=1e-9, atol=1e-12, msg=name)


def test_a_profile_that_does_not_help_is_not_used(digits: Digits) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(256, 10)).double()
    assert fit_profile(linear, digits[0][:8].double(), digits[1][:8], baselines=BLACK) == UNIFORM


def test_no_part_of_the_path_is_left_bare() -> None:
    """All change in one cell of 64: still a fifth of the nodes stand elsewhere, evenly."""
    change = torch.zeros(64)
    change[10] = 1
    nodes = quadrature("riemann_middle", 100, Profile.of_change(change))
    assert nodes.weights.max() < 0.06
    assert ((nodes.alphas > 10 / 64) & (nodes.alphas < 11 / 64)).sum() > 50


def test_a_profile_is_a_list_of_numbers() -> None:
    assert Profile(tuple(json.loads(json.dumps(BENT.knots)))) == BENT


@pytest.mark.parametrize("knots", [(0.0, 1.0), (0.0, *[0.5] * 7, 1.0), tuple(i / 10 for i in range(9))])
def test_what_is_no_profile_is_refused(knots: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ascend from 0 to 1"):
        Profile(knots)


def test_gausslegendre_takes_no_profile() -> None:
    with pytest.raises(ValueError, match="gausslegendre takes no profile"):
        quadrature("gausslegendre", 8, BENT)


@pytest.mark.parametrize("options", [{"n_steps": 12}, {"tolerance": 0.02}])
def test_each_baseline_may_have_nodes_of_its_own(
    options: dict[str, float], digits: Digits, members: list[nn.Module]
) -> None:
    """The map of a mix is the mean of the maps of its parts, wherever the nodes of each stand."""
    x, y = digits[0][40:44].double(), digits[1][40:44]
    white = BLACK + 1
    if "tolerance" in options:  # the budget is of the averaged map: force the same levels on the parts
        options = options | {"tolerance": 1e-9, "max_steps": 33}
    mixed = integrated_gradients(
        members, x, y, baselines=torch.cat([BLACK, white]), baseline_weights=torch.tensor([1.0, 3.0]),
        profile=[BENT, UNIFORM], **options,
    )  # fmt: skip
    parts = [
        integrated_gradients(members, x, y, baselines=start, profile=nodes, **options)
        for start, nodes in ((BLACK, BENT), (white, UNIFORM))
    ]
    torch.testing.assert_close(mixed.mean, parts[0].mean / 4 + 3 * parts[1].mean / 4)
    torch.testing.assert_close(
        mixed.convergence_delta, parts[0].convergence_delta / 4 + 3 * parts[1].convergence_delta / 4
    )
    torch.testing.assert_close(mixed.path_alphas, parts[0].path_alphas)
    # The curve of the other part is read off its own nodes, between which it is nearly straight.
    theirs = torch.stack([_read_off(parts[1], row, mixed.path_alphas) for row in range(4)])
    torch.testing.assert_close(mixed.path_outputs, parts[0].path_outputs / 4 + 3 * theirs / 4, rtol=1e-3, atol=1e-3)
    assert mixed.path_outputs.isfinite().all()


def _read_off(found: Attribution, row: int, at: Tensor) -> Tensor:
    alphas, outputs = found.path_alphas.numpy(), found.path_outputs[row].numpy()
    slope = (outputs[1] - outputs[0]) / (alphas[1] - alphas[0]), (outputs[-1] - outputs[-2]) / (alphas[-1] - alphas[-2])
    values = np.interp(at.numpy(), alphas, outputs)
    values += np.minimum(at.numpy() - alphas[0], 0) * slope[0] + np.maximum(at.numpy() - alphas[-1], 0) * slope[1]
    return torch.from_numpy(values)


def test_profiles_are_one_or_one_for_each_baseline(digits: Digits, members: list[nn.Module]) -> None:
    with pytest.raises(ValueError, match="2 profiles for 1 baselines"):
        integrated_gradients(members, digits[0][:1].double(), digits[1][:1], baselines=BLACK, profile=[BENT, BENT])


def test_finished_images_keep_their_curves(digits: Digits, members: list[nn.Module]) -> None:
    """Images that are finished keep their curves where nodes differ."""
    x, y = digits[0][40:52].double(), digits[1][40:52]
    found = integrated_gradients(
        members, x, y, baselines=torch.cat([BLACK, BLACK + 1]), profile=[BENT, UNIFORM], tolerance=0.04
    )
    assert found.evaluations.unique().numel() > 1, "some are finished before others"
    known = found.path_outputs.isfinite().sum(1)
    torch.testing.assert_close(known * 2 * len(members), found.evaluations)
