"""Decoded pictures in, one row and one map each out: targets, baselines, attribution, measures. Knows no SQL or store.

A chunk that does not fit into memory is halved; the size that fits is remembered for the process. So is what
`precision="auto"` chose: how each member is run, by its weights, and the fastest chunk. The log says what it was.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from db.records import Entry, ImageRow, ImageState
from pipeline import telemetry
from pipeline.attribution import (
    Attribution,
    baseline_stack,
    input_x_gradient,
    integrated_gradients,
    saliency,
)
from pipeline.attribution.ensemble import predict
from pipeline.attribution.rows import default_batch_size
from pipeline.errors import ModelBroken
from pipeline.maps import resample_path
from pipeline.measures import MapMeasures, measure, member_disagreement
from pipeline.spec import ModelSpec, RunSpec, parse_target
from pipeline.tuning import DEFAULT_TOLERANCE, measured_batch_size, prepare

log = logging.getLogger("attribatch.explaining")

Floats = NDArray[np.float32]

_TRIED_ON = 4  # pictures of the run that `precision="auto"` compares maps of
_KEPT = 16  # members whose choice is remembered, as many as are kept loaded
_prepared: dict[tuple[object, ...], nn.Module] = {}
_batch_sizes: dict[tuple[object, ...], int] = {}


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded image of a run."""

    entry: Entry
    sha256: str
    pixels: Floats  # (C, H, W) in [0, 1]


@dataclass(frozen=True, slots=True)
class Explained:
    """What is stored of one picture. The row says whether there is a map."""

    row: ImageRow
    mean: Floats  # (C, H, W), C = 1 where channels are summed
    std: Floats | None  # (C, H, W) over members; of summed channels the sum, an upper bound
    path: Floats  # (2, PATH_POINTS) F(alpha) and mean absolute gradient


class Explainer:
    """A spec with its members loaded: explains batches of pictures.

    Args:
        spec: what to compute.
        members: one module for each of `spec.models`, pixels (N, C, H, W) in [0, 1] -> logits (N, classes).
        samples: (S, C, H, W) images of the data set for the `samples` baselines.
        device: where members are.
        check: called before each forward pass; raises to stop.
    """

    def __init__(
        self,
        spec: RunSpec,
        members: Sequence[nn.Module],
        *,
        samples: Floats | None = None,
        device: str = "cpu",
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._spec = spec
        self._given = list(members)
        self._members = [_Watched(member, check) for member in members]
        self._check = check
        self._samples = None if samples is None else torch.from_numpy(samples)
        self._device = device

    @telemetry.stage("compute")
    def explain(self, run_id: str, pictures: Sequence[Picture]) -> list[Explained]:
        """Rows and maps of some pictures, in their order. A picture whose map is not finite gets a failed row.

        Raises:
            ModelBroken: a member raised, or does not return (N, classes).
        """
        dtype = torch.float64 if self._spec.precision == "float64" else torch.float32
        pixels = torch.from_numpy(np.stack([picture.pixels for picture in pictures])).to(self._device, dtype)
        key = self._key(pixels, *self._spec.models)
        size = _batch_sizes.get(key) or default_batch_size(pixels)
        while True:
            try:
                probabilities = predict(self._members, pixels, batch_size=size)
                targets = self._targets(pictures, probabilities)
                members = self._fast(pixels)
                if members is not self._members and key not in _batch_sizes:
                    size = _batch_sizes[key] = measured_batch_size(members, pixels)
                found = self._attribute(members, pictures, pixels, targets, size)
                break
            except (torch.OutOfMemoryError, MemoryError) as error:
                if size == 1:
                    raise ModelBroken(f"one image does not fit into the memory of {self._device}: {error}") from error
                telemetry.memory_halved()
                size = _batch_sizes[key] = size // 2
        return self._records(run_id, pictures, probabilities, targets, found)

    def _targets(self, pictures: Sequence[Picture], probabilities: Tensor) -> Tensor:
        kind, argument = parse_target(self._spec.target)
        if kind == "predicted":
            return probabilities.argmax(1)
        if kind == "rank":
            rank = min(int(argument), probabilities.shape[1])
            return probabilities.sort(stable=True, dim=1, descending=True).indices[:, rank - 1]
        if kind == "class":
            return torch.full((len(pictures),), self._spec.target_index(), device=self._device)
        names = self._spec.class_names
        return torch.tensor([names.index(str(p.entry.label)) for p in pictures], device=self._device)

    def _key(self, pixels: Tensor, *models: ModelSpec) -> tuple[object, ...]:
        spec = self._spec
        return (models, self._device, pixels.shape[1:], spec.precision, spec.output, spec.tolerance)

    def _fast(self, pixels: Tensor) -> Sequence[nn.Module]:
        """The members that gradients are taken of: with `precision="auto"` the fastest that keep to the tolerance."""
        spec = self._spec
        if spec.precision != "auto" or spec.attribution != "integrated_gradients":
            return self._members
        ways = []
        for model, member in zip(spec.models, self._given, strict=True):
            key = self._key(pixels, model)
            if key not in _prepared:
                tolerance = spec.tolerance or DEFAULT_TOLERANCE
                found = prepare(member, pixels[:_TRIED_ON], output=cast("Any", spec.output), tolerance=tolerance)
                log.info("member %s on %s runs as %s", model.source, self._device, found.choice)
                while len(_prepared) >= _KEPT:
                    del _prepared[next(iter(_prepared))]
                _prepared[key] = found.member
            ways.append(_Watched(_prepared[key], self._check))
        return ways

    def _attribute(
        self, members: Sequence[nn.Module], pictures: Sequence[Picture], pixels: Tensor, targets: Tensor, size: int
    ) -> Attribution:
        spec = self._spec
        output = cast("Any", spec.output)
        if spec.attribution == "saliency":
            return saliency(self._members, pixels, targets, output=output)
        if spec.attribution == "input_x_gradient":
            return input_x_gradient(self._members, pixels, targets, output=output)
        digests = [picture.sha256 for picture in pictures]
        stack, weights = baseline_stack(spec.baselines, pixels, digests, seed=spec.seed, samples=self._samples)
        return integrated_gradients(
            members,
            pixels,
            targets,
            baselines=stack,
            baseline_weights=weights,
            method=cast("Any", spec.method),
            n_steps=spec.n_steps,
            tolerance=spec.tolerance,
            max_steps=spec.max_steps,
            output=output,
            internal_batch_size=size,
            precision=cast("Any", "float32" if spec.precision == "auto" else spec.precision),
        )

    def _records(
        self, run_id: str, pictures: Sequence[Picture], probabilities: Tensor, targets: Tensor, found: Attribution
    ) -> list[Explained]:
        mean, std = found.mean, found.std
        if self._spec.channels == "sum":
            mean, std = mean.sum(1, keepdim=True), std.sum(1, keepdim=True)
        maps, spread = _array(mean), _array(std)
        measures, disagreement = measure(maps), member_disagreement(spread, maps)
        alphas, curves = _double(found.path_alphas), _double(torch.stack([found.path_outputs, found.path_gradients]))
        sure, predicted = probabilities.max(1)
        columns = {
            "probability": _double(sure),
            "output": _double(found.output),
            "baseline_output": _double(found.baseline_output),
            "convergence_delta": _double(found.convergence_delta),
            "completeness_gap": _double(found.completeness_gap),
            "error_estimate": _double(found.error_estimate),
            "member_disagreement": disagreement,
        } | {name: getattr(measures, name) for name in MapMeasures.__slots__}
        explained = []
        for i, picture in enumerate(pictures):
            classes = _named(self._spec, int(targets[i]), int(predicted[i]))
            row = _row(run_id, picture, classes, {name: float(values[i]) for name, values in columns.items()})
            finite = bool(np.isfinite(maps[i]).all()) and math.isfinite(float(found.output[i]))
            if finite:
                converged = None if found.converged is None else bool(found.converged[i])
                row = replace(row, evaluations=int(found.evaluations[i]), converged=converged)
            else:
                row = failed_row(run_id, picture.entry, "the model's output or gradient is not finite", picture.sha256)
                maps[i] = spread[i] = np.nan
            path = np.stack([resample_path(alphas, curves[0, i]), resample_path(alphas, curves[1, i])])
            explained.append(Explained(row, maps[i], spread[i] if len(self._members) > 1 else None, path))
        return explained


def failed_row(run_id: str, entry: Entry, reason: str, sha256: str | None = None) -> ImageRow:
    """The row of an image that has no map, and why."""
    return ImageRow(
        run_id, entry.row, entry.key, entry.version, ImageState.FAILED, entry.label, error=reason, sha256=sha256
    )


class _Watched(nn.Module):
    """A member that looks at the stop flag before each pass, and says who raised."""

    def __init__(self, member: nn.Module, check: Callable[[], None]) -> None:
        super().__init__()
        self.member = member
        self.check = check

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, C, H, W) -> logits (N, classes)."""
        self.check()
        try:
            return cast("Tensor", self.member(pixels))
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except RuntimeError as error:
            if "not enough memory" in str(error) or "can't allocate memory" in str(error):  # torch's CPU allocator
                raise MemoryError(str(error)) from error
            raise ModelBroken(f"the model raised {type(error).__name__}: {error}") from error
        except Exception as error:
            raise ModelBroken(f"the model raised {type(error).__name__}: {error}") from error


def _named(spec: RunSpec, target: int, predicted: int) -> dict[str, Any]:
    names = spec.class_names
    return {
        "target": names[target],
        "target_index": target,
        "predicted": names[predicted],
        "predicted_index": predicted,
    }


def _row(run_id: str, picture: Picture, classes: dict[str, Any], figures: dict[str, float]) -> ImageRow:
    entry = picture.entry
    known: dict[str, Any] = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    return ImageRow(
        run_id=run_id,
        row=entry.row,
        key=entry.key,
        version=entry.version,
        state=ImageState.DONE,
        label=entry.label,
        sha256=picture.sha256,
        map_run=run_id,
        map_row=entry.row,
        **classes,
        **known,
    )


def _array(values: Tensor) -> Floats:
    return values.float().cpu().numpy().copy()


def _double(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()
