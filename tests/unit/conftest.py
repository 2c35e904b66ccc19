"""A worker of the pipeline that tests are given, in this process."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipeline.api import Pipeline
from pipeline.engine.unit import Workshop
from pipeline.engine.worker import open_workshop


@pytest.fixture
def shop(pipeline: Pipeline) -> Iterator[Workshop]:
    opened = open_workshop(replace(pipeline.settings, device="cpu"))
    yield opened
    opened.database.dispose()
