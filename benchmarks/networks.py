"""Networks and real images that the figures are measured on."""

from functools import cache

import numpy as np
import torch
import torchvision
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def small_resnet() -> nn.Module:
    """A residual ReLU network for 16 x 16 greyscale images, 10 classes."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        Residual(16),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        Residual(32),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Handwritten digits, real scans: (1797, 1, 16, 16) in [0, 1], and labels."""
    data = load_digits()
    images = torch.from_numpy((data.images / 16).astype(np.float32))[:, None]
    return nn.functional.interpolate(images, size=16, mode="bilinear"), torch.from_numpy(data.target).long()


@cache
def trained(count: int = 3) -> tuple[nn.Module, ...]:
    """Bagged residual networks, trained on bootstrap resamples of the first 1,400 scans."""
    images, labels = digits()
    members = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        member = small_resnet()
        drawn = torch.randint(0, 1400, (1400,), generator=generator)
        optimizer = torch.optim.Adam(member.parameters(), lr=3e-3)
        for _ in range(8):
            for batch in drawn[torch.randperm(1400, generator=generator)].split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(member(images[batch]), labels[batch]).backward()
                optimizer.step()
        members.append(member.eval())
    return tuple(members)


def accuracy(member: nn.Module) -> float:
    """On the scans that no member was trained on."""
    images, labels = digits()
    with torch.no_grad():
        return (member(images[1400:]).argmax(1) == labels[1400:]).float().mean().item()


def photographs(count: int, size: int) -> Tensor:
    """Crops of scikit-learn's two photographs, (count, 3, size, size) in [0, 1]."""
    photos = [torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 for image in load_sample_images().images]
    generator = torch.Generator().manual_seed(0)
    crops = []
    for index in range(count):
        photo = photos[index % len(photos)]
        top = int(torch.randint(0, photo.shape[1] - size, (1,), generator=generator))
        left = int(torch.randint(0, photo.shape[2] - size, (1,), generator=generator))
        crops.append(photo[:, top : top + size, left : left + size])
    return torch.stack(crops)


def zoo(name: str) -> nn.Module:
    """A torchvision classifier with random weights: its speed is that of the trained one."""
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None).eval()


def relative_errors(found: Tensor, exact: Tensor) -> Tensor:
    """Relative L1 error of each map, (N,) float64."""
    found, exact = found.double().flatten(1), exact.double().flatten(1)
    return (found - exact).abs().sum(1) / exact.abs().sum(1)
