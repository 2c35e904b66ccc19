"""A zarr v3 store over `Objects`. Knows nothing of what the arrays hold.

Written for boto3 under zarr because it is the one of three that survives a fork: obstore hangs there, s3fs
errors (measured). Calls run in threads, so that zarr's requests overlap; one inner chunk of a shard costs two
ranged reads.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from db.errors import ObjectMissing
from db.objects import Objects


class ZarrStore(Store):
    """What zarr sees of a store.

    Args:
        objects: where the bytes are.
        prefix: the part of it that zarr sees, without a '/' at its end; "" is all of it.
        read_only: refuse writes.
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
        """The same place, with or without writes."""
        return ZarrStore(self._objects, self._prefix.rstrip("/"), read_only=read_only)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The object's bytes or a range of them; None where there is no object."""
        start, length = _start_and_length(byte_range)
        try:
            data = await asyncio.to_thread(self._objects.get, self._prefix + key, start, length)
        except ObjectMissing:
            return None
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several ranges at once."""
        return list(await asyncio.gather(*(self.get(key, prototype, bounds) for key, bounds in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return await asyncio.to_thread(self._objects.exists, self._prefix + key)

    async def set(self, key: str, value: Buffer) -> None:
        """Store an object, in place of the one that may be there."""
        self._check_writable()
        await asyncio.to_thread(self._objects.put, self._prefix + key, value.to_bytes())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Store an object unless there is one."""
        self._check_writable()
        await asyncio.to_thread(self._objects.put_once, self._prefix + key, value.to_bytes())

    async def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        self._check_writable()
        await asyncio.to_thread(self._objects.delete, self._prefix + key)

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that begin with a prefix."""
        for key in await asyncio.to_thread(self._keys, prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names of the objects and folders directly below a prefix."""
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
