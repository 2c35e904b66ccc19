"""Joins places of a class that lie side by side: a mark whose attribution has gaps is found in parts alone.

A word, a pattern: the model hangs on some of its strokes, so that windows and fitted shapes hold parts of it, and
each part does little. Boxes grow together two by two, those first whose union is the smallest.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

from pipeline.audits.candidates import Box, Candidate
from pipeline.audits.fitting import SAME, means_elsewhere, moved, union_share
from pipeline.audits.material import Floats

GAP = 1 / 8  # of the longer side: between two boxes that are joined
LARGEST = 0.3  # of the image that a joined box covers at most


def join_all(
    parts: Sequence[Candidate],
    tested: Sequence[Candidate],
    grids: Mapping[str, Floats],
    size: tuple[int, int],
    step: int,
) -> list[Candidate]:
    """Boxes around parts of the same class that are no place of `tested`. `grids` from `fitting.grid_shares`."""
    elsewhere = means_elsewhere(grids)
    found: list[Candidate] = []
    for name in dict.fromkeys(one.class_name for one in parts):
        own = [one for one in parts if one.class_name == name]
        known = [one.region for one in tested if one.class_name == name]
        for box in _joined([one.region for one in own], size):
            if all(union_share(box, other) < SAME for other in known):
                strangest = max((one for one in own if _union(one.region, box) == box), key=lambda one: one.score)
                found.append(moved(strangest, box, grids, elsewhere[name], step))
                known.append(box)
    return found


def _joined(boxes: Sequence[Box], size: tuple[int, int]) -> list[Box]:
    """Every union on the way."""
    left, found = list(boxes), list[Box]()
    most, gap = LARGEST * size[0] * size[1], GAP * max(size)
    while True:
        pairs = [(one, other) for one, other in combinations(left, 2) if _apart(one, other) <= gap]
        union, one, other = min(
            ((_union(*pair), *pair) for pair in pairs), key=lambda u: _area(u[0]), default=(None,) * 3
        )
        if union is None or _area(union) > most:
            return found
        left = [box for box in left if box not in (one, other)] + [union]
        found.append(union)


def _union(one: Box, other: Box) -> Box:
    return (min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3]))


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _apart(one: Box, other: Box) -> int:
    """Pixels between two boxes, across or down; 0 or less where they touch."""
    return max(one[0] - other[2], other[0] - one[2], one[1] - other[3], other[1] - one[3])
