"""One installation for all faults of the folder; each fault leaves it working."""

from collections.abc import Iterator
from functools import partial

import pytest

from pipeline.engine import unit
from pipeline.engine.worker import open_workshop
from tests.support import cluster as cluster_module
from tests.support import workers
from tests.support.cluster import Cluster, start_cluster


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with start_cluster(tmp_path_factory.mktemp("faults")) as found:
        yield found


@pytest.fixture
def cluster(installation: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The installation without faults; its workers are stopped after the test."""
    for name, value in installation.servers.environment.items():
        monkeypatch.setenv(name, value)
    opening = partial(open_workshop, on_step=workers.note_starts(installation.notes))
    monkeypatch.setattr(cluster_module, "open_workshop", opening)
    monkeypatch.setattr(unit, "RETRY_SECONDS", workers.RETRY_SECONDS)
    installation.data.behave("calm", 0)
    yield installation
    installation.stop_workers()
    installation.flush()
