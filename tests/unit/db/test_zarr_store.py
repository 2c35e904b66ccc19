"""Zarr over objects: what zarr wrote elsewhere is read, and reading a part costs a part."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from db.objects import Objects
from db.zarr_store import ZarrStore


class Counting(Objects):
    """Another store, and the reads that it got."""

    def __init__(self, inner: Objects) -> None:
        self.inner = inner
        self.url = inner.url
        self.gets: list[tuple[str, int | None, int | None]] = []

    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes:
        self.gets.append((key, start, length))
        return self.inner.get(key, start, length)

    def put(self, key: str, data: bytes) -> None:
        self.inner.put(key, data)

    def put_once(self, key: str, data: bytes) -> bool:
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


def put_array(objects: Objects, rows: slice = slice(None)) -> None:
    """Put the objects of an array with some rows of `DATA`, as zarr encodes them."""
    kept: dict[str, Any] = {}
    array = zarr.create_array(
        store=MemoryStore(kept),
        name="attribution",
        shape=DATA.shape,
        dtype="float16",
        chunks=(1, 3, 8, 8),
        shards=(4, 3, 8, 8),
        fill_value=float("nan"),
        zarr_format=3,
    )
    array[rows] = DATA[rows]
    for key, value in kept.items():
        objects.put(f"maps/run/{key}", value.to_bytes())


def open_array(objects: Objects) -> zarr.Array:
    return zarr.open_array(store=ZarrStore(objects, "maps/run"), path="attribution", zarr_format=3, mode="r")


def test_sharded_array_is_read_as_it_was_written(objects: Counting) -> None:
    put_array(objects)
    np.testing.assert_array_equal(open_array(objects)[:], DATA)
    assert list(objects.list("maps/run/attribution/c/")) == [
        "maps/run/attribution/c/0/0/0/0",
        "maps/run/attribution/c/1/0/0/0",
        "maps/run/attribution/c/2/0/0/0",
    ]


def test_one_map_costs_two_ranged_reads(objects: Counting) -> None:
    put_array(objects)
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
    put_array(objects, slice(4, 8))
    found = open_array(objects)[:]
    assert np.isnan(found[:4]).all()
    np.testing.assert_array_equal(found[4:8], DATA[4:8])


def test_nothing_is_written_or_listed(objects: Counting) -> None:
    put_array(objects)
    with pytest.raises(ValueError, match="read-only"):
        open_array(objects)[:] = DATA
    with pytest.raises(NotImplementedError, match="does not list"):
        ZarrStore(objects).list()


def test_store_is_equal_where_its_place_is(objects: Counting) -> None:
    assert ZarrStore(objects, "a") == ZarrStore(objects, "a")
    assert ZarrStore(objects, "a") != ZarrStore(objects, "b")
    assert repr(ZarrStore(objects, "a")) == f"ZarrStore('{objects.url}/a')"


def test_ranges_are_those_that_zarr_requests(objects: Counting) -> None:
    async def check() -> None:
        store = ZarrStore(objects, "p")
        prototype = default_buffer_prototype()
        assert await store.get("k", prototype) is None
        assert not await store.exists("k")
        objects.put("p/k", b"0123456789")
        assert await store.exists("k")
        requests = [None, RangeByteRequest(2, 4), OffsetByteRequest(7), SuffixByteRequest(1)]
        parts = await store.get_partial_values(prototype, [("k", request) for request in requests])
        assert [part.to_bytes() for part in parts if part] == [b"0123456789", b"23", b"789", b"9"]

    asyncio.run(check())
