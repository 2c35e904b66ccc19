"""Reads stored maps for rows that may point into the arrays of several runs."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import zarr

from db.objects import Objects
from db.records import ImageRow
from db.zarr_store import ZarrStore
from pipeline.errors import ObjectMissing, UsageError
from pipeline.storage.arrays import Floats, maps_prefix

Place = tuple[str, int]  # a run, and the row of its arrays


class MapReader:
    """Reads the maps of one run, row by row or many at once; 2 GETs read one map.

    Raises:
        ObjectMissing: on opening, if the run has no arrays.
    """

    def __init__(self, objects: Objects, run_id: str) -> None:
        self._store = ZarrStore(objects, maps_prefix(run_id))
        self._run_id = run_id
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._array("scale")

    def mean(self, rows: Sequence[int]) -> Floats:
        """Maps of some rows, (n, C, H, W); NaN where none is stored."""
        return self._scaled("mean", 0, rows)

    def std(self, rows: Sequence[int]) -> Floats | None:
        """Standard deviation over members, (n, C, H, W); None for a single member."""
        try:
            return self._scaled("std", 1, rows)
        except ObjectMissing:
            return None

    def path(self, rows: Sequence[int]) -> Floats:
        """F(alpha) and mean absolute gradient at `PATH_POINTS` alphas, (n, 2, PATH_POINTS)."""
        return self._rows("path", rows)

    def _scaled(self, name: str, column: int, rows: Sequence[int]) -> Floats:
        stored = self._rows(name, rows)
        return np.asarray(stored * self._rows("scale", rows)[:, column, None, None, None], np.float32)

    def _rows(self, name: str, rows: Sequence[int]) -> Floats:
        array = self._array(name)
        wanted = np.asarray(rows, np.int64)
        consecutive = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1) if len(wanted) else []
        found = np.empty((len(wanted), *array.shape[1:]), np.float32)
        start = 0
        try:  # slices: oindex takes 40 times as long, and 10 MB for each map of 3 x 224 x 224
            for part in consecutive:
                found[start : start + len(part)] = array[int(part[0]) : int(part[-1]) + 1]
                start += len(part)
        except ValueError as error:  # a checksum
            raise self._damaged(name) from error
        return found

    def _damaged(self, name: str) -> ObjectMissing:
        return ObjectMissing(f"array {name!r} of run {self._run_id} is damaged; try `attribatch repair`")

    def _array(self, name: str) -> "zarr.Array[Any]":
        if name not in self._arrays:
            try:
                opened = zarr.open_array(self._store, path=name, mode="r", zarr_format=3)
            except FileNotFoundError:
                raise ObjectMissing(f"run {self._run_id} has no array {name!r}; try `attribatch repair`") from None
            except (ValueError, KeyError, TypeError) as error:
                raise ObjectMissing(
                    f"array {name!r} of run {self._run_id} is damaged; try `attribatch repair`"
                ) from error
            self._arrays[name] = opened
        return self._arrays[name]


class PlaceReader:
    """Reads maps by run and row of its arrays, and opens the arrays of each run once."""

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
    """Standard deviation over members of some rows, as `read_maps`. Raises ObjectMissing for a single member."""
    return _read(objects, rows, "std")


def check_stored(one: Floats, key: str, run_id: str | None) -> None:
    """Raise ObjectMissing for a map that is all NaN although the index lists it."""
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
