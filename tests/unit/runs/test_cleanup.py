"""Removing a run takes all of it; collecting takes what no run needs, and nothing that a run could be rebuilt from."""

import os
import time
from dataclasses import replace

import pytest

from db.records import RunState, UnitState
from pipeline.api import Pipeline, RunRequest
from pipeline.engine.worker import open_workshop, work
from pipeline.errors import NotFound, UsageError
from pipeline.runs.cleanup import GRACE_SECONDS, collect
from pipeline.storage.keys import run_key


@pytest.fixture
def done(pipeline: Pipeline, request_: RunRequest) -> str:
    run = pipeline.submit(request_)
    shop = open_workshop(replace(pipeline.settings, device="cpu"))
    work(shop, run.id)
    shop.database.dispose()
    assert pipeline.status(run.id).state is RunState.DONE
    return run.id


def aged(pipeline: Pipeline, run_id: str) -> None:
    old = time.time() - GRACE_SECONDS - 1
    for path in (pipeline.settings.home / "objects" / "runs" / run_id).rglob("*"):
        os.utime(path, (old, old))


@pytest.mark.slow
def test_a_removed_run_is_gone_and_may_be_computed_again(pipeline: Pipeline, request_: RunRequest, done: str) -> None:
    assert pipeline.remove(done) > 10
    assert list(pipeline.objects.list()) == []
    assert pipeline.runs() == []
    assert pipeline.repair().runs == 0
    assert pipeline.submit(request_).id == done
    assert pipeline.status(done).units[UnitState.PENDING] == 5


def test_a_run_that_is_computed_is_not_removed(pipeline: Pipeline, request_: RunRequest) -> None:
    run = pipeline.submit(request_)
    pipeline.ledger.claim("w1")
    stored = list(pipeline.objects.list())
    with pytest.raises(UsageError, match="being computed"):
        pipeline.remove(run.id)
    assert list(pipeline.objects.list()) == stored
    assert pipeline.status(run.id).units[UnitState.LEASED] == 1


@pytest.mark.slow
def test_nothing_of_a_run_in_the_index_is_collected(pipeline: Pipeline, done: str) -> None:
    aged(pipeline, done)
    assert pipeline.gc().deleted == ()
    assert pipeline.repair().units_intact == 5


@pytest.mark.slow
def test_a_run_that_only_storage_has_is_not_collected(pipeline: Pipeline, done: str) -> None:
    """A run that only storage knows is kept until it is removed by name."""
    pipeline.ledger.remove(done)  # and killed before the objects went
    aged(pipeline, done)
    found = pipeline.gc()
    assert (found.deleted, found.rebuildable) == ((), (done,))
    with pytest.raises(NotFound):
        pipeline.remove(done[:6])
    assert pipeline.remove(done) > 10
    assert list(pipeline.objects.list()) == []


@pytest.mark.slow
def test_remains_of_an_interrupted_removal_are_collected(pipeline: Pipeline, done: str) -> None:
    """What an interrupted removal left is collected when it is old."""
    pipeline.ledger.remove(done)
    pipeline.objects.delete(run_key(done))
    left = list(pipeline.objects.list())
    assert pipeline.gc().deleted == (), "a worker that does not know yet may be writing"
    aged(pipeline, done)
    assert list(pipeline.gc(dry_run=True).deleted) == left
    assert list(pipeline.objects.list()) == left
    assert list(pipeline.gc().deleted) == left
    assert list(pipeline.objects.list()) == []


def test_what_is_not_ours_is_left_alone(pipeline: Pipeline) -> None:
    pipeline.objects.put("elsewhere/file", b"x")
    pipeline.objects.put("doctor/abc", b"x")
    later = time.time() + 2 * GRACE_SECONDS
    assert collect(pipeline.database, pipeline.objects, dry_run=False, now=later).deleted == ("doctor/abc",)
    assert list(pipeline.objects.list()) == ["elsewhere/file"]
