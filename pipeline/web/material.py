"""Arrays of stored images and maps: the one place of the page that asks for them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from db.records import ImageRow
from pipeline.errors import ObjectMissing
from pipeline.storage.arrays import PATH_POINTS, MapReader
from pipeline.storage.reader import check_stored

if TYPE_CHECKING:
    from pipeline.api import Pipeline

Floats = NDArray[np.float32]


def map_of(pipeline: "Pipeline", row: ImageRow) -> Floats:
    """The mean map of an image, (C, H, W). Raises ObjectMissing, and UsageError where it failed."""
    return np.asarray(maps_of(pipeline, [row])[0], np.float32)


def maps_of(pipeline: "Pipeline", rows: Sequence[ImageRow]) -> Floats:
    """Mean maps, (n, C, H, W)."""
    return pipeline.read_maps(rows)


def image_of(pipeline: "Pipeline", row: ImageRow) -> Floats:
    """The pixels that the models saw, (C, H, W) in [0, 1]. Raises UnreadableImage, SourceUnavailable."""
    return np.asarray(pipeline.read_images([row])[0], np.float32)


def spread_of(pipeline: "Pipeline", row: ImageRow) -> Floats | None:
    """Standard deviation of the map over members, (C, H, W); None for a single member or a failed image.

    Raises ObjectMissing.
    """
    if row.map_run is None or row.map_row is None:
        return None
    found = MapReader(pipeline.objects, row.map_run).std([row.map_row])
    if found is None:
        return None
    one: Floats = found[0]
    check_stored(one, row.key, row.map_run)
    return one


def curve_of(pipeline: "Pipeline", row: ImageRow) -> dict[str, Any] | None:
    """F(alpha) and the mean absolute gradient along the path; None where nothing is stored."""
    if row.map_run is None or row.map_row is None:
        return None
    try:
        outputs, gradients = MapReader(pipeline.objects, row.map_run).path([row.map_row])[0]
    except ObjectMissing:
        return None
    if not np.isfinite(outputs).all():
        return None
    alphas = np.linspace(0, 1, PATH_POINTS)
    return {"alphas": alphas.tolist(), "outputs": outputs.tolist(), "gradients": gradients.tolist()}
