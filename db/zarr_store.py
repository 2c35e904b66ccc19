"""A zarr v3 store over `Objects`.

It uses boto3 because that was the only one of three clients that worked after a fork: obstore hung, and s3fs raised
errors (measured). Calls run in threads, so that zarr's requests overlap. One inner chunk of a shard takes two ranged
reads.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from db.errors import ObjectMissing
from db.objects import Objects


class ZarrStore(Store):
    """The zarr interface of a store.

    Args:
        objects: the store that has the bytes.
        prefix: zarr sees only the keys below this prefix, written without a final '/'; "" shows all keys.
        read_only: if true, writes raise ValueError.
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(self, objects: Objects, prefix: str = "", *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self._objects = objects
        self._prefix = f"{prefix}/" if prefix else ""

    def __str__(self) -> str:
        return f"{self._objects}/{self._prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"ZarrStore({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrStore) and (str(self), self.read_only) == (str(other), other.read_only)

    def __hash__(self) -> int:
        return hash(str(self))

    def with_read_only(self, read_only: bool = False) -> "ZarrStore":
        """Return a store of the same keys, with or without writes."""
        return ZarrStore(self._objects, self._prefix.rstrip("/"), read_only=read_only)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object's bytes or a range of them, or None if no object has this key."""
        start, length = _start_and_length(byte_range)
        try:
            data = await asyncio.to_thread(self._objects.get, self._prefix + key, start, length)
        except ObjectMissing:
            return None
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return several ranges, read concurrently."""
        return list(await asyncio.gather(*(self.get(key, prototype, bounds) for key, bounds in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Return whether an object has this key."""
        return await asyncio.to_thread(self._objects.exists, self._prefix + key)

    async def set(self, key: str, value: Buffer) -> None:
        """Store or replace an object."""
        self._check_writable()
        await asyncio.to_thread(self._objects.put, self._prefix + key, value.to_bytes())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Store an object if its key is free."""
        self._check_writable()
        await asyncio.to_thread(self._objects.put_once, self._prefix + key, value.to_bytes())

    async def delete(self, key: str) -> None:
        """Delete an object if it exists."""
        self._check_writable()
        await asyncio.to_thread(self._objects.delete, self._prefix + key)

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin with a prefix."""
        for key in await asyncio.to_thread(self._keys, prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of the objects and folders directly below a prefix."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        keys = await asyncio.to_thread(self._keys, folder)
        for name in sorted({key.removeprefix(folder).split("/", 1)[0] for key in keys}):
            yield name

    def _keys(self, prefix: str) -> tuple[str, ...]:
        return tuple(key.removeprefix(self._prefix) for key in self._objects.list(self._prefix + prefix))


def _start_and_length(request: ByteRequest | None) -> tuple[int | None, int | None]:
    if isinstance(request, RangeByteRequest):
        return request.start, request.end - request.start
    if isinstance(request, OffsetByteRequest):
        return request.offset, None
    if isinstance(request, SuffixByteRequest):
        return -request.suffix, None
    return None, None
