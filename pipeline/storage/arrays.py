"""Layout and encoding of the stored map arrays of a run: zarr v3, one shard object per array and unit.

Below `runs/<run id>/maps`, for N images, inputs of H x W and C channels (1 if they were summed):

    mean   (N, C, H, W) float16   the maps, each divided by its scale: a pixel's share is about 1/150,000 of a
                                  map, a subnormal in raw float16. Rounding adds about 2e-4 of relative error
    std    (N, C, H, W) float16   over members, likewise; absent for one member
    scale  (N, 2) float32         of mean and std: value = stored * scale
    path   (N, 2, 33) float32     F(alpha) and mean absolute gradient at alpha = 0, 1/32, ..., 1, linearly interpolated

Missing is NaN, never 0. Shards are encoded in memory; `pipeline.engine.unit` puts them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from db.records import Run
from pipeline.spec.run_spec import RunSpec

PATH_POINTS = 33
_ALPHAS = np.linspace(0, 1, PATH_POINTS)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Layout:
    """Shapes of a run's arrays."""

    image_count: int
    unit_size: int
    channels: int
    height: int
    width: int
    spread: bool  # more than one member: std is stored

    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of one row and dtype, by array."""
        one = (self.channels, self.height, self.width)
        spread = {"std": (one, "float16")} if self.spread else {}
        return {
            "mean": (one, "float16"),
            **spread,
            "scale": ((2,), "float32"),
            "path": ((2, PATH_POINTS), "float32"),
        }


def layout_of(run: Run, spec: RunSpec) -> Layout:
    """Shapes of a run's map arrays."""
    size = spec.preprocess
    channels = 1 if spec.channels == "sum" else size.channels
    return Layout(run.image_count, run.unit_size, channels, size.height, size.width, len(spec.models) > 1)


@dataclass(frozen=True, slots=True)
class UnitMaps:
    """The maps of a unit: n consecutive rows, NaN for failed images."""

    mean: Floats  # (n, C, H, W)
    std: Floats | None  # (n, C, H, W)
    path: Floats  # (n, 2, PATH_POINTS)


def maps_prefix(run_id: str) -> str:
    """Key prefix of a run's arrays."""
    return f"runs/{run_id}/maps"


def metadata(run_id: str, layout: Layout) -> dict[str, bytes]:
    """The objects that make a run's arrays readable before any shard is there, by key."""
    return _stored(run_id, layout, {})


def encode(run_id: str, layout: Layout, first_row: int, maps: UnitMaps) -> dict[str, bytes]:
    """A unit's shards, by key.

    Args:
        run_id: run that owns the arrays.
        layout: shapes of the run's arrays.
        first_row: first row of the unit, a multiple of `layout.unit_size`.
        maps: n rows, in order; n is the unit size, less for the last unit.
    """
    scale = np.full((len(maps.mean), 2), np.nan, np.float32)
    values: dict[str, NDArray[Any]] = {"path": maps.path}
    for column, (name, array) in enumerate((("mean", maps.mean), ("std", maps.std))):
        if array is not None:
            scale[:, column] = _scale(array)
            values[name] = (array / scale[:, column, None, None, None]).astype(np.float16)
    stored = _stored(run_id, layout, values | {"scale": scale}, first_row)
    return {key: data for key, data in stored.items() if not key.endswith("zarr.json")}


def resample_path(alphas: NDArray[np.float64], values: NDArray[np.float64]) -> Floats:
    """A curve known at some alphas (NaN elsewhere), at the stored ones: (A,), (A,) -> (PATH_POINTS,)."""
    known = ~np.isnan(values)
    if not known.any():
        return np.full(PATH_POINTS, np.nan, np.float32)
    return np.interp(_ALPHAS, alphas[known], values[known]).astype(np.float32)


def _scale(maps: Floats) -> Floats:
    """Largest absolute value of each map: stored values fill -1..1. NaN where the map is NaN, 1 where it is 0."""
    largest = np.abs(maps).max(axis=(1, 2, 3))
    return np.where(largest == 0, 1, largest).astype(np.float32)


def _stored(run_id: str, layout: Layout, values: Mapping[str, NDArray[Any]], first_row: int = 0) -> dict[str, bytes]:
    """The objects that zarr would write, by key: metadata of every array, and the one shard of each value."""
    kept: dict[str, Any] = {}
    store = MemoryStore(kept)
    zarr.create_group(store, zarr_format=3, attributes={"attribatch_run": run_id})
    for name, (one, dtype) in layout.arrays().items():
        array = zarr.create_array(
            store,
            name=name,
            shape=(layout.image_count, *one),
            chunks=(1, *one),
            shards=(layout.unit_size, *one),
            dtype=dtype,
            fill_value=np.nan,
            compressors=None,  # maps hardly compress (x 1.1)
            dimension_names=("image", *("channel", "y", "x")[: len(one)]) if len(one) == 3 else None,
        )
        if name in values:
            array[first_row : first_row + len(values[name])] = values[name]
    return {f"{maps_prefix(run_id)}/{key}": value.to_bytes() for key, value in kept.items()}
