"""Networks for the tests of the numerics: smooth and ReLU ones with random weights, and CNNs trained on scans."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


def relu_cnn(seed: int, channels: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


def smooth_mlp(seed: int, features: int = 12, classes: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, 24), nn.Tanh(), nn.Linear(24, classes)).double()


def lively(member: nn.Module) -> nn.Module:
    """Batch norms with statistics of their own, as after training: folding them must show."""
    generator = torch.Generator().manual_seed(1)
    for module in member.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return member.eval()


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """Real scans (1797, 1, 16, 16) float32 in [0, 1] and their labels."""
    data = load_digits()
    images = torch.from_numpy((data.images / 16).astype(np.float32))[:, None]
    return nn.functional.interpolate(images, size=16, mode="bilinear"), torch.from_numpy(data.target).long()


@pytest.fixture(scope="session")
def trained(digits: tuple[Tensor, Tensor]) -> list[nn.Module]:
    """Two ReLU CNNs trained on bootstrap resamples of the scans (at least 90 % of held-out scans right)."""
    images, labels = digits
    members: list[nn.Module] = []
    for seed in (0, 1):
        member = relu_cnn(seed)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(0, 1400, (1400,), generator=generator)
        member(images[:2])
        optimizer = torch.optim.Adam(member.parameters(), lr=5e-3)
        for _ in range(20):
            for batch in drawn[torch.randperm(1400, generator=generator)].split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(member(images[batch]), labels[batch]).backward()
                optimizer.step()
        members.append(member.eval())
        accuracy = (member(images[1400:]).argmax(1) == labels[1400:]).float().mean().item()
        assert accuracy > 0.9, f"the fixture's network learned too little to test anything on: {accuracy:.3f}"
    return members
