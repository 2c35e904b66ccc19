"""Views of a run: its maps as a lazy xarray Dataset aligned with its rows, and its rows as a pandas DataFrame.

A map is read when its values are used, even if another run computed it.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from db.encoding import IMAGE_TYPES
from db.objects import Objects
from db.records import ImageRow, Run
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.arrays import Floats, layout_of
from pipeline.storage.reader import PlaceReader, check_stored

FRAME_ROWS = 10_000  # rows held as Python objects at a time: they take ten times the memory of the frame
_DTYPES = {str: "string", int: "Int64", float: "float64", bool: "boolean"}
DIMENSIONS = ("row", "channel", "y", "x")


def stack_maps(objects: Objects, run: Run, rows: Sequence[ImageRow]) -> xarray.Dataset:
    """The maps of some rows of a run.

    Args:
        objects: store of the maps.
        run: run of the rows.
        rows: n rows, in the order of the array; maps of failed rows are NaN.

    Returns:
        `attribution` (row, channel, y, x) float32, the mean over members and baselines; of an ensemble also `std`, over
        members. Coordinates by row: `row` (position in the data set), `key`, `label`, `predicted`.
    """
    layout = layout_of(run, RunSpec.from_json(run.spec))
    shape = (len(rows), layout.channels, layout.height, layout.width)
    stored = _Stored(objects, rows)
    names: tuple[tuple[str, Literal["mean", "std"]], ...] = (("attribution", "mean"), ("std", "std"))
    arrays = {name: _variable(_LazyMaps(stored, what, shape), run) for name, what in names[: 1 + layout.spread]}
    texts = ("key", "label", "predicted")
    coordinates = {name: ("row", np.array([getattr(row, name) for row in rows], dtype=object)) for name in texts}
    return xarray.Dataset(
        arrays,
        coords={"row": np.array([row.row for row in rows], np.int64), **coordinates},
        attrs={"run": run.id, "spec": run.spec},
    )


def _variable(lazy: "_LazyMaps", run: Run) -> xarray.Variable:
    found = xarray.Variable(DIMENSIONS, indexing.LazilyIndexedArray(lazy))
    found.encoding["preferred_chunks"] = dict(zip(DIMENSIONS, (run.unit_size, *lazy.shape[1:]), strict=True))
    return found


class _Stored:
    """Positions of the maps of n rows, in compact arrays: a million rows take 20 MB in addition to their keys."""

    def __init__(self, objects: Objects, rows: Sequence[ImageRow]) -> None:
        runs = sorted({row.map_run for row in rows if row.map_run is not None})
        number = {run_id: index for index, run_id in enumerate(runs)}
        self._runs = runs
        self._run = np.array([-1 if row.map_run is None else number[row.map_run] for row in rows], np.int32)
        self._row = np.array([row.map_row or 0 for row in rows], np.int64)
        self._keys = [row.key for row in rows]
        self._reader = PlaceReader(objects)

    def read(self, positions: NDArray[np.int64], what: Literal["mean", "std"], shape: tuple[int, ...]) -> Floats:
        """(n, C, H, W) of some rows; NaN for failed ones. Raises ObjectMissing."""
        found = np.full((len(positions), *shape), np.nan, np.float32)
        there = np.flatnonzero(self._run[positions] >= 0)
        places = [(self._runs[self._run[at]], int(self._row[at])) for at in positions[there]]
        for place, one, (run_id, _) in zip(there, self._reader.read(places, what), places, strict=True):
            check_stored(one, self._keys[positions[place]], run_id)
            found[place] = one
        return found


class _LazyMaps(BackendArray):
    """The array that xarray indexes: reads the rows of an outer index and slices them by its other axes."""

    def __init__(self, stored: _Stored, what: Literal["mean", "std"], shape: tuple[int, int, int, int]) -> None:
        self._stored, self._what = stored, what
        self.shape, self.dtype = shape, np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Floats:
        chosen, *inside = key
        positions = np.atleast_1d(np.arange(self.shape[0])[chosen])
        found = self._stored.read(positions, self._what, self.shape[1:])
        for axis, part in reversed(list(enumerate(inside, start=1))):  # from the last: an integer removes its axis
            found = found[(slice(None),) * axis + (part,)]
        return found[0] if np.ndim(chosen) == 0 and not isinstance(chosen, slice) else found


def frame_of(rows: Iterable[ImageRow]) -> pd.DataFrame:
    """Rows of the index as a table with a column for each field.

    Texts are `string`, integers `Int64`, figures `float64`, flags `boolean`, also in empty columns; missing is NA or
    NaN.
    """
    left = iter(rows)
    parts = [_part([])]
    while batch := list(islice(left, FRAME_ROWS)):
        parts.append(_part(batch))
    return pd.concat(parts, ignore_index=True)


def _part(rows: list[ImageRow]) -> pd.DataFrame:
    columns = {
        name: pd.array([getattr(row, name) for row in rows], dtype=_DTYPES[kind]) for name, kind in IMAGE_TYPES.items()
    }
    return pd.DataFrame(columns)
