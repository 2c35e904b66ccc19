"""Which database and which object store a test runs on, and what differs between a schema and its tables."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine

from db.objects import S3, Objects
from db.session import read
from db.tables import VERSION_TABLE, metadata
from tests.support.servers import S3Server

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.slow)
SEAWEEDFS = pytest.param("s3", marks=pytest.mark.slow)
on_sqlite = pytest.mark.parametrize("shared", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("shared", [POSTGRESQL], indirect=True)
on_s3 = pytest.mark.parametrize("objects", [SEAWEEDFS], indirect=True)


def differences(engine: Engine) -> list[object]:
    """Between the schema of a database and the declared tables."""
    with read(engine) as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        return list(compare_metadata(context, metadata))


@contextmanager
def connected(server: S3Server, bucket: str = "", prefix: str = "") -> Iterator[S3]:
    """A store on a server; its connections are closed at the end."""
    objects = S3(bucket or server.bucket, prefix, endpoint_url=server.endpoint_url)
    try:
        yield objects
    finally:
        objects.close()


def remove_all(objects: Objects) -> None:
    """Delete every object, eight at a time."""
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(objects.delete, objects.list()))
