"""S3 that refuses, hangs, breaks off and loses answers; objects that are deleted, changed; a full disk."""

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import botocore.config
import pytest
from botocore.retries.standard import ExponentialBackoff

from pipeline.api import Pipeline
from pipeline.errors import ObjectMissing
from tests.support.cluster import UNITS, Place, finish
from tests.support.invariants import whole
from tests.support.proxies import S3Wire, before_s3

FATES = {
    "30 % are refused": ("503", 0.3),
    "some hang": ("hang", 0.1),
    "some answers are cut": ("cut", 0.3),
    "some uploads are cut": ("half", 0.3),
    "some answers are lost": ("swallow", 0.3),
}


@pytest.fixture
def wire(here: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Wire]:
    """Before the store; the client waits a second where the product's waits a minute, and pauses a tenth."""
    monkeypatch.setattr(botocore.config, "Config", partial(_hasty, botocore.config.Config))
    pause = ExponentialBackoff.delay_amount
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: pause(self, context) / 10)
    with before_s3(here.site.environment["ATTRIBATCH_S3_ENDPOINT_URL"]) as found:
        yield found


def _hasty(config: type, **options: object) -> object:
    return config(**options | {"read_timeout": 1})


@pytest.fixture
def through(here: Place, wire: S3Wire) -> Iterator[Pipeline]:
    """The same installation, its store behind the wire."""
    with Pipeline(replace(here.pipeline.settings, s3_endpoint_url=wire.url)) as found:
        yield found


@pytest.mark.parametrize("trouble", FATES)
def test_a_store_in_trouble_costs_time_and_nothing_else(
    trouble: str, here: Place, wire: S3Wire, through: Pipeline
) -> None:
    fate, share = FATES[trouble]
    luck, lock = random.Random(trouble), threading.Lock()

    def meet(method: str, path: str) -> str:
        with lock:
            return fate if luck.random() < share else ""

    wire.fate = meet
    run = through.submit(here.plan())
    finish(through, run, seconds=120)
    wire.fate = lambda method, path: ""
    assert len(wire.met) >= 3, "the trouble was felt"
    whole(here.pipeline, run, here.undisturbed, in_vain=2, notes=here.notes)


def test_every_write_is_answered_to_nobody_once(here: Place, wire: S3Wire, through: Pipeline) -> None:
    """What is told to be there already is then our own."""
    seen: set[str] = set()

    def meet(method: str, path: str) -> str:
        first = method == "PUT" and path not in seen
        seen.add(path)
        return "swallow" if first else ""

    wire.fate = meet
    run = through.submit(here.plan())
    finish(through, run, seconds=120)
    assert len(wire.met) > 4 * UNITS, "shards and sidecars"
    whole(here.pipeline, run, here.undisturbed, notes=here.notes)


def test_a_store_that_is_gone_for_a_while_is_waited_for(here: Place, wire: S3Wire, through: Pipeline) -> None:
    wire.fate = lambda method, path: "503"
    run = here.submit()

    def come_back() -> None:
        while not wire.met:
            time.sleep(0.1)
        time.sleep(3)
        wire.fate = lambda method, path: ""

    threading.Thread(target=come_back, daemon=True).start()
    finish(through, run, seconds=120)
    assert wire.met
    whole(here.pipeline, run, here.undisturbed, in_vain=4 * UNITS, notes=here.notes)


def test_a_deleted_object_and_a_changed_one_are_found_and_mended(here: Place) -> None:
    run = here.submit()
    finish(here.pipeline, run)
    maps = f"runs/{run.id}/maps/mean/c"
    here.pipeline.objects.delete(f"{maps}/2/0/0/0")
    changed = bytearray(here.pipeline.objects.get(f"{maps}/5/0/0/0"))
    changed[len(changed) // 2] ^= 1
    here.pipeline.objects.put(f"{maps}/5/0/0/0", bytes(changed))
    with pytest.raises(ObjectMissing, match="attribatch repair"):
        here.pipeline.read_maps(here.pipeline.find(run.id).rows)
    with pytest.raises((AssertionError, ObjectMissing)):
        whole(here.pipeline, run, here.undisturbed)
    found = here.pipeline.repair()
    assert {f"{maps}/2/0/0/0", f"{maps}/5/0/0/0"} == set(found.damaged)
    assert found.units_queued_again == 2
    finish(here.pipeline, run)
    whole(here.pipeline, run, here.undisturbed, in_vain=2, notes=here.notes)
