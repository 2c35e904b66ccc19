"""Decoding, computing and storing at once: each waits for another here, so one after the other would never end."""

import threading

import pytest

from db.records import RunState, Unit
from pipeline.api import Pipeline, RunRequest
from pipeline.datasets.decoder import PARTS, Decoder, Picture, Unreadable
from pipeline.engine.explainer import Computed, Explainer
from pipeline.engine.unit import Outcome, Step, Workshop, begin_unit
from pipeline.engine.worker import work

WAIT = 20.0


def test_a_unit_is_stored_while_the_next_is_computed(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, compute = pipeline.submit(request_), Explainer.compute
    parts, waited = [], []
    next_has_begun = threading.Event()

    def counting(self: Explainer, pictures: list[Picture]) -> Computed:
        parts.append(len(pictures))
        if len(parts) == PARTS + 1:  # units of four images in four parts: this is the second unit
            next_has_begun.set()
        return compute(self, pictures)

    def patient(step: Step, unit: Unit) -> None:
        if step == "computed" and not waited:
            waited.append(next_has_begun.wait(WAIT))

    monkeypatch.setattr(Explainer, "compute", counting)
    shop.on_step = patient
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


def test_one_unit_at_a_time_waits_to_be_stored(pipeline: Pipeline, shop: Workshop, request_: RunRequest) -> None:
    run, inside, most = pipeline.submit(request_), [0], [0]

    def counted(step: Step, unit: Unit) -> None:
        inside[0] += {"computed": 1, "committed": -1}.get(step, 0)
        most[0] = max(most[0], inside[0])

    shop.on_step = counted
    work(shop, run.id)
    assert (inside, most) == ([0], [1])
    assert not shop.is_storing()


def test_asked_to_stop_it_still_stores_what_is_computed(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest
) -> None:
    run = pipeline.submit(request_)

    def stopping(step: Step, unit: Unit) -> None:
        if step == "computed":
            shop.stop.set()

    shop.on_step = stopping
    work(shop, run.id)
    units = pipeline.status(run.id).units
    assert units["done"] >= 1  # type: ignore[index]
    assert units["leased"] == 0  # type: ignore[index]
    assert units["done"] + units["pending"] == 5  # type: ignore[index]
