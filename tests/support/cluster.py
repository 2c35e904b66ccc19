"""One installation for all faults: real servers, a small data set, a model that does what a file says, a reference."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import redis as redis_client
from PIL import Image

from db.records import Run
from pipeline.api import Pipeline, RunRequest
from pipeline.engine.worker import open_workshop, work
from pipeline.settings import Settings
from tests.support import workers
from tests.support.invariants import Reference
from tests.support.production import Servers, eventually, start_servers
from tests.support.tiny_model import factory_text, make_members
from tests.support.workers import NO_FAULT, Fault

IMAGES, UNIT_SIZE = 24, 3
UNITS = IMAGES // UNIT_SIZE
LEASE_SECONDS = 3.0
OUTAGE_SECONDS = 30.0
# Faults last as many leases as they would with the product's 60 s and 10 s.
QUICK = {"ATTRIBATCH_LEASE_SECONDS": str(LEASE_SECONDS), "ATTRIBATCH_SWEEP_SECONDS": "0.5", "ATTRIBATCH_DEVICE": "cpu"}

CONTROLLED = '''
import time
from pathlib import Path

import torch

BEHAVIOUR = Path(__file__).with_name("behaviour")


class Controlled(nn.Sequential):
    """Reads from a file before each pass how long to take, or how to fail."""

    def forward(self, pixels):
        behaviour, figure = BEHAVIOUR.read_text().split()
        if behaviour == "calm":
            time.sleep(float(figure))
        elif behaviour == "raising":
            raise IndexError("no such layer")
        elif behaviour == "hungry" and len(pixels) > int(figure):
            raise torch.OutOfMemoryError("injected")
        found = super().forward(pixels)
        return found * float("nan") if behaviour == "nan" else found[:, :-1] if behaviour == "short" else found
'''


@dataclass
class SmallData:
    """A data set of 24 images of 8 x 8, and a request to attribute them by two small networks in 8 units."""

    folder: Path
    request: RunRequest = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        for index in range(IMAGES):
            path = self.images / ("cat", "dog", "eel")[index % 3] / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
        factory = self.folder / "controlled.py"
        factory.write_text(factory_text("Controlled", before=CONTROLLED))
        self.behave("calm", 0)
        members = make_members(self.folder, factory)
        # No noise and even nodes: the seed makes another run of it, whose maps must be the same.
        self.request = RunRequest(
            str(self.images), members, n_steps=8, nodes="uniform", unit_size=UNIT_SIZE, reuse=True
        )

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def behave(self, behaviour: str, figure: float) -> None:
        """What the networks do from now on, in all processes."""
        new = self.folder / "behaviour.new"
        new.write_text(f"{behaviour} {figure}")
        new.replace(self.folder / "behaviour")

    def reference(self) -> Reference:
        """Computed here and now, in a home of its own."""
        home = {"ATTRIBATCH_HOME": str(self.folder / "calm"), "ATTRIBATCH_DEVICE": "cpu"}
        with Pipeline(Settings.from_env(home)) as pipeline:
            run = pipeline.submit(self.request)
            finish(pipeline, run)
            return Reference.of(pipeline, run)


def finish(pipeline: Pipeline, run: Run, *, seconds: float = 60.0) -> None:
    """Work on a run in this process until it is over."""
    shop = open_workshop(pipeline.settings)
    clock = threading.Timer(seconds, shop.stop.set)
    clock.start()
    try:
        work(shop, run.id)
    finally:
        clock.cancel()
        shop.database.dispose()
    assert pipeline.status(run.id).over, f"not within {seconds} s"


@dataclass
class Cluster:
    """An installation, and the workers that a test starts."""

    servers: Servers
    data: SmallData
    reference: Reference
    pipeline: Pipeline
    folder: Path
    started: list[ForkServerProcess] = field(default_factory=list)
    _seed: int = 0

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    def log_tail(self) -> str:
        """The end of the workers' log."""
        log = self.folder / "workers.log"
        return log.read_text()[-3000:] if log.exists() else ""

    def new_request(self) -> RunRequest:
        """A run that was not there yet, over the same images."""
        self._seed += 1
        return replace(self.data.request, seed=self._seed)

    def submit(self) -> Run:
        return self.pipeline.submit(self.new_request())

    def start_worker(self, run: Run | None = None, fault: Fault = NO_FAULT, **environment: str) -> ForkServerProcess:
        """A worker process: of one run, straight from SQL; or a Celery worker."""
        given = {**self.servers.environment, **environment}
        worker = workers.start(given, self.folder, None if run is None else run.id, fault)
        self.started.append(worker)
        return worker

    def stop_workers(self) -> None:
        for worker in self.started:
            worker.kill()
            worker.join()
        self.started.clear()

    def flag(self) -> str:
        """The path of a new file, for `Fault.flag`."""
        self._seed += 1
        return str(self.folder / f"flag-{self._seed}")

    def flush(self) -> None:
        with redis_client.Redis.from_url(self.servers.environment["ATTRIBATCH_BROKER_URL"]) as broker:
            broker.flushall()

    def until_over(self, run: Run, seconds: float = 60.0) -> None:
        """Wait for the workers."""
        eventually(lambda: self.pipeline.status(run.id).over, seconds, self.log_tail)

    def until_done(self, run: Run, images: int, seconds: float = 30.0) -> None:
        """Wait until so many images are done, not all of them."""
        eventually(lambda: self.pipeline.status(run.id).images_done >= images, seconds, self.log_tail, every=0.02)
        assert not self.pipeline.status(run.id).over, "the fault came too late to disturb anything"


@contextlib.contextmanager
def start_cluster(folder: Path) -> Iterator[Cluster]:
    """Redis, PostgreSQL and S3, and the reference. Processes need the environment of its `servers`."""
    data = SmallData(folder)
    reference = data.reference()
    with start_servers(folder / "home") as found:
        found.environment |= QUICK
        with Pipeline(Settings.from_env(found.environment)) as pipeline:
            cluster = Cluster(found, data, reference, pipeline, folder)
            try:
                yield cluster
            finally:
                cluster.stop_workers()
