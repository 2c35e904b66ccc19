"""Interfaces of a source of images, and of the tree of files that stores them."""

import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator

from db.records import Entry

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MISSING = "missing"  # version of a file that is not there


class Tree(ABC):
    """Files below a root, on disk or in a bucket. Keys are '/'-separated paths relative to the root."""

    block_bytes: int  # bytes to read at once when only headers are needed

    @abstractmethod
    def walk(self, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """(key, version) of the files with these suffixes, in any case, without hidden files; always in the same order.

        Raises:
            DatasetError: a folder cannot be listed, or a name cannot be stored.
            SourceUnavailable: the store does not answer.
        """

    @abstractmethod
    def version(self, key: str) -> str:
        """A text that changes with the bytes; `MISSING` for a missing file, "" for one that is not a regular file.

        Raises:
            SourceUnavailable: the store does not answer.
        """

    @abstractmethod
    def read(self, key: str, version: str, *, max_bytes: int, start: int = 0, length: int | None = None) -> bytes:
        """The bytes of a file, or of the part of a range before its end, if the file still has this version.

        Args:
            key: key of the file.
            version: version at the time of listing.
            max_bytes: a longer result is refused.
            start: first byte, 0 or more.
            length: number of bytes; None: to the end.

        Raises:
            UnreadableImage: it is missing, has changed, may not be read, or is longer than `max_bytes`.
            Retryable: the machine or the store is at fault, not the file.
        """

    @abstractmethod
    def check_there(self) -> None:
        """Check the root, after a file was found missing.

        Raises:
            SourceUnavailable: the root is missing or does not answer.
        """


class Collection(ABC):
    """The images of one source. Threads may share it."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """All entries, numbered from 0, always in the same order. Raises as `Tree.walk`."""

    @abstractmethod
    def read(self, entry: Entry, *, max_bytes: int) -> bytes:
        """The bytes of an image that is still the one that was listed. Raises as `Tree.read`."""

    @abstractmethod
    def is_unchanged(self, key: str, version: str) -> bool:
        """Whether an image is still the one that was listed, without reading it. Raises as `Tree.version`."""

    def check_there(self) -> None:
        """As `Tree.check_there`."""
        self._tree.check_there()


class Files(Collection):
    """Each image is a file of its own; its label is the first folder below the root."""

    def entries(self) -> Iterator[Entry]:
        """See `Collection.entries`."""
        for row, (key, version) in enumerate(self._tree.walk(SUFFIXES)):
            yield Entry(row, key, version, key.split("/")[0] or None if "/" in key else None)

    def read(self, entry: Entry, *, max_bytes: int) -> bytes:
        """See `Collection.read`."""
        return self._tree.read(entry.key, entry.version, max_bytes=max_bytes)

    def is_unchanged(self, key: str, version: str) -> bool:
        """See `Collection.is_unchanged`."""
        return self._tree.version(key) == version


def below(name: str, root: str) -> str:
    """A relative path without '.' and empty parts.

    Args:
        name: untrusted path, '/'-separated.
        root: description of its root, for messages.

    Raises:
        ValueError: the path is absolute, has a '..' part, or cannot be stored.
    """
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        raise ValueError(f"{name!r} leads out of {root}; use a path below it")
    key = "/".join(part for part in parts if part not in ("", "."))
    if not key or not is_storable(key):
        raise ValueError(f"{name!a} is not a path below {root}")
    return key


def is_storable(name: str) -> bool:
    """Whether a name is valid UTF-8 without a NUL, which no database takes."""
    return "\0" not in name and (name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name))


def short(error: BaseException) -> str:
    """The message of an error, shortened to a line."""
    return textwrap.shorten(str(error) or type(error).__name__, 120, placeholder="...")
