"""Reads stored maps for rows that may point into the arrays of several runs."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from db.objects import Objects
from db.records import ImageRow
from pipeline.errors import ObjectMissing, UsageError
from pipeline.maps import Floats, MapReader


def read_maps(objects: Objects, rows: Sequence[ImageRow]) -> Floats:
    """Mean maps of some rows, (n, C, H, W), in their order.

    Raises:
        UsageError: a row has no map.
        ObjectMissing: its run's arrays are gone.
    """
    return _read(objects, rows, MapReader.mean)


def read_spreads(objects: Objects, rows: Sequence[ImageRow]) -> Floats:
    """Standard deviation over members of some rows, as `read_maps`. ObjectMissing where there is a single member."""

    def std(reader: MapReader, wanted: Sequence[int]) -> Floats:
        found = reader.std(wanted)
        if found is None:
            raise ObjectMissing("the run stores no spread: it has a single member, or its array is gone")
        return found

    return _read(objects, rows, std)


def _read(objects: Objects, rows: Sequence[ImageRow], read: Callable[[MapReader, Sequence[int]], Floats]) -> Floats:
    by_run: dict[str, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        if row.map_run is None:
            raise UsageError(f"image {row.key!r} has no map: {row.error}")
        by_run[row.map_run].append(position)
    parts: list[Floats | None] = [None] * len(rows)
    for run_id, positions in by_run.items():
        found = read(MapReader(objects, run_id), [rows[p].map_row or 0 for p in positions])
        for position, one in zip(positions, found, strict=True):
            parts[position] = one
    for row, part in zip(rows, parts, strict=True):
        if (
            part is None or np.isnan(part).all()
        ):  # the index says that it is done: never read what is missing as a result
            raise ObjectMissing(
                f"the map of image {row.key!r} is missing in run {row.map_run}; run `attribatch repair`"
            )
    return np.stack([part for part in parts if part is not None])
