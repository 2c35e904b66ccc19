"""The public function's own promises: tolerance, figures, dtypes, untouched models, errors that name the culprit."""

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import integrated_gradients
from pipeline.attribution.ensemble import mean_distance, predict, share_agreed, statistics
from tests.support.networks import relu_cnn, smooth_mlp

Digits = tuple[Tensor, Tensor]
BLACK = torch.zeros(1, 1, 1, 16, 16)


def relative_error(found: Tensor, exact: Tensor) -> Tensor:
    return (found.double() - exact.double()).flatten(1).abs().sum(1) / exact.double().flatten(1).abs().sum(1)


@pytest.fixture(scope="module")
def exact(digits: Digits, trained: list[nn.Module]) -> Tensor:
    """Float64 maps of the first 32 scans from 1,024 steps."""
    members = [deepcopy(member).double() for member in trained]
    return integrated_gradients(
        members, digits[0][:32].double(), digits[1][:32], baselines=BLACK.double(), n_steps=1024
    ).mean


@pytest.mark.slow
def test_a_tolerance_is_met_and_costs_no_more_than_needed(
    digits: Digits, trained: list[nn.Module], exact: Tensor
) -> None:
    images, labels = digits[0][:32], digits[1][:32]
    found = integrated_gradients(trained, images, labels, baselines=BLACK, tolerance=0.03)
    assert found.converged is not None
    assert found.converged.all()
    assert (found.error_estimate <= 0.03).all()
    true = relative_error(found.mean, exact)
    assert true.median() < 0.03
    assert (true < 0.06).float().mean() > 0.9
    steps = found.evaluations / 2  # per path: two members, one baseline
    assert set(steps.tolist()) <= {9, 17, 33, 65, 129, 257, 513}
    assert len(set(steps.tolist())) > 1, "images differ in what they need; easy ones leave the batch early"


def test_an_image_that_hits_max_steps_is_reported_not_converged(digits: Digits, trained: list[nn.Module]) -> None:
    found = integrated_gradients(trained, digits[0][:8], digits[1][:8], baselines=BLACK, tolerance=1e-4, max_steps=40)
    assert found.converged is not None
    assert not found.converged.any()
    assert (found.evaluations == 2 * 33).all(), "33 nodes are the finest level within 40"


def test_levels_reuse_every_evaluation(digits: Digits, trained: list[nn.Module]) -> None:
    images, labels = digits[0][:4].double(), digits[1][:4]
    members = [deepcopy(member).double() for member in trained]
    nested = integrated_gradients(members, images, labels, baselines=BLACK, tolerance=1e-9, max_steps=33)
    whole = integrated_gradients(members, images, labels, baselines=BLACK, method="riemann_trapezoid", n_steps=33)
    for name in ("mean", "std", "convergence_delta", "path_alphas", "path_outputs", "path_gradients", "evaluations"):
        torch.testing.assert_close(getattr(nested, name), getattr(whole, name), rtol=1e-9, atol=1e-12, msg=name)


def test_path_outputs_are_the_model_along_the_path(digits: Digits, trained: list[nn.Module]) -> None:
    images, labels = digits[0][:3], digits[1][:3]
    start = torch.rand(2, 3, 1, 16, 16)
    found = integrated_gradients(trained, images, labels, baselines=start, n_steps=5, output="probability")
    for a, alpha in enumerate(found.path_alphas.tolist()):
        points = start + alpha * (images - start)  # (K, N, ...)
        values = torch.stack([member(point).softmax(1) for member in trained for point in points]).mean(0)
        expected = values.gather(1, labels[:, None])[:, 0].double().detach()
        torch.testing.assert_close(found.path_outputs[:, a], expected, rtol=1e-4, atol=1e-6)


def test_nodes_that_a_finished_image_did_not_need_are_nan(digits: Digits, trained: list[nn.Module]) -> None:
    found = integrated_gradients(trained, digits[0][:16], digits[1][:16], baselines=BLACK, tolerance=0.03)
    known = (~found.path_outputs.isnan()).sum(1)
    assert (known == found.evaluations // 2).all()


def test_one_member_has_no_spread(digits: Digits, trained: list[nn.Module]) -> None:
    found = integrated_gradients(trained[0], digits[0][:2], digits[1][:2], baselines=BLACK, n_steps=4)
    assert (found.std == 0).all()
    assert (found.sign_agreement == 1).all()


def test_one_baseline_has_no_distance_and_equal_ones_none(digits: Digits, trained: list[nn.Module]) -> None:
    images, labels = digits[0][:2], digits[1][:2]
    alone = integrated_gradients(trained, images, labels, baselines=BLACK, n_steps=4)
    assert alone.baseline_sensitivity.isnan().all()
    twice = integrated_gradients(trained, images, labels, baselines=BLACK.repeat(2, 1, 1, 1, 1), n_steps=4)
    assert twice.baseline_sensitivity.max() < 1e-6


def test_baseline_distances_are_those_of_single_runs(digits: Digits, trained: list[nn.Module]) -> None:
    """The distance of baselines of adapted steps is that of single runs."""
    images, labels, starts = digits[0][:6], digits[1][:6], torch.rand(2, 1, 1, 16, 16)
    asked: dict[str, Any] = {"tolerance": 1e-9, "max_steps": 33}
    together = integrated_gradients(trained, images, labels, baselines=starts, internal_batch_size=7, **asked)
    one, other = (
        integrated_gradients(trained, images, labels, baselines=start[None], **asked).mean.flatten(1)
        for start in starts
    )
    expected = 2 * (one - other).abs().sum(1) / (one.abs().sum(1) + other.abs().sum(1))
    torch.testing.assert_close(together.baseline_sensitivity, expected.double(), rtol=1e-3, atol=1e-6)


def test_unrelated_maps_agree_at_the_chance_level() -> None:
    """Maps of nothing in common are as far apart and agree as much as is said."""
    generator = torch.Generator().manual_seed(0)
    for count, agreed in ((2, 0.707), (3, 0.433), (4, 0.25), (5, 0.140)):
        maps = torch.randn(count, 1, 200_000, generator=generator)
        mean, std, agreement = statistics(maps)
        assert share_agreed(mean, agreement >= 1).item() == pytest.approx(agreed, abs=0.01)
        assert mean_distance(maps, torch.ones(count)).item() == pytest.approx(math.sqrt(2), abs=0.01)
        expected = math.sqrt(math.pi) * math.gamma(count / 2) / math.gamma((count - 1) / 2)
        assert (std.sum() / mean.abs().sum()).item() == pytest.approx(expected, rel=0.01)


def test_channels_are_summed_before_maps_are_compared() -> None:
    """Summed channels are summed before members and baselines are compared."""
    members = [nn.Sequential(nn.Flatten(), nn.Linear(27, 8), nn.GELU(), nn.Linear(8, 3)).double() for _ in range(2)]
    x, starts, targets = torch.rand(2, 3, 3, 3).double(), torch.rand(2, 1, 3, 3, 3).double(), torch.tensor([0, 2])
    found = integrated_gradients(members, x, targets, baselines=starts, n_steps=5, sum_channels=True)
    single = torch.stack(
        [
            torch.stack([integrated_gradients(m, x, targets, baselines=s[None], n_steps=5).mean.sum(1) for s in starts])
            for m in members
        ]
    )  # (M, K, N, H, W)
    torch.testing.assert_close(found.mean[:, 0], single.mean((0, 1)))
    torch.testing.assert_close(found.std[:, 0], single.mean(1).std(0, correction=0))
    one, other = single.mean(0).flatten(2)
    torch.testing.assert_close(
        found.baseline_sensitivity, 2 * (one - other).abs().sum(1) / (one.abs().sum(1) + other.abs().sum(1))
    )


def test_one_step_has_no_error_estimate(digits: Digits, trained: list[nn.Module]) -> None:
    found = integrated_gradients(trained, digits[0][:2], digits[1][:2], baselines=BLACK, n_steps=1)
    assert found.error_estimate.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_come_in_the_dtype_of_the_inputs(dtype: torch.dtype) -> None:
    member, x = smooth_mlp(0).to(dtype), torch.rand(2, 12, dtype=dtype)
    found = integrated_gradients(member, x, torch.tensor([0, 1]), baselines=torch.zeros(1, 1, 12), n_steps=3)
    assert found.mean.dtype == found.std.dtype == dtype
    assert found.convergence_delta.dtype == torch.float64


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4, 5)])
def test_inputs_of_any_shape(shape: tuple[int, ...]) -> None:
    member = nn.Sequential(nn.Flatten(), nn.LazyLinear(3)).double()
    x = torch.rand(4, *shape, dtype=torch.float64)
    member(x)
    found = integrated_gradients(member, x, torch.tensor([0, 1, 2, 0]), baselines=torch.zeros(1, 1, *shape), n_steps=2)
    assert found.mean.shape == x.shape
    assert found.convergence_delta.abs().max() < 1e-12


def test_the_model_is_left_as_it_was() -> None:
    member = relu_cnn(0).train()
    member(torch.rand(2, 1, 16, 16))
    member[0].weight.requires_grad_(requires_grad=False)  # type: ignore[union-attr,operator]
    before = deepcopy(member.state_dict())
    flags = [p.requires_grad for p in member.parameters()]
    integrated_gradients(member, torch.rand(2, 1, 16, 16), torch.tensor([0, 1]), baselines=BLACK, n_steps=2)
    assert member.training
    assert member[1].training
    assert [p.requires_grad for p in member.parameters()] == flags
    assert all(p.grad is None for p in member.parameters())
    for name, value in member.state_dict().items():
        torch.testing.assert_close(value, before[name], msg=f"{name}: eval mode keeps the running statistics")


def test_a_member_that_changes_its_input_in_place_is_no_trouble() -> None:
    member = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    x = torch.tensor([[1.0, -1.0, 2.0, 0.5]], dtype=torch.float64)
    kept = x.clone()
    found = integrated_gradients(member, x, torch.tensor([0]), baselines=torch.zeros(1, 1, 4), n_steps=1)
    assert (x == kept).all()
    torch.testing.assert_close(found.mean[0], (member[1].weight[0] * x[0].clamp(min=0)).detach())


def test_predictions_are_the_mean_probability_of_the_members(digits: Digits, trained: list[nn.Module]) -> None:
    images = digits[0][:9]
    expected = (trained[0](images).softmax(1) + trained[1](images).softmax(1)) / 2
    torch.testing.assert_close(predict(trained, images, batch_size=4), expected.detach(), rtol=1e-4, atol=1e-6)


def test_bfloat16_stays_within_a_few_per_cent_of_float32(
    digits: Digits, trained: list[nn.Module], exact: Tensor
) -> None:
    found = integrated_gradients(
        trained, digits[0][:32], digits[1][:32], baselines=BLACK, n_steps=128, precision="bfloat16"
    )
    assert found.mean.dtype == torch.float32
    assert relative_error(found.mean, exact).median() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.tensor([0, 5])}, r"target 5 is outside 0\.\.4"),
        ({"targets": torch.tensor([0, -1])}, r"target -1 is outside 0\.\.4"),
        ({"targets": torch.tensor([0])}, r"targets are \(1,\) torch.int64, not \(2,\) int64"),
        ({"inputs": torch.zeros(2, 12, dtype=torch.int64)}, "gradients need floating point"),
        ({"inputs": torch.zeros(0, 12), "targets": torch.zeros(0, dtype=torch.int64)}, "inputs is empty"),
        ({"baselines": torch.zeros(1, 3, 12)}, r"baselines are \(1, 3, 12\), not \(K, 2 or 1, 12\)"),
        ({"baseline_weights": torch.tensor([-1.0])}, "non-negative"),
        ({"method": "simpson"}, "method 'simpson' is none of: gausslegendre"),
        ({"output": "loss"}, "output 'loss' is none of: logit"),
        ({"precision": "int8"}, "precision 'int8' is none of"),
        ({"n_steps": 0}, "n_steps is 0"),
        ({"method": "riemann_trapezoid", "n_steps": 1}, "needs at least 2"),
        ({"tolerance": 0.1, "max_steps": 5}, "max_steps is 5; the first level has 9 nodes"),
        ({"internal_batch_size": 0}, "internal_batch_size is 0"),
        ({"members": []}, "members is empty"),
        ({"members": nn.Sequential(nn.Linear(12, 5), nn.Flatten(0)).double()}, r"maps \(2, 12\) to \(10,\)"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "members": smooth_mlp(0),
        "inputs": torch.rand(2, 12, dtype=torch.float64),
        "targets": torch.tensor([0, 1]),
        "baselines": torch.zeros(1, 1, 12),
    } | change
    with pytest.raises(ValueError, match=message):
        integrated_gradients(**arguments)  # type: ignore[arg-type]


def test_an_input_without_a_finite_map_spoils_no_other() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.sum(1), x.square().sum(1).sqrt()], 1)  # no gradient at 0

    x = torch.rand(5, 4, dtype=torch.float64)
    x[2] = 0
    found = integrated_gradients(Root(), x, torch.ones(5, dtype=torch.int64), baselines=torch.zeros(1, 1, 4), n_steps=4)
    assert found.mean[2].isnan().all()
    others = [0, 1, 3, 4]
    assert found.mean[others].isfinite().all()
    torch.testing.assert_close(found.mean[others].sum(1), x[others].square().sum(1).sqrt())
