"""Stored map arrays: what is put is what is read, missing is NaN, and any zarr reader can open them."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from db.objects import Folder, Objects
from pipeline.errors import ObjectMissing
from pipeline.storage.arrays import PATH_POINTS, Layout, UnitMaps, encode, metadata, resample_path
from pipeline.storage.reader import MapReader

LAYOUT = Layout(image_count=10, unit_size=4, channels=3, height=5, width=6, spread=True)


def unit(n: int, seed: int = 0) -> UnitMaps:
    random = np.random.default_rng(seed)
    mean = (random.standard_normal((n, 3, 5, 6)) * 10.0 ** random.integers(-6, 6, (n, 1, 1, 1))).astype(np.float32)
    return UnitMaps(mean, np.abs(mean) / 3, random.standard_normal((n, 2, PATH_POINTS)).astype(np.float32))


def put(objects: Objects, stored: dict[str, bytes]) -> None:
    for key, data in stored.items():
        assert objects.put_once(key, data)


@pytest.fixture
def objects(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    put(folder, metadata("r", LAYOUT))
    return folder


def test_maps_of_any_magnitude_come_back_within_float16(objects: Folder) -> None:
    first, last = unit(4), unit(2, seed=1)  # the last unit is smaller than a shard
    put(objects, encode("r", LAYOUT, 0, first))
    put(objects, encode("r", LAYOUT, 8, last))
    reader = MapReader(objects, "r")
    for rows, expected in (([0, 1, 2, 3], first), ([8, 9], last)):
        for found, whole in ((reader.mean(rows), expected.mean), (reader.std(rows), expected.std)):
            assert found is not None
            assert whole is not None
            error = np.abs(found - whole).sum((1, 2, 3)) / np.abs(whole).sum((1, 2, 3))
            assert error.max() < 5e-4
        np.testing.assert_array_equal(reader.path(rows), expected.path)


def test_rows_come_in_the_order_in_which_they_are_asked(objects: Folder) -> None:
    put(objects, encode("r", LAYOUT, 0, unit(4)))
    reader = MapReader(objects, "r")
    np.testing.assert_array_equal(reader.mean([3, 0]), reader.mean([0, 3])[::-1])
    put(objects, encode("r", LAYOUT, 4, unit(4, seed=1)))
    mixed = [7, 2, 3, 4, 5, 2, 0]  # alone, consecutive across two units, twice
    np.testing.assert_array_equal(reader.mean(mixed), np.concatenate([reader.mean([row]) for row in mixed]))
    assert reader.mean([]).shape == (0, 3, 5, 6)


def test_what_is_not_stored_reads_as_nan_never_as_zero(objects: Folder) -> None:
    maps = unit(4)
    maps.mean[2] = np.nan
    put(objects, encode("r", LAYOUT, 0, maps))
    reader = MapReader(objects, "r")
    assert np.isnan(reader.mean([2])).all()  # a failed image
    assert np.isnan(reader.mean([5])).all()  # a unit that is not there yet
    assert not np.isnan(reader.mean([1])).any()


def test_a_map_of_zeros_stays_zero(objects: Folder) -> None:
    maps = unit(4)
    maps.mean[1] = 0
    put(objects, encode("r", LAYOUT, 0, maps))
    assert (MapReader(objects, "r").mean([1]) == 0).all()


def test_a_unit_is_one_object_for_each_array() -> None:
    keys = sorted(encode("r", LAYOUT, 4, unit(4)))
    assert keys == [
        f"runs/r/maps/{name}/c/1{'/0' * extra}" for name, extra in (("mean", 3), ("path", 2), ("scale", 1), ("std", 3))
    ]


def test_encoding_is_reproducible_to_the_byte() -> None:
    assert encode("r", LAYOUT, 0, unit(4)) == encode("r", LAYOUT, 0, unit(4))


def test_a_single_member_stores_no_spread(tmp_path: Path) -> None:
    layout = Layout(4, 4, 3, 5, 6, spread=False)
    objects = Folder(tmp_path)
    maps = unit(4)
    put(objects, metadata("r", layout))
    put(objects, encode("r", layout, 0, UnitMaps(maps.mean, None, maps.path)))
    assert MapReader(objects, "r").std([0]) is None


def test_zarr_alone_can_read_the_arrays(objects: Folder, tmp_path: Path) -> None:
    maps = unit(4)
    put(objects, encode("r", LAYOUT, 0, maps))
    group = zarr.open_group(tmp_path / "runs" / "r" / "maps", mode="r")
    stored, scale = np.asarray(group["mean"][:4], np.float32), np.asarray(group["scale"][:4])
    np.testing.assert_allclose(stored * scale[:, 0, None, None, None], MapReader(objects, "r").mean(range(4)))


def test_a_run_without_arrays_is_named(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing, match="run nope has no array 'scale'"):
        MapReader(Folder(tmp_path), "nope")


def test_a_curve_is_resampled_from_the_nodes_that_are_known() -> None:
    alphas = np.array([0, 0.25, 0.5, 1])
    found = resample_path(alphas, np.array([0.0, np.nan, 1.0, 3.0]))
    assert found[0] == 0
    assert found[PATH_POINTS // 2] == 1
    assert found[PATH_POINTS // 4] == pytest.approx(0.5)
    assert np.isnan(resample_path(alphas, np.full(4, np.nan))).all()
