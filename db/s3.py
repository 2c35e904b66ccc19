"""S3: clients, retries and ranges of requests, and read-only access to a user's bucket, listed page by page.

Error messages name the server, the bucket and S3's error code. They never contain request URLs or credentials.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from db.errors import ObjectUnreadable, StoreRefused, StoreUnavailable

READ_TRIES = 3  # botocore retries requests, but not a truncated body
ATTEMPTS = 4  # 4 s in total; after a longer outage the engine retries the unit

_CHANGED = "the object changed after it was listed; run again to include the new version"
_ONE_OBJECT = {
    "NoSuchKey": "the object is missing",
    "404": "the object is missing",
    "PreconditionFailed": _CHANGED,
    "412": _CHANGED,
    "InvalidObjectState": "the object is archived; restore it first",
}
_NO_BUCKET = ("NoSuchBucket", "InvalidBucketName")
_NOT_ALLOWED = (401, 403)
_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to an account that may list and read it"
)
_ENDPOINT = "set ATTRIBATCH_S3_ENDPOINT_URL for servers other than Amazon's"


def connect(endpoint_url: str | None, *, attempts: int = 8) -> Any:
    """Return a boto3 client of S3. Do not use it after a fork.

    Args:
        endpoint_url: address of an S3 server other than Amazon's; None is Amazon's.
        attempts: tries of each request. With 8, 100 of 100 requests succeeded in 42 s at 30 % of status 503; boto3's
            `adaptive` mode took 105 s.
    """
    import boto3
    from botocore.config import Config

    session = boto3.session.Session()  # the default session is not thread-safe
    config = Config(
        retries={"mode": "standard", "max_attempts": attempts},
        max_pool_connections=32,
        connect_timeout=5,
        read_timeout=60,
        s3={"addressing_style": "path" if endpoint_url else "auto"},
    )
    region = session.region_name or "us-east-1"
    return session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)


class Clients:
    """The boto3 client of each process: a child process must not reuse its parent's connections.

    Args:
        endpoint_url: address of an S3 server other than Amazon's; None is Amazon's.
        attempts: tries of each request, 1 or more.
    """

    def __init__(self, endpoint_url: str | None, *, attempts: int = 8) -> None:
        self.endpoint_url = endpoint_url
        self._attempts = attempts
        self._by_process: dict[int, Any] = {}

    def current(self) -> Any:
        """Return the client of this process; the first call makes it."""
        known = self._by_process.get(os.getpid())
        made = known or connect(self.endpoint_url, attempts=self._attempts)
        return self._by_process.setdefault(os.getpid(), made)

    def close(self) -> None:
        """Close all connections. A later call of `current` connects again."""
        while self._by_process:
            self._by_process.popitem()[1].close()


def tried_again(read: Callable[[], bytes]) -> bytes:
    """Call `read` up to `READ_TRIES` times, unless the store refuses, and return its bytes or raise its last error."""
    for left in reversed(range(READ_TRIES)):
        try:
            return read()
        except StoreUnavailable as error:
            if not left or isinstance(error, StoreRefused):
                raise
    raise AssertionError("the last try returns or raises")


def range_header(start: int, length: int | None) -> str:
    """Return the value of an HTTP `Range` header. A negative start counts from the end."""
    if start < 0:
        return f"bytes={start}"
    return f"bytes={start}-" if length is None else f"bytes={start}-{start + length - 1}"


def status_of(error: Any) -> int:
    """Return the HTTP status of a `ClientError`."""
    status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return status


@dataclass(frozen=True, slots=True)
class BucketObject:
    """One object of a listing."""

    key: str
    etag: str  # without the quotes


class Bucket:
    """A read-only bucket. Safe to share between threads and to use after a fork.

    Every method raises `StoreRefused` if the bucket does not exist or refuses the credentials, and
    `StoreUnavailable` if the server does not answer or fails.

    Args:
        name: name of the bucket, without `s3://`.
        endpoint_url: address of an S3 server other than Amazon's. boto3 finds the credentials in its usual places.
    """

    def __init__(self, name: str, endpoint_url: str | None = None) -> None:
        self._name = name
        self._clients = Clients(endpoint_url, attempts=ATTEMPTS)

    def close(self) -> None:
        """Close the connections."""
        self._clients.close()

    def list(self, prefix: str, *, most: int | None = None) -> Iterator[BucketObject]:
        """Yield the objects whose keys begin with a prefix, in the server's order. Memory holds one page of 1,000.

        Args:
            prefix: "" lists the whole bucket.
            most: stop after this many objects; None lists all.
        """
        options = {} if most is None else {"PaginationConfig": {"MaxItems": most, "PageSize": most}}
        with self._client() as client:
            pages = iter(client.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=prefix, **options))
        while True:
            with self._client():
                page = next(pages, None)
            if page is None:
                return
            for found in page.get("Contents", ()):
                yield BucketObject(found["Key"], found["ETag"].strip('"'))

    def etag(self, key: str) -> str:
        """Return the current ETag of an object, or raise ObjectUnreadable."""
        with self._client() as client:
            return _etag(client.head_object(Bucket=self._name, Key=key))

    def get(self, key: str, etag: str, *, max_bytes: int, start: int = 0, length: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them, if it still has this ETag.

        Args:
            key: full key in the bucket.
            etag: the ETag from the listing, without quotes.
            max_bytes: refuse a longer answer before reading it.
            start: first byte of the range, from 0; a negative one counts from the end, without a `length`.
            length: bytes to read; None reads to the end.

        Returns:
            The bytes; fewer than `length` if the object ends earlier.

        Raises:
            ObjectUnreadable: the object is missing, has another ETag, is archived, or is longer than `max_bytes`.
        """
        bounds = {} if start == 0 and length is None else {"Range": range_header(start, length)}
        return tried_again(lambda: self._get(key, etag, max_bytes, bounds))

    def _get(self, key: str, etag: str, max_bytes: int, bounds: dict[str, str]) -> bytes:
        with self._client() as client:
            try:
                found = client.get_object(Bucket=self._name, Key=key, IfMatch=f'"{etag}"', **bounds)
            except client.exceptions.ClientError as error:
                if status_of(error) == 416:  # the range begins past the end
                    return b""
                raise
            with contextlib.closing(found["Body"]) as body:
                if _etag(found) != etag:  # some servers ignore If-Match
                    raise ObjectUnreadable(_CHANGED)
                if found["ContentLength"] > max_bytes:
                    raise ObjectUnreadable(f"{found['ContentLength']:,} bytes, more than the {max_bytes:,} allowed")
                data: bytes = body.read()
                return data

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        """Yield the client of this process, and translate its errors."""
        from botocore.exceptions import (  # imported here because it takes 0.3 s
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            PartialCredentialsError,
            ProfileNotFound,
        )

        try:
            yield self._connected()
        except ClientError as error:
            raise self._translated(error) from error
        except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
            raise StoreRefused(f"{self} needs credentials ({type(error).__name__}); {_CREDENTIALS}") from error
        except (BotoCoreError, OSError) as error:
            raise StoreUnavailable(f"{self} does not answer ({type(error).__name__}); {_ENDPOINT}") from error

    def _connected(self) -> Any:
        try:
            return self._clients.current()
        except ValueError:
            raise StoreRefused("ATTRIBATCH_S3_ENDPOINT_URL is not a URL; write http://host:port") from None

    def _translated(self, error: Any) -> Exception:
        code, status = str(error.response.get("Error", {}).get("Code")), status_of(error)
        if code in _ONE_OBJECT:
            return ObjectUnreadable(_ONE_OBJECT[code])
        if code in _NO_BUCKET:
            return StoreRefused(f"{self} does not exist ({code}); check its name, and {_ENDPOINT}")
        if status in _NOT_ALLOWED:
            return StoreRefused(f"{self} refuses access ({code}); {_CREDENTIALS}")
        return StoreUnavailable(f"{self} answers {code} (HTTP {status})")

    def __str__(self) -> str:
        parts = urlsplit(self._clients.endpoint_url or "")
        server = "Amazon S3" if not parts.netloc else parts.netloc.rpartition("@")[2]
        return f"bucket {self._name!r} at {server}"


def _etag(answer: Any) -> str:
    return str(answer["ETag"]).strip('"')
