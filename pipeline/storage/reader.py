"""Reads stored maps for rows that may point into the arrays of several runs."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np

from db.objects import Objects
from db.records import ImageRow
from pipeline.errors import ObjectMissing, UsageError
from pipeline.storage.arrays import Floats, MapReader

Place = tuple[str, int]  # a run, and the row of its arrays


class PlaceReader:
    """Reads maps by the run and the row where they lie; opens each run's arrays once."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._readers: dict[str, MapReader] = {}

    def read(self, places: Sequence[Place], what: Literal["mean", "std"] = "mean") -> list[Floats]:
        """One array (C, H, W) for each place, in their order; NaN where nothing is stored.

        Raises:
            ObjectMissing: a run has no such arrays, or they are damaged.
        """
        by_run: dict[str, list[int]] = defaultdict(list)
        for position, (run_id, _) in enumerate(places):
            by_run[run_id].append(position)
        parts: dict[int, Floats] = {}
        for run_id, positions in by_run.items():
            rows = [places[position][1] for position in positions]
            found = self._reader(run_id).mean(rows) if what == "mean" else self._reader(run_id).std(rows)
            if found is None:
                raise ObjectMissing(f"run {run_id} has no array {what!r}; try `attribatch repair`")
            parts.update(zip(positions, found, strict=True))
        return [parts[position] for position in range(len(places))]

    def _reader(self, run_id: str) -> MapReader:
        if run_id not in self._readers:
            self._readers[run_id] = MapReader(self._objects, run_id)
        return self._readers[run_id]


def read_maps(objects: Objects, rows: Sequence[ImageRow]) -> Floats:
    """Mean maps of some rows, (n, C, H, W), in their order.

    Raises:
        UsageError: a row has no map.
        ObjectMissing: its run's arrays are gone.
    """
    return _read(objects, rows, "mean")


def read_spreads(objects: Objects, rows: Sequence[ImageRow]) -> Floats:
    """Standard deviation over members of some rows, as `read_maps`. ObjectMissing where there is a single member."""
    return _read(objects, rows, "std")


def check_stored(one: Floats, key: str, run_id: str | None) -> None:
    """The index says that there is a map: never read what is missing as a result. Raises ObjectMissing."""
    if np.isnan(one).all():
        raise ObjectMissing(f"the map of image {key!r} is missing in run {run_id}; run `attribatch repair`")


def _place(row: ImageRow) -> Place:
    if row.map_run is None:
        raise UsageError(f"image {row.key!r} has no map: {row.error}")
    return row.map_run, row.map_row or 0


def _read(objects: Objects, rows: Sequence[ImageRow], what: Literal["mean", "std"]) -> Floats:
    found = PlaceReader(objects).read([_place(row) for row in rows], what)
    for row, one in zip(rows, found, strict=True):
        check_stored(one, row.key, row.map_run)
    return np.stack(found)
