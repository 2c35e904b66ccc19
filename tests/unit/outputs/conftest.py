"""One small run, computed once, that all exports and reads are made from."""

from collections.abc import Iterator

import pytest

from pipeline.api import Pipeline
from tests.support.two_runs import two_runs


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with two_runs(tmp_path_factory.mktemp("exports")) as pipeline:
        yield pipeline
