"""The clock goes on while the broker is away, and says so once."""

import logging
import socket
import threading

import pytest

from pipeline.engine.broker import reach_broker
from pipeline.schedules.beat import beat


@pytest.mark.slow
def test_a_broker_that_is_away_is_said_once_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{closed.getsockname()[1]}/0"  # nobody listens there
        stop, ticks = threading.Event(), []

        def tick() -> None:
            ticks.append(len(ticks))
            if len(ticks) == 5:
                stop.set()

        def reach() -> None:
            if len(ticks) not in (2, 3):  # away, away, there, there, away
                reach_broker(url)

        with caplog.at_level(logging.INFO, logger="attribatch.beat"):
            beat(tick, every_seconds=0, stop=stop, reach=reach)
    said = [(record.levelname, record.message) for record in caplog.records]
    assert [level for level, _ in said] == ["WARNING", "INFO", "WARNING"]
    assert "does not answer" in said[0][1]
    assert len(ticks) == 5
