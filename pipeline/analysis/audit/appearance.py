"""Is the content of a place a mark? A mark looks alike in all images; the content of an object varies.

The content of a window is compared as *local contrast*: the absolute difference of each pixel from its surroundings,
pooled over a few pixels. The lines and edges of a mark are at the same places on any background, and nearly so if it is
half-transparent, shifted a little, or a date whose figures change. Those of a digit's strokes or an animal's fur are at
other places in each image. A soft spot without an edge has no contrast and cannot be distinguished from an object.

Often only a part of the images that lean on a place have the mark (the others have an object there), and a mixture is
not alike. Therefore the images are split by their content (k-means), and the part that differs most from other images
is tested by itself.
"""

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.audit.boxes import Box
from pipeline.analysis.audit.thresholds import ALIKE, MIN_IMAGES
from pipeline.runs.view import Floats

PARTS = (2, 4)  # numbers of clusters into which images are split by content
CELLS = 32  # on the longer side of the image at most; contrast is pooled over 3 x 3 of them
EXTENTS = (
    1 / 6,
    1 / 3,
)  # of the largest difference in contrast: pixels above it belong to a mark; the widest mark that fits is taken
GAP = 4  # cells between parts of a mark, such as letters, at most
LARGEST = 0.3  # largest share of the image that a mark covers


def contrast(pixels: Floats) -> Floats:
    """Local contrast of pixels (n, C, H, W): mean over channels, (n, H, W).

    The difference of a pixel from the mean of the 3 x 3 around it, without its sign, averaged over 3 x 3 cells.
    """
    from scipy import ndimage

    found = np.empty((len(pixels), *pixels.shape[2:]), np.float32)
    for image, out in zip(pixels, found, strict=True):
        local = np.abs(image - ndimage.uniform_filter(image, (0, 3, 3), mode="nearest")).mean(axis=0)
        ndimage.uniform_filter(local, 3 * _cell(local.shape), output=out)
    return found


def _cell(size: tuple[int, ...]) -> int:
    return -(-max(size) // CELLS)


def d_prime(own: Floats, others: Floats) -> float:
    """Distance d' of the content of some images, own (n, D), from that of others (m, D), along the difference of means.

    Cross-fitted: the direction from one half, mean distance over pooled standard deviation from the other half,
    averaged. At 0 the groups cannot be separated, at 4 with errors on 2 % of images. 0.01 is added to the deviation:
    smaller differences of pixels do not count.
    """
    found = []
    for first in (0, 1):
        fit, test = (own[first::2], others[first::2]), (own[1 - first :: 2], others[1 - first :: 2])
        way = fit[0].mean(axis=0) - fit[1].mean(axis=0)
        way = way / max(float(np.linalg.norm(way)), 1e-9)
        one, two = test[0] @ way, test[1] @ way
        found.append(float((one.mean() - two.mean()) / (np.sqrt((one.var() + two.var()) / 2) + 0.01)))
    return sum(found) / 2


def lower_end(value: float, images: int) -> float:
    """Lower end of the interval of a d' from so many images, at two standard errors (after Hedges and Olkin 1985).

    The variance is that of the smaller group, (1 + d'^2 / 2) / n: the other group is large.
    """
    return value - 2 * math.sqrt((1 + value**2 / 2) / images)


def most_alike(own: Floats, others: Floats) -> tuple[float, NDArray[np.int64]]:
    """The largest d' of content (n, D) against others (m, D), and the positions of its images: all, or the best part.

    Parts are compared by the lower end of d', because a few images can have a large d' by chance.
    """
    every = np.arange(len(own))
    found = [(d_prime(own, others), every)]
    if lower_end(found[0][0], len(own)) < 2 * ALIKE:  # below it one image in twenty may be of another kind
        found += [(d_prime(own[part], others), part) for part in _parts(own)]
    return max(found, key=lambda one: lower_end(one[0], len(one[1])))


def parted(own: Floats, others: Floats, part: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split images (n, D) into those closer to `part` than to `others` (m, D), and the rest.

    The rest is sorted from least to most similar, so that faint marks come last.
    """
    one, other = own[part].mean(axis=0), others.mean(axis=0)
    along = (own - (one + other) / 2) @ (one - other)
    nearer = along > 0
    nearer[part] = True
    order = np.argsort(along, kind="stable")
    return np.flatnonzero(nearer), order[~nearer[order]]


def _parts(own: Floats) -> Iterator[NDArray[np.int64]]:
    """Two and four parts of at least 6 images that differ in content."""
    from sklearn.cluster import KMeans

    different = len(np.unique(own, axis=0))
    for parts in PARTS:
        if len(own) < 2 * MIN_IMAGES or different < parts:
            return
        label = KMeans(parts, n_init=3, random_state=0).fit_predict(own)
        for value in range(parts):
            if (label == value).sum() >= MIN_IMAGES:
                yield np.flatnonzero(label == value)


def extent(own: Floats, others: Floats, box: Box) -> Box | None:
    """The box of the pixels by which contrasts (n, H, W) differ from others (m, H, W), grown from a box in it.

    None if no pixel differs, or if the box would cover more than 30 % of the image.
    """
    from scipy import ndimage

    x0, y0, x1, y1 = box
    excess = own.mean(axis=0) - others.mean(axis=0)
    inside = excess[y0:y1, x0:x1]
    peak = int(np.abs(inside).argmax())
    if not inside.flat[peak]:
        return None
    cell = _cell(excess.shape)
    for least, gap in product(EXTENTS, (GAP * cell, 0)):
        differs = excess / inside.flat[peak] >= least  # with the peak's sign: a bar has less contrast than others there
        labels, _ = ndimage.label(ndimage.maximum_filter(differs, gap + 1))
        rows, columns = np.nonzero(differs & (labels == labels[y0:y1, x0:x1].flat[peak]))
        top, bottom = _without_halo(rows, excess.shape[0], 3 * cell // 2)
        left, right = _without_halo(columns, excess.shape[1], 3 * cell // 2)
        if (right - left) * (bottom - top) <= LARGEST * excess.size:
            return (left, top, right, bottom)
    return None


def _without_halo(places: NDArray[np.int64], length: int, halo: int) -> tuple[int, int]:
    """First and last position of pixels without the halo that pooling adds, except at the border of the image."""
    first, last = int(places.min()), int(places.max()) + 1
    start, end = first + halo * (first > 0), last - halo * (last < length)
    return (start, end) if start < end else (first, last)
