"""Images in tar shards, in the layout of WebDataset: files that share a name up to its first dot are one sample.

Listing reads headers (and the few bytes of labels), not images: a shard is walked forwards in blocks, on S3 by ranged
reads. A key is `shard.tar/sample.jpg`, a version `{version of the shard}@{offset}+{size}`, so that a worker reads an
image with one ranged read and without a scan.

If a shard is cut off or damaged, the whole listing is refused, with the name of the shard and the offset. The images
before that offset could be listed, but those after it would be missing without a trace in any row.

Files are never unpacked, so a name in a tar cannot lead to a path on this machine.
"""

import io
import json
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from db.records import Entry
from pipeline.datasets.base import SUFFIXES, Collection, Tree, below, is_storable, short
from pipeline.errors import AttribatchError, DatasetError, UnreadableImage

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")

_LABELS = ("cls", "json", "txt")  # suffixes of label files; the first one of a sample with a label counts
_MAX_CLASS_LETTERS = 200  # a longer .txt, or one of several lines, is a caption
_MAX_READ_BYTES = 2**20  # largest label, long name or attributes of one file
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_END = bytes(tarfile.BLOCKSIZE)
_FRESH_SECONDS = 10.0


class Shards(Collection):
    """The images in the shards of a tree.

    Args:
        tree: folder or bucket with the shards.
        names: keys of the shards; None: all `.tar` files.
    """

    def __init__(self, tree: Tree, names: tuple[str, ...] | None = None) -> None:
        super().__init__(tree)
        self._names = names
        self._checked = ("", "", 0.0)  # shard, its version, time of the check

    def entries(self) -> Iterator[Entry]:
        """See `Collection.entries`. Memory holds the names in one shard at a time.

        Raises:
            DatasetError: a shard is missing, damaged, cut off or compressed, holds an image twice, as a link or under a
                name that leads out of it, or a label that cannot be read. The message names the shard.
        """
        row = 0
        for shard, version in self._shards():
            try:
                for name, offset, size, label in _samples(
                    _Blocks(self._reader(shard, version), self._tree.block_bytes)
                ):
                    yield Entry(row, f"{shard}/{name}", f"{version}@{offset}+{size}", label)
                    row += 1
            except (ValueError, UnreadableImage) as error:
                raise DatasetError(f"shard {shard}: {error}") from error

    def read(self, entry: Entry, *, max_bytes: int) -> bytes:
        """See `Collection.read`. One ranged read."""
        version, start, size = _placed(entry.version)
        if size > max_bytes:
            raise UnreadableImage(f"{size:,} bytes, more than ATTRIBATCH_MAX_PIXELS pixels can take")
        data = self._tree.read(_shard_of(entry.key), version, max_bytes=max_bytes, start=start, length=size)
        if len(data) != size:
            raise UnreadableImage(f"its shard ends after {len(data):,} of its {size:,} bytes")
        return data

    def is_unchanged(self, key: str, version: str) -> bool:
        """See `Collection.is_unchanged`. The version of a shard is read once for images checked within 10 s."""
        checked, found, when = self._checked
        if checked != _shard_of(key) or time.monotonic() - when > _FRESH_SECONDS:
            found = self._tree.version(_shard_of(key))
            self._checked = (_shard_of(key), found, time.monotonic())
        return found == _placed(version)[0]

    def _shards(self) -> Iterator[tuple[str, str]]:
        for name in self._names or ():
            yield name, self._tree.version(name)
        for name, version in self._tree.walk((".tar", *COMPRESSED)) if self._names is None else ():
            if name.lower().endswith(COMPRESSED):
                raise DatasetError(f"shard {name} {_is_compressed('')}")
            if _shard_of(name) != name:
                raise DatasetError(f"{name} is in a folder that is named like a shard; rename the folder")
            yield name, version

    def _reader(self, shard: str, version: str) -> "Callable[[int, int], bytes]":
        def read(start: int, length: int) -> bytes:
            return self._tree.read(shard, version, max_bytes=length, start=start, length=length)

        return read


def expand(name: str) -> Iterator[str]:
    """The names that `shard-{000..127}.tar` stands for, in order; a name without braces is returned unchanged.

    Raises:
        DatasetError: the braces do not hold such a range, or one of more than a million.
    """
    found = re.search(r"\{(\d+)\.\.(\d+)\}", name)
    if found is None:
        if "{" in name:
            raise DatasetError(f"{name!r}: braces are for a range of numbers; write shard-{{000..127}}.tar")
        yield name
        return
    first, last = found.groups()
    if not 0 <= int(last) - int(first) < 1_000_000:
        raise DatasetError(f"{name!r}: the range runs backwards, or is of more than a million shards; correct it")
    for number in range(int(first), int(last) + 1):
        yield from expand(name[: found.start()] + str(number).zfill(len(first)) + name[found.end() :])


def _shard_of(key: str) -> str:
    """The part of a key up to the first part named like a tar: no folder above a shard has such a name."""
    return re.split(r"(?<=\.tar)/", key, maxsplit=1, flags=re.IGNORECASE)[0]


def _placed(version: str) -> tuple[str, int, int]:
    """The shard's version, and the image's offset and size in bytes."""
    of_shard, _, place = version.rpartition("@")
    offset, _, size = place.partition("+")
    return of_shard, int(offset), int(size)


# ---- from headers to samples


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in a shard: an image or a label."""

    name: str
    offset: int
    size: int
    text: bytes | None  # content of a label; None for an image

    @property
    def sample(self) -> str:
        folder, slash, name = self.name.rpartition("/")
        return folder + slash + name.partition(".")[0]


def _samples(file: "_Blocks") -> Iterator[tuple[str, int, int, str | None]]:
    """(name, offset, size, label) of the images, each with the label of its sample. Raises ValueError."""
    seen: set[int] = set()  # hashes of names: 100 bytes an image
    for sample, group in groupby(_members(file), key=lambda member: member.sample):
        members = list(group)
        images = [member for member in members if member.text is None]
        if not images and any(member.name.lower().endswith(".cls") for member in members):
            raise ValueError(f"{sample}.cls is apart from its image; write the files sorted (tar --sort=name)")
        label = _label(members) if images else None
        for image in images:
            if hash(image.name) in seen:
                raise ValueError(f"{image.name} is in it twice; write the shard again")
            seen.add(hash(image.name))
            yield image.name, image.offset, image.size, label


def _label(members: list[_Member]) -> str | None:
    texts = {member.name.rpartition(".")[2].lower(): member for member in members if member.text is not None}
    for suffix in _LABELS:
        if suffix in texts and (label := _label_in(texts[suffix], suffix)):
            return label
    return None


def _label_in(member: _Member, suffix: str) -> str | None:
    try:
        text = (member.text or b"").decode().strip()
        if suffix == "json":
            data = json.loads(text)
            return _named(data.get("label") if isinstance(data, dict) else None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{member.name} cannot be read ({short(error)}); correct it or leave it out") from None
    is_class = len(text) <= _MAX_CLASS_LETTERS and "\n" not in text
    if suffix == "cls" and not is_class:
        raise ValueError(f"{member.name} is not an index or name of a class; correct it or leave it out")
    if is_class and not is_storable(text):
        raise ValueError(f"{member.name}: the label {text!r} has characters that no database stores")
    return text if is_class else None


def _named(label: Any) -> str | None:
    if isinstance(label, dict | list):
        raise ValueError("its label is not a name or number")  # noqa: TRY004 - the caller reports ValueError as a wrong record, whatever is wrong in it
    if label is not None and not is_storable(str(label)):
        raise ValueError(f"its label {label!r} has characters that no database stores")
    return None if label is None else str(label)


def _members(file: "_Blocks") -> Iterator[_Member]:
    """Images and labels of a shard, in its order. Raises ValueError."""
    for info in _headers(file):
        name = info.name.lower()
        is_label = name.rpartition("/")[2].partition(".")[2] in _LABELS
        if not (is_label or name.endswith(SUFFIXES)) or re.search(r"(^|/)\.(?!\.?/)", name):
            continue  # directories, other files, hidden files
        if info.issym() or info.islnk() or info.issparse():
            raise ValueError(f"{info.name} is a link or has holes; write it with tar --dereference --hard-dereference")
        if not info.isreg():
            continue
        text = None
        if is_label:
            if info.size > _MAX_READ_BYTES:
                raise ValueError(f"{info.name} has {info.size:,} bytes, too many to look for a label; leave it out")
            file.seek(info.offset_data)
            text = file.read(info.size)
        yield _Member(below(info.name, "its shard"), info.offset_data, info.size, text)


def _headers(file: "_Blocks") -> Iterator[tarfile.TarInfo]:
    """All members. Unlike `tarfile`, it does not stop silently at a header that it cannot read. Raises ValueError."""
    tar = None
    while True:
        try:
            tar = tar or tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
            info = tar.next()
        except (AttribatchError, OSError):
            raise
        except Exception as error:  # a parser fed with hostile bytes may raise anything
            raise ValueError(file.complaint(short(error))) from error
        if info is None:
            break
        tar.members = []  # type: ignore[attr-defined]  # tarfile has this list and typeshed leaves it out; unemptied it would keep every entry of the shard
        yield info
    if file.last != _END:
        raise ValueError(file.complaint("no header and no end mark is there"))
    while rest := file.read(_MAX_READ_BYTES):
        if rest.strip(b"\0"):
            raise ValueError(file.complaint("there are data after the end mark; join shards with tar --concatenate"))


class _Blocks(io.RawIOBase):
    """A shard as a file for `tarfile`: read only forwards, in blocks.

    Args:
        fetch: (start, length) -> the bytes from start, at most length.
        block_bytes: size of a block, 512 or more.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], block_bytes: int) -> None:
        super().__init__()
        self._fetch = fetch
        self._block_bytes = block_bytes
        self._at = self._start = 0
        self._block = b""
        self.last = b""  # result of the last read

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._at:
            raise tarfile.ReadError("a size leads backwards")
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        data = b""
        while len(data) < size:
            cut = self._at - self._start
            if not 0 <= cut < len(self._block):
                self._block, self._start, cut = self._fetch(self._at, self._block_bytes), self._at, 0
                if not self._block:
                    break
            piece = self._block[cut : cut + size - len(data)]
            data += piece
            self._at += len(piece)
        self.last = data
        return data

    def complaint(self, reason: str) -> str:
        """Message with the defect of the shard, its offset and the remedy."""
        if (start := self._fetch(0, 8)) and (packed := _packed_by(start)):
            return _is_compressed(f" by {packed}")
        return f"damaged or cut off before byte {self._at:,} ({reason}); copy or write it again"


def _packed_by(start: bytes) -> str | None:
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def _is_compressed(how: str) -> str:
    return f"is compressed{how}, so that single images cannot be read; unpack it to a plain .tar"
