"""Validate a batch, and evaluate outputs and gradients of its rows (input x baseline x alpha)."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.spec.choices import OUTPUTS, PRECISIONS, Output, Precision


@dataclass(frozen=True, slots=True)
class Problem:
    """A validated batch and the options of its evaluation."""

    inputs: Tensor  # (N, ...)
    targets: Tensor  # (N,)
    baselines: Tensor  # (K, N or 1, ...)
    weights: Tensor  # (K,) float64, sums to 1
    output: Output
    batch_size: int
    autocast: bool
    multiply: bool  # multiply gradients by x - x'

    def outputs(self, member: nn.Module, points: Tensor, targets: Tensor) -> Tensor:
        """Target outputs of one chunk: points (B, ...), targets (B,) -> (B,) in at least float32."""
        context: AbstractContextManager[object] = nullcontext()
        if self.autocast:
            context = torch.autocast(points.device.type, torch.bfloat16)
        with context:
            logits = member(points)
        if logits.dim() != 2 or len(logits) != len(points):
            raise ValueError(f"a member maps {tuple(points.shape)} to {tuple(logits.shape)}, not to (N, classes)")
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.output == "probability":
            logits = logits.softmax(1)
        elif self.output == "log_probability":
            logits = logits.log_softmax(1)
        if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < logits.shape[1]:
            culprit = int(targets.max()) if int(targets.max()) >= logits.shape[1] else int(targets.min())
            raise ValueError(f"target {culprit} is outside 0..{logits.shape[1] - 1}, the classes of the member")
        chosen: Tensor = logits.gather(1, targets[:, None])[:, 0]
        return chosen

    def gradient(self, member: nn.Module, points: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Target outputs (B,) at points (B, ...), and their gradients (B, ...)."""
        points.requires_grad_()
        # A copy, because a member may begin with an in-place operation, which a leaf would refuse.
        outputs = self.outputs(member, points.clone(), targets)
        (gradient,) = torch.autograd.grad(outputs.sum(), points)
        return outputs.detach(), gradient

    def chunks(self, rows: int) -> Iterator[slice]:
        """Full chunks of `rows` rows laid end to end; only the last may be smaller."""
        return (slice(start, min(start + self.batch_size, rows)) for start in range(0, rows, self.batch_size))

    def ends_of(self, i: int, k: int) -> tuple[Tensor, Tensor]:
        """Baseline and input of one path, each (...)."""
        return self.baselines[k, i if self.baselines.shape[1] > 1 else 0], self.inputs[i]

    @torch.no_grad()
    def ends(self, member: nn.Module) -> tuple[Tensor, Tensor]:
        """F(x') (K, N) and F(x) (N,), float64. A baseline that all inputs share is evaluated once per target."""
        K, N = len(self.baselines), len(self.inputs)
        unique, inverse = torch.unique(self.targets, return_inverse=True)
        shared = self.baselines.shape[1] == 1
        targets = unique if shared else self.targets  # (T,)
        points = self.baselines.expand(K, len(targets), *self.inputs.shape[1:]) if shared else self.baselines
        start = self.forward(member, points.flatten(0, 1), targets.repeat(K)).view(K, -1)  # (K, T)
        return start[:, inverse] if shared else start, self.forward(member, self.inputs, self.targets).view(N)

    def forward(self, member: nn.Module, points: Tensor, targets: Tensor) -> Tensor:
        """Target outputs (B,) float64 at any number of points (B, ...), chunk by chunk."""
        values = [self.outputs(member, points[chunk].clone(), targets[chunk]) for chunk in self.chunks(len(points))]
        return torch.cat(values).double()


def path_runs(chunk: slice, length: int) -> Iterator[tuple[int, slice, slice]]:
    """The paths in a chunk of rows laid end to end, `length` rows each: path, its rows of the chunk, its alphas."""
    at = chunk.start
    while at < chunk.stop:
        index, first = divmod(at, length)
        last = min(length, first + chunk.stop - at)
        yield index, slice(at - chunk.start, at - chunk.start + last - first), slice(first, last)
        at += last - first


def problem_of(
    members: nn.Module | Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    baselines: Tensor,
    *,
    baseline_weights: Tensor | None = None,
    output: Output = "logit",
    internal_batch_size: int | None = None,
    precision: Precision = "float32",
    multiply: bool = True,
) -> tuple[Problem, Sequence[nn.Module]]:
    """Check the arguments of `integrated_gradients`.

    Args:
        members: one module or several, each (N, ...) float -> (N, classes).
        inputs: (N, ...) float.
        targets: (N,) int64.
        baselines: (K, N, ...), or (K, 1, ...) for shared baselines.
        baseline_weights: (K,) non-negative; equal shares by default.
        output: "logit", "probability" or "log_probability".
        internal_batch_size: rows of one pass, 1 or more; chosen from the input's size by default.
        precision: "float32", "float64" or "bfloat16", see `integrated_gradients`.
        multiply: multiply gradients by x - x'.

    Returns:
        The batch, and the members as a list, which are copies in double for "float64".

    Raises:
        ValueError: shapes do not fit, or an option has an unknown value.
    """
    members = [members] if isinstance(members, nn.Module) else list(members)
    if not members:
        raise ValueError("members is empty; give at least one module")
    _check_shapes(inputs, targets, baselines)
    _check_options(output, internal_batch_size, precision)
    weights = torch.ones(len(baselines)) if baseline_weights is None else baseline_weights
    if weights.shape != (len(baselines),) or bool((weights < 0).any()) or not weights.sum() > 0:
        raise ValueError(f"baseline_weights must be {len(baselines)} non-negative numbers, not all 0")
    if precision == "float64" and inputs.dtype != torch.float64:
        inputs, members = inputs.double(), [deepcopy(member).double() for member in members]
    weights = weights.to(inputs.device, torch.float64)
    problem = Problem(
        inputs=inputs.detach(),
        targets=targets,
        baselines=baselines.detach().to(inputs),
        weights=weights / weights.sum(),
        output=output,
        batch_size=internal_batch_size or default_batch_size(inputs),
        autocast=precision == "bfloat16",
        multiply=multiply,
    )
    return problem, members


def _check_options(output: str, internal_batch_size: int | None, precision: str) -> None:
    if output not in OUTPUTS:
        raise ValueError(f"output {output!r} is none of: {', '.join(OUTPUTS)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is none of: {', '.join(PRECISIONS)}")
    if precision == "auto":
        raise ValueError("precision 'auto' is chosen once per member: give prepare(member, inputs).member as float32")
    if internal_batch_size is not None and internal_batch_size < 1:
        raise ValueError(f"internal_batch_size is {internal_batch_size}; it must be at least 1")


def _check_shapes(inputs: Tensor, targets: Tensor, baselines: Tensor) -> None:
    if not len(inputs):
        raise ValueError("inputs is empty; give at least one")
    if not inputs.is_floating_point():
        raise ValueError(f"inputs are {inputs.dtype}; gradients need floating point")
    if targets.shape != inputs.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(f"targets are {tuple(targets.shape)} {targets.dtype}, not ({len(inputs)},) int64")
    if baselines.shape[2:] != inputs.shape[1:] or not len(baselines) or baselines.shape[1] not in (1, len(inputs)):
        expected = ", ".join(["K", f"{len(inputs)} or 1", *map(str, inputs.shape[1:])])
        raise ValueError(f"baselines are {tuple(baselines.shape)}, not ({expected})")


def default_batch_size(inputs: Tensor) -> int:
    """Default number of rows of a chunk: about 4 million input values, in 8..1024 rows."""
    return min(max(4_000_000 // max(inputs[0].numel(), 1), 8), 1024)
