"""Decoding, computing and storing at once: each waits for another here, so one after the other would never end."""

import threading

import pytest

from db.records import RunState
from pipeline.api import Pipeline, RunRequest
from pipeline.datasets.decoder import PARTS, Decoder, Picture, Unreadable
from pipeline.engine import unit as engine
from pipeline.engine.explainer import Computed, Explainer
from pipeline.engine.unit import Outcome, Workshop, begin_unit
from pipeline.engine.worker import work

WAIT = 20.0


def test_a_unit_is_stored_while_the_next_is_computed(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, store, compute = pipeline.submit(request_), engine._store, Explainer.compute
    parts, waited = [], []
    next_has_begun = threading.Event()

    def counting(self: Explainer, pictures: list[Picture]) -> Computed:
        parts.append(len(pictures))
        if len(parts) == PARTS + 1:  # units of four images in four parts: this is the second unit
            next_has_begun.set()
        return compute(self, pictures)

    def patient(*arguments: object) -> Outcome:
        if not waited:
            waited.append(next_has_begun.wait(WAIT))
        return store(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Explainer, "compute", counting)
    monkeypatch.setattr(engine, "_store", patient)
    work(shop, run.id)
    assert waited == [True]
    assert pipeline.status(run.id).state is RunState.DONE
    assert pipeline.status(run.id).attempts == 5


def test_images_are_decoded_while_those_before_them_are_computed(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, decode, compute = pipeline.submit(request_), Decoder.one, Explainer.compute
    waited: list[bool] = []
    computing = threading.Event()

    def late(self: Decoder, entry: object) -> Picture | Unreadable:
        if getattr(entry, "row", 0) == 3:  # the last of the first unit
            waited.append(computing.wait(WAIT))
        return decode(self, entry)  # type: ignore[arg-type]

    def telling(self: Explainer, pictures: list[Picture]) -> Computed:
        computing.set()
        return compute(self, pictures)

    monkeypatch.setattr(Decoder, "one", late)
    monkeypatch.setattr(Explainer, "compute", telling)
    unit = shop.ledger.claim("test", run_id=run.id)
    assert unit is not None
    assert begin_unit(shop, unit).result() is Outcome.DONE
    assert waited == [True]


def test_one_unit_at_a_time_waits_to_be_stored(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, store = pipeline.submit(request_), engine._store
    inside, most = [0], [0]

    def counted(*arguments: object) -> Outcome:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        found = store(*arguments)  # type: ignore[arg-type]
        inside[0] -= 1
        return found

    monkeypatch.setattr(engine, "_store", counted)
    work(shop, run.id)
    assert most == [1]
    assert not shop.is_storing()


def test_asked_to_stop_it_still_stores_what_is_computed(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, store = pipeline.submit(request_), engine._store

    def stopping(*arguments: object) -> Outcome:
        shop.stop.set()
        return store(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_store", stopping)
    work(shop, run.id)
    units = pipeline.status(run.id).units
    assert units["done"] >= 1  # type: ignore[index]
    assert units["leased"] == 0  # type: ignore[index]
    assert units["done"] + units["pending"] == 5  # type: ignore[index]
