"""A disk that is full ends in a sentence after a bounded number of attempts, whichever disk it is."""

import errno
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from sqlalchemy import event, insert

from db.records import UnitState
from db.session import write
from db.tables import images
from pipeline.api import Pipeline, RunRequest
from pipeline.engine import unit
from pipeline.engine import worker as module
from pipeline.engine.processes import LocalWorkers
from pipeline.engine.unit import Workshop
from pipeline.engine.worker import open_workshop, work
from pipeline.errors import StoreFull
from tests.support.records import make_row


@pytest.fixture
def shop(pipeline: Pipeline) -> Iterator[Workshop]:
    opened = open_workshop(replace(pipeline.settings, device="cpu"))
    yield opened
    opened.database.dispose()


@pytest.mark.slow
def test_of_the_maps_units_fail_and_say_what_to_do(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pipeline.submit(request_)
    monkeypatch.setattr(unit, "RETRY_SECONDS", 0.0)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "link", refuse)
        work(shop, run.id)
    found = pipeline.status(run.id)
    assert (found.units[UnitState.FAILED], found.attempts) == (5, 25)
    assert "No space left on device; free some space, then `attribatch retry RUN`" in found.errors[0]
    pipeline.retry(run.id)
    work(shop, run.id)
    assert pipeline.status(run.id).images_done == 18


@pytest.mark.slow
def test_of_the_index_units_fail_and_say_what_to_do(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pipeline.submit(replace(request_, unit_size=18))
    monkeypatch.setattr(unit, "RETRY_SECONDS", 0.0)

    @event.listens_for(shop.database, "connect")
    def fill(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # SQLite takes no page more than it has

    shop.database.dispose()
    with pytest.raises(StoreFull, match="no space left for the index"), write(shop.database) as connection:
        connection.execute(insert(images), [asdict(make_row(run.id, row)) for row in range(1000)])
    work(replace(shop, lease_seconds=0.5), run.id)
    found = pipeline.status(run.id)
    assert (found.units[UnitState.FAILED], found.attempts) == (1, 5)
    assert "no space left for the index" in found.errors[0]
    assert "`attribatch retry RUN`" in found.errors[0]


def test_where_nothing_can_be_recorded_a_worker_ends(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pipeline.submit(request_)
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.001)
    asked: list[str] = []

    def refuse(worker: str, **_: object) -> None:
        asked.append(worker)
        raise StoreFull("no space left")

    monkeypatch.setattr(shop.ledger, "claim", refuse)
    with pytest.raises(StoreFull):
        work(shop, run.id)
    assert len(asked) == module.FULL_TRIES


def test_whoever_started_such_a_worker_hears_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexit {StoreFull.EXIT_CODE}\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))

    def tend_for(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            workers.replace_exited(0)
            time.sleep(0.01)

    with (
        LocalWorkers("the-run", 1, {}) as workers,
        pytest.raises(StoreFull, match="no space left for the index of run the-run"),
    ):
        tend_for(20)
