"""Zarr over objects: what zarr writes it reads again, and reading a part costs a part."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from db.objects import Folder, Objects
from db.zarr_store import ZarrStore


class Counting(Objects):
    """Another store, and what was asked of it."""

    def __init__(self, inner: Objects) -> None:
        self.inner = inner
        self.url = inner.url
        self.gets: list[tuple[str, int | None, int | None]] = []
        self.puts: list[str] = []

    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes:
        self.gets.append((key, start, length))
        return self.inner.get(key, start, length)

    def put(self, key: str, data: bytes) -> None:
        self.puts.append(key)
        self.inner.put(key, data)

    def put_once(self, key: str, data: bytes) -> bool:
        self.puts.append(key)
        return self.inner.put_once(key, data)

    def size(self, key: str) -> int:
        return self.inner.size(key)

    def modified(self, key: str) -> float:
        return self.inner.modified(key)

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def list(self, prefix: str = "") -> Iterator[str]:
        return self.inner.list(prefix)


@pytest.fixture
def objects(objects: Objects) -> Counting:
    return Counting(objects)


DATA = np.random.default_rng(0).normal(size=(10, 3, 8, 8)).astype(np.float16)


def make_array(objects: Objects) -> zarr.Array:
    return zarr.create_array(
        store=ZarrStore(objects, "maps/run"),
        name="attribution",
        shape=DATA.shape,
        dtype="float16",
        chunks=(1, 3, 8, 8),
        shards=(4, 3, 8, 8),
        fill_value=float("nan"),
        zarr_format=3,
    )


def open_array(objects: Objects) -> zarr.Array:
    store = ZarrStore(objects, "maps/run", read_only=True)
    return zarr.open_array(store=store, path="attribution", zarr_format=3, mode="r")


def test_sharded_array_is_read_as_it_was_written(objects: Counting) -> None:
    array = make_array(objects)
    for start in range(0, 10, 4):
        array[start : start + 4] = DATA[start : start + 4]
    np.testing.assert_array_equal(open_array(objects)[:], DATA)
    shards = [
        "maps/run/attribution/c/0/0/0/0",
        "maps/run/attribution/c/1/0/0/0",
        "maps/run/attribution/c/2/0/0/0",
    ]
    assert list(objects.list("maps/run/attribution/c/")) == shards
    assert [key for key in objects.puts if "/c/" in key] == shards


def test_one_map_costs_two_ranged_reads(objects: Counting) -> None:
    make_array(objects)[:] = DATA
    array = open_array(objects)
    objects.gets.clear()
    np.testing.assert_array_equal(array[5], DATA[5])
    assert [key for key, _, _ in objects.gets] == ["maps/run/attribution/c/1/0/0/0"] * 2
    (_, index_start, _), (_, start, length) = objects.gets
    assert index_start is not None
    assert index_start < 0  # the shard's index, from its end
    assert start is not None
    assert start >= 0
    assert length is not None
    assert length < objects.size("maps/run/attribution/c/1/0/0/0") / 3


def test_missing_shard_reads_as_nan_never_as_zero(objects: Counting) -> None:
    array = make_array(objects)
    array[4:8] = DATA[4:8]
    found = open_array(objects)[:]
    assert np.isnan(found[:4]).all()
    np.testing.assert_array_equal(found[4:8], DATA[4:8])


def test_array_is_the_same_through_zarrs_own_store(tmp_path: Path) -> None:
    make_array(Folder(tmp_path))[:] = DATA
    own = zarr.open_array(store=str(tmp_path / "maps/run/attribution"), zarr_format=3, mode="r")
    np.testing.assert_array_equal(own[:], DATA)


def test_groups_list_what_they_hold(objects: Counting) -> None:
    store = ZarrStore(objects, "maps/run")
    group = zarr.create_group(store=store, zarr_format=3)
    for name in ("scale", "attribution"):
        group.create_array(name, shape=(4,), dtype="float32")[:] = 1
    assert sorted(group.array_keys()) == ["attribution", "scale"]


def test_read_only_store_refuses_writes(objects: Counting) -> None:
    make_array(objects)
    array = open_array(objects)
    with pytest.raises(ValueError, match="read-only"):
        array[:] = DATA
    assert ZarrStore(objects).with_read_only(True).read_only


def test_store_is_equal_where_its_place_is(objects: Counting) -> None:
    assert ZarrStore(objects, "a") == ZarrStore(objects, "a")
    assert ZarrStore(objects, "a") != ZarrStore(objects, "b")
    assert ZarrStore(objects, "a") != ZarrStore(objects, "a", read_only=True)
    assert repr(ZarrStore(objects, "a")) == f"ZarrStore('{objects.url}/a')"


def test_store_keeps_zarrs_contract(objects: Counting) -> None:
    async def check() -> None:
        store = ZarrStore(objects, "p")
        prototype = default_buffer_prototype()
        value = prototype.buffer.from_bytes(b"0123456789")
        assert await store.get("k", prototype) is None
        assert not await store.exists("k")
        await store.set("k", value)
        await store.set_if_not_exists("k", prototype.buffer.from_bytes(b"other"))
        await store.set_if_not_exists("folder/l", prototype.buffer.from_bytes(b"other"))
        assert await store.exists("k")
        requests = [None, RangeByteRequest(2, 4), OffsetByteRequest(7), SuffixByteRequest(1)]
        parts = await store.get_partial_values(prototype, [("k", request) for request in requests])
        assert [part.to_bytes() for part in parts if part] == [b"0123456789", b"23", b"789", b"9"]
        assert [key async for key in store.list()] == ["folder/l", "k"]
        assert [key async for key in store.list_prefix("fo")] == ["folder/l"]
        assert [key async for key in store.list_dir("")] == ["folder", "k"]
        assert [key async for key in store.list_dir("folder")] == ["l"]
        assert list(objects.list()) == ["p/folder/l", "p/k"]
        await store.delete("k")
        await store.delete("k")
        assert not await store.exists("k")
        await store.clear()
        assert await store.is_empty("")

    asyncio.run(check())
