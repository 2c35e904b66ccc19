"""A tree of images that a test fills and changes, in a folder or in a bucket."""

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from db.objects import S3
from pipeline.datasets import Source, open_source

TOO_LARGE = 70_000_000  # bytes: more than any image of 100 pixels has


class Tree(ABC):
    """Files below a location."""

    location: str
    endpoint_url: str | None = None

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write a file, or replace it by one that was written later."""

    @abstractmethod
    def put_large(self, key: str) -> None:
        """Write a file of `TOO_LARGE` bytes."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a file."""

    def source(self, below: str = "") -> Source:
        """The source at the location, or at a file or folder below it."""
        return open_source(f"{self.location}{below and '/'}{below}", s3_endpoint_url=self.endpoint_url)

    def copy(self, folder: Path) -> None:
        """Write the files of a folder."""
        files = [path for path in folder.rglob("*") if path.is_file()]
        with ThreadPoolExecutor(8) as executor:
            list(executor.map(lambda path: self.put(str(path.relative_to(folder)), path.read_bytes()), files))


class FolderTree(Tree):
    """In a folder."""

    def __init__(self, root: Path) -> None:
        self.location = str(root)
        self._root = root

    def put(self, key: str, data: bytes) -> None:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def put_large(self, key: str) -> None:
        with (self._root / key).open("wb") as file:
            file.truncate(TOO_LARGE)

    def delete(self, key: str) -> None:
        (self._root / key).unlink()


class BucketTree(Tree):
    """Below a prefix of a store."""

    def __init__(self, store: S3, prefix: str, endpoint_url: str) -> None:
        self.location = f"{store.url}/{prefix}"
        self.endpoint_url = endpoint_url
        self._store, self._prefix = store, prefix

    def put(self, key: str, data: bytes) -> None:
        self._store.put(f"{self._prefix}/{key}", data)

    def put_large(self, key: str) -> None:
        self.put(key, bytes(TOO_LARGE))

    def delete(self, key: str) -> None:
        self._store.delete(f"{self._prefix}/{key}")
