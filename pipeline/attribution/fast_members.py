"""Fast variants of a member: layout, dtype and chunk size, chosen by measuring and verified against the member itself.

Interpolation, accumulation and completeness stay in the inputs' dtype; only the member's own passes change. Batch norm
is folded into the convolutions before it (1.7 times on ResNet-50 together with channels_last). Reduced precision is
tried on hardware with matrix units for it. The caller stores the choice.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from pipeline.attribution.batch import default_batch_size
from pipeline.attribution.ensemble import frozen
from pipeline.attribution.integrated_gradients import integrated_gradients
from pipeline.spec.choices import Output

DEFAULT_TOLERANCE = 0.03  # relative L1 error of maps of runs without a tolerance
ERROR_SHARE = 0.5  # share of the tolerance a variant may add; in quadrature with the nodes, sqrt(1 + 0.5^2) = 1.1
_STEPS, _ROWS = 16, 16  # nodes of the maps that are compared; rows of the passes that are timed
_GRADIENT_SCALE = 1024.0  # float16 loses gradients below 6e-8


@dataclass(frozen=True, slots=True)
class Choice:
    """The variant of a member, and its measurements."""

    name: str  # "as given", or words of: folded, channels_last, bfloat16 / float16, whole (else autocast)
    error: float  # relative L1 difference of maps, over all inputs, from those of the member as given
    speedup: float  # rows/s over those of the member as given


AS_GIVEN = Choice("as given", 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A member to use in place of another: same arguments, same results within `choice.error`."""

    member: nn.Module
    choice: Choice


def prepare(
    member: nn.Module,
    inputs: Tensor,
    *,
    baselines: Tensor | None = None,
    output: Output = "logit",
    tolerance: float = DEFAULT_TOLERANCE,
    only: str | None = None,
) -> Prepared:
    """The fastest variant of a member whose maps stay within half a tolerance of its own. The member is not changed.

    Args:
        member: (N, ...) float32 -> (N, classes), on the inputs' device.
        inputs: (N, ...) float32, a few real ones: maps of the predicted classes are compared.
        baselines: (K, N or 1, ...) baselines of these maps; zero by default.
        output: output that will be explained: "logit", "probability" or "log_probability".
        tolerance: relative L1 error that maps may have, above 0.
        only: name of the only variant to try, even if it is not faster.

    Returns:
        The variant, or the member itself if none is faster and exact enough.
    """
    with frozen([member]):
        targets = member(inputs).argmax(1)
        start = torch.zeros_like(inputs[:1])[None] if baselines is None else baselines

        def maps(variant: nn.Module) -> Tensor:
            found = integrated_gradients(variant, inputs, targets, baselines=start, n_steps=_STEPS, output=output)
            return found.mean.flatten(1).double()

        with products("highest", inputs.device):  # TF32 counts as an error too; cuDNN's convolutions use it by default
            exact = maps(member)
        with products("high", inputs.device):
            variants = _variants(member, inputs, only)
            given, *seconds = _seconds([member, *variants.values()], inputs, _ROWS)
            timed = sorted(zip(seconds, variants.items(), strict=True), key=lambda one: one[0])
            for taken, (name, variant) in timed:
                if only is None and taken > 0.95 * given:
                    break  # not worth a copy of the weights
                with suppress(Exception):  # it ran on one chunk, but not on this one
                    error = float((maps(variant) - exact).abs().sum() / exact.abs().sum())
                    if error <= ERROR_SHARE * tolerance:
                        return Prepared(variant, Choice(name, error, given / taken))
    return Prepared(member, AS_GIVEN)


@contextmanager
def products(precision: Literal["high", "highest"], device: torch.device) -> Iterator[None]:
    """Set the precision of float32 matrix products inside the block: "high" lets a GPU use TF32, as in `prepare`.

    The flag belongs to the process and is restored at the end. On a CPU it is not changed.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision if device.type == "cuda" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def measured_batch_size(members: Sequence[nn.Module], inputs: Tensor) -> int:
    """The fastest chunk size for these members, in rows: sizes are doubled until two in a row are not faster."""
    best, size, rate, misses = 8, 8, 0.0, 0
    limit = 1024 if inputs.is_cuda else max(default_batch_size(inputs), 8)  # a CPU's memory is the machine's
    while size <= limit and misses < 2:
        try:
            found = size / sum(_seconds(members, inputs, size))
        except (torch.OutOfMemoryError, MemoryError):
            break
        if found >= rate * 1.03:
            best, rate, misses = size, found, 0
        else:
            misses += 1
        size *= 2
    return best


def _seconds(members: Sequence[nn.Module], inputs: Tensor, rows: int) -> list[float]:
    """Seconds of a forward and backward pass of each member: the better of two passes, after one to warm up."""
    points = inputs[torch.arange(rows, device=inputs.device) % len(inputs)]
    best = [float("inf")] * len(members)
    with frozen(members):
        for repeat in range(3):
            for index, member in enumerate(members):
                start = time.perf_counter()
                _pass(member, points)
                best[index] = min(best[index], time.perf_counter() - start) if repeat else best[index]
    return best


def _pass(member: nn.Module, points: Tensor) -> None:
    leaf = points.clone().requires_grad_()
    torch.autograd.grad(member(leaf.clone()).float().sum(), leaf)
    if points.is_cuda:
        torch.cuda.synchronize()


def _variants(member: nn.Module, inputs: Tensor, only: str | None) -> dict[str, nn.Module]:
    """The variants of a member that run without an error, by name."""
    image, dtype = inputs.dim() == 4, reduced_dtype(inputs.device)  # (N, C, H, W)
    options: dict[str, dict[str, Any]] = {"folded": {}}
    if image:
        options["folded channels_last"] = {"channels_last": True}
    if dtype is not None:
        for whole in (False, True):
            name = f"folded {str(dtype).removeprefix('torch.')}{' whole' if whole else ''}"
            options[name] = {"channels_last": image, "dtype": dtype, "whole": whole}
    found: dict[str, nn.Module] = {}
    for name, chosen in options.items():
        if only in (None, name):
            with suppress(Exception):  # the user's code may not survive the transformation
                variant = Variant(_folded(deepcopy(member)), **chosen).eval().requires_grad_(False)
                _pass(variant, inputs[:1])
                found[name] = variant
    return found


def reduced_dtype(device: torch.device) -> torch.dtype | None:
    """The 16-bit type whose matrix products the device has units for."""
    if device.type == "cpu":
        amx, avx = (getattr(torch.cpu, f"_is_{name}_supported", bool) for name in ("amx_tile", "avx512_bf16"))
        return torch.bfloat16 if amx() or avx() else None
    if device.type == "cuda":
        major = torch.cuda.get_device_capability(device)[0]
        return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else None
    return None


class Variant(nn.Module):
    """A member in another memory format, and in a 16-bit type: under autocast, or as a whole."""

    def __init__(
        self, body: nn.Module, *, channels_last: bool = False, dtype: torch.dtype | None = None, whole: bool = False
    ) -> None:
        super().__init__()
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.body = body.to(memory_format=self.format) if channels_last else body
        self.body = self.body.to(dtype) if whole else self.body
        self.dtype, self.whole = dtype, whole
        self.scale = _GRADIENT_SCALE if dtype == torch.float16 else 1.0

    def forward(self, points: Tensor) -> Tensor:
        """Points (N, ...) float32 -> logits (N, classes) float32."""
        points = _scaled(points, 1 / self.scale).contiguous(memory_format=self.format)
        logits: Tensor
        if self.dtype is None:
            logits = self.body(points)
            return logits
        with torch.autocast(points.device.type, self.dtype, enabled=not self.whole):
            logits = self.body(points.to(self.dtype) if self.whole else points)
        return _scaled(logits.float(), self.scale)


def _scaled(values: Tensor, scale: float) -> Tensor:
    """The same values, with gradients multiplied by `scale`."""
    if scale != 1 and values.requires_grad:
        values = values.view_as(values)
        values.register_hook(lambda gradient: gradient * scale)  # type: ignore[no-untyped-call]  # torch ships this method without annotations
    return values


def _folded(module: nn.Module) -> nn.Module:
    """Fold batch norm into the convolutions before it, in the module or, if torch.fx cannot trace it, its children."""
    if not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in list(module.modules())[1:]):
        return module
    try:
        return fuse(module.eval())
    except Exception:  # raised by the user's forward
        for name, child in module.named_children():
            setattr(module, name, _folded(child))
        return module
