"""How S3's bad days are told, by a loopback server that answers as each test asks. Real S3: see services."""

import os

import pytest

from db.errors import ObjectMissing, StoreUnavailable
from db.objects import S3, open_objects
from tests.support.scripted_s3 import Scripted, running, server

__all__ = ["running", "server"]  # fixtures


@pytest.fixture
def objects(running: tuple[Scripted, S3]) -> S3:
    return running[1]


def test_put_once_asks_the_server_to_refuse_a_second(server: Scripted, objects: S3) -> None:
    server.answers = [(200, "", None)]
    assert objects.put_once("a/b", b"x")
    command, path, headers = server.seen[0]
    assert (command, path, headers["If-None-Match"]) == ("PUT", "/bucket/some/prefix/a/b", "*")


def test_412_says_that_there_is_one(server: Scripted, objects: S3) -> None:
    server.answers = [(412, "PreconditionFailed", None)]
    assert not objects.put_once("a", b"x")
    assert len(server.seen) == 1


def test_409_is_asked_again(server: Scripted, objects: S3) -> None:
    server.answers = [(409, "ConditionalRequestConflict", None)] * 2 + [(200, "", None)]
    assert objects.put_once("a", b"x")
    assert len(server.seen) == 3


def test_409_for_ever_is_unavailable(server: Scripted, objects: S3) -> None:
    server.answers = [(409, "ConditionalRequestConflict", None)]
    with pytest.raises(StoreUnavailable, match="ConditionalRequestConflict"):
        objects.put_once("a", b"x")


def test_503_is_retried_within_the_call(server: Scripted, objects: S3) -> None:
    server.answers = [(503, "SlowDown", None)] * 3 + [(200, "bytes", None)]
    assert objects.get("a") == b"bytes"


def test_503_for_ever_is_unavailable_and_names_the_object(server: Scripted, objects: S3) -> None:
    server.answers = [(503, "SlowDown", None)]
    for ask in (objects.size, objects.exists, objects.delete, lambda key: objects.put(key, b"x")):
        with pytest.raises(StoreUnavailable, match=r"s3://bucket/some/prefix.*'a/b'"):
            ask("a/b")
    with pytest.raises(StoreUnavailable, match="SlowDown"):
        list(objects.list())


def test_body_that_is_cut_is_read_again(server: Scripted, objects: S3) -> None:
    server.answers = [(200, "by", 5), (200, "bytes", None)]
    assert objects.get("a") == b"bytes"


def test_body_that_is_always_cut_is_unavailable_never_short(server: Scripted, objects: S3) -> None:
    server.answers = [(200, "by", 5)]
    with pytest.raises(StoreUnavailable):
        objects.get("a")


def test_404_is_missing(server: Scripted, objects: S3) -> None:
    server.answers = [(404, "NoSuchKey", None)]
    with pytest.raises(ObjectMissing, match="no object 'a'"):
        objects.get("a")
    assert not objects.exists("a")


def test_missing_bucket_is_not_a_missing_object(server: Scripted, objects: S3) -> None:
    server.answers = [(404, "NoSuchBucket", None)]
    with pytest.raises(StoreUnavailable, match="NoSuchBucket"):
        objects.get("a")


def test_refused_credentials_are_told(server: Scripted, objects: S3) -> None:
    server.answers = [(403, "SignatureDoesNotMatch", None)]
    with pytest.raises(StoreUnavailable, match="SignatureDoesNotMatch"):
        objects.put_once("a", b"x")


@pytest.mark.parametrize(
    ("start", "length", "header"),
    [(0, 4, "bytes=0-3"), (7, None, "bytes=7-"), (-8, None, "bytes=-8"), (None, 2, "bytes=0-1")],
)
def test_ranges_are_asked_of_the_server(
    server: Scripted, objects: S3, start: int | None, length: int | None, header: str
) -> None:
    server.answers = [(206, "part", None)]
    assert objects.get("a", start, length) == b"part"
    assert server.seen[0][2]["Range"] == header


def test_no_server_is_unavailable(server: Scripted) -> None:
    objects = open_objects("s3://bucket", s3_endpoint_url="http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
        objects.put_once("a", b"x")


def test_each_process_has_a_client_of_its_own(server: Scripted, objects: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = [(200, "", None)]
    objects.put("a", b"x")
    own = objects.clients.current()
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as after a fork
    objects.put("a", b"x")
    assert objects.clients.current() is not own
