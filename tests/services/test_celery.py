"""Messages through a real Redis-protocol server, and what is left in SQL where it takes none."""

import signal
from dataclasses import replace

import pytest
from redis import Redis

from db.records import OccasionState
from pipeline.api import Pipeline, RunRequest
from pipeline.engine import broker as dispatch
from pipeline.engine.worker import open_workshop, work
from pipeline.errors import StoreUnavailable, UsageError
from tests.support.ledger_states import pass_hours
from tests.support.servers import free_port, redis


def test_two_sweepers_send_each_unit_once(pipeline: Pipeline, request_: RunRequest) -> None:
    """Two sweepers send each unit once and a broker that is away hides none."""
    pipeline.submit(request_)
    with redis() as (url, server):
        server.stop(signal.SIGKILL)
        with pytest.raises(StoreUnavailable, match="the broker took no message"):
            dispatch.send_waiting(pipeline.ledger, url)
        server.start()
        assert dispatch.send_waiting(pipeline.ledger, url) == 5, "all wait to be sent again, at once"
        assert dispatch.send_waiting(pipeline.ledger, url) == 0
        with Redis.from_url(url) as broker:
            assert broker.llen(dispatch.QUEUE) == 5


def test_without_a_broker_nothing_is_left_to_workers(pipeline: Pipeline) -> None:
    with pytest.raises(UsageError, match="ATTRIBATCH_BROKER_URL is not set"):
        pipeline.check_broker()


def test_a_broker_that_is_away_is_named_without_its_password() -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    with pytest.raises(StoreUnavailable, match="broker") as error:
        dispatch.send(url, [1])
    assert "secret" not in str(error.value)
    with pytest.raises(StoreUnavailable, match="does not answer") as error:
        dispatch.reach_broker(url)
    assert "secret" not in str(error.value)


def test_a_later_tick_finds_the_run_finished(pipeline: Pipeline, request_: RunRequest) -> None:
    """A tick with a broker sends and a later one finds the run finished."""
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


def test_a_tick_without_its_broker_leaves_units_unsent(
    pipeline: Pipeline, request_: RunRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """A tick whose broker is away leaves the units to be sent later."""
    pipeline.settings = replace(pipeline.settings, broker_url=f"redis://127.0.0.1:{free_port()}/0")
    pipeline.schedules.add("nightly", request_, cron="0 2 * * *")
    pass_hours(pipeline.database, 24)
    (found,) = pipeline.tick().occasions
    assert (found.state, found.error) == (OccasionState.RUNNING, None)
    assert "the broker took no message" in caplog.text
