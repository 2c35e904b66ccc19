"""Workers as docker/compose.yaml and README state them, on real servers: killed, flushed, cut off, stopped.

One story over one installation: each test leaves it working, the last one stops it and looks for secrets.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis as redis_client
from sqlalchemy import make_url, text

from db.records import Progress, Run, UnitState
from db.session import open_engine, read
from db.tables import metadata
from pipeline.api import Pipeline, RunRequest
from pipeline.engine import broker as dispatch
from pipeline.engine.worker import open_workshop, work
from pipeline.settings import Settings
from pipeline.spec.request import ModelRequest
from tests.support.commands import ATTRIBATCH
from tests.support.production import Fleet, Servers, eventually, start_servers, stated_command
from tests.support.readme import README, make_reader
from tests.support.servers import free_port
from tests.support.tiny_model import factory_text

SLOW = """
import time

class Slow(nn.Sequential):
    def forward(self, pixels):
        time.sleep({seconds})
        return super().forward(pixels)
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reader(tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with start_servers(tmp_path_factory.mktemp("production")) as found, pytest.MonkeyPatch.context() as patched:
        for name, value in found.environment.items():
            patched.setenv(name, value)
        yield found


@pytest.fixture(scope="module")
def fleet(place: Servers) -> Iterator[Fleet]:
    found = Fleet(place.environment, Path(place.environment["ATTRIBATCH_HOME"]) / "workers.log")
    found.start()
    yield found
    if found.process is not None and found.process.poll() is None:
        found.stop()


@pytest.fixture
def production(place: Servers) -> Iterator[Pipeline]:
    with Pipeline(Settings.from_env()) as opened:
        yield opened


@pytest.fixture
def request_(request_: RunRequest, members: tuple[ModelRequest, ...], tmp_path: Path) -> RunRequest:
    """In 3 units, each of which takes a good part of a second."""
    path = tmp_path / "slow.py"
    path.write_text(factory_text("Slow", before=SLOW.format(seconds=0.05)))
    slow = tuple(replace(member, source=f"{path}:make") for member in members)
    return replace(request_, models=slow, unit_size=6)


def endless(request: RunRequest, tmp_path: Path) -> RunRequest:
    """A unit of this never ends while anybody watches."""
    path = tmp_path / "endless.py"
    path.write_text(factory_text("Slow", before=SLOW.format(seconds=0.3)))
    endless_models = tuple(replace(member, source=f"{path}:make") for member in request.models)
    return replace(request, models=endless_models, n_steps=100_000)


def finished(production: Pipeline, run: Run, fleet: Fleet, seconds: float) -> Progress:
    eventually(lambda: production.status(run.id).over, seconds, fleet.said)
    return production.status(run.id)


def images_done(production: Pipeline, run: Run) -> int:
    return production.status(run.id).images_done


def test_maps_survive_a_worker_that_is_killed_midway(
    production: Pipeline, place: Servers, fleet: Fleet, request_: RunRequest, tmp_path: Path
) -> None:
    """A worker is killed midway and the maps are those of an undisturbed run."""
    request_ = replace(request_, unit_size=2)
    run = production.submit(request_)
    production.wake()
    dispatch.send(place.environment["ATTRIBATCH_BROKER_URL"], [1, 2, 1, 2, 3])  # doubled on the way
    eventually(lambda: production.status(run.id).units[UnitState.DONE] >= 2, 30, fleet.said)
    victim = fleet.children()[0]
    victim.kill()
    found = finished(production, run, fleet, 60)
    assert found.images_done == 18
    assert found.attempts <= 9 + 2, "a kill costs the unit that was computed and the one that was stored"
    rows = production.find(run.id).rows
    calm = Settings.from_env({"ATTRIBATCH_HOME": str(tmp_path / "embedded"), "ATTRIBATCH_DEVICE": "cpu"})
    with Pipeline(calm) as embedded:
        shop = open_workshop(calm)
        work(shop, embedded.submit(request_).id)
        shop.database.dispose()
        expected = embedded.find(run.id).rows
        assert [(row.key, row.sha256, row.predicted) for row in rows] == [
            (row.key, row.sha256, row.predicted) for row in expected
        ]
        np.testing.assert_allclose(production.read_maps(rows), embedded.read_maps(expected), rtol=2e-3, atol=1e-5)
    eventually(lambda: len(fleet.children()) == 2 and victim not in fleet.children(), 10, fleet.said)


def test_metrics_of_all_processes_add_up(production: Pipeline, fleet: Fleet, request_: RunRequest) -> None:
    fleet.wait_until_ready()  # the killed one's successor
    before = {
        name: fleet.total(name)
        for name in ('attribatch_units_total{outcome="done"}', 'attribatch_images_total{state="done"}')
    }
    (Path(request_.source) / "eel" / "5.png").write_bytes(b"no image")
    run = production.submit(replace(request_, seed=1))
    production.wake()
    finished(production, run, fleet, 60)
    eventually(lambda: fleet.total("attribatch_units_held") == 0, 10, fleet.said)
    assert fleet.total('attribatch_units_total{outcome="done"}') - before['attribatch_units_total{outcome="done"}'] == 3
    assert fleet.total('attribatch_images_total{state="done"}') - before['attribatch_images_total{state="done"}'] == 17
    assert fleet.total('attribatch_images_total{state="failed"}') >= 1
    assert fleet.total("attribatch_evaluations_total") >= 17 * 2 * 3 * 8
    for stage in ("decode", "compute", "put", "commit"):
        assert fleet.total(f'attribatch_stage_seconds_sum{{stage="{stage}"}}') > 0


def test_a_flushed_broker_costs_seconds(
    production: Pipeline, place: Servers, fleet: Fleet, request_: RunRequest
) -> None:
    run = production.submit(replace(request_, seed=2))
    production.wake()
    with redis_client.Redis.from_url(place.environment["ATTRIBATCH_BROKER_URL"]) as broker:
        broker.flushall()
    assert finished(production, run, fleet, 20).images_done == 18


def test_workers_go_on_while_redis_hangs_and_while_it_is_gone(
    production: Pipeline, place: Servers, fleet: Fleet, request_: RunRequest
) -> None:
    os.kill(place.redis.pid, signal.SIGSTOP)
    run = production.submit(replace(request_, seed=3))
    try:
        assert finished(production, run, fleet, 30).images_done == 18
    finally:
        os.kill(place.redis.pid, signal.SIGCONT)
    place.redis.stop(signal.SIGKILL)
    run = production.submit(replace(request_, seed=4))
    production.wake()  # says so, and is no error
    assert finished(production, run, fleet, 30).images_done == 18
    place.redis.start()
    run = production.submit(replace(request_, seed=5))
    production.wake()
    assert finished(production, run, fleet, 30).images_done == 18
    assert len(fleet.children()) == 2


def test_no_row_is_lost_while_postgres_is_stopped(
    production: Pipeline, place: Servers, fleet: Fleet, request_: RunRequest
) -> None:
    """Postgres is stopped for a while and no row is lost or doubled."""
    run = production.submit(replace(request_, seed=6, unit_size=2))
    production.wake()
    eventually(lambda: images_done(production, run), 30, fleet.said)
    place.postgres.stop(signal.SIGINT)
    time.sleep(4)
    place.postgres.start()
    assert finished(production, run, fleet, 60).images_done == 18
    assert [row.row for row in production.find(run.id).rows] == list(range(18))


def test_a_cancelled_run_is_let_go_within_seconds(
    production: Pipeline, fleet: Fleet, request_: RunRequest, tmp_path: Path
) -> None:
    run = production.submit(endless(request_, tmp_path))
    production.wake()
    eventually(lambda: fleet.total("attribatch_units_held") == 2, 30, fleet.said)
    losses = fleet.total("attribatch_lease_losses_total")
    production.cancel(run.id)
    eventually(lambda: fleet.total("attribatch_units_held") == 0, 6, fleet.said)
    assert fleet.total("attribatch_lease_losses_total") == losses + 2


def test_no_command_but_migrate_changes_the_schema_of_a_server(place: Servers) -> None:
    admin = open_engine(place.environment["ATTRIBATCH_DATABASE_URL"])
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE fresh"))
    admin.dispose()
    url = make_url(place.environment["ATTRIBATCH_DATABASE_URL"]).set(database="fresh")
    environment = {**os.environ, **place.environment, "ATTRIBATCH_DATABASE_URL": url.render_as_string(False)}

    def attribatch(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([ATTRIBATCH, *arguments], env=environment, capture_output=True, text=True, timeout=60)

    worker = [sys.executable, "-m", "workers", "--parent", str(os.getpid()), "--child", "0"]
    child = subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=60)
    for refused in (attribatch("status"), attribatch("repair"), attribatch("doctor"), child):
        assert refused.returncode == 1
        assert "attribatch migrate`" in refused.stderr + refused.stdout
    assert attribatch("migrate").returncode == 0
    assert attribatch("status").returncode == 0


def test_migrate_and_beat_run_as_the_file_states_them(place: Servers) -> None:
    environment = {**os.environ, **place.environment}
    with subprocess.Popen([ATTRIBATCH, *stated_command("beat")], env=environment, stderr=subprocess.PIPE) as beat:
        migrated = subprocess.run(
            [ATTRIBATCH, *stated_command("migrate"), "--json"], env=environment, capture_output=True, text=True
        )
        assert json.loads(migrated.stdout)["revision"], migrated.stderr
        assert beat.poll() is None
        eventually(lambda: signal.SIGTERM in caught(beat.pid), 20)
        beat.terminate()
        assert beat.wait(10) == 0
        assert beat.stderr is not None
        assert beat.stderr.read() == b"", "beat has nothing to say where nothing is wrong"


def caught(pid: int) -> list[int]:
    """Signals that a process has handlers for."""
    (mask,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return [number for number in range(1, 32) if int(mask, 16) >> (number - 1) & 1]


def test_asked_to_stop_units_go_back_uncounted(
    production: Pipeline, fleet: Fleet, request_: RunRequest, tmp_path: Path
) -> None:
    run = production.submit(endless(replace(request_, seed=7), tmp_path))
    production.wake()
    eventually(lambda: production.status(run.id).units[UnitState.LEASED] == 2, 30, fleet.said)
    begun = time.monotonic()
    assert fleet.stop() == 0
    assert time.monotonic() - begun < 20
    found = production.status(run.id)
    assert found.units[UnitState.LEASED] == 0
    assert found.units[UnitState.PENDING] == 3
    assert found.attempts == 0


def test_every_production_command_of_the_readme_runs(
    production: Pipeline,
    place: Servers,
    fleet: Fleet,
    reader: Path,
) -> None:
    for run in production.runs():
        production.cancel(run.id)
    section = README.split("## Production")[1].split("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    environment = {**os.environ, **place.environment, "PATH": f"{Path(ATTRIBATCH).parent}:{os.environ['PATH']}"}
    background: list[subprocess.Popen[bytes]] = []
    ran = 0
    try:
        for line in block.splitlines():
            command = line.partition("#")[0].strip()
            if command.startswith("export"):
                assert command.split()[1].partition("=")[0] in environment, line
            elif command.endswith("&"):
                alone = shlex.split(command.removesuffix("&").replace("9100", str(free_port())))
                with fleet.log.open("ab") as log:
                    background.append(subprocess.Popen(alone, cwd=reader, env=environment, stderr=log))
            else:
                found = subprocess.run(
                    shlex.split(command), cwd=reader, env=environment, capture_output=True, text=True, timeout=120
                )
                assert found.returncode == 0, line + found.stdout + found.stderr + fleet.said()
                assert not any(secret in found.stdout + found.stderr for secret in place.secrets)
                ran += 1
    finally:
        for process in background:
            process.terminate()
        codes = [process.wait(60) for process in background]
    assert (ran, codes) == (5, [0, 0])
    assert production.status("latest").images_done == 12
    assert production.get_run("latest").priority == 5


def test_log_lines_are_json_and_hold_no_secret(production: Pipeline, place: Servers, fleet: Fleet) -> None:
    """Every log line is json and names its unit and nothing stored holds a secret."""
    said = fleet.log.read_text()
    lines = [json.loads(line) for line in said.splitlines()]
    of_units = [line for line in lines if line["logger"] in ("attribatch.unit", "attribatch.engine")]
    assert len(of_units) > 30
    assert all({"run", "unit", "attempt"} <= set(line) for line in of_units)
    assert {line["level"] for line in lines} >= {"info", "warning"}, "Redis and PostgreSQL were away: it was said"
    stored = [said.encode()]
    stored += [production.objects.get(key) for key in production.objects.list()]
    with read(production.database) as connection:
        for table in metadata.sorted_tables:
            stored.append(repr(connection.execute(text(f"SELECT * FROM {table.name}")).all()).encode())
    assert len(stored) > 50
    for secret in place.secrets:
        assert not any(secret.encode() in one for one in stored), secret
