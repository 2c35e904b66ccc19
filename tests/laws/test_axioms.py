"""The axioms of Integrated Gradients (Sundararajan, Taly, Yan 2017), and closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.attribution import input_x_gradient, integrated_gradients, saliency
from tests.support.networks import relu_cnn, smooth_mlp

ZERO = torch.zeros(1, dtype=torch.int64)


class OneMinusReLU(nn.Module):
    """f(x) = 1 - ReLU(1 - x), the paper's example: flat at x = 2, so its gradient there is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 - torch.relu(1 - x)


class Quadratic(nn.Module):
    """f(x) = x A x, whose IG from 0 is x * (A + A^T) x / 2 in closed form."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.matrix * x).sum(1, keepdim=True)


def ig(member: nn.Module, x: Tensor, target: int = 0, baseline: float = 0.0, **options: object) -> Tensor:
    targets = torch.full((len(x),), target)
    start = torch.full_like(x[:1], baseline)[None]
    return integrated_gradients(member, x, targets, baselines=start, **options).mean  # type: ignore[arg-type]


def test_sensitivity_a_holds_where_the_plain_gradient_fails() -> None:
    x = torch.tensor([[2.0]], dtype=torch.float64)
    assert saliency(OneMinusReLU(), x, ZERO).mean.item() == 0
    assert input_x_gradient(OneMinusReLU(), x, ZERO).mean.item() == 0
    assert ig(OneMinusReLU(), x).item() == pytest.approx(1.0)


def test_sensitivity_b_no_influence_gives_exactly_zero() -> None:
    """Sensitivity b a feature without influence gets exactly zero."""
    member = smooth_mlp(0)
    with torch.no_grad():
        member[0].weight[:, 3] = 0  # type: ignore[union-attr,operator]
    x = torch.rand(4, 12, dtype=torch.float64)
    assert (ig(member, x)[:, 3] == 0).all()


def test_implementation_invariance() -> None:
    """Implementation invariance two networks of one function get one map."""
    first = smooth_mlp(0)
    order = torch.randperm(24)
    second = smooth_mlp(1)
    with torch.no_grad():  # the same hidden units in another order, one of them split in two halves, signs flipped
        second[0].weight.copy_(-first[0].weight[order])
        second[0].bias.copy_(-first[0].bias[order])
        second[2].weight.copy_(-first[2].weight[:, order])
        second[2].bias.copy_(first[2].bias)
    x = torch.rand(4, 12, dtype=torch.float64)
    torch.testing.assert_close(second(x), first(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ig(second, x), ig(first, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("output", ["logit", "probability", "log_probability"])
def test_completeness_the_map_sums_to_the_change_of_the_output(output: str) -> None:
    member, x = smooth_mlp(0), torch.rand(6, 12, dtype=torch.float64)
    targets = torch.arange(6) % 5
    found = integrated_gradients(
        member, x, targets, baselines=torch.zeros(1, 1, 12), method="gausslegendre", n_steps=40, output=output
    )
    assert found.convergence_delta.abs().max() < 1e-12
    logits, start = member(x), member(torch.zeros_like(x))
    change = {
        "logit": lambda z: z,
        "probability": lambda z: z.softmax(1),
        "log_probability": lambda z: z.log_softmax(1),
    }
    expected = (change[output](logits) - change[output](start)).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found.mean.sum(1), expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.output - found.baseline_output, expected.detach(), rtol=1e-10, atol=1e-12)


def test_the_reported_delta_is_that_of_its_definition() -> None:
    """The reported delta is the sum of the map minus the change of the output."""
    member, x = relu_cnn(0), torch.rand(3, 1, 16, 16)
    member(x)
    start = torch.rand(2, 3, 1, 16, 16)
    found = integrated_gradients(member, x, torch.tensor([1, 2, 3]), baselines=start, n_steps=5)
    change = found.output - found.baseline_output
    torch.testing.assert_close(
        found.convergence_delta, found.mean.flatten(1).sum(1).double() - change, rtol=1e-4, atol=1e-5
    )
    assert found.convergence_delta.abs().max() > 1e-4, "five steps on a ReLU network leave a gap to speak of"
    torch.testing.assert_close(found.completeness_gap, found.convergence_delta.abs() / change.abs())


def test_linearity_in_the_model() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = smooth_mlp(0), smooth_mlp(1)

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.a(x) - 3 * self.b(x)

    both, x = Sum(), torch.rand(4, 12, dtype=torch.float64)
    torch.testing.assert_close(ig(both, x), 2 * ig(both.a, x) - 3 * ig(both.b, x), rtol=1e-10, atol=1e-12)


def test_symmetry_equal_features_get_equal_shares() -> None:
    """Symmetry interchangeable features of equal value get equal shares."""
    member = smooth_mlp(0)
    with torch.no_grad():
        member[0].weight[:, 1] = member[0].weight[:, 0]  # type: ignore[union-attr,operator,index]
    x = torch.rand(4, 12, dtype=torch.float64)
    x[:, 1] = x[:, 0]
    found = ig(member, x)
    torch.testing.assert_close(found[:, 1], found[:, 0])


def test_affine_invariance_of_normalisation() -> None:
    """Affine invariance normalising inside the member changes nothing."""

    class Normalised(nn.Module):
        def __init__(self, member: nn.Module) -> None:
            super().__init__()
            self.member = member

        def forward(self, pixels: Tensor) -> Tensor:
            return self.member((pixels - 0.4) / 0.2)

    member, pixels = smooth_mlp(0), torch.rand(4, 12, dtype=torch.float64)
    inside = ig(Normalised(member), pixels, baseline=0.0)
    outside = ig(member, (pixels - 0.4) / 0.2, baseline=(0.0 - 0.4) / 0.2)
    torch.testing.assert_close(inside, outside, rtol=1e-10, atol=1e-12)


@given(st.integers(0, 2**31), st.sampled_from(["riemann_left", "riemann_middle", "riemann_right", "gausslegendre"]))
@settings(max_examples=20, deadline=None)
def test_linear_model_gives_weight_times_difference_in_one_step(seed: int, method: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 7, dtype=torch.float64, generator=generator)
    member = nn.Linear(7, 3).double()
    with torch.no_grad():
        member.weight.copy_(weight)
    x, start = torch.randn(2, 1, 7, dtype=torch.float64, generator=generator)
    found = integrated_gradients(
        member,
        x,
        torch.tensor([2]),
        baselines=start[None],
        method=method,
        n_steps=1,  # type: ignore[arg-type]
    )
    torch.testing.assert_close(found.mean[0], weight[2] * (x - start)[0])
    assert found.convergence_delta.abs().max() < 1e-12


def test_quadratic_model_is_exact_with_one_midpoint() -> None:
    matrix = torch.randn(6, 6, dtype=torch.float64)
    x = torch.randn(3, 6, dtype=torch.float64)
    found = ig(Quadratic(matrix), x, method="riemann_middle", n_steps=1)
    torch.testing.assert_close(found, x * (x @ (matrix + matrix.T)) / 2)


def test_input_x_gradient_is_that_of_its_definition() -> None:
    """Input times gradient is the gradient at the input times the input."""
    member, x = smooth_mlp(0), torch.rand(3, 12, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(member(x)[:, 2].sum(), x)
    targets = torch.full((3,), 2)
    torch.testing.assert_close(input_x_gradient(member, x, targets).mean, (x * gradient).detach())
    torch.testing.assert_close(saliency(member, x, targets).mean, gradient.abs())
