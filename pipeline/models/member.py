"""The module that is explained, a model with its normalization, and the trial that it must pass before a run starts."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.spec.run_spec import Preprocess

PROBED = 16  # outputs whose values for noise are recorded
ROWS_APART = 1e-3  # largest relative change of an image's logits that other images of the batch may cause


class Member(nn.Module):
    """Pixels (N, C, H, W) in [0, 1] to logits (N, classes): normalization, then the model. Frozen, in eval mode."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64)[:, None, None])  # (C, 1, 1)
        self.body = body
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return logits_of(self.body((pixels - self.mean) / self.std))


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of a pass of two images of noise through a model."""

    outputs: int  # classes
    probe: tuple[str, ...]  # first logits and sums of the gradient, to 3 digits; they change with the code


def try_member(module: nn.Module, preprocess: Preprocess) -> Trial:
    """A forward and a backward pass of two images of noise.

    Raises:
        ModelError: the model raised, its output is not a finite (N, classes) tensor with a gradient, or rows of a
            batch depend on each other.
    """
    shape = (2, preprocess.channels, preprocess.height, preprocess.width)
    try:
        member = Member(module, preprocess).float()
        pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with torch.enable_grad():
            logits = member(pixels)
        alone = member(pixels[:1].detach())
    except (Exception, SystemExit) as error:  # raised by the user's code
        name, expected = first_layer(module)
        if expected not in (0, preprocess.channels):
            wrong = f"{expected} channels, and would be given {preprocess.channels}"
            raise ModelError(
                f"its first layer, {name}, takes {wrong}; set `ModelRequest.channels` to {expected}"
            ) from error
        raise ModelError(
            f"batch {shape}: {error_text(error)}; check `ModelRequest.input_size` and `ModelRequest.channels`"
        ) from error
    if logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < 1:
        raise ModelError(f"it gives {tuple(logits.shape)} for {shape}; wrap it so that it gives (N, classes)")
    if not torch.isfinite(logits).all():
        raise ModelError(
            "it gives NaN or infinity for noise in [0, 1]; check `ModelRequest.weights`, `ModelRequest.mean` and "
            "`ModelRequest.std`"
        )
    gradient = None
    if logits.requires_grad:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(logits.sum(), pixels, allow_unused=True)
    if gradient is None or not torch.isfinite(gradient).all():
        raise ModelError("no finite gradient reaches its input; does it use no_grad, detach, argmax or round?")
    if (logits[:1] - alone).abs().max() > ROWS_APART * logits.abs().max().clamp(min=1e-6):
        why = "does it normalize over the batch, or draw random numbers in eval mode?"
        raise ModelError(f"its output for an image changes with the other images of the batch, or with time; {why}")
    # The sums of the gradient show a changed backward pass: other hooks, another autograd function.
    sizes = [gradient.sum().item(), gradient.abs().sum().item()]
    scale = logits[0].abs().max().item() / max(sizes[1], 1e-30)  # as large as logits, so that one bound does for both
    figures = logits[0, :PROBED].tolist() + [size * scale for size in sizes]
    return Trial(logits.shape[1], tuple(f"{value:.2e}" for value in figures))


def same_probe(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two trials gave the same logits, up to differences between machines."""
    ones, others = torch.tensor([float(v) for v in one]), torch.tensor([float(v) for v in other])
    return len(ones) == len(others) and bool((ones - others).abs().max() <= 0.03 * ones.abs().max().clamp(min=1e-6))


def logits_of(output: Any) -> Tensor:
    """The logits in a model's output: a tensor, `.logits`, a dict's "logits" or "out", or the first item of a tuple."""
    if isinstance(output, Mapping):
        output = output.get("logits", output.get("out"))
    elif isinstance(output, tuple | list):
        output = output[0] if output else None
    found = getattr(output, "logits", output)
    if not isinstance(found, Tensor):
        expected = 'a tensor, `.logits`, a "logits" or "out" key, or a tuple that starts with logits'
        raise TypeError(f"it returns {type(output).__name__}; expected {expected}")
    return found


def first_layer(module: nn.Module) -> tuple[str, int]:
    """Name and input channels of the first convolution; "" and 0 if there is none."""
    layers = ((name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d))
    return next(((name, layer.in_channels) for name, layer in layers), ("", 0))


def error_text(error: BaseException) -> str:
    """An exception in one line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder="...")
