"""What the index stores of each map: where its weight lies and how concentrated it is. numpy only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MapMeasures:
    """Figures of n maps, each (n,); NaN where a map is NaN or 0 everywhere."""

    border_share: Floats  # of |map|, in the outer eighth on each side, 0..1
    center_x: Floats  # of |map|, 0 left .. 1 right
    center_y: Floats  # 0 top .. 1 bottom
    entropy: Floats  # of |map| over pixels, 0 one pixel .. 1 even
    gini: Floats  # of |map| over pixels, 0 even .. 1 one pixel
    positive_share: Floats  # positive part of |map|, 0..1
    center_share: Floats  # of |map|, in the middle half of the height and of the width, 0..1
    top_left_share: Floats  # of |map|, in the quarter of the height and of the width at that corner, 0..1
    top_right_share: Floats
    bottom_left_share: Floats
    bottom_right_share: Floats
    effective_pixels: Floats  # exp of the entropy of |map|: so many equal pixels would have it, 1..H*W


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


def _regions(share: Floats) -> dict[str, Floats]:
    """What lies where, of shares (n, H, W): border, centre and corners, each (n,)."""
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


def member_disagreement(std: NDArray[np.floating], mean: NDArray[np.floating]) -> Floats:
    """Sum of the members' standard deviation over the sum of |mean|, (n,); 0 for one member."""
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.asarray(std, np.float64).sum((1, 2, 3))
        return np.asarray(spread / np.abs(np.asarray(mean, np.float64)).sum((1, 2, 3)))
