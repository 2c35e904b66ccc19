"""Shared parts of S3 access: the client, ranges, statuses, and retries of reads."""

from collections.abc import Callable
from typing import Any

from db.errors import StoreRefused, StoreUnavailable

READ_TRIES = 3  # botocore retries requests, but not a truncated body


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
