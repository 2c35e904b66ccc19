"""Places of images: a folder, and a bucket of a real S3 (marked slow: it starts a server)."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.objects import S3
from db.s3 import Bucket
from pipeline.datasets.sources import opened
from tests.support.databases import SEAWEEDFS
from tests.support.servers import S3Server
from tests.support.trees import BucketTree, FolderTree, Tree


@pytest.fixture
def s3_sources(monkeypatch: pytest.MonkeyPatch, s3_server: S3Server) -> Iterator[S3Server]:
    """Sources are opened once per process: here once per test, and closed, because open sockets are warned of."""
    made: list[Bucket] = []
    begin = Bucket.__init__

    def noting(self: Bucket, name: str, endpoint_url: str | None = None) -> None:
        begin(self, name, endpoint_url)
        made.append(self)

    monkeypatch.setattr(Bucket, "__init__", noting)
    monkeypatch.setenv("ATTRIBATCH_S3_ENDPOINT_URL", s3_server.endpoint_url)
    yield s3_server
    opened.cache_clear()
    for bucket in made:
        bucket.close()


@pytest.fixture(params=["folder", SEAWEEDFS])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    """An empty tree of images."""
    if request.param == "folder":
        return FolderTree(tmp_path / "tree")
    server: S3Server = request.getfixturevalue("s3_sources")
    store: S3 = request.getfixturevalue("s3_store")
    return BucketTree(store, secrets.token_hex(4), server.endpoint_url)
