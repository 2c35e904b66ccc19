"""Agreement with captum's IntegratedGradients, an independent implementation, for every method both define."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import baseline_stack, input_x_gradient, integrated_gradients, saliency
from pipeline.spec.choices import Baseline
from tests.support.networks import smooth_mlp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from captum.attr import InputXGradient, IntegratedGradients, Saliency


@pytest.mark.parametrize("method", ["gausslegendre", "riemann_left", "riemann_middle", "riemann_right"])
@pytest.mark.parametrize("n_steps", [2, 7, 50])
def test_agrees_with_captum(method: str, n_steps: int) -> None:
    member, x, start = smooth_mlp(0), torch.rand(3, 12).double(), torch.rand(3, 12).double()
    targets = torch.tensor([0, 4, 2])
    theirs, delta = IntegratedGradients(member).attribute(
        x, start, target=targets, n_steps=n_steps, method=method, return_convergence_delta=True
    )
    ours = integrated_gradients(member, x, targets, baselines=start[None], method=method, n_steps=n_steps)  # type: ignore[arg-type]
    # captum keeps its alphas and weights in float32
    torch.testing.assert_close(ours.mean, theirs, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours.convergence_delta, delta, rtol=1e-6, atol=1e-6)


def test_the_trapezoid_is_captums_with_weights_that_sum_to_one() -> None:
    member, x = smooth_mlp(0), torch.rand(3, 12).double()
    targets, n = torch.tensor([0, 4, 2]), 20
    theirs = IntegratedGradients(member).attribute(x, target=targets, n_steps=n, method="riemann_trapezoid")
    ours = integrated_gradients(
        member, x, targets, baselines=torch.zeros(1, 1, 12), method="riemann_trapezoid", n_steps=n
    ).mean
    torch.testing.assert_close(ours * (1 - 1 / n), theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weights", [None, torch.tensor([3.0, 0.0, 1.0])])
def test_baseline_sensitivity_is_that_of_captums_maps(weights: Tensor | None) -> None:
    """The sensitivity to the baseline is the mean distance of captums maps."""
    members, x, targets = (
        [smooth_mlp(seed) for seed in range(2)],
        torch.rand(4, 12).double(),
        torch.tensor([0, 4, 2, 1]),
    )
    starts = torch.rand(3, 4, 12).double()
    maps = torch.stack(
        [
            torch.stack(
                [
                    IntegratedGradients(member).attribute(x, start, target=targets, n_steps=9, method="riemann_middle")
                    for member in members
                ]
            ).mean(0)
            for start in starts
        ]
    )
    shares = torch.full((3,), 1 / 3) if weights is None else weights / weights.sum()
    mean = sum(share * one for share, one in zip(shares, maps, strict=True))
    pairs = [(0, 1), (0, 2), (1, 2)] if weights is None else [(0, 2)]
    size = maps.abs().sum(2)
    apart = torch.stack([2 * (maps[i] - maps[j]).abs().sum(1) / (size[i] + size[j]) for i, j in pairs]).mean(0)
    ours = integrated_gradients(members, x, targets, baselines=starts, baseline_weights=weights, n_steps=9)
    torch.testing.assert_close(ours.mean, mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours.baseline_sensitivity, apart, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_agrees_with_captum_on_images_with_an_inplace_relu(
    digits: tuple[Tensor, Tensor], trained: list[nn.Module]
) -> None:
    images, labels = digits[0][:4], digits[1][:4]
    theirs = IntegratedGradients(trained[0]).attribute(images, target=labels, n_steps=32, method="riemann_middle")
    ours = integrated_gradients(trained[0], images, labels, baselines=torch.zeros(1, 1, 1, 16, 16), n_steps=32).mean
    assert ((ours - theirs).abs().sum() / theirs.abs().sum()).item() < 1e-5


def test_saliency_and_input_x_gradient_agree_with_captum() -> None:
    member, x, targets = smooth_mlp(0), torch.rand(3, 12).double(), torch.tensor([0, 4, 2])
    torch.testing.assert_close(
        saliency(member, x, targets).mean, Saliency(member).attribute(x.clone().requires_grad_(), target=targets)
    )
    torch.testing.assert_close(
        input_x_gradient(member, x, targets).mean,
        InputXGradient(member).attribute(x.clone().requires_grad_(), target=targets).detach(),
    )


def test_members_times_baselines_is_captums_mean(digits: tuple[Tensor, Tensor], trained: list[nn.Module]) -> None:
    """Members times baselines is the mean of captums single runs."""
    images, labels = digits[0][:3], digits[1][:3]
    kinds = [Baseline.parse(text) for text in ("black", "blurred:sigma=2", "uniform:n=2")]
    stack, weights = baseline_stack(kinds, images, ["a", "b", "c"])
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6])
    ours = integrated_gradients(trained, images, labels, baselines=stack, baseline_weights=weights, n_steps=16)
    per_member = [
        sum(
            weight
            * IntegratedGradients(member).attribute(images, start, target=labels, n_steps=16, method="riemann_middle")
            for start, weight in zip(stack, weights.float(), strict=True)
        )
        for member in trained
    ]
    theirs = torch.stack(per_member)  # type: ignore[arg-type]
    torch.testing.assert_close(ours.mean, theirs.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.std, theirs.std(0, correction=0), rtol=1e-3, atol=1e-5)
    agreement = (theirs.sign() == theirs.mean(0).sign()).float().mean(0)
    assert (ours.sign_agreement == agreement).float().mean() > 0.999
