"""`make soak`: disturbs an installation at random for as long as it is told, then lets it finish and checks every run.

The seed decides what happens and in which order; when exactly it strikes is up to the machine.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from db.queries import iter_images, iter_units
from db.records import ImageState, Run, UnitState
from pipeline.engine import broker
from tests.support.cluster import LEASE_SECONDS, Cluster, start_cluster
from tests.support.invariants import check_run
from tests.support.production import eventually
from tests.support.proxies import S3Proxy, s3_proxy
from tests.support.workers import Fault

CREW = 3
AT_ONCE = 2  # runs
# Random kills may meet one unit more often than the five attempts it has by default: that is the soak's doing.
ATTEMPTS = {"ATTRIBATCH_MAX_ATTEMPTS": "1000"}
FINISH_SECONDS = 120.0


@dataclass
class Soak:
    """One installation under random disturbances."""

    cluster: Cluster
    proxy: S3Proxy
    luck: random.Random
    say: Callable[[str], None]
    runs: list[Run] = field(default_factory=list)
    crew: list[ForkServerProcess] = field(default_factory=list)
    asleep: dict[int, float] = field(default_factory=dict)  # pid: when it is woken
    cost: int = 0  # computations in vain that the disturbances explain
    done: Counter[str] = field(default_factory=Counter)

    def disturb(self, seconds: float) -> None:
        """Whatever may happen, one thing after another."""
        deeds = {
            self.kill: 8, self.pause: 4, self.terminate: 2, self.double: 3, self.flush: 2, self.trouble: 4,
            self.redis_dies: 1, self.redis_hangs: 1, self.postgres_stops: 1,
        }  # fmt: skip
        self.tend()
        eventually(
            lambda: any(self.cluster.pipeline.status(run.id).images_done for run in self.runs),
            60,
            self.cluster.log_tail,
        )
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            self.tend()
            (deed,) = self.luck.choices(list(deeds), list(deeds.values()))
            self.done[deed.__name__] += 1
            self.say(deed.__name__.replace("_", " "))
            deed()
            time.sleep(self.luck.uniform(0.1, 1.2))

    def tend(self) -> None:
        """Wake who slept enough, replace who ended, as a supervisor would, and keep something to do."""
        for pid, due in list(self.asleep.items()):
            if time.monotonic() > due:
                self.wake(pid)
        self.crew = [worker for worker in self.crew if worker.is_alive()]
        while len(self.crew) < CREW:
            skew = self.luck.choice((-300.0, 0.0, 300.0))
            endpoint = {"ATTRIBATCH_S3_ENDPOINT_URL": self.proxy.url}
            self.crew.append(self.cluster.start_worker(None, Fault(skew_seconds=skew), **ATTEMPTS, **endpoint))
        open_runs = [run for run in self.runs if not self.cluster.pipeline.status(run.id).over]
        for _ in range(AT_ONCE - len(open_runs)):
            self.runs.append(self.cluster.submit())
            self.cluster.pipeline.wake()

    def settle(self) -> None:
        """No more disturbances: everything must end."""
        self.proxy.fault = lambda method, path: ""
        for pid in list(self.asleep):
            self.wake(pid)
        self.cluster.data.behave("calm", 0)
        over = time.monotonic() + FINISH_SECONDS
        while not all(self.cluster.pipeline.status(run.id).over for run in self.runs):
            assert time.monotonic() < over, f"runs did not end within {FINISH_SECONDS:g} s. {self.here.said()}"
            self.crew = [worker for worker in self.crew if worker.is_alive()]
            while len(self.crew) < CREW:
                self.crew.append(self.cluster.start_worker(None, **ATTEMPTS))
            time.sleep(0.2)

    def check(self) -> int:
        """The laws, for each run. Images that were taken for deadly: their processes were killed three times."""
        condemned = 0
        for run in self.runs:
            rows = iter_images(self.cluster.pipeline.database, run.id, ImageState.FAILED)
            failed = [row.key for row in rows if "ended its worker process" in str(row.error)]
            condemned += len(failed)
            check_run(
                self.cluster.pipeline,
                run,
                self.cluster.reference,
                failed=failed,
                recomputed=self.cost,
                notes=self.cluster.notes,
            )
        return condemned

    # ---- deeds

    def kill(self) -> None:
        self.luck.choice(self.crew).kill()
        self.cost += 2

    def terminate(self) -> None:
        worker = self.luck.choice(self.crew)
        if worker.pid not in self.asleep:
            worker.terminate()
        self.cost += 2

    def pause(self) -> None:
        pid = self.luck.choice(self.crew).pid
        if pid is not None and pid not in self.asleep:
            os.kill(pid, signal.SIGSTOP)
            self.asleep[pid] = time.monotonic() + self.luck.uniform(0.2, 2 * LEASE_SECONDS)
        self.cost += 2

    def wake(self, pid: int) -> None:
        del self.asleep[pid]
        if any(worker.pid == pid and worker.is_alive() for worker in self.crew):
            os.kill(pid, signal.SIGCONT)

    def double(self) -> None:
        waiting = [
            unit.id
            for run in self.runs[-AT_ONCE:]
            for unit in iter_units(self.cluster.pipeline.database, run.id)
            if unit.state in (UnitState.PENDING, UnitState.LEASED)
        ]
        broker.send(self.cluster.servers.environment["ATTRIBATCH_BROKER_URL"], waiting * 2)

    def flush(self) -> None:
        self.cluster.flush()

    def trouble(self) -> None:
        fault, luck = self.luck.choice(("503", "cut", "half", "swallow", "")), random.Random(self.luck.random())
        self.proxy.fault = lambda method, path: fault if luck.random() < 0.3 else ""
        self.cost += 2 * CREW

    def redis_dies(self) -> None:
        self.cluster.servers.redis.stop(signal.SIGKILL)
        time.sleep(self.luck.uniform(0.5, 3))
        self.cluster.servers.redis.start()

    def redis_hangs(self) -> None:
        os.kill(self.cluster.servers.redis.pid, signal.SIGSTOP)
        time.sleep(self.luck.uniform(0.5, 3))
        os.kill(self.cluster.servers.redis.pid, signal.SIGCONT)

    def postgres_stops(self) -> None:
        self.cluster.servers.postgres.stop(signal.SIGINT)
        time.sleep(self.luck.uniform(0.5, 1.5 * LEASE_SECONDS))
        self.cluster.servers.postgres.start()
        self.cost += 2 * CREW


@contextmanager
def patient(cluster: Cluster) -> Iterator[None]:
    """The checker allows as many attempts as the workers have."""
    settings = cluster.pipeline.settings
    object.__setattr__(settings, "max_attempts", int(ATTEMPTS["ATTRIBATCH_MAX_ATTEMPTS"]))
    try:
        yield
    finally:
        object.__setattr__(settings, "max_attempts", 5)


def soak(cluster: Cluster, *, seed: int, seconds: float, say: Callable[[str], None]) -> str:
    """Disturb, settle, check. Returns the verdict; raises AssertionError where a law is broken."""
    with s3_proxy(cluster.servers.environment["ATTRIBATCH_S3_ENDPOINT_URL"]) as proxy, patient(cluster):
        cluster.data.behave("calm", 0.02)
        one = Soak(cluster, proxy, random.Random(seed), say)
        begun = time.monotonic()

        def timed(text: str) -> None:
            say(f"{time.monotonic() - begun:7.1f} s  {text}")

        one.say = timed
        one.disturb(seconds)
        timed("no more disturbances; everything must end now")
        one.settle()
        condemned = one.check()
    images = sum(run.image_count for run in one.runs)
    deeds = ", ".join(f"{count} x {name.replace('_', ' ')}" for name, count in sorted(one.done.items()))
    return (
        f"whole: {len(one.runs)} runs, {images} images, each one row with the map of the reference run; "
        f"{condemned} images given up after three kills on them; {deeds}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak ARGS=", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=180.0)
    options = parser.parse_args()

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    say(f"seed {options.seed}: {options.seconds:g} s of disturbances")
    with tempfile.TemporaryDirectory(prefix="attribatch-soak-") as folder, start_cluster(Path(folder)) as cluster:
        os.environ.update(cluster.servers.environment)
        try:
            say(soak(cluster, seed=options.seed, seconds=options.seconds, say=say))
        except AssertionError as error:
            say(f"BROKEN (seed {options.seed}): {error}\n{cluster.log_tail()}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
