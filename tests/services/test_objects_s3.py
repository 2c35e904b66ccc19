"""The laws of object storage and of zarr over it, on a real SeaweedFS."""

import multiprocessing
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from db.errors import StoreUnavailable
from db.objects import S3, Objects, open_objects
from tests.support.servers import S3Server, seaweedfs
from tests.unit.db.test_objects import *  # noqa: F403
from tests.unit.db.test_zarr_store import Counting
from tests.unit.db.test_zarr_store import test_one_map_costs_two_ranged_reads as two_reads
from tests.unit.db.test_zarr_store import test_sharded_array_is_read_as_it_was_written as round_trip


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with seaweedfs() as server, pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        patched.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        yield server


@pytest.fixture(scope="module")
def shared(server: S3Server) -> Iterator[S3]:
    """One client for all tests: it takes 0.5 s to make."""
    objects = S3(server.bucket, endpoint_url=server.endpoint_url)
    yield objects
    for client in objects._clients.values():
        client.close()


@pytest.fixture
def objects(shared: S3, server: S3Server) -> S3:
    """A prefix of its own."""
    objects = S3(server.bucket, secrets.token_hex(4), endpoint_url=server.endpoint_url)
    objects._clients = shared._clients
    return objects


def test_prefixes_do_not_see_each_other(objects: S3, server: S3Server) -> None:
    other = open_objects(f"{objects.url}-other/deep", s3_endpoint_url=server.endpoint_url)
    assert isinstance(other, S3)
    other._clients = objects._clients
    other.put("a", b"x")
    assert list(objects.list()) == []
    assert list(other.list()) == ["a"]


def test_list_pages_through_more_than_a_thousand_keys(objects: S3) -> None:
    keys = [f"{number:04d}" for number in range(1005)]
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda key: objects.put(key, b""), keys))
    assert list(objects.list()) == keys


def test_wrong_secret_is_unavailable(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    objects = S3(server.bucket, endpoint_url=server.endpoint_url)
    with pytest.raises(StoreUnavailable, match="SignatureDoesNotMatch"):
        objects.put_once("a", b"x")
    for client in objects._clients.values():
        client.close()


def test_missing_bucket_is_unavailable_and_named(objects: S3, server: S3Server) -> None:
    nowhere = S3("nowhere", endpoint_url=server.endpoint_url)
    nowhere._clients = objects._clients
    with pytest.raises(StoreUnavailable, match=r"s3://nowhere.*NoSuchBucket"):
        nowhere.get("a")


def test_shards_of_zarr(objects: S3) -> None:
    round_trip(Counting(objects))


def test_one_map_of_a_shard(objects: S3) -> None:
    two_reads(Counting(objects))


def put_in_child(objects: Objects, key: str) -> None:
    assert objects.put_once(key, b"child")
    assert objects.get("parent") == b"parent"


def test_forked_process_uses_a_client_of_its_own(objects: S3) -> None:
    objects.put("parent", b"parent")
    child = multiprocessing.get_context("fork").Process(target=put_in_child, args=(objects, "child"))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert objects.get("child") == b"child"
