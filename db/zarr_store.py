"""A read-only zarr v3 store over `Objects`.

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
    """The objects below a prefix, read by their keys. Arrays are encoded in memory, so zarr never writes or lists.

    Args:
        objects: the store that has the bytes.
        prefix: zarr sees only the keys below this prefix, written without a final '/'; "" shows all keys.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, objects: Objects, prefix: str = "") -> None:
        super().__init__(read_only=True)
        self._objects = objects
        self._prefix = f"{prefix}/" if prefix else ""

    def __str__(self) -> str:
        return f"{self._objects}/{self._prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"ZarrStore({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrStore) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

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
        """Raise ValueError: the store is read-only."""
        raise ValueError(f"{self} is read-only: {key!r} gets none of {len(value)} bytes")

    async def delete(self, key: str) -> None:
        """Raise ValueError: the store is read-only."""
        raise ValueError(f"{self} is read-only: {key!r} is not deleted")

    def list(self) -> AsyncIterator[str]:
        """Raise NotImplementedError: keys are not listed."""
        raise self._unlisted("")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Raise NotImplementedError: keys are not listed."""
        raise self._unlisted(prefix)

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Raise NotImplementedError: keys are not listed."""
        raise self._unlisted(prefix)

    def _unlisted(self, prefix: str) -> NotImplementedError:
        return NotImplementedError(f"{self} only reads single keys, and does not list those below {prefix!r}")


def _start_and_length(request: ByteRequest | None) -> tuple[int | None, int | None]:
    if isinstance(request, RangeByteRequest):
        return request.start, request.end - request.start
    if isinstance(request, OffsetByteRequest):
        return request.offset, None
    if isinstance(request, SuffixByteRequest):
        return -request.suffix, None
    return None, None
