"""How a bucket of others is read on its bad days, by a loopback server that answers as each test asks."""

from collections.abc import Iterator

import pytest

from db.errors import ObjectUnreadable, StoreRefused, StoreUnavailable
from db.objects import S3
from db.s3 import ATTEMPTS, Bucket
from tests.support.scripted_s3 import Scripted, running, server

__all__ = ["running", "server"]  # fixtures


@pytest.fixture
def bucket(running: tuple[Scripted, S3], server: Scripted) -> Iterator[Bucket]:
    opened = Bucket("bucket", server.url)
    yield opened
    opened.close()


def get(bucket: Bucket, etag: str = "v1") -> bytes:
    return bucket.get("a/b.png", etag, max_bytes=10)


def test_an_object_is_asked_for_by_its_etag_and_range(server: Scripted, bucket: Bucket) -> None:
    server.answers = [(206, "bytes", None)]
    assert bucket.get("a/b.png", "v1", max_bytes=10, start=3, length=5) == b"bytes"
    command, path, headers = server.seen[0]
    assert (command, path) == ("GET", "/bucket/a/b.png")
    assert (headers["If-Match"], headers["Range"]) == ('"v1"', "bytes=3-7")


def test_a_changed_object_is_refused_without_if_match(server: Scripted, bucket: Bucket) -> None:
    """A server that does not know if match gives no changed object."""
    server.answers = [(200, "bytes", None)]
    with pytest.raises(ObjectUnreadable, match="changed"):
        get(bucket, "v0")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [(412, "PreconditionFailed", "changed"), (404, "NoSuchKey", "missing"), (403, "InvalidObjectState", "archived")],
)
def test_one_object_that_cannot_be_read_is_its_own_fault(
    server: Scripted, bucket: Bucket, status: int, code: str, words: str
) -> None:
    server.answers = [(status, code, None)]
    with pytest.raises(ObjectUnreadable, match=words):
        get(bucket)


def test_more_bytes_than_allowed_are_not_read(server: Scripted, bucket: Bucket) -> None:
    server.answers = [(200, "eleven bytes", None)]
    with pytest.raises(ObjectUnreadable, match="12 bytes, more than the 10 allowed"):
        get(bucket)


def test_a_body_that_is_cut_short_is_read_again(server: Scripted, bucket: Bucket) -> None:
    server.answers = [(200, "by", 5), (200, "bytes", None)]
    assert get(bucket) == b"bytes"


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (404, "NoSuchBucket", StoreRefused, "does not exist"),
        (403, "AccessDenied", StoreRefused, "AWS_SECRET_ACCESS_KEY"),
        (503, "SlowDown", StoreUnavailable, "answers SlowDown"),
    ],
)
def test_a_bucket_that_gives_nothing_is_no_fault_of_its_objects(
    server: Scripted, bucket: Bucket, status: int, code: str, kind: type[Exception], words: str
) -> None:
    server.answers = [(status, code, None)]
    with pytest.raises(kind, match=words) as caught:
        get(bucket)
    assert "bucket 'bucket' at 127.0.0.1" in str(caught.value)
    if kind is StoreRefused:
        assert len(server.seen) < ATTEMPTS
