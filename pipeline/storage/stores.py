"""The three stores of an installation: the index, the ledger over it, and the object store."""

from dataclasses import dataclass
from typing import Self

from db.ledger import Ledger
from db.objects import Objects, open_objects
from db.session import Engine, open_engine, prepare
from pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Stores:
    """The opened stores. Commands, workers and the web page open them here and nowhere else."""

    database: Engine
    ledger: Ledger
    objects: Objects

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Open the stores that the settings name.

        Raises:
            IndexOutdated: a newer version wrote the index, or a server's schema must be migrated first.
            StoreUnavailable: the database does not answer.
        """
        database = open_engine(settings.database_url)
        prepare(database)
        return cls(
            database=database,
            ledger=Ledger(database, lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts),
            objects=open_objects(settings.objects_url, s3_endpoint_url=settings.s3_endpoint_url),
        )

    def close(self) -> None:
        """Close the connections to the database and to the object store."""
        self.database.dispose()
        self.objects.close()
