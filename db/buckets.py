"""Objects of others in an S3 bucket: listed page by page and read, never written. Knows nothing of what they mean.

Messages name the server, the bucket and S3's own word for what is wrong; URLs of requests and credentials never.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from db.errors import ObjectUnreadable, StoreRefused, StoreUnavailable
from db.s3 import connect, range_header, status_of, tried_again

ATTEMPTS = 4  # of a request: 4 s at most; whoever reads a data set has other ways to wait longer

_CHANGED = "the object changed after it was listed; run again to take it in"
_ONE_OBJECT = {
    "NoSuchKey": "the object is missing",
    "404": "the object is missing",
    "PreconditionFailed": _CHANGED,
    "412": _CHANGED,
    "InvalidObjectState": "the object is archived; restore it first",
}
_NO_BUCKET = ("NoSuchBucket", "InvalidBucketName")
_NOT_ALLOWED = (401, 403)


@dataclass(frozen=True, slots=True)
class Found:
    """An object of a listing."""

    key: str
    etag: str  # without its quotes


class Bucket:
    """A bucket that is only read. Threads may share it, and it may be carried across a fork.

    Every method raises `StoreRefused` where there is no such bucket or it refuses the credentials, and
    `StoreUnavailable` where the server does not answer or fails.

    Args:
        name: of the bucket.
        endpoint_url: of an S3 that is not Amazon's. Credentials come from where boto3 looks for them.
    """

    def __init__(self, name: str, endpoint_url: str | None = None) -> None:
        self._name = name
        self._endpoint_url = endpoint_url
        self._clients: dict[int, Any] = {}  # by process: connections must not be shared across a fork

    def list(self, prefix: str, *, most: int | None = None) -> Iterator[Found]:
        """Objects whose keys begin with a prefix, in the server's order; memory holds one page of 1,000.

        Args:
            prefix: of the keys.
            most: objects; None lists all.
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
                yield Found(found["Key"], found["ETag"].strip('"'))

    def etag(self, key: str) -> str:
        """The object's ETag. Raises ObjectUnreadable."""
        with self._client() as client:
            return _etag(client.head_object(Bucket=self._name, Key=key))

    def get(self, key: str, etag: str, *, max_bytes: int, start: int = 0, length: int | None = None) -> bytes:
        """The bytes of an object that still has this ETag, or those of a range that lie before its end.

        Raises:
            ObjectUnreadable: it is gone, has another ETag, is archived, or gives more than `max_bytes`.
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
                if _etag(found) != etag:  # not every server knows If-Match
                    raise ObjectUnreadable(_CHANGED)
                if found["ContentLength"] > max_bytes:
                    raise ObjectUnreadable(f"{found['ContentLength']:,} bytes, more than the {max_bytes:,} allowed")
                data: bytes = body.read()
                return data

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        """The client of this process. Its errors are translated."""
        from botocore.exceptions import (  # 0.3 s: only who uses S3 pays for it
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            PartialCredentialsError,
            ProfileNotFound,
        )

        try:
            yield self._clients.get(os.getpid()) or self._clients.setdefault(os.getpid(), self._connected())
        except ClientError as error:
            raise self._translated(error) from error
        except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
            raise StoreRefused(f"{self} needs credentials ({type(error).__name__}); {_CREDENTIALS}") from error
        except (BotoCoreError, OSError) as error:
            raise StoreUnavailable(f"{self} does not answer ({type(error).__name__}); {_ENDPOINT}") from error

    def _connected(self) -> Any:
        try:
            return connect(self._endpoint_url, attempts=ATTEMPTS)
        except ValueError:
            raise StoreRefused("ATTRIBATCH_S3_ENDPOINT_URL is no URL; write http://host:port") from None

    def _translated(self, error: Any) -> Exception:
        code, status = str(error.response.get("Error", {}).get("Code")), status_of(error)
        if code in _ONE_OBJECT:
            return ObjectUnreadable(_ONE_OBJECT[code])
        if code in _NO_BUCKET:
            return StoreRefused(f"{self} does not exist ({code}); check its name, and {_ENDPOINT}")
        if status in _NOT_ALLOWED:
            return StoreRefused(f"{self} refuses to be listed or read ({code}); {_CREDENTIALS}")
        return StoreUnavailable(f"{self} answers {code} (HTTP {status})")

    def __str__(self) -> str:
        parts = urlsplit(self._endpoint_url or "")
        server = "Amazon S3" if not parts.netloc else parts.netloc.rpartition("@")[2]
        return f"bucket {self._name!r} at {server}"


_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, of somebody who may list and read it"
_ENDPOINT = "set ATTRIBATCH_S3_ENDPOINT_URL for servers other than Amazon's"


def _etag(answer: Any) -> str:
    return str(answer["ETag"]).strip('"')
