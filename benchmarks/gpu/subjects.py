"""Networks and images of the measurements: the full form, and a small form that a CPU computes in seconds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import networks
from benchmarks.gpu import lite0
from benchmarks.gpu.device import Device
from benchmarks.networks import zoo


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    networks: Mapping[str, Callable[[], nn.Module]]  # with random weights, in addition to EfficientNet-Lite0
    pixels: int  # height and width
    images: int  # to explain; another as many are for calibration
    steps: int  # default of captum in the full form
    reference_steps: tuple[int, ...]  # midpoints of the reference maps, most first
    arithmetic_steps: int  # nodes of the maps whose arithmetic is compared
    chunks: tuple[int, ...]  # rows of a forward and backward pass, ascending
    captum_chunks: tuple[int, ...]  # candidates for captum, ascending
    rounds: int  # timed calls of each side at most
    matmul: int  # rows and columns of the matmuls


def _small_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    network: nn.Module = VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10)
    return network


FULL = Sizes(
    networks={"ResNet-50": lambda: zoo("resnet50"), "ViT-B/16": lambda: zoo("vit_b_16")},
    pixels=224,
    images=16,
    steps=50,
    reference_steps=(1024, 512, 256),
    arithmetic_steps=32,
    chunks=(8, 16, 32, 64, 128, 256, 512, 1024),
    captum_chunks=(64, 256, 512),
    rounds=3,
    matmul=8192,
)
SMALL = Sizes(
    networks={"ShuffleNet": lambda: zoo("shufflenet_v2_x0_5"), "small ViT": _small_vit},
    pixels=32,
    images=2,
    steps=8,
    reference_steps=(32, 16),
    arithmetic_steps=4,
    chunks=(8, 16),
    captum_chunks=(4, 8),
    rounds=1,
    matmul=128,
)


@dataclass(frozen=True)
class Subject:
    """A network on the device, which maps pixels in [0, 1] to logits, and its images."""

    name: str
    weights: str
    member: nn.Module
    images: Tensor  # (N, 3, H, W) in [0, 1]
    targets: Tensor  # (N,) the predicted classes
    others: Tensor  # (N, 3, H, W) images for calibration

    @property
    def black(self) -> Tensor:
        """The black baseline, (1, 1, 3, H, W)."""
        return torch.zeros_like(self.images[:1])[None]

    @torch.no_grad()
    def flop(self) -> int:
        """Floating-point operations of a forward pass of one image."""
        with FlopCounterMode(display=False) as counter:
            self.member(self.images[:1])
        total: int = counter.get_total_flops()
        return total


def images_of(sizes: Sizes) -> tuple[Tensor, str]:
    """Images to explain, then as many for calibration, (2 N, 3, H, W) in [0, 1]; and their origin in words."""
    count = 2 * sizes.images
    try:
        return networks.photographs(count, sizes.pixels), "crops of the photographs of scikit-learn and scikit-image"
    except (ImportError, OSError):
        return noise(count, sizes.pixels), "1/f noise, because scikit-learn's photographs are not installed"


def noise(count: int, size: int) -> Tensor:
    """Random images with the spectrum of photographs, (count, 3, size, size) in [0, 1]."""
    white = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.meshgrid(torch.fft.fftfreq(size), torch.fft.fftfreq(size), indexing="ij")
    amplitude = 1 / (rows.square() + columns.square()).sqrt().clamp(min=1 / size)
    values = torch.fft.ifft2(torch.fft.fft2(white) * amplitude).real
    low, high = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
    images: Tensor = (values - low) / (high - low)
    return images


def random_subject(name: str, sizes: Sizes, device: Device, images: Tensor) -> Subject:
    """A network of `sizes` whose weights are random.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    body = Normalized(sizes.networks[name](), 0.5, 0.25).to(device.torch)
    settle(body, images.to(device.torch))
    return _subject(name, "random weights", body, images.to(device.torch))


def lite0_subject(device: Device, images: Tensor) -> Subject:
    """EfficientNet-Lite0 with its published weights.

    Raises:
        ModuleNotFoundError: they are not installed.
    """
    file = lite0.weights_file()
    body = Normalized(lite0.lite0(file), lite0.MEAN, lite0.STD).to(device.torch)
    return _subject("EfficientNet-Lite0", f"pretrained, {file.name}", body, images.to(device.torch))


def _subject(name: str, weights: str, member: nn.Module, images: Tensor) -> Subject:
    member = member.eval().requires_grad_(False)
    count = len(images) // 2
    with torch.no_grad():
        targets = member(images[:count]).argmax(1)
    return Subject(name, weights, member, images[:count], targets, images[count:])


@torch.no_grad()
def settle(network: nn.Module, images: Tensor) -> None:
    """Set statistics of batch norms as in training, and random weights in layers of zeros (the head of a new ViT)."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
        if isinstance(module, nn.Linear) and not module.weight.any():
            module.weight.normal_(0, module.in_features**-0.5, generator=_generator(module.weight.device))
    network.train()
    network(images)
    network.eval()


def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


class Normalized(nn.Module):
    """A network that normalizes its input itself, so that the black baseline is black and not the mean color."""

    def __init__(self, body: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.body, self.mean, self.std = body, mean, std

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) in [0, 1] -> logits (N, classes)."""
        logits: Tensor = self.body((pixels - self.mean) / self.std)
        return logits
