"""PostgreSQL that is stopped, that loses a commit or its answer, and an index that is gone."""

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import make_url, text

from db.queries import iter_images
from db.session import open_engine, write
from pipeline.api import Pipeline
from tests.support.cluster import LEASE_SECONDS, OUTAGE_SECONDS, UNITS, Place, finish
from tests.support.invariants import whole
from tests.support.production import migrate_index
from tests.support.proxies import SqlWire, before_sql


@pytest.fixture
def wire(here: Place) -> Iterator[SqlWire]:
    port = make_url(here.pipeline.settings.database_url).port
    assert port is not None
    with before_sql(port) as found:
        yield found


@pytest.mark.parametrize("what", ["answer", "request"])
def test_a_commit_that_is_lost_or_whose_answer_is_lost_is_said_again(what: str, here: Place, wire: SqlWire) -> None:
    url = make_url(here.pipeline.settings.database_url).set(port=wire.port)
    settings = replace(here.pipeline.settings, database_url=url.render_as_string(hide_password=False))
    with Pipeline(settings) as through:
        run = here.submit()
        wire.lose = what
        finish(through, run)
    assert wire.lost == 1
    whole(here.pipeline, run, here.undisturbed, notes=here.notes)
    assert here.pipeline.status(run.id).attempts == UNITS


def test_stopped_for_thirty_seconds_nothing_is_lost_or_doubled(here: Place) -> None:
    here.small.behave("calm", 0.05)
    run = here.submit()
    crew = [here.hire(run), here.hire(run)]
    here.until_done(run, 1)
    here.site.postgres.stop(signal.SIGINT)
    time.sleep(OUTAGE_SECONDS)
    here.site.postgres.start()
    here.small.behave("calm", 0)
    here.until_over(run)
    whole(here.pipeline, run, here.undisturbed, in_vain=4, notes=here.notes)
    for hand in crew:
        hand.join(30)
        assert hand.exitcode == 0, here.said()


def test_an_index_that_hangs_for_longer_than_a_lease(here: Place) -> None:
    """SIGSTOP to every process of the server: connections stay open and nobody answers."""
    import psutil

    run = here.submit()
    here.small.behave("calm", 0.05)
    hand = here.hire(run)
    here.until_done(run, 1)
    server = psutil.Process(here.site.postgres.pid)
    frozen = [server, *server.children(recursive=True)]
    for process in frozen:
        process.suspend()
    try:
        time.sleep(1.5 * LEASE_SECONDS)
    finally:
        for process in frozen:
            process.resume()
    here.small.behave("calm", 0)
    here.until_over(run)
    whole(here.pipeline, run, here.undisturbed, in_vain=2, notes=here.notes)
    hand.join(30)
    assert hand.exitcode == 0


def test_many_sweeps_take_nothing_from_the_living(here: Place) -> None:
    here.small.behave("calm", 0.05)
    run, over, taken = here.submit(), threading.Event(), []

    def sweep() -> None:
        while not over.is_set():
            taken.append(here.pipeline.ledger.sweep())

    sweepers = [threading.Thread(target=sweep) for _ in range(3)]
    for thread in sweepers:
        thread.start()
    here.hire(run), here.hire(run)
    try:
        here.until_over(run)
    finally:
        over.set()
        for thread in sweepers:
            thread.join()
    assert len(taken) > 20
    assert sum(taken) == 0
    whole(here.pipeline, run, here.undisturbed, notes=here.notes)


def test_a_dropped_index_is_rebuilt_as_it_was(here: Place) -> None:
    """In a database and a place in the store of its own: what is dropped here would be missed elsewhere."""
    admin = open_engine(here.pipeline.settings.database_url)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE doomed"))
    admin.dispose()
    url = make_url(here.pipeline.settings.database_url).set(database="doomed").render_as_string(hide_password=False)
    settings = replace(here.pipeline.settings, database_url=url, objects_url="s3://bucket/doomed")
    migrate_index(url)
    with Pipeline(settings) as doomed:
        run = doomed.submit(here.plan())
        finish(doomed, run)
        before = list(iter_images(doomed.database, run.id))
        with write(doomed.database) as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
    migrate_index(url)
    with Pipeline(settings) as rebuilt:
        assert rebuilt.runs() == []
        rebuilt.repair()
        assert list(iter_images(rebuilt.database, run.id)) == before
        whole(rebuilt, run, here.undisturbed, notes=here.notes)
