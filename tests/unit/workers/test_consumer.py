"""One worker process: one unit at a time, straight from SQL where no message comes, and when it asks to be replaced."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from db.records import RunState, UnitState
from pipeline.api import Pipeline, RunRequest
from pipeline.engine.unit import Workshop
from pipeline.engine.worker import open_workshop
from tests.support.servers import free_port
from workers import consumer as module
from workers.consumer import Consumer

MakeConsumer = Callable[..., Consumer]


@pytest.fixture
def shop(pipeline: Pipeline) -> Iterator[Workshop]:
    opened = open_workshop(replace(pipeline.settings, device="cpu"))
    yield opened
    opened.database.dispose()


@pytest.fixture
def ended() -> list[str]:
    return []


@pytest.fixture
def make(shop: Workshop, ended: list[str]) -> Iterator[MakeConsumer]:
    made: list[Consumer] = []

    def consumer(**options: object) -> Consumer:
        given = {"sweep_seconds": 0.2, "max_memory_mb": None, "end": lambda: ended.append("end")} | options
        made.append(Consumer(shop, broker_url=f"redis://127.0.0.1:{free_port()}/0", **given))  # type: ignore[arg-type]
        return made[-1]

    yield consumer
    for one in made:
        one.close()


@pytest.mark.slow
def test_an_idle_worker_without_a_broker_finds_its_work_in_sql(
    pipeline: Pipeline, request_: RunRequest, make: MakeConsumer, ended: list[str]
) -> None:
    run = pipeline.submit(request_)
    make().open()
    deadline = time.monotonic() + 30
    while pipeline.status(run.id).state is not RunState.DONE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not ended


def test_messages_and_sweep_take_turns(
    pipeline: Pipeline, request_: RunRequest, make: MakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, at_once, most = pipeline.submit(request_), [0], [0]
    begin = module.begin

    def watched(*given: object) -> object:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        try:
            return begin(*given)  # type: ignore[arg-type]
        finally:
            at_once[0] -= 1

    monkeypatch.setattr(module, "begin", watched)
    consumer = make()
    threads = [threading.Thread(target=consumer.run, args=(unit_id,)) for unit_id in (1, 2, 2)]
    threads += [threading.Thread(target=consumer.claim_from_sql) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    consumer.claim_from_sql()
    consumer.close()
    assert most == [1]
    found = pipeline.status(run.id)
    assert found.state is RunState.DONE
    assert found.attempts == 5, "every unit was claimed once"


def test_above_its_memory_limit_it_ends_after_the_unit(
    pipeline: Pipeline, request_: RunRequest, make: MakeConsumer, ended: list[str]
) -> None:
    """Above its memory ceiling it ends after the unit and takes no other."""
    run = pipeline.submit(request_)
    consumer = make(max_memory_mb=1)
    assert consumer.run(1) == "begun"
    assert consumer.run(2) == "stopping"
    consumer.close()
    assert ended == ["end"]
    assert consumer.spent
    units = pipeline.status(run.id).units
    assert (units[UnitState.DONE], units[UnitState.PENDING]) == (1, 4)
    assert len(pipeline.ledger.unsent(10)) == 4, "the message that was dropped is sent again"


def test_a_gpu_that_no_longer_answers_ends_the_process(
    pipeline: Pipeline, request_: RunRequest, make: MakeConsumer, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gpu that no longer answers ends the process and its unit is tried again."""
    run = pipeline.submit(request_)

    def stuck(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr("pipeline.models.registry.load", stuck)
    monkeypatch.setattr(module, "is_broken", lambda device: True)
    consumer = make()
    assert consumer.run(1) == "begun"
    assert ended == ["end"]
    assert consumer.spent
    assert pipeline.status(run.id).units[UnitState.PENDING] == 5
    assert "device-side assert" in pipeline.status(run.id).errors[0]


def test_a_unit_that_fails_on_a_device_that_answers_ends_nothing(
    pipeline: Pipeline, request_: RunRequest, make: MakeConsumer, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.submit(request_)
    monkeypatch.setattr("pipeline.models.registry.load", lambda *_, **__: 1 / 0)
    make().run(1)
    assert not ended
