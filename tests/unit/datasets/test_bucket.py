"""What only S3 can show: pages of listings, credentials, endpoints that are away and come back."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from db.objects import S3
from db.records import Entry, RunState
from pipeline.api import Pipeline, RunRequest
from pipeline.datasets import Source, list_entries, open_source
from pipeline.datasets.decoder import Decoder
from pipeline.datasets.sources import opened
from pipeline.engine.unit import Outcome, run_unit
from pipeline.engine.worker import open_workshop, work
from pipeline.errors import DatasetError, SourceUnavailable
from pipeline.spec.run_spec import Preprocess
from tests.support.databases import connected
from tests.support.servers import S3Server, free_port
from tests.support.shards import png
from tests.support.trees import BucketTree

pytestmark = pytest.mark.slow


@pytest.fixture
def server(s3_sources: S3Server) -> S3Server:
    return s3_sources


@pytest.fixture
def bucket(server: S3Server) -> Iterator[S3]:
    with connected(server) as objects:
        yield objects


def named(server: S3Server, prefix: str) -> Source:
    return open_source(f"s3://{server.bucket}/{prefix}", s3_endpoint_url=server.endpoint_url)


def test_a_prefix_of_several_pages_is_listed_with_labels(server: S3Server, bucket: S3) -> None:
    """A prefix of several pages is listed once each with labels."""
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


def test_an_endpoint_that_is_away_is_named_and_may_come_back(server: S3Server) -> None:
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


def test_a_unit_waits_while_its_bucket_is_away(
    server: S3Server, bucket: S3, dataset: Path, pipeline: Pipeline, request_: RunRequest
) -> None:
    """A unit whose bucket is away waits and is completed later."""
    BucketTree(bucket, "waits", server.endpoint_url).copy(dataset)
    run = pipeline.submit(replace(request_, source=f"s3://{server.bucket}/waits"))
    assert server.access_key not in run.source
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
