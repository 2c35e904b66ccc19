"""An installation as docker/compose.yaml states it, its servers and processes started on this machine."""

import contextlib
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from db.session import migrate, open_engine
from tests.support.commands import ATTRIBATCH
from tests.support.servers import Server, free_port, postgres_server, redis, seaweedfs

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
SECRETS = {"POSTGRES_PASSWORD": "postgres-hush", "REDIS_PASSWORD": "redis-hush"}
# What the file says to a container, and what differs on this machine.
QUICK = {"ATTRIBATCH_SWEEP_SECONDS": "1", "ATTRIBATCH_LEASE_SECONDS": "6"}


@dataclass
class Servers:
    """Servers, and the environment of whoever uses them."""

    redis: Server
    postgres: Server
    environment: dict[str, str]
    secrets: list[str]


@contextlib.contextmanager
def start_servers(home: Path) -> Iterator[Servers]:
    """Redis, PostgreSQL and S3 with passwords, and the variables that compose.yaml gives to its services."""
    with (
        redis(SECRETS["REDIS_PASSWORD"]) as (broker_url, redis_process),
        postgres_server(SECRETS["POSTGRES_PASSWORD"]) as (database_url, postgres_process),
        seaweedfs() as s3,
    ):
        here = {
            "ATTRIBATCH_HOME": str(home),
            "ATTRIBATCH_DATABASE_URL": database_url.replace("postgresql:", "postgresql+psycopg:"),
            "ATTRIBATCH_BROKER_URL": broker_url,
            "ATTRIBATCH_OBJECTS_URL": f"s3://{s3.bucket}/maps",
            "ATTRIBATCH_S3_ENDPOINT_URL": s3.endpoint_url,
            "ATTRIBATCH_METRICS_HOST": "127.0.0.1",
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        }
        stated = {name: here.get(name, interpolated(str(value), {})) for name, value in stated_environment().items()}
        migrate_index(here["ATTRIBATCH_DATABASE_URL"])  # as the service `migrate` does before the others start
        yield Servers(redis_process, postgres_process, stated | QUICK, [*SECRETS.values(), s3.secret_key])


def migrate_index(url: str) -> None:
    """Upgrade the schema of a database."""
    engine = open_engine(url)
    migrate(engine)
    engine.dispose()


def stated_environment() -> dict[str, str]:
    """Of the services that are attribatch."""
    found: dict[str, str] = COMPOSE["x-attribatch"]["environment"]
    return found


def stated_command(service: str, given: dict[str, str] | None = None) -> list[str]:
    """The attribatch command of a service, its variables filled in."""
    return [interpolated(part, given or {}) for part in COMPOSE["services"][service]["command"]]


def interpolated(text: str, given: dict[str, str]) -> str:
    """As compose does: ${NAME}, ${NAME:-default}; ${NAME:?} must be given."""

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        return given.get(name) or (default.removeprefix(":-") if default and default.startswith(":-") else "")

    return re.sub(r"\$\{(\w+)(:-[^}]*|:\?)?\}", value, text)


@dataclass
class Fleet:
    """`attribatch worker` with its children, as one service of compose.yaml."""

    environment: dict[str, str]
    log: Path
    concurrency: int = 2
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        free_port()  # the second child's
        command = stated_command("worker", {"ATTRIBATCH_CONCURRENCY": str(self.concurrency)})
        command[command.index("--metrics-port") + 1] = str(self.port)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [ATTRIBATCH, *command], env={**os.environ, **self.environment}, stdout=subprocess.DEVNULL, stderr=log
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        eventually(lambda: all(self.metrics(index) for index in range(self.concurrency)), 60, self.said)

    def children(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children()

    def metrics(self, index: int) -> dict[str, float]:
        """Of one child; nothing where it does not answer."""
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{self.port + index}/metrics"
            lines = urllib.request.urlopen(url, timeout=5).read().decode().splitlines()
            return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}
        return {}

    def total(self, name: str) -> float:
        return sum(self.metrics(index).get(name, 0.0) for index in range(self.concurrency))

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def said(self) -> str:
        return self.log.read_text()[-3000:]


def eventually(
    holds: Callable[[], object], seconds: float, said: Callable[[], str] = lambda: "", every: float = 0.1
) -> None:
    """Wait until something holds, or fail with what was said meanwhile."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s. {said()}"
        time.sleep(every)
