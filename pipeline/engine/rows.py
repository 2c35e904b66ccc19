"""Turns computed attributions into rows and maps to store, with the measures of each map."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from db.records import Entry, ImageRow, ImageState
from pipeline.attribution.ensemble import share_agreed
from pipeline.datasets.decoder import Picture
from pipeline.engine.explainer import Computed
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.arrays import Floats, resample_path
from pipeline.storage.sidecar import ImageResult

Doubles = NDArray[np.float64]

TOP = 5  # classes stored for each image, the most probable first


def describe(run_id: str, spec: RunSpec, computed: Computed) -> list[ImageResult]:
    """Rows and maps of computed pictures, in their order. A picture whose map is not finite gets a failed row."""
    found = computed.found
    maps, spread = _array(found.mean), _array(found.std)
    measures, unknown = measure(maps), np.full(len(maps), np.nan)
    several = len(spec.models) > 1
    alphas, curves = _double(found.path_alphas), _double(torch.stack([found.path_outputs, found.path_gradients]))
    sure, predicted = computed.probabilities.max(1)
    tops = top_classes(spec, computed.probabilities)
    columns = {
        "probability": _double(sure),
        "output": _double(found.output),
        "baseline_output": _double(found.baseline_output),
        "convergence_delta": _double(found.convergence_delta),
        "completeness_gap": _double(found.completeness_gap),
        "error_estimate": _double(found.error_estimate),
        "member_disagreement": member_disagreement(spread, maps) if several else unknown,
        "sign_agreement": _double(share_agreed(found.mean, found.sign_agreement >= 1)) if several else unknown,
        "baseline_sensitivity": _double(found.baseline_sensitivity),
    } | {name: getattr(measures, name) for name in MapMeasures.__slots__}
    explained = []
    for i, picture in enumerate(computed.pictures):
        classes = _named(spec, int(computed.targets[i]), int(predicted[i]))
        figures = {name: float(values[i]) for name, values in columns.items()}
        row = _row(run_id, picture, classes | {"top_classes": tops[i]}, figures)
        finite = bool(np.isfinite(maps[i]).all()) and math.isfinite(float(found.output[i]))
        if finite:
            converged = None if found.converged is None else bool(found.converged[i])
            row = replace(row, evaluations=int(found.evaluations[i]), converged=converged)
        else:
            row = failed_row(run_id, picture.entry, "the model's output or gradient is not finite", picture.sha256)
            maps[i] = spread[i] = np.nan
        path = np.stack([resample_path(alphas, curves[0, i]), resample_path(alphas, curves[1, i])])
        explained.append(ImageResult(row, maps[i], spread[i] if several else None, path))
    return explained


def top_classes(spec: RunSpec, probabilities: Tensor) -> list[str]:
    """The `TOP` most probable classes of each image as JSON, [[name, probability], ...], of probabilities (N, K)."""
    sure, index = probabilities.topk(min(TOP, probabilities.shape[1]), dim=1)
    named = [[spec.class_names[i] for i in row] for row in index.tolist()]
    pairs = zip(named, sure.tolist(), strict=True)
    return [json.dumps([[n, float(f"{p:.4g}")] for n, p in zip(*one, strict=True)]) for one in pairs]


def failed_row(run_id: str, entry: Entry, reason: str, sha256: str | None = None) -> ImageRow:
    """The row of an image without a map.

    Args:
        run_id: run of the row.
        entry: key, version and label of the listed image.
        reason: error message that is stored.
        sha256: digest of the file; None if it was not read.
    """
    return ImageRow(
        run_id, entry.row, entry.key, entry.version, ImageState.FAILED, entry.label, error=reason, sha256=sha256
    )


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


# ---- measures of maps


@dataclass(frozen=True, slots=True)
class MapMeasures:
    """Figures of n maps, each (n,); NaN where a map is NaN or 0 everywhere."""

    border_share: Doubles  # share of |map| in the outer eighth on each side, 0..1
    center_x: Doubles  # center of mass of |map|, 0 left .. 1 right
    center_y: Doubles  # 0 top .. 1 bottom
    entropy: Doubles  # entropy of |map| over pixels, 0 one pixel .. 1 even
    gini: Doubles  # Gini coefficient of |map| over pixels, 0 even .. 1 one pixel
    positive_share: Doubles  # share of positive values in |map|, 0..1
    center_share: Doubles  # share of |map| in the middle half of the height and of the width, 0..1
    top_left_share: Doubles  # share of |map| in the quarter of the height and of the width at that corner, 0..1
    top_right_share: Doubles
    bottom_left_share: Doubles
    bottom_right_share: Doubles
    effective_pixels: Doubles  # exp of the entropy of |map|: number of equal pixels with that entropy, 1..H*W


def measure(maps: NDArray[np.floating]) -> MapMeasures:
    """Measure maps (n, C, H, W). A pixel's weight is its absolute attribution summed over channels."""
    maps = np.asarray(maps, np.float64)
    n, _, height, width = maps.shape
    weight = np.abs(maps).sum(1)  # (n, H, W)
    total = weight.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = weight / total[:, None, None]
        positive = np.maximum(maps, 0).sum((1, 2, 3)) / total
    flat = np.sort(share.reshape(n, -1), axis=1)
    pixels = flat.shape[1]
    logs = np.log(flat, where=flat > 0, out=np.zeros_like(flat))
    entropy = -(flat * logs).sum(1)  # in nats
    rank = np.arange(1, pixels + 1)
    return MapMeasures(
        center_x=share.sum(1) @ ((np.arange(width) + 0.5) / width),
        center_y=share.sum(2) @ ((np.arange(height) + 0.5) / height),
        entropy=entropy / np.log(max(pixels, 2)),
        gini=(2 * (flat @ rank) - (pixels + 1)) / pixels + np.where(np.isnan(total), np.nan, 0),
        positive_share=positive,
        effective_pixels=np.exp(entropy),
        **_regions(share),
    )


def _regions(share: Doubles) -> dict[str, Doubles]:
    """Sums of shares (n, H, W) in the border, the center and the corners, each (n,)."""
    height, width = share.shape[1:]
    edge_y, edge_x = max(height // 8, 1), max(width // 8, 1)
    down, across = max(height // 4, 1), max(width // 4, 1)
    return {
        "border_share": 1 - share[:, edge_y : height - edge_y, edge_x : width - edge_x].sum((1, 2)),
        "center_share": share[:, down : height - down, across : width - across].sum((1, 2)),
        "top_left_share": share[:, :down, :across].sum((1, 2)),
        "top_right_share": share[:, :down, width - across :].sum((1, 2)),
        "bottom_left_share": share[:, height - down :, :across].sum((1, 2)),
        "bottom_right_share": share[:, height - down :, width - across :].sum((1, 2)),
    }


def member_disagreement(std: NDArray[np.floating], mean: NDArray[np.floating]) -> Doubles:
    """Sum of the members' standard deviation over the sum of |mean|, (n,); 0 for one member."""
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.asarray(std, np.float64).sum((1, 2, 3))
        return np.asarray(spread / np.abs(np.asarray(mean, np.float64)).sum((1, 2, 3)))
