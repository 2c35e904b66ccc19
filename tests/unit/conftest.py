"""A worker of the pipeline in this process, and a client of S3."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from db.objects import S3
from pipeline.api import Pipeline
from pipeline.engine.unit import Workshop
from pipeline.engine.worker import open_workshop
from tests.support.databases import connected
from tests.support.servers import S3Server


@pytest.fixture
def shop(pipeline: Pipeline) -> Iterator[Workshop]:
    opened = open_workshop(replace(pipeline.settings, device="cpu"))
    yield opened
    opened.database.dispose()


@pytest.fixture(scope="session")
def s3_store(seaweed: S3Server) -> Iterator[S3]:
    """One client for all tests: it takes 0.5 s to make."""
    with connected(seaweed, prefix="tests") as objects:
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
            patched.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
            assert not objects.exists("any")
        yield objects
