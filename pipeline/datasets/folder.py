"""Files below a folder of this machine. Links may not lead out of it; a version is `{size}-{mtime_ns}`."""

import errno
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from pipeline.datasets.base import MISSING, Tree, is_storable
from pipeline.errors import DatasetError, Retryable, SourceUnavailable, UnreadableImage

_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)
_real_folder = lru_cache(maxsize=1024)(os.path.realpath)


class Folder(Tree):
    """A folder.

    Args:
        root: absolute, without links.
    """

    block_bytes = 2**15

    def __init__(self, root: str) -> None:
        self.root = root

    def walk(self, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """See `Tree.walk`. Sorted by key; memory holds the names of one directory at a time."""
        return _walk(self.root, "", suffixes)

    def version(self, key: str) -> str:
        """See `Tree.version`. A `stat`, no read."""
        return _version(f"{self.root}/{key}")

    def read(self, key: str, version: str, *, max_bytes: int, start: int = 0, length: int | None = None) -> bytes:
        """See `Tree.read`."""
        path = os.path.realpath(f"{self.root}/{key}")
        if not self._holds(path):
            raise UnreadableImage(f"a path or link that leads out of {self.root}; copy the file there")
        try:
            # O_NONBLOCK: a named pipe called x.png would otherwise wait for ever
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                found = os.fstat(handle)
                _check_file(found, version)
                with os.fdopen(handle, "rb", closefd=False) as file:
                    file.seek(start)
                    return file.read(_allowed(found.st_size if length is None else length, max_bytes))
            finally:
                os.close(handle)
        except FileNotFoundError:
            raise UnreadableImage("the file is missing") from None
        except PermissionError:
            raise UnreadableImage("no permission to read the file") from None
        except OSError as error:
            kind = Retryable if error.errno in _PASSING else UnreadableImage
            raise kind(f"cannot be read ({error.strerror})") from error

    def check_there(self) -> None:
        """See `Tree.check_there`."""
        if not Path(self.root).is_dir():
            raise SourceUnavailable(f"{self.root} is not there; is its disk mounted? The unit waits and is tried again")

    def leads_out(self, key: str) -> bool:
        """Whether a link on the way to a file leaves the root."""
        parent, _, name = f"{self.root}/{key}".rpartition("/")
        real = f"{_real_folder(parent)}/{name}"
        return not self._holds(os.path.realpath(real) if os.path.islink(real) else real)  # noqa: PTH114 - asked for each of a million images: making a Path costs more than the question

    def _holds(self, real: str) -> bool:
        return real.startswith(self.root.rstrip("/") + "/")


def _walk(folder: str, prefix: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """A directory sorted by name, a slash after each folder's, is in the order of whole keys ("a-b/x" < "a/x")."""
    try:
        with os.scandir(folder) as found:
            names = sorted(one.name + "/" * one.is_dir() for one in found if not one.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"folder {folder} cannot be listed: {error.strerror}; check permissions") from None
    for name in names:
        path = f"{folder}/{name}".rstrip("/")
        if name.endswith("/"):
            if os.path.islink(path):  # noqa: PTH114 - the listing is text throughout: a Path for each name costs more than the question
                raise DatasetError(f"folder {path} is a symbolic link; copy it there, or remove it")
            yield from _walk(path, prefix + name, suffixes)
        elif name.lower().endswith(suffixes) and (version := _version(path)):
            if not is_storable(prefix + name):
                raise DatasetError(f"folder {folder}: the name {prefix + name!a} is not valid UTF-8; rename the file")
            yield prefix + name, version


def _version(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116 - asked for each of a million files: making a Path costs more than the stat
    except OSError:
        return MISSING
    return _version_of(found) if stat.S_ISREG(found.st_mode) else ""


def _version_of(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}"


def _check_file(found: os.stat_result, version: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableImage("not a regular file")
    if _version_of(found) != version:
        raise UnreadableImage("the file changed after the run was planned; run again to take it in")


def _allowed(size: int, max_bytes: int) -> int:
    if size > max_bytes:
        raise UnreadableImage(f"{size:,} bytes, more than ATTRIBATCH_MAX_PIXELS pixels can take")
    return size
