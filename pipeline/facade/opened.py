"""What every part of the API stands on: the index and the object store, opened."""

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from db import queries
from db.ledger import Ledger
from db.objects import Objects, open_objects
from db.records import Entry, Progress, Run
from db.session import Engine, Index, look_at, migrate, open_engine
from pipeline.datasets import Source
from pipeline.runs import submit
from pipeline.settings import Settings
from pipeline.spec.run_spec import RunSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Opened:
    """One index and one object store, opened. A context manager.

    Args:
        settings: where they are.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database: Engine = open_engine(settings.database_url)
        migrate(self.database)
        self.objects: Objects = open_objects(settings.objects_url, s3_endpoint_url=settings.s3_endpoint_url)
        self.ledger = Ledger(self.database, lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts)

    @classmethod
    def open(cls, home: str | Path | None = None) -> Self:
        """The pipeline that the environment names; `home` stands in for ATTRIBATCH_HOME.

        Raises:
            IndexOutdated: the index was written by a newer version.
            StoreUnavailable: the database does not answer.
        """
        return cls(Settings.from_env(None if home is None else {**os.environ, "ATTRIBATCH_HOME": str(home)}))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self.database.dispose()

    @property
    def index(self) -> Index:
        """The database: where it is, its schema's revision, its clock."""
        return look_at(self.database)

    def runs(self) -> list[Run]:
        """All runs, the newest submission first."""
        return queries.list_runs(self.database)

    def waiting(self) -> list[Run]:
        """Runs of which something waits or is computed, the most urgent first."""
        return queries.waiting_runs(self.database)

    def get_run(self, ref: str) -> Run:
        """A run by its id, a prefix of it, its name, or `latest`. Raises NotFound."""
        return queries.get_run(self.database, ref)

    def status(self, ref: str) -> Progress:
        """Counts of a run's units and images."""
        return queries.progress(self.database, self.get_run(ref).id)

    def _pixels(self, source: Source, spec: RunSpec, entry: Entry) -> "NDArray[np.float32]":
        return submit.read_pixels(source, spec, entry, self.settings.max_pixels)

    def _sample_pixels(self, run: Run) -> "NDArray[np.float32] | None":
        import numpy as np

        spec, source = RunSpec.from_json(run.spec), Source.from_json(run.source, self.settings.s3_endpoint_url)
        pixels = [self._pixels(source, spec, Entry(-1, key, version)) for key, version, _ in spec.samples]
        return np.stack(pixels) if pixels else None
