"""Object storage: bytes under keys, in a folder or in S3.

`put_once` never exposes half an object and never replaces one: among concurrent writers of a key, exactly one gets
True. A folder uses a temporary file, fsync and a hard link; S3 uses `If-None-Match: *`. False may also mean that the
caller's own earlier write succeeded and its answer was lost (17 of 60 in a test with broken connections), so compare
the stored bytes before treating False as a conflict.
"""

import contextlib
import errno
import os
import secrets
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from db.errors import ObjectMissing, StoreFull, StoreUnavailable, UsageError
from db.s3 import Clients, range_header, status_of, tried_again

INCOMING = ".incoming"  # folder of temporary files: on the same file system, and never listed
LEFTOVER_SECONDS = 24 * 3600  # age at which a temporary file counts as left behind by a crash
CONFLICT_TRIES = 5


class Objects(ABC):
    """Interface of a store. Keys are relative paths with '/', without empty, '.' or '..' parts.

    Every method raises `UsageError` for any other key, and `StoreUnavailable` if the store does not answer, is full or
    refuses the request.
    """

    url: str  # `open_objects` accepts it

    @abstractmethod
    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them. A range that reaches past the end is cut.

        Args:
            key: the object's key, relative to the store's URL.
            start: first byte of the range; a negative one counts from the end, and `length` must be None.
            length: bytes to read; None reads to the end.

        Raises:
            ObjectMissing: no object has this key.
        """

    @abstractmethod
    def put_once(self, key: str, data: bytes) -> bool:
        """Store an object if its key is free. Returns False, and changes nothing, if it exists."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Store an object, or replace it. Readers see the old bytes or the new ones, never a mixture."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Return the length in bytes.

        Raises:
            ObjectMissing: no object has this key.
        """

    @abstractmethod
    def modified(self, key: str) -> float:
        """Return the time of the last put, in seconds since 1970 by the store's clock.

        Raises:
            ObjectMissing: no object has this key.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object if it exists."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with a prefix, sorted by their bytes. The prefix may end within a part."""

    def exists(self, key: str) -> bool:
        """Return whether an object has this key."""
        try:
            self.size(key)
        except ObjectMissing:
            return False
        return True

    def close(self) -> None:  # noqa: B027 - a folder has nothing to close
        """Close the connections of the store. A later call of a method connects again."""

    def __str__(self) -> str:
        return self.url


def open_objects(url: str, *, s3_endpoint_url: str | None = None) -> Objects:
    """Return the store at a URL. Nothing is read, created or connected yet.

    Args:
        url: `file:///path` or `s3://bucket/prefix`.
        s3_endpoint_url: address of an S3 server other than Amazon's. boto3 finds the credentials in its usual places.

    Raises:
        UsageError: the URL has another scheme, or contains credentials.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return Folder(Path(unquote(parts.path)))
    if "@" in parts.netloc:
        raise UsageError(
            "ATTRIBATCH_OBJECTS_URL must not contain credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if parts.scheme == "s3" and parts.netloc:
        return S3(parts.netloc, parts.path.strip("/"), endpoint_url=s3_endpoint_url)
    raise UsageError(f"{url!r} is not an object store; write file:///path/to/folder or s3://bucket/prefix")


class Folder(Objects):
    """Objects as files below a folder. They are on disk when a put returns."""

    def __init__(self, path: Path) -> None:
        self._root = path.absolute()
        self.url = self._root.as_uri()
        self._swept = False

    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes:
        """See `Objects.get`."""
        _check_range(start, length)
        path = self._path(key)
        with self._translated(path), self._missing(key), path.open("rb") as file:
            if start is not None and start < 0:
                file.seek(max(0, file.seek(0, os.SEEK_END) + start))
            elif start:
                file.seek(start)
            return file.read() if length is None else file.read(length)

    def put_once(self, key: str, data: bytes) -> bool:
        """See `Objects.put_once`."""
        path = self._path(key)
        with self._translated(path), self._written(data) as temporary:
            _make_durably(path.parent)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            _sync(path.parent)
            return True

    def put(self, key: str, data: bytes) -> None:
        """See `Objects.put`."""
        path = self._path(key)
        with self._translated(path), self._written(data) as temporary:
            _make_durably(path.parent)
            temporary.replace(path)
            _sync(path.parent)

    def size(self, key: str) -> int:
        """See `Objects.size`."""
        return self._stat(key).st_size

    def modified(self, key: str) -> float:
        """See `Objects.modified`."""
        return self._stat(key).st_mtime

    def delete(self, key: str) -> None:
        """See `Objects.delete`."""
        path = self._path(key)
        with self._translated(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            _sync(path.parent)

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Objects.list`."""
        above = prefix.rpartition("/")[0]
        top = self._path(above) if above else self._root
        with self._translated(top):
            for key in _walk(top, f"{above}/" if above else ""):
                if key.startswith(prefix):
                    yield key

    def _stat(self, key: str) -> os.stat_result:
        path = self._path(key)
        with self._translated(path), self._missing(key):
            found = path.stat()
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError
            return found

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key

    @contextlib.contextmanager
    def _written(self, data: bytes) -> Iterator[Path]:
        """Yield a temporary file with these bytes, synced to disk, and delete it unless it has been renamed."""
        folder = self._root / INCOMING
        _make_durably(folder)
        if not self._swept:
            self._swept = True
            _remove_leftovers(folder)
        temporary = folder / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _missing(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise _no_object(key, self.url) from None

    @contextlib.contextmanager
    def _translated(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"{path} cannot be read or written: {error.strerror or error}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(f"{reason}; free some space, then `attribatch retry RUN`") from error
            hint = " (the file system must allow hard links)" if error.errno == errno.EPERM else ""
            raise StoreUnavailable(reason + hint) from error


class S3(Objects):
    """Objects in a bucket, below a prefix. Safe to share between threads and to use after a fork."""

    def __init__(self, bucket: str, prefix: str = "", *, endpoint_url: str | None = None) -> None:
        if prefix:
            check_key(prefix)
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.clients = Clients(endpoint_url)  # stores of one server may share them

    def close(self) -> None:
        """See `Objects.close`."""
        self.clients.close()

    def get(self, key: str, start: int | None = None, length: int | None = None) -> bytes:
        """See `Objects.get`."""
        _check_range(start, length)
        if length == 0:
            return b""
        whole = start is None and length is None
        bounds = {} if whole else {"Range": range_header(start or 0, length)}
        return tried_again(lambda: self._get(key, bounds))

    def put_once(self, key: str, data: bytes) -> bool:
        """See `Objects.put_once`."""
        for left in reversed(range(CONFLICT_TRIES)):
            with self._client(key) as (client, place):
                try:
                    client.put_object(**place, Body=data, IfNoneMatch="*")
                    return True
                except client.exceptions.ClientError as error:
                    if status_of(error) == 412:  # the key is taken
                        return False
                    if status_of(error) != 409 or not left:  # 409: another write of this key is in progress
                        raise
            time.sleep(0.1)
        raise AssertionError("the last try returns or raises")

    def put(self, key: str, data: bytes) -> None:
        """See `Objects.put`."""
        with self._client(key) as (client, place):
            client.put_object(**place, Body=data)

    def size(self, key: str) -> int:
        """See `Objects.size`."""
        with self._client(key) as (client, place):
            return int(client.head_object(**place)["ContentLength"])

    def modified(self, key: str) -> float:
        """See `Objects.modified`."""
        with self._client(key) as (client, place):
            return float(client.head_object(**place)["LastModified"].timestamp())

    def delete(self, key: str) -> None:
        """See `Objects.delete`."""
        with self._client(key) as (client, place):
            client.delete_object(**place)

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Objects.list`."""
        keys = []
        with self._client("x") as (client, _):
            paginator = client.get_paginator("list_objects_v2")
            for page in paginator.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                keys += [found["Key"].removeprefix(self._prefix) for found in page.get("Contents", ())]
        return iter(sorted(keys))  # some servers do not sort by bytes

    def _get(self, key: str, bounds: dict[str, str]) -> bytes:
        with self._client(key) as (client, place):
            try:
                data: bytes = client.get_object(**place, **bounds)["Body"].read()
                return data
            except client.exceptions.ClientError as error:
                if status_of(error) == 416:  # the range begins past the end
                    return b""
                raise

    @contextlib.contextmanager
    def _client(self, key: str) -> Iterator[tuple[Any, dict[str, str]]]:
        """Yield the client of this process and the object's place, and translate the client's errors."""
        check_key(key)
        from botocore.exceptions import BotoCoreError, ClientError  # imported here because it takes 0.3 s

        try:
            yield self.clients.current(), {"Bucket": self._bucket, "Key": self._prefix + key}
        except ClientError as error:
            if error.response["Error"].get("Code") in ("NoSuchKey", "404"):
                raise _no_object(key, self.url) from None
            raise StoreUnavailable(f"{self.url} could not read or write {key!r}: {error}") from error
        except (BotoCoreError, OSError) as error:
            raise StoreUnavailable(f"{self.url} could not read or write {key!r}: {error}") from error


def check_key(key: str) -> None:
    """Refuse a key that could lead out of the store or be another name of the same object.

    Raises:
        UsageError: the key is absolute, empty, or has an empty, '.' or '..' part, a backslash or a NUL.
    """
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or parts[0] == INCOMING or set(key) & {"\\", "\0"}:
        raise UsageError(f"{key!r} is not an object key; write parts joined by '/', none of them empty, '.' or '..'")


def _no_object(key: str, url: str) -> ObjectMissing:
    return ObjectMissing(f"no object {key!r} in {url}; `attribatch repair` re-queues the unit that wrote it")


def _check_range(start: int | None, length: int | None) -> None:
    if length is not None and (length < 0 or (start or 0) < 0):
        raise ValueError(f"start={start}, length={length}: a length needs a start of 0 or more")


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    """Yield the keys of the files below a folder in the order of their bytes: 'a-b' before 'a/b' before 'a0'."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name + "/", True) if entry.is_dir() else (entry.name, False) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, is_folder in sorted(found):
        if not is_folder:
            yield prefix + name
        elif prefix + name != f"{INCOMING}/":
            yield from _walk(folder / name, prefix + name)


def _make_durably(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_durably(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Flush the folder's entries to disk, so that they survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process deleted or renamed it
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink()
