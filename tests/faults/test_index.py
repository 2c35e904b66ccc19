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
from tests.support.cluster import LEASE_SECONDS, OUTAGE_SECONDS, UNITS, Cluster, finish
from tests.support.invariants import check_run
from tests.support.production import migrate_index
from tests.support.proxies import SqlProxy, sql_proxy


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[SqlProxy]:
    port = make_url(cluster.pipeline.settings.database_url).port
    assert port is not None
    with sql_proxy(port) as found:
        yield found


@pytest.mark.parametrize("what", ["answer", "request"])
def test_a_lost_commit_or_a_lost_answer_is_repeated(what: str, cluster: Cluster, proxy: SqlProxy) -> None:
    url = make_url(cluster.pipeline.settings.database_url).set(port=proxy.port)
    settings = replace(cluster.pipeline.settings, database_url=url.render_as_string(hide_password=False))
    with Pipeline(settings) as through:
        run = cluster.submit()
        proxy.lose = what
        finish(through, run)
    assert proxy.lost == 1
    check_run(cluster.pipeline, run, cluster.reference, notes=cluster.notes)
    assert cluster.pipeline.status(run.id).attempts == UNITS


def test_stopped_for_thirty_seconds_nothing_is_lost_or_doubled(cluster: Cluster) -> None:
    cluster.data.behave("calm", 0.05)
    run = cluster.submit()
    crew = [cluster.start_worker(run), cluster.start_worker(run)]
    cluster.until_done(run, 1)
    cluster.servers.postgres.stop(signal.SIGINT)
    time.sleep(OUTAGE_SECONDS)
    cluster.servers.postgres.start()
    cluster.data.behave("calm", 0)
    cluster.until_over(run)
    check_run(cluster.pipeline, run, cluster.reference, recomputed=4, notes=cluster.notes)
    for worker in crew:
        worker.join(30)
        assert worker.exitcode == 0, cluster.log_tail()


def test_an_index_that_hangs_for_longer_than_a_lease(cluster: Cluster) -> None:
    """SIGSTOP to every process of the server: connections stay open and nobody answers."""
    import psutil

    run = cluster.submit()
    cluster.data.behave("calm", 0.05)
    worker = cluster.start_worker(run)
    cluster.until_done(run, 1)
    server = psutil.Process(cluster.servers.postgres.pid)
    frozen = [server, *server.children(recursive=True)]
    for process in frozen:
        process.suspend()
    try:
        time.sleep(1.5 * LEASE_SECONDS)
    finally:
        for process in frozen:
            process.resume()
    cluster.data.behave("calm", 0)
    cluster.until_over(run)
    check_run(cluster.pipeline, run, cluster.reference, recomputed=2, notes=cluster.notes)
    worker.join(30)
    assert worker.exitcode == 0


def test_many_sweeps_take_nothing_from_the_living(cluster: Cluster) -> None:
    cluster.data.behave("calm", 0.05)
    run, over, taken = cluster.submit(), threading.Event(), []

    def sweep() -> None:
        while not over.is_set():
            taken.append(cluster.pipeline.ledger.sweep())

    sweepers = [threading.Thread(target=sweep) for _ in range(3)]
    for thread in sweepers:
        thread.start()
    cluster.start_worker(run), cluster.start_worker(run)
    try:
        cluster.until_over(run)
    finally:
        over.set()
        for thread in sweepers:
            thread.join()
    assert len(taken) > 20
    assert sum(taken) == 0
    check_run(cluster.pipeline, run, cluster.reference, notes=cluster.notes)


def test_a_dropped_index_is_rebuilt_as_it_was(cluster: Cluster) -> None:
    """In a database and a place in the store of its own: what is dropped here would be missed elsewhere."""
    admin = open_engine(cluster.pipeline.settings.database_url)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE doomed"))
    admin.dispose()
    url = make_url(cluster.pipeline.settings.database_url).set(database="doomed").render_as_string(hide_password=False)
    settings = replace(cluster.pipeline.settings, database_url=url, objects_url="s3://bucket/doomed")
    migrate_index(url)
    with Pipeline(settings) as doomed:
        run = doomed.submit(cluster.new_request())
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
        check_run(rebuilt, run, cluster.reference, notes=cluster.notes)
