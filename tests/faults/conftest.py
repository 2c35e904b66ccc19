"""One installation for all faults of the folder; each fault leaves it working."""

from collections.abc import Iterator
from functools import partial

import pytest

from pipeline.engine import unit
from pipeline.engine.worker import open_workshop
from tests.support import cluster, workers
from tests.support.cluster import Place, place


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("faults")) as found:
        yield found


@pytest.fixture
def here(installation: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The installation, at peace; afterwards nobody is hired any more."""
    for name, value in installation.site.environment.items():
        monkeypatch.setenv(name, value)
    opening = partial(open_workshop, on_step=workers.note_starts(installation.notes))
    monkeypatch.setattr(cluster, "open_workshop", opening)
    monkeypatch.setattr(unit, "RETRY_SECONDS", workers.RETRY_SECONDS)
    installation.small.behave("calm", 0)
    yield installation
    installation.dismiss()
    installation.flush()
