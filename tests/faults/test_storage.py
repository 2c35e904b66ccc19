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
from tests.support.cluster import UNITS, Cluster, finish
from tests.support.invariants import check_run
from tests.support.proxies import S3Proxy, s3_proxy

FAULTS = {
    "30 % are refused": ("503", 0.3),
    "some hang": ("hang", 0.1),
    "some answers are cut": ("cut", 0.3),
    "some uploads are cut": ("half", 0.3),
    "some answers are lost": ("swallow", 0.3),
}


@pytest.fixture
def proxy(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """Before the store; the client waits a second where the product's waits a minute, and pauses a tenth."""
    monkeypatch.setattr(botocore.config, "Config", partial(_hasty, botocore.config.Config))
    pause = ExponentialBackoff.delay_amount
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: pause(self, context) / 10)
    with s3_proxy(cluster.servers.environment["ATTRIBATCH_S3_ENDPOINT_URL"]) as found:
        yield found


def _hasty(config: type, **options: object) -> object:
    return config(**options | {"read_timeout": 1})


@pytest.fixture
def through(cluster: Cluster, proxy: S3Proxy) -> Iterator[Pipeline]:
    """The same installation, its store behind the proxy."""
    with Pipeline(replace(cluster.pipeline.settings, s3_endpoint_url=proxy.url)) as found:
        yield found


@pytest.mark.parametrize("trouble", FAULTS)
def test_a_store_in_trouble_costs_time_and_nothing_else(
    trouble: str, cluster: Cluster, proxy: S3Proxy, through: Pipeline
) -> None:
    fault, share = FAULTS[trouble]
    luck, lock = random.Random(trouble), threading.Lock()

    def meet(method: str, path: str) -> str:
        with lock:
            return fault if luck.random() < share else ""

    proxy.fault = meet
    run = through.submit(cluster.new_request())
    finish(through, run, seconds=120)
    proxy.fault = lambda method, path: ""
    assert len(proxy.applied) >= 3, "the trouble was felt"
    check_run(cluster.pipeline, run, cluster.reference, recomputed=2, notes=cluster.notes)


def test_every_write_is_answered_to_nobody_once(cluster: Cluster, proxy: S3Proxy, through: Pipeline) -> None:
    """What is told to be there already is then our own."""
    seen: set[str] = set()

    def meet(method: str, path: str) -> str:
        first = method == "PUT" and path not in seen
        seen.add(path)
        return "swallow" if first else ""

    proxy.fault = meet
    run = through.submit(cluster.new_request())
    finish(through, run, seconds=120)
    assert len(proxy.applied) > 4 * UNITS, "shards and sidecars"
    check_run(cluster.pipeline, run, cluster.reference, notes=cluster.notes)


def test_a_store_that_is_gone_for_a_while_is_waited_for(cluster: Cluster, proxy: S3Proxy, through: Pipeline) -> None:
    proxy.fault = lambda method, path: "503"
    run = cluster.submit()

    def come_back() -> None:
        while not proxy.applied:
            time.sleep(0.1)
        time.sleep(3)
        proxy.fault = lambda method, path: ""

    threading.Thread(target=come_back, daemon=True).start()
    finish(through, run, seconds=120)
    assert proxy.applied
    check_run(cluster.pipeline, run, cluster.reference, recomputed=4 * UNITS, notes=cluster.notes)


def test_a_deleted_object_and_a_changed_one_are_found_and_mended(cluster: Cluster) -> None:
    run = cluster.submit()
    finish(cluster.pipeline, run)
    maps = f"runs/{run.id}/maps/mean/c"
    cluster.pipeline.objects.delete(f"{maps}/2/0/0/0")
    changed = bytearray(cluster.pipeline.objects.get(f"{maps}/5/0/0/0"))
    changed[len(changed) // 2] ^= 1
    cluster.pipeline.objects.put(f"{maps}/5/0/0/0", bytes(changed))
    with pytest.raises(ObjectMissing, match="attribatch repair"):
        cluster.pipeline.read_maps(cluster.pipeline.find(run.id).rows)
    with pytest.raises((AssertionError, ObjectMissing)):
        check_run(cluster.pipeline, run, cluster.reference)
    found = cluster.pipeline.repair()
    assert {f"{maps}/2/0/0/0", f"{maps}/5/0/0/0"} == set(found.damaged)
    assert found.units_queued_again == 2
    finish(cluster.pipeline, run)
    check_run(cluster.pipeline, run, cluster.reference, recomputed=2, notes=cluster.notes)
