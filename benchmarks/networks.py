"""Networks and real images of the benchmarks: small networks trained here, torchvision's only for speed.

Functions import scikit-learn and torchvision themselves: the benchmarks of a GPU run without them too.
"""

import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FASHION = Path("/usr/share/datasets/fashion-mnist")  # folder of Debian's package dataset-fashion-mnist
DRAWN = 8_000  # training images for bootstrap resamples; the others are for calibration
MEMBERS = 3


@dataclass(frozen=True)
class Scans:
    """Grayscale pictures (N, 1, 28, 28) in [0, 1] and labels (N,), in three parts that share no picture."""

    name: str
    train: tuple[Tensor, Tensor]
    calibration: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]


@cache
def scans() -> Scans:
    """Fashion-MNIST if Debian's package is installed, else scikit-learn's digits, enlarged."""
    if FASHION.is_dir():
        images, labels = _fashion("train")
        return Scans(
            "Fashion-MNIST", (images[:DRAWN], labels[:DRAWN]), (images[DRAWN:], labels[DRAWN:]), _fashion("t10k")
        )
    from sklearn.datasets import load_digits

    data = load_digits()
    small = torch.from_numpy((data.images / 16).astype(np.float32))[:, None]
    images, labels = nn.functional.interpolate(small, size=28, mode="bilinear"), torch.from_numpy(data.target).long()
    parts = [(images[part], labels[part]) for part in (slice(1300), slice(1300, 1500), slice(1500, None))]
    return Scans("scikit-learn's digits (dataset-fashion-mnist is not installed)", *parts)


def _fashion(part: str) -> tuple[Tensor, Tensor]:
    pixels, labels = (
        np.frombuffer(gzip.decompress((FASHION / f"{part}-{name}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for name, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    images = torch.from_numpy((pixels.reshape(-1, 1, 28, 28) / np.float32(255)).astype(np.float32))
    return images, torch.from_numpy(labels.astype(np.int64))


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_convolution(width, width), *_convolution(width, width)[:2])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def _convolution(channels: int, width: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


def small_resnet() -> nn.Module:
    """A residual ReLU network for 28 x 28 grayscale images, 10 classes."""
    return nn.Sequential(
        *_convolution(1, 8),
        *_convolution(8, 16, stride=2),
        Residual(16),
        *_convolution(16, 32, stride=2),
        Residual(32),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


@cache
def trained() -> tuple[nn.Module, ...]:
    """Bagged residual networks, each trained on a bootstrap resample for two epochs (digits: twelve)."""
    images, labels = scans().train
    members = []
    for seed in range(MEMBERS):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        member = small_resnet()
        drawn = torch.randint(0, len(images), (len(images),), generator=generator)
        optimizer = torch.optim.Adam(member.parameters())
        epochs, batches = 2 if len(drawn) > 5000 else 12, -(-len(drawn) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * batches)
        for _ in range(epochs):
            for batch in torch.split(drawn[torch.randperm(len(drawn), generator=generator)], 64):
                optimizer.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(member(images[batch]), labels[batch]))
                optimizer.step()
                schedule.step()
        members.append(member.eval().requires_grad_(False))
    return tuple(members)


@torch.no_grad()
def accuracy(member: nn.Module) -> float:
    """Accuracy of a member on a thousand pictures that no member was trained on."""
    images, labels = scans().held_out
    return float((member(images[-1000:]).argmax(1) == labels[-1000:]).float().mean())


def photographs(count: int, size: int) -> Tensor:
    """Crops of scikit-learn's two photographs and of scikit-image's, (count, 3, size, size) in [0, 1]."""
    from sklearn.datasets import load_sample_images

    pictures = list(load_sample_images().images)
    try:
        from skimage import data
    except ImportError:  # optional: the two of scikit-learn suffice
        pass
    else:
        pictures += [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    photos = [torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255 for picture in pictures]
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
    import torchvision

    torch.manual_seed(0)
    network: nn.Module = torchvision.models.get_model(name, weights=None).eval().requires_grad_(False)
    return network
