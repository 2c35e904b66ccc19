"""What only a real S3 can show: prefixes, pages of listings, credentials, buckets, forked processes."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest

from db.errors import StoreUnavailable
from db.objects import S3, Objects
from tests.support.databases import connected, on_s3
from tests.support.servers import S3Server

pytestmark = pytest.mark.slow


@on_s3
def test_prefixes_do_not_see_each_other(objects: S3, s3_server: S3Server) -> None:
    with connected(s3_server, prefix="tests-other/deep") as other:
        assert other.url == f"{objects.url}-other/deep"
        other.put("a", b"x")
        assert list(objects.list()) == []
        assert list(other.list()) == ["a"]


@on_s3
def test_list_pages_through_more_than_a_thousand_keys(objects: S3) -> None:
    keys = [f"{number:04d}" for number in range(1005)]
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda key: objects.put(key, b""), keys))
    assert list(objects.list()) == keys


def test_wrong_secret_is_unavailable(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with connected(s3_server) as objects, pytest.raises(StoreUnavailable, match="SignatureDoesNotMatch"):
        objects.put_once("a", b"x")


def test_missing_bucket_is_unavailable_and_named(s3_server: S3Server) -> None:
    nowhere = pytest.raises(StoreUnavailable, match=r"s3://nowhere.*NoSuchBucket")
    with connected(s3_server, "nowhere") as objects, nowhere:
        objects.get("a")


def put_in_child(objects: Objects, key: str) -> None:
    assert objects.put_once(key, b"child")
    assert objects.get("parent") == b"parent"


@on_s3
def test_forked_process_uses_a_client_of_its_own(objects: S3) -> None:
    objects.put("parent", b"parent")
    child = multiprocessing.get_context("fork").Process(target=put_in_child, args=(objects, "child"))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert objects.get("child") == b"child"
