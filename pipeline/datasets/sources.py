"""Opens the source of images that the user names, and the collection that reads it."""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from db.records import Entry
from pipeline.datasets.base import SUFFIXES, Collection, Files, Tree
from pipeline.datasets.bucket import SCHEME, Prefix, parse_location
from pipeline.datasets.folder import Folder
from pipeline.datasets.manifest import MANIFEST_SUFFIXES, Listed
from pipeline.datasets.shards import COMPRESSED, Shards, expand
from pipeline.errors import DatasetError, SourceRefused
from pipeline.record_format import build, read_record


@dataclass(frozen=True, slots=True)
class Source:
    """A source of images. Its location is absolute: a path, or `s3://bucket/prefix`.

    A location of kind "tar" is a folder or prefix with shards below it, or one or more shards: `shard-000.tar`,
    `shard-{000..127}.tar`. The server of a bucket is not stored: machines may reach it by different names.
    """

    kind: Literal["folder", "manifest", "s3", "tar"]
    location: str
    s3_endpoint_url: str | None = None

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps({"kind": self.kind, "location": self.location}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, s3_endpoint_url: str | None = None) -> Self:
        """The inverse of `to_json`, with the S3 server of this process. Raises RecordTooNew, RecordDamaged."""
        return build(cls, read_record(text, "the source of the run") | {"s3_endpoint_url": s3_endpoint_url})


def open_source(location: str, *, s3_endpoint_url: str | None = None) -> Source:
    """The source at a location.

    A location is a folder of images, `s3://bucket/prefix`, a CSV or JSONL manifest (`file_name`, optional `label`), or
    tar shards in the layout of WebDataset. Shards are a folder or prefix of `.tar` files, one file, or
    `shard-{000..127}.tar`; tar files in a folder with images are ignored. A manifest is parsed to its end, so that a
    wrong line is reported before a run is planned.

    Args:
        location: path or URL as the user typed it.
        s3_endpoint_url: URL of an S3-compatible server; None: Amazon S3. boto3 finds the credentials.

    Raises:
        DatasetError: the location does not exist or has no image, a line of the manifest does not parse, or the bucket
            does not exist or refuses access.
        SourceUnavailable: S3 does not answer.
    """
    if location.startswith(SCHEME):
        return _in_bucket(location, s3_endpoint_url)
    if "://" in location:
        kind = location.partition("://")[0]
        raise DatasetError(f"a source at {kind}:// cannot be read; give a folder, a manifest, .tar shards or s3://...")
    return _on_disk(Path(location).expanduser().absolute())


def list_entries(source: Source) -> Iterator[Entry]:
    """The entries of a source, numbered from 0: a folder's sorted by key, a manifest's in the file's order.

    Memory holds one directory, one page of a bucket's listing or the names in one shard at a time. A file that a
    manifest names but that is missing has the version `missing`; only its row will fail.

    Raises:
        DatasetError: a manifest line does not parse or leads out of the manifest's folder (the message has its
            number), a directory cannot be read or is a symbolic link, or a shard is damaged. Also if a name is not
            valid UTF-8.
        SourceUnavailable: S3 does not answer.
    """
    return opened(source).entries()


def is_unchanged(source: Source, key: str, version: str) -> bool:
    """Whether an image is still the one that was listed: a `stat` or one request, no read.

    Raises:
        SourceUnavailable: S3 does not answer.
    """
    return opened(source).is_unchanged(key, version)


def check_there(source: Source) -> None:
    """Check that a source is available, after an image was found missing.

    Raises:
        SourceUnavailable: its folder is missing, or its bucket does not answer.
    """
    opened(source).check_there()


@lru_cache(maxsize=64)
def opened(source: Source) -> Collection:
    """The images of a source. Threads share it, with its connections to S3."""
    if source.kind == "manifest":
        return Listed(Path(source.location))
    if source.kind != "tar":
        return Files(_tree(source.location, source))
    above, _, name = source.location.rpartition("/")
    if not name.endswith(".tar"):
        return Shards(_tree(source.location, source))
    return Shards(_tree(above, source), tuple(expand(name)))


def _tree(location: str, source: Source) -> Tree:
    if location.startswith(SCHEME):
        return Prefix(*parse_location(location), source.s3_endpoint_url)
    return Folder(location or "/")


def _in_bucket(location: str, endpoint_url: str | None) -> Source:
    bucket, prefix = parse_location(location)
    location = f"{SCHEME}{bucket}/{prefix}"
    if location.lower().endswith((*MANIFEST_SUFFIXES, *COMPRESSED)):
        raise DatasetError(f"{location} cannot be read from S3; give a prefix of images or uncompressed .tar shards")
    try:
        if location.endswith(".tar"):
            return _holding_images(Source("tar", location, endpoint_url))
        kind = _kind(Prefix(bucket, prefix, endpoint_url))
        if kind is None:
            raise DatasetError(f"{location} holds no image ({' '.join(SUFFIXES)}) and no .tar shard; check the prefix")
        return _holding_images(Source("s3" if kind == "images" else "tar", location, endpoint_url))
    except SourceRefused as error:  # the user must act: waiting does not help
        raise DatasetError(str(error)) from error


def _in_folder(path: Path) -> Source:
    folder = str(path.resolve())
    kind = _kind(Folder(folder))
    if kind is None:
        raise DatasetError(f"folder {path} holds no image ({' '.join(SUFFIXES)}) and no .tar shard")
    if kind == "images":
        return Source("folder", folder)
    if folder.endswith(".tar"):
        raise DatasetError(f"{path} is a folder named like a shard; rename it")
    return _holding_images(Source("tar", folder))


def _on_disk(path: Path) -> Source:
    if path.is_dir():
        return _in_folder(path)
    location = str(path.parent.resolve() / path.name)
    if path.suffix == ".tar" and (path.exists() or "{" in path.name):
        return _holding_images(Source("tar", location))
    if not path.exists():
        raise DatasetError(f"{path} does not exist{_near_miss(path)}; give a folder of images, a manifest or shards")
    if path.name.lower().endswith(COMPRESSED):
        raise DatasetError(f"{path} is compressed, so that single images cannot be read; unpack it to a plain .tar")
    if path.suffix.lower() not in MANIFEST_SUFFIXES:
        raise DatasetError(
            f"{path} is not a manifest ({' '.join(MANIFEST_SUFFIXES)}) or a .tar; give a folder of images"
        )
    if not Listed(Path(location)).count():
        raise DatasetError(f"manifest {path} lists no image; add a line for each, with its file_name")
    return Source("manifest", location)


def _kind(tree: Tree) -> Literal["images", "shards"] | None:
    """Content of a tree: images if there is one, else shards (compressed ones are refused when listed)."""
    kind: Literal["shards"] | None = None
    for key, _ in tree.walk((*SUFFIXES, ".tar", *COMPRESSED)):
        if key.lower().endswith(SUFFIXES):
            return "images"
        kind = "shards"
    return kind


def _holding_images(source: Source) -> Source:
    if next(opened(source).entries(), None) is None:
        raise DatasetError(f"no image ({' '.join(SUFFIXES)}) is in {source.location}")
    return source


def _near_miss(path: Path) -> str:
    """Hint at a sibling with a similar name, or at a missing parent."""
    if not path.parent.is_dir():
        return f" (nor does {path.parent})"
    close = difflib.get_close_matches(path.name, [child.name for child in path.parent.iterdir()], n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
