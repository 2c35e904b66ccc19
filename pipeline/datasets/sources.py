"""What somebody names as a source of images becomes a `Source`; a `Source` becomes the collection that reads it."""

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


@dataclass(frozen=True, slots=True)
class Source:
    """Where images come from. Its location is absolute: a path, or `s3://bucket/prefix`.

    Of kind "tar" it names a folder or prefix with shards below it, or ends in `.tar` and names one shard, or a row of
    them: `shard-{000..127}.tar`. The server of a bucket is no part of a run: machines may reach it by different names.
    """

    kind: Literal["folder", "manifest", "s3", "tar"]
    location: str
    s3_endpoint_url: str | None = None

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps({"kind": self.kind, "location": self.location}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, s3_endpoint_url: str | None = None) -> Self:
        """The inverse of `to_json`, on the S3 server that this process knows."""
        return cls(**json.loads(text), s3_endpoint_url=s3_endpoint_url)


def open_source(location: str, *, s3_endpoint_url: str | None = None) -> Source:
    """The source that somebody names.

    It is a folder of images, `s3://bucket/prefix`, a CSV or JSONL manifest (`file_name`, optional `label`), or tar
    shards in the layout of WebDataset: a folder or prefix of `.tar` files (tar files that lie beside images are left
    alone), one of them, or `shard-{000..127}.tar`. A manifest is parsed to its end, so that a wrong line is said before
    a run is planned.

    Args:
        location: as it was typed.
        s3_endpoint_url: of an S3 that is not Amazon's. Credentials come from where boto3 looks for them.

    Raises:
        DatasetError: nothing is there, no image is found, a line of the manifest does not parse, the bucket does not
            exist or refuses us.
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

    Memory holds one directory, one page of a bucket's listing or the names in one shard at a time. Where a manifest
    names a file that is not there the version is `missing` (the row will be failed, its neighbours go on).

    Raises:
        DatasetError: a manifest line does not parse or leads out of the manifest's folder (with the line), a
            directory cannot be read or is a symbolic link, a shard is damaged (with the place), or a name is not valid
            UTF-8.
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
    """Tell a source that is away from an image that is gone.

    Raises:
        SourceUnavailable: its folder is not there, or its bucket does not answer.
    """
    opened(source).check_there()


@lru_cache(maxsize=64)
def opened(source: Source) -> Collection:
    """The images of a source. One for all threads: it holds the connections to S3."""
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
    except SourceRefused as error:  # waiting will not help whoever asks
        raise DatasetError(str(error)) from error


def _in_folder(path: Path) -> Source:
    folder = str(path.resolve())
    kind = _kind(Folder(folder))
    if kind is None:
        raise DatasetError(f"folder {path} holds no image; known are {' '.join(SUFFIXES)}, and .tar shards")
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
        raise DatasetError(f"{path} is compressed, so that no image can be read alone; unpack it to a plain .tar")
    if path.suffix.lower() not in MANIFEST_SUFFIXES:
        raise DatasetError(
            f"{path} is no manifest ({' '.join(MANIFEST_SUFFIXES)}) and no .tar; give a folder of images"
        )
    if not Listed(Path(location)).count():
        raise DatasetError(f"manifest {path} lists no image; add a line for each, with its file_name")
    return Source("manifest", location)


def _kind(tree: Tree) -> Literal["images", "shards"] | None:
    """What a place is a place of: images if there is one, else shards (a compressed one is refused when listed)."""
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
    """A sibling of nearly the same name, or the parent that is missing too."""
    if not path.parent.is_dir():
        return f" (nor does {path.parent})"
    close = difflib.get_close_matches(path.name, [child.name for child in path.parent.iterdir()], n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
