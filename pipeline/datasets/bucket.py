"""Files below a prefix of an S3 bucket. A version is the object's ETag."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from db.errors import ObjectUnreadable, StoreRefused, StoreUnavailable
from db.s3 import Bucket
from pipeline.datasets.base import MISSING, Tree, is_storable
from pipeline.errors import DatasetError, SourceRefused, SourceUnavailable, UnreadableImage

SCHEME = "s3://"


class Prefix(Tree):
    """Objects whose keys begin with `prefix/`.

    Args:
        bucket: name of the bucket.
        prefix: '/'-separated, without '/' at its ends; empty for the whole bucket.
        endpoint_url: URL of an S3-compatible server; None: Amazon S3.
    """

    block_bytes = 2**20

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None = None) -> None:
        self.bucket = Bucket(bucket, endpoint_url)
        self._prefix = f"{prefix}/" if prefix else ""

    def walk(self, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """See `Tree.walk`. In the server's order; memory holds one page of the listing at a time."""
        with _translated():
            for found in self.bucket.list(self._prefix):
                key = found.key.removeprefix(self._prefix)
                if not key.lower().endswith(suffixes) or key.startswith(".") or "/." in key:
                    continue
                if not is_storable(key):
                    raise DatasetError(f"{self.bucket}: the name {key!a} cannot be stored; rename the object")
                yield key, found.etag

    def version(self, key: str) -> str:
        """See `Tree.version`. One request."""
        with _translated():
            try:
                return self.bucket.etag(self._prefix + key)
            except ObjectUnreadable:
                return MISSING

    def read(self, key: str, version: str, *, max_bytes: int, start: int = 0, length: int | None = None) -> bytes:
        """See `Tree.read`. One request, which S3 answers only while the ETag is the same."""
        with _translated():
            try:
                return self.bucket.get(self._prefix + key, version, max_bytes=max_bytes, start=start, length=length)
            except ObjectUnreadable as error:
                raise UnreadableImage(str(error)) from error

    def check_there(self) -> None:
        """See `Tree.check_there`: lists one object."""
        with _translated():
            next(self.bucket.list(self._prefix, most=1), None)


def parse_location(location: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/prefix`; the prefix has no '/' at its ends.

    Raises:
        DatasetError: there is no bucket name, or the location contains credentials, which the message does not repeat.
    """
    bucket, _, prefix = location.removeprefix(SCHEME).partition("/")
    if "@" in bucket or "?" in location:
        raise DatasetError(
            "credentials and signatures do not belong into a source; write s3://bucket/prefix, and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", bucket):
        raise DatasetError(f"{bucket!r} is not the name of a bucket; write s3://bucket/prefix")
    return bucket, prefix.strip("/")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except StoreRefused as error:
        raise SourceRefused(str(error)) from error
    except StoreUnavailable as error:
        raise SourceUnavailable(f"{error}; the source is tried again later") from error
