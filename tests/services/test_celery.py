"""Messages through a real Redis-protocol server, and what is left in SQL where it takes none."""

import signal

import pytest
import redis as redis_client

from pipeline import dispatch
from pipeline.api import Pipeline, RunRequest
from pipeline.errors import StoreUnavailable, UsageError
from tests.services.servers import free_port, redis


def test_two_sweepers_send_each_unit_once_and_a_broker_that_is_away_hides_none(
    pipeline: Pipeline, request_: RunRequest
) -> None:
    pipeline.submit(request_)
    with redis() as (url, server):
        server.stop(signal.SIGKILL)
        with pytest.raises(StoreUnavailable, match="the broker took no message"):
            dispatch.send_waiting(pipeline.ledger, url)
        server.start()
        assert dispatch.send_waiting(pipeline.ledger, url) == 5, "all wait to be sent again, at once"
        assert dispatch.send_waiting(pipeline.ledger, url) == 0
        with redis_client.Redis.from_url(url) as broker:
            assert broker.llen(dispatch.QUEUE) == 5


def test_without_a_broker_nothing_is_left_to_workers(pipeline: Pipeline) -> None:
    with pytest.raises(UsageError, match="ATTRIBATCH_BROKER_URL is not set"):
        pipeline.enqueue()


def test_a_broker_that_is_away_is_named_without_its_password() -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    with pytest.raises(StoreUnavailable, match="broker") as error:
        dispatch.send(url, [1])
    assert "secret" not in str(error.value)
    with pytest.raises(StoreUnavailable, match="does not answer") as error:
        dispatch.reach_broker(url)
    assert "secret" not in str(error.value)
