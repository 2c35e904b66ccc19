"""A broker that forgets, hangs, is killed, doubles messages and grows impatient; producers that die; beats in pairs."""

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from db.ledger import Ledger
from db.objects import S3
from db.queries import iter_units
from db.records import Run, UnitState
from pipeline.api import Pipeline
from pipeline.engine import broker
from pipeline.runs.submit import RunRequest
from pipeline.schedules.beat import beat
from tests.support import workers
from tests.support.cluster import OUTAGE_SECONDS, UNITS, Cluster, finish
from tests.support.invariants import check_run
from tests.support.production import eventually
from tests.support.workers import Fault
from workers.supervisor import REPLACE


@pytest.fixture
def crew(cluster: Cluster) -> Iterator[Cluster]:
    """Two Celery workers."""
    for _ in range(2):
        cluster.start_worker()
    return cluster


def midway(cluster: Cluster) -> Run:
    """A run that is being computed, its messages sent."""
    cluster.data.behave("calm", 0.05)
    run = cluster.submit()
    cluster.pipeline.wake()
    cluster.until_done(run, 1, 60)
    return run


def ended_well(cluster: Cluster, run: Run, recomputed: int = 0) -> None:
    cluster.data.behave("calm", 0)
    cluster.until_over(run)
    check_run(cluster.pipeline, run, cluster.reference, recomputed=recomputed, notes=cluster.notes)


def test_flushed_midway(crew: Cluster) -> None:
    run = midway(crew)
    crew.flush()
    ended_well(crew, run)


def test_redis_is_killed_midway_and_comes_back(crew: Cluster) -> None:
    """Workers have gone on from SQL meanwhile."""
    run = midway(crew)
    crew.servers.redis.stop(signal.SIGKILL)
    try:
        time.sleep(OUTAGE_SECONDS)
    finally:
        crew.servers.redis.start()
    ended_well(crew, run)
    again = midway(crew)  # and messages are heard again
    ended_well(crew, again)


def test_redis_hangs_midway(crew: Cluster) -> None:
    run = midway(crew)
    os.kill(crew.servers.redis.pid, signal.SIGSTOP)
    try:
        ended_well(crew, run)
    finally:
        os.kill(crew.servers.redis.pid, signal.SIGCONT)


def test_every_message_comes_twice(crew: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, send = [], broker.send

    def twice(url: str, unit_ids: list[int]) -> None:
        sent.extend(unit_ids)
        send(url, [*unit_ids, *unit_ids])
        send(url, unit_ids[::-1])

    monkeypatch.setattr(broker, "send", twice)
    run = midway(crew)
    assert len(sent) == UNITS
    ended_well(crew, run)


def test_a_unit_longer_than_the_visibility_timeout(cluster: Cluster) -> None:
    """Redis gives the message to the other worker while the first computes: no row is there to be claimed."""
    cluster.data.behave("calm", 0.15)
    run = cluster.submit()
    for _ in range(2):
        cluster.start_worker(None, Fault(visibility_seconds=1))
    cluster.pipeline.wake()
    ids = {str(unit.id) for unit in iter_units(cluster.pipeline.database, run.id)}
    messages = cluster.folder / "messages"
    messages.write_text("")

    def doubled() -> bool:
        heard = Counter(messages.read_text().split())
        return any(count > 1 for unit_id, count in heard.items() if unit_id in ids)

    eventually(doubled, 60, cluster.log_tail)
    ended_well(cluster, run)


def test_two_beats_and_many_sweeps(crew: Cluster) -> None:
    crew.data.behave("calm", 0.05)
    over, ticks = threading.Event(), []

    def one_tick() -> None:
        crew.pipeline.wake()
        ticks.append(crew.pipeline.tick())

    beats = [
        threading.Thread(target=beat, args=(one_tick,), kwargs={"every_seconds": 0.01, "stop": over}) for _ in range(2)
    ]
    run = crew.submit()
    for thread in beats:
        thread.start()
    try:
        ended_well(crew, run)
    finally:
        over.set()
        for thread in beats:
            thread.join()
    assert len(ticks) > 10, "the beats beat"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_is_asked_to_stop_midway(number: int, cluster: Cluster) -> None:
    """QUIT reaches a worker process only from outside: its supervisor turns it into TERM and then SIGKILL."""
    cluster.start_worker()
    run = midway(cluster)
    asked = cluster.started[0]
    assert asked.pid is not None
    os.kill(asked.pid, number)
    asked.join(30)
    assert asked.exitcode is not None
    cluster.start_worker()
    ended_well(cluster, run, recomputed=2)


def test_a_broken_device_replaces_its_worker(cluster: Cluster) -> None:
    """Simulated: an error of CUDA that sticks to the process. Its exit code is what the supervisor replaces it for."""
    fault = Fault(flag=cluster.flag(), stuck_device=True)
    first = cluster.start_worker(None, fault)
    run = cluster.submit()
    cluster.pipeline.wake()
    first.join(60)
    assert first.exitcode == REPLACE, cluster.log_tail()
    cluster.start_worker(None, fault)
    ended_well(cluster, run, recomputed=2)


# ---- producers


def _die_in_submit() -> None:
    insert = Ledger._insert_run
    Ledger._insert_run = lambda *args: (insert(*args), _die())  # type: ignore[method-assign]


def _die_before_the_manifest() -> None:
    S3.put_once = lambda *_: _die()  # type: ignore[method-assign]


def _die_among_messages() -> None:
    from celery import Celery

    send, sent = Celery.send_task, []

    def some(*args: object, **options: object) -> object:
        sent.append(args)
        return _die() if len(sent) > 3 else send(*args, **options)

    Celery.send_task = some  # type: ignore[method-assign]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _produce(
    environment: dict[str, str], request: RunRequest, prepare: Callable[[], None] | None, go: Path | None
) -> None:
    os.environ.update(environment)
    if prepare is not None:
        prepare()
    with Pipeline.open() as pipeline:
        while go is not None and not go.exists():
            time.sleep(0.001)
        pipeline.submit(request)
        pipeline.wake()


def produce(
    cluster: Cluster, request: RunRequest, prepare: Callable[[], None] | None = None, go: Path | None = None
) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([workers.__name__])
    producer = context.Process(target=_produce, args=(cluster.servers.environment, request, prepare, go))
    producer.start()
    return producer


@pytest.mark.parametrize("death", [_die_in_submit, _die_before_the_manifest, _die_among_messages])
def test_a_producer_is_killed_midway_and_runs_again(death: Callable[[], None], cluster: Cluster) -> None:
    request = cluster.new_request()
    runs = len(cluster.pipeline.runs())
    first = produce(cluster, request, death)
    first.join(60)
    assert first.exitcode == -signal.SIGKILL
    assert len(cluster.pipeline.runs()) == runs + (death is not _die_in_submit), "all of a run, or nothing of it"
    second = produce(cluster, request)
    second.join(60)
    assert second.exitcode == 0
    run = cluster.pipeline.submit(request)
    assert len(cluster.pipeline.runs()) == runs + 1
    assert sum(cluster.pipeline.status(run.id).units.values()) == UNITS
    cluster.start_worker()
    ended_well(cluster, run)


def test_a_producer_that_never_comes_back_is_not_needed(cluster: Cluster) -> None:
    request = cluster.new_request()
    killed = produce(cluster, request, _die_among_messages)
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    cluster.flush()  # not even what it sent arrives
    cluster.start_worker()
    ended_well(cluster, cluster.pipeline.get_run("latest"))


def test_two_producers_submit_one_run(cluster: Cluster) -> None:
    request, go = cluster.new_request(), Path(cluster.flag())
    runs = len(cluster.pipeline.runs())
    producers = [produce(cluster, request, None, go) for _ in range(2)]
    go.touch()
    for producer in producers:
        producer.join(60)
        assert producer.exitcode == 0
    assert len(cluster.pipeline.runs()) == runs + 1
    run = cluster.pipeline.get_run("latest")
    assert cluster.pipeline.status(run.id).units[UnitState.PENDING] == UNITS
    finish(cluster.pipeline, run)
    check_run(cluster.pipeline, run, cluster.reference, notes=cluster.notes)
