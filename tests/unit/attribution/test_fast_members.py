"""A member that is run faster gives the same maps: folded, in another layout, in 16 bits."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from pipeline.attribution import fast_members, integrated_gradients, measured_batch_size, prepare
from pipeline.attribution.batch import default_batch_size
from tests.support.networks import lively, relu_cnn

TOLERANCE = 0.03


class Untraceable(nn.Module):
    """Its forward looks at values, which torch.fx cannot follow; its children are ordinary."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().sum() < 0:
            x = -x
        out: Tensor = self.head(self.block(x).mean((2, 3)))
        return out


class Residual(nn.Module):
    """An in-place ReLU on a sum, and a convolution whose output is used twice: its batch norm must not be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        out: Tensor = self.head(self.act(self.norm(y) + y).mean((2, 3)))
        return out


class SharedConvolution(nn.Module):
    """One convolution before two batch norms: folding both into it would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.conv(x)).relu()
        out: Tensor = self.head(self.second(self.conv(x)).relu().mean((2, 3)))
        return out


def cnn() -> nn.Module:
    member = relu_cnn(0, channels=3)
    member(torch.zeros(2, 3, 32, 32))
    return member


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
    )


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], num_classes=10
    )


def mobilenet() -> nn.Module:
    return torchvision.models.mobilenet_v3_small(num_classes=10)


MEMBERS = [cnn, Untraceable, Residual, SharedConvolution, mobilenet, vit, swin]


def images(n: int = 3) -> Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    member = lively(make())
    head = [module for module in member.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.normal_(head.weight, std=0.1)  # torchvision's ViT starts with zeros: a map of nothing
    return member


def difference(member: nn.Module, other: nn.Module, x: Tensor) -> float:
    targets = torch.arange(len(x))
    ours, theirs = (
        integrated_gradients(m, x, targets, baselines=torch.zeros(1, 1, 3, 32, 32), n_steps=12).mean
        for m in (member, other)
    )
    return ((ours - theirs).abs().sum() / ours.abs().sum()).item()


@pytest.mark.slow
@pytest.mark.parametrize("make", MEMBERS)
def test_auto_is_float32_within_half_the_tolerance(make: Callable[[], nn.Module]) -> None:
    member = built(make)
    prepared = prepare(member, images(), tolerance=TOLERANCE)
    assert prepared.choice.error <= TOLERANCE / 2
    assert prepared.choice.name == "as given" or prepared.choice.speedup > 1
    assert difference(member, prepared.member, images(6).flip(3)) <= TOLERANCE / 2


@pytest.mark.slow
@pytest.mark.parametrize("make", MEMBERS)
@pytest.mark.parametrize("name", ["folded", "folded channels_last"])
def test_folding_and_layout_are_exact_to_float32(make: Callable[[], nn.Module], name: str) -> None:
    """Folding and layout are exact to float32 where they are used."""
    member = built(make)
    prepared = prepare(member, images(), tolerance=1e-3, only=name)
    assert difference(member, prepared.member, images(6).flip(3)) < 1e-3
    assert prepared.choice.name == ("as given" if make is SharedConvolution else name)


@pytest.mark.slow
@pytest.mark.parametrize("make", [cnn, Untraceable, mobilenet])
def test_batch_norm_is_folded_where_torch_fx_traces(make: Callable[[], nn.Module]) -> None:
    member = built(make)
    folded = prepare(member, images(), only="folded").member
    assert any(isinstance(module, nn.BatchNorm2d) for module in member.modules()), "the member is left as it was"
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


@pytest.mark.slow
@pytest.mark.parametrize("make", [cnn, vit, swin])
@pytest.mark.parametrize("kind", ["bfloat16", "bfloat16 whole", "float16", "float16 whole"])
def test_sixteen_bits_are_used_only_within_the_tolerance(
    make: Callable[[], nn.Module], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on hardware that has them: correct here, only slow."""
    dtype = getattr(torch, kind.split()[0])
    monkeypatch.setattr(fast_members, "reduced_dtype", lambda _: dtype)
    member = built(make)
    loose = prepare(member, images(), tolerance=0.5, only=f"folded {kind}")
    assert loose.choice.name == f"folded {kind}"
    assert 0 < loose.choice.error < 0.1
    assert loose.member(images()).dtype == torch.float32
    assert difference(member, loose.member, images(6).flip(3)) < 0.15
    tight = prepare(member, images(), tolerance=1e-5, only=f"folded {kind}")
    assert tight.choice.name == "as given"
    assert tight.member is member


def test_what_breaks_is_no_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class Float32Only(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32 or not x.is_contiguous():
                raise TypeError
            return x.flatten(1)[:, :10] * 2

    monkeypatch.setattr(fast_members, "reduced_dtype", lambda _: torch.bfloat16)
    member = Float32Only()
    assert difference(member, prepare(member, images()).member, images()) < 1e-6
    assert prepare(member, images(), only="folded channels_last").choice.name == "as given"
    assert prepare(member, images(), only="folded bfloat16 whole").choice.name == "as given"


def test_the_member_is_left_as_it_was() -> None:
    member = built(cnn).train()
    before = {name: value.clone() for name, value in member.state_dict().items()}
    prepare(member, images())
    assert member.training
    assert all(parameter.requires_grad for parameter in member.parameters())
    for name, value in member.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_measured_chunk_is_a_power_of_two_within_the_bounds() -> None:
    size = measured_batch_size([built(cnn)], images())
    assert size in {8, 16, 32, 64, 128, 256, 512, 1024}
    assert size <= default_batch_size(images())


def test_a_chunk_that_does_not_fit_ends_the_search() -> None:
    class Full(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 16:
                raise torch.OutOfMemoryError
            return x.flatten(1)[:, :10] * 2

    assert measured_batch_size([Full()], images()) <= 16


def test_auto_is_no_precision_of_one_call() -> None:
    with pytest.raises(ValueError, match="chosen once per member"):
        integrated_gradients(
            built(cnn), images(), torch.zeros(3).long(), baselines=torch.zeros(1, 1, 3, 32, 32), precision="auto"
        )


def test_tf32_is_allowed_inside_and_the_flag_is_left_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    seen: list[str] = []

    def fail() -> None:
        with fast_members.products("high", torch.device("cuda")):
            seen.append(torch.get_float32_matmul_precision())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert seen == ["high"]
    assert torch.get_float32_matmul_precision() == before == "highest"
    with fast_members.products("high", torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == before
