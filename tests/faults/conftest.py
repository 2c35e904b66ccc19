"""One installation for all faults of the folder; each fault leaves it working."""

from collections.abc import Iterator

import pytest

from pipeline.engine import unit
from tests.support import workers
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
    monkeypatch.setattr(unit, "Known", workers.noting(installation.notes))
    monkeypatch.setattr(unit, "RETRY_SECONDS", workers.RETRY_SECONDS)
    installation.small.feel("calm", 0)
    yield installation
    installation.dismiss()
    installation.flush()
