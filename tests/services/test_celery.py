"""A run through a real Redis-protocol server and a real Celery worker: the same command, one URL more."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from redis import Redis

from db.records import OccasionState, RunState
from pipeline import dispatch
from pipeline.api import Pipeline, RunRequest
from pipeline.errors import StoreUnavailable
from pipeline.work import open_workshop, work
from tests.services.servers import free_port, redis
from tests.unit.db.steps import pass_hours


def test_a_unit_goes_through_the_broker_and_a_second_message_changes_nothing(
    tmp_path: Path, pipeline: Pipeline, request_: RunRequest
) -> None:
    with redis() as (url, _):
        environment = {**os.environ, "ATTRIBATCH_BROKER_URL": url, "ATTRIBATCH_HOME": str(pipeline.settings.home)}
        command = [sys.executable, "-m", "celery", "-A", "workers.tasks", "worker", "-P", "threads", "-c", "1"]
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [*command, "--without-gossip", "--without-mingle"], env=environment, stdout=log, stderr=log
            )
        try:
            pipeline.settings = replace(pipeline.settings, broker_url=url)
            run = pipeline.submit(request_)
            dispatch.send(url, [1, 2, 1, 2, 3])  # doubled on the way
            found = wait_for(pipeline, run.id, worker, tmp_path / "worker.log")
        finally:
            worker.terminate()
            worker.wait(30)
    assert found.attempts == 5, "every unit was claimed once, however often it was sent"
    assert found.images_done == 18
    rows = pipeline.find(run.id).rows
    with Pipeline.open(tmp_path / "embedded") as embedded:
        shop = open_workshop(replace(embedded.settings, device="cpu"))
        work(shop, embedded.submit(request_).id)
        shop.database.dispose()
        np.testing.assert_allclose(embedded.maps(embedded.find(run.id).rows), pipeline.maps(rows), rtol=2e-3, atol=1e-5)


def wait_for(pipeline: Pipeline, run_id: str, worker: "subprocess.Popen[bytes]", log: Path):  # type: ignore[no-untyped-def]
    broker = str(pipeline.settings.broker_url)
    while ids := pipeline.ledger.unsent(100):
        dispatch.send(broker, ids)
    deadline = time.monotonic() + 90
    while (found := pipeline.status(run_id)).state in (RunState.PENDING, RunState.RUNNING):
        if time.monotonic() > deadline or worker.poll() is not None:
            pytest.fail(log.read_text()[-3000:])
        time.sleep(0.2)
    return found


def test_a_broker_that_is_away_is_named_without_its_password() -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    with pytest.raises(StoreUnavailable, match="broker") as error:
        dispatch.send(url, [1])
    assert "secret" not in str(error.value)
    with pytest.raises(StoreUnavailable, match="does not answer") as error:
        dispatch.reach_broker(url)
    assert "secret" not in str(error.value)


def test_a_tick_with_a_broker_sends_and_a_later_one_finds_the_run_finished(
    pipeline: Pipeline, request_: RunRequest
) -> None:
    with redis() as (url, _):
        pipeline.settings = replace(pipeline.settings, broker_url=url)
        pipeline.schedules.add("nightly", request_, cron="0 2 * * *")
        pass_hours(pipeline.database, 24)
        (sent,) = pipeline.tick().occasions
        assert sent.state is OccasionState.RUNNING, "it does not wait"
        client = Redis.from_url(url)
        assert client.llen("attribatch") == 5, "a message for each unit"
        assert pipeline.tick().occasions == ()
        assert client.llen("attribatch") == 5
        client.close()
        shop = open_workshop(replace(pipeline.settings, device="cpu"))
        work(shop, sent.run_id or "")
        shop.database.dispose()
        (found,) = pipeline.tick().occasions
    assert (found.id, found.state) == (sent.id, OccasionState.DONE)


def test_a_tick_whose_broker_is_away_leaves_the_units_to_be_sent_later(
    pipeline: Pipeline, request_: RunRequest, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.settings = replace(pipeline.settings, broker_url=f"redis://127.0.0.1:{free_port()}/0")
    pipeline.schedules.add("nightly", request_, cron="0 2 * * *")
    pass_hours(pipeline.database, 24)
    (found,) = pipeline.tick().occasions
    assert (found.state, found.error) == (OccasionState.RUNNING, None)
    assert "the broker took no message" in caplog.text
