"""Boxes in an image: windows to search, shares of the attribution in them, their content, overlap and names.

A window's share of an image is the part of the positive attribution (summed over channels first) inside it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.runs.view import Floats

FRACTIONS = (1 / 8, 3 / 16, 1 / 4, 3 / 8)  # of the shorter side: sides of squares; the stride is half of a side
LENGTHS = (3 / 8, 1 / 2, 5 / 8, 1.0)  # of a border: lengths of the strips along it
THICKNESSES = (1 / 8, 3 / 16, 1 / 4)  # of the shorter side: thicknesses of strips
CELLS = 32  # cells on the longer side of a grid, at most
Boxes = NDArray[np.int64]  # (k, 4): x0, y0, x1, y1 in pixels, x1 and y1 exclusive
Box = tuple[int, int, int, int]


def windows(height: int, width: int) -> Boxes:
    """Squares at several sizes that overlap by about half, and strips along every border, (k, 4)."""
    boxes: list[Box] = []
    for fraction in FRACTIONS:
        side = max(2, round(fraction * min(height, width)))
        boxes += [(x, y, x + side, y + side) for y in _starts(height, side) for x in _starts(width, side)]
    for part in LENGTHS:
        for fraction in THICKNESSES:
            thick = max(2, round(fraction * min(height, width)))
            across, down = max(2, round(part * width)), max(2, round(part * height))
            boxes += [(x, y, x + across, y + thick) for y in (0, height - thick) for x in _starts(width, across)]
            boxes += [(x, y, x + thick, y + down) for x in (0, width - thick) for y in _starts(height, down)]
    return np.array(sorted(set(boxes)), dtype=np.int64)


def _starts(length: int, side: int) -> list[int]:
    steps = max(1, round(2 * (length - side) / side))
    return [int(start) for start in np.linspace(0, length - side, steps + 1).round()]


def window_shares(maps: Floats, boxes: Boxes) -> Floats:
    """Share of each image's positive attribution in each window: maps (n, H, W) -> (n, k), 0..1.

    An image without positive attribution has share 0 everywhere.
    """
    sums = np.zeros((len(maps), maps.shape[1] + 1, maps.shape[2] + 1))  # float64: differences of running sums
    np.cumsum(np.cumsum(np.clip(maps, 0, None), axis=1, dtype=np.float64), axis=2, out=sums[:, 1:, 1:])
    x0, y0, x1, y1 = boxes.T
    held = sums[:, y1, x1] - sums[:, y0, x1] - sums[:, y1, x0] + sums[:, y0, x0]
    total = sums[:, -1:, -1:].reshape(-1, 1)
    share: Floats = np.divide(held, total, out=np.zeros_like(held), where=total > 0).astype(np.float32)
    return share


def grid_step(height: int, width: int) -> int:
    """Side of a cell in pixels."""
    return -(-max(height, width) // CELLS)


def grid_shares(maps: Floats, step: int) -> Floats:
    """Share of each image's positive attribution in each cell, maps (n, H, W) -> (n, h, w); 0 for a map without any."""
    positive = np.clip(maps, 0, None).astype(np.float64)
    rows, columns = np.arange(0, maps.shape[1], step), np.arange(0, maps.shape[2], step)
    sums = np.add.reduceat(np.add.reduceat(positive, rows, axis=1), columns, axis=2)
    total = sums.sum(axis=(1, 2), keepdims=True)
    found: Floats = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0).astype(np.float32)
    return found


def cut(images: Floats, box: Box) -> Floats:
    """The box's content of (n, ..., H, W), (n, values)."""
    x0, y0, x1, y1 = box
    return images[..., y0:y1, x0:x1].reshape(len(images), -1)


def paste(images: Floats, sources: Floats, boxes: NDArray[np.int64]) -> Floats:
    """Images (n, C, H, W) with the box (n, 4) of each replaced by that of its source."""
    out = images.copy()
    for image, source, (x0, y0, x1, y1) in zip(out, sources, boxes, strict=True):
        image[:, y0:y1, x0:x1] = source[:, y0:y1, x0:x1]
    return out


def sides(boxes: Boxes) -> NDArray[np.float64]:
    """Root of each box's area, as a part of the largest square's."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    square = boxes[:, 2] - boxes[:, 0] == boxes[:, 3] - boxes[:, 1]
    return np.asarray(np.sqrt(area / area[square].max(initial=1)), np.float64)


def area_of(box: Sequence[int] | Boxes) -> int:
    """Pixels of a box."""
    return int((box[2] - box[0]) * (box[3] - box[1]))


def shared_area(one: Sequence[int] | Boxes, other: Sequence[int] | Boxes) -> int:
    """Pixels that two boxes have in common."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return int(max(0, width) * max(0, height))


def overlap(one: Sequence[int] | Boxes, other: Sequence[int] | Boxes) -> float:
    """Common area, as a part of the smaller box."""
    return shared_area(one, other) / min(area_of(one), area_of(other))


def union_share(one: Box, other: Box) -> float:
    """Intersection over union."""
    common = shared_area(one, other)
    return common / (area_of(one) + area_of(other) - common)


def place_name(region: Box, size: tuple[int, int]) -> str:
    """A region in words, for an image of (height, width): 'top-left corner', 'left border', 'upper left', 'center'."""
    (height, width), (x0, y0, x1, y1) = size, region
    across = _third(x0, x1, width, ("left", "", "right"))
    down = _third(y0, y1, height, ("top", "", "bottom"))
    if not across and not down:
        return "center"
    flush_x = min(x0, width - x1) <= width / 16
    flush_y = min(y0, height - y1) <= height / 16
    if across and down:
        inner = {"top": "upper", "bottom": "lower"}[down]
        return f"{down}-{across} corner" if flush_x and flush_y else f"{inner} {across}"
    border = flush_x if across else flush_y
    return f"{across or down} {'border' if border else 'part'}"


def _third(start: int, end: int, length: int, names: tuple[str, str, str]) -> str:
    return names[min(2, int(3 * (start + end) / 2 / length))]
