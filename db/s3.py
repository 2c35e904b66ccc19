"""What all who talk to S3 share: a client, ranges, statuses, and reads that are tried again."""

from collections.abc import Callable
from typing import Any

from db.errors import StoreRefused, StoreUnavailable

READ_TRIES = 3  # botocore retries requests, but not a body that is cut short


def connect(endpoint_url: str | None, *, attempts: int = 8) -> Any:
    """A boto3 client of S3. It must not be carried across a fork.

    Args:
        endpoint_url: of an S3 that is not Amazon's.
        attempts: of each request, 8 by default: at 30 % 503 100 of 100 came through in 42 s (`adaptive` took 105 s).
    """
    import boto3
    from botocore.config import Config

    session = boto3.session.Session()  # of its own: the default session is not safe between threads
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
    """What a read gives, tried `READ_TRIES` times unless the store refuses. Raises as `read`."""
    for left in reversed(range(READ_TRIES)):
        try:
            return read()
        except StoreUnavailable as error:
            if not left or isinstance(error, StoreRefused):
                raise
    raise AssertionError("the last try returns or raises")


def range_header(start: int, length: int | None) -> str:
    """The `Range` of an HTTP request; a negative start counts from the end."""
    if start < 0:
        return f"bytes={start}"
    return f"bytes={start}-" if length is None else f"bytes={start}-{start + length - 1}"


def status_of(error: Any) -> int:
    """The HTTP status of a `ClientError`."""
    status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return status
