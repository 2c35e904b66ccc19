"""Images and shards on a real SeaweedFS: listed by pages, pinned by ETag, away without loss."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from db.buckets import Bucket
from db.objects import S3
from db.records import Entry, RunState
from pipeline.api import Pipeline, RunRequest
from pipeline.datasets import Source, is_unchanged, list_entries, open_source, read_image
from pipeline.datasets.decoder import Decoder
from pipeline.datasets.sources import opened
from pipeline.engine.unit import Outcome, run_unit
from pipeline.engine.worker import open_workshop, work
from pipeline.errors import DatasetError, SourceUnavailable, UnreadableImage
from pipeline.spec.run_spec import Preprocess
from tests.support.servers import S3Server, free_port, seaweedfs
from tests.support.shards import assert_same_maps, png, shard


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with seaweedfs() as server, pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        patched.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        yield server


@pytest.fixture(scope="module")
def bucket(server: S3Server) -> Iterator[S3]:
    """What fills it."""
    objects = S3(server.bucket, endpoint_url=server.endpoint_url)
    yield objects
    close(objects)


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch, server: S3Server) -> Iterator[None]:
    """Sources are opened once per process: here once per test, and closed, because open sockets are warned of."""
    made: list[Bucket] = []
    begin = Bucket.__init__

    def noting(self: Bucket, name: str, endpoint_url: str | None = None) -> None:
        begin(self, name, endpoint_url)
        made.append(self)

    monkeypatch.setattr(Bucket, "__init__", noting)
    monkeypatch.setenv("ATTRIBATCH_S3_ENDPOINT_URL", server.endpoint_url)
    yield
    opened.cache_clear()
    for one in made:
        close(one)


def close(one: S3 | Bucket) -> None:
    for client in one._clients.values():
        client.close()


def named(server: S3Server, prefix: str) -> Source:
    return open_source(f"s3://{server.bucket}/{prefix}", s3_endpoint_url=server.endpoint_url)


def upload(bucket: S3, folder: Path, prefix: str) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda path: bucket.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes()), files))


def test_a_prefix_of_several_pages_is_listed_once_each_with_labels(server: S3Server, bucket: S3) -> None:
    keys = [f"{'cat' if number % 2 else 'dog'}/{number:04}.png" for number in range(1105)]
    others = ["readme.txt", ".hidden.png", ".thumbs/1.png", "top.PNG"]
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda key: bucket.put(f"many/{key}", key.encode()), [*keys, *others]))
        bucket.put("many-others/cat/1.png", b"of a neighbour whose name begins alike")
    source = named(server, "many/")
    assert source == Source("s3", f"s3://{server.bucket}/many", server.endpoint_url)
    entries = list(list_entries(source))
    assert [entry.row for entry in entries] == list(range(1106))
    assert {entry.key for entry in entries} == {*keys, "top.PNG"}
    assert all(entry.label == (entry.key.split("/")[0] if "/" in entry.key else None) for entry in entries)
    assert len({entry.version for entry in entries}) == 1106
    assert list(list_entries(source)) == entries


def test_a_changed_a_missing_and_a_large_object_are_failures_of_their_image(server: S3Server, bucket: S3) -> None:
    for name in ("changed", "gone", "same"):
        bucket.put(f"etags/{name}.png", png(1))
    bucket.put("etags/large.png", bytes(70_000_000))
    source = named(server, "etags")
    entries = {entry.key: entry for entry in list_entries(source)}
    bucket.put("etags/changed.png", png(2))
    bucket.delete("etags/gone.png")
    assert read_image(source, entries["same.png"], max_pixels=100).image.getpixel((0, 0)) == 1
    for key, words in (("changed", "changed after it was listed; run again"), ("gone", "the object is missing")):
        with pytest.raises(UnreadableImage, match=f"^{key}.png: the object.*{words.removeprefix('the object ')}"):
            read_image(source, entries[f"{key}.png"], max_pixels=100)
    with pytest.raises(UnreadableImage, match="70,000,000 bytes"):
        read_image(source, entries["large.png"], max_pixels=100)
    unchanged = {key for key, entry in entries.items() if is_unchanged(source, key, entry.version)}
    assert unchanged == {"same.png", "large.png"}


def test_what_is_wrong_with_a_source_is_said_at_submission(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(location: str, endpoint_url: str = server.endpoint_url) -> str:
        with pytest.raises(DatasetError) as caught:
            open_source(location, s3_endpoint_url=endpoint_url)
        return str(caught.value)

    assert "bucket 'nowhere' at 127.0.0.1" in refusal("s3://nowhere/images")
    assert "NoSuchBucket" in refusal("s3://nowhere/images")
    assert "no image" in refusal(f"s3://{server.bucket}/empty")
    assert "cannot be read from S3" in refusal(f"s3://{server.bucket}/m.csv")
    assert "ATTRIBATCH_S3_ENDPOINT_URL" in refusal("s3://bucket/x", "no-url")
    for location in ("s3://key:sesame@bucket/x", "s3://bucket/x?X-Amz-Signature=sesame"):
        assert "AWS_ACCESS_KEY_ID" in refusal(location)
        assert "sesame" not in refusal(location)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sesame")
    opened.cache_clear()
    text = refusal(f"s3://{server.bucket}/many")
    assert "SignatureDoesNotMatch" in text
    assert "AWS_SECRET_ACCESS_KEY" in text
    assert "sesame" not in text


def test_an_endpoint_that_is_away_is_named_and_may_come_back() -> None:
    port = free_port()
    with pytest.raises(SourceUnavailable, match=f"127.0.0.1:{port} does not answer") as caught:
        open_source("s3://bucket/images", s3_endpoint_url=f"http://user:sesame@127.0.0.1:{port}")
    assert "sesame" not in str(caught.value)


def test_a_bucket_that_is_gone_is_no_fault_of_its_images(server: S3Server, bucket: S3) -> None:
    bucket.put("stays/1.png", png(1))
    there = named(server, "stays")
    entries = [*list_entries(there), Entry(1, "gone.png", "an-etag")]
    [(pictures, failed)] = Decoder(there, Preprocess(8, 8), 100).ahead(entries, parts=1)
    assert ([one.entry.key for one in pictures], [one.entry.key for one in failed]) == (["1.png"], ["gone.png"])
    gone = Source("s3", "s3://gone/stays", server.endpoint_url)
    with pytest.raises(SourceUnavailable, match=r"bucket 'gone' .* does not exist"):
        list(Decoder(gone, Preprocess(8, 8), 100).ahead(entries))


def test_a_run_over_s3_equals_the_run_over_the_folder(
    server: S3Server, bucket: S3, dataset: Path, pipeline: Pipeline, request_: RunRequest
) -> None:
    upload(bucket, dataset, "same")
    assert_same_maps(pipeline, request_, f"s3://{server.bucket}/same")
    assert server.access_key not in pipeline.get_run("latest").source


def test_a_run_over_shards_on_s3_equals_the_run_over_the_folder(
    server: S3Server, bucket: S3, tmp_path: Path, dataset: Path, pipeline: Pipeline, request_: RunRequest
) -> None:
    files = [
        (f"{label}-{n}.{suffix}", (dataset / label / f"{n}.png").read_bytes() if suffix == "png" else label.encode())
        for label in ("cat", "dog", "eel")
        for n in range(6)
        for suffix in ("cls", "png")
    ]
    shard(tmp_path / "up/s-0.tar", files[:14])
    shard(tmp_path / "up/s-1.tar", files[14:])
    upload(bucket, tmp_path / "up", "shards")
    assert_same_maps(pipeline, request_, f"s3://{server.bucket}/shards/s-{{0..1}}.tar")
    source = named(server, "shards")
    entries = list(list_entries(source))
    assert [entry.key for entry in entries][::17] == ["s-0.tar/cat-0.png", "s-1.tar/eel-5.png"]
    bucket.put("shards/s-1.tar", b"another")
    with pytest.raises(UnreadableImage, match="changed after it was listed"):
        read_image(source, entries[-1], max_pixels=100)
    with pytest.raises(DatasetError, match=r"shard s-1.tar: damaged or cut off before byte 7"):
        list(list_entries(source))


def test_a_shard_of_many_blocks_is_read_in_blocks_and_ranges(server: S3Server, bucket: S3, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    files = [(f"{n}.png", random.bytes(700_000)) for n in range(14)]
    upload(bucket, shard(tmp_path / "big/0.tar", files).parent, "big")
    source = named(server, "big/0.tar")
    entries = list(list_entries(source))
    assert [entry.key for entry in entries] == [f"0.tar/{name}" for name, _ in files]
    assert [opened(source).read(entry, max_bytes=10**6) for entry in entries] == [data for _, data in files]


def test_a_unit_whose_bucket_is_away_waits_and_is_completed_later(
    server: S3Server, bucket: S3, dataset: Path, pipeline: Pipeline, request_: RunRequest
) -> None:
    upload(bucket, dataset, "waits")
    run = pipeline.submit(replace(request_, source=f"s3://{server.bucket}/waits"))
    away = replace(pipeline.settings, device="cpu", s3_endpoint_url=f"http://127.0.0.1:{free_port()}")
    shop = open_workshop(away)
    unit = shop.ledger.claim("test", run_id=run.id)
    assert unit is not None
    assert run_unit(shop, unit) is Outcome.FAILED
    shop.database.dispose()
    found = pipeline.status(run.id)
    assert found.state is not RunState.PARTIAL
    assert (found.images_failed, sum(found.units.values()), found.units["failed"]) == (0, 5, 0)  # type: ignore[index]
    assert "does not answer" in found.errors[0]
    shop = open_workshop(replace(pipeline.settings, device="cpu"))
    work(shop, run.id)
    shop.database.dispose()
    assert pipeline.status(run.id).state is RunState.DONE
