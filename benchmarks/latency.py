"""Time from sending a wake-up message to holding the unit, against a Celery task that does nothing."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import redis as redis_client

from benchmarks.machine import log, table
from benchmarks.scale import entries
from db.ledger import Ledger
from db.records import Run
from db.session import migrate, open_engine
from pipeline.engine.broker import TASK
from pipeline.runs.plan import drafts
from pipeline.settings import Settings
from tests.support.servers import postgres, redis
from workers.app import make_app

UNITS = 300
WORKER = """
import sys, time, redis
from db.ledger import Ledger
from db.session import open_engine
from pipeline.engine.broker import TASK
from pipeline.settings import Settings
from workers.app import make_app
app, done = make_app(Settings.from_env()), redis.Redis.from_url(sys.argv[1])
ledger = Ledger(open_engine(sys.argv[2]))

@app.task(name=TASK)
def claim(unit_id):
    assert ledger.claim("bench", unit_id=unit_id) is not None
    done.rpush("done", time.time())

@app.task(name="bare")
def bare(_):
    done.rpush("done", time.time())

import warnings; warnings.simplefilter("ignore")
app.Worker(pool_cls="threads", concurrency=1, quiet=True, without_gossip=True, without_mingle=True).start()
"""


def section() -> str:
    """Markdown of this section."""
    root = str(Path(__file__).parents[1])
    with postgres() as url, redis() as (broker, _):
        engine = open_engine(url)
        migrate(engine)
        run = Run("0" * 12, None, "{}", "0" * 64, "{}", "0" * 64, UNITS, 1)
        ledger = Ledger(engine)
        ledger.submit(run, drafts(entries(UNITS), 1))
        unit_ids = ledger.unsent(UNITS)
        environment = {**os.environ, "ATTRIBATCH_BROKER_URL": broker, "PYTHONPATH": root}
        worker = subprocess.Popen([sys.executable, "-c", WORKER, broker, url], env=environment)
        try:
            rows = _measured(broker, unit_ids)
        finally:
            worker.terminate()
            worker.wait(30)
        engine.dispose()
    return (
        f"## Dispatch\n\n{UNITS} messages through Redis, one at a time, alternating between the two tasks; "
        "milliseconds from sending to the task's last line. The task of attribatch also claims the unit in "
        "PostgreSQL.\n\n"
        f"{table(['task', 'median, ms', 'p95, ms'], rows)}"
    )


def _measured(broker: str, unit_ids: list[int]) -> list[list[str]]:
    app, done = (
        make_app(Settings.from_env({"ATTRIBATCH_BROKER_URL": broker})),
        redis_client.Redis.from_url(broker, socket_timeout=90),
    )
    sides: dict[str, Callable[[int], object]] = {
        "bare Celery": lambda unit_id: app.send_task("bare", args=[unit_id], retry=False),
        "attribatch, claimed": lambda unit_id: app.send_task(TASK, args=[unit_id], retry=False),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    log("dispatch: a worker starts")
    sides["bare Celery"](0)
    done.blpop(["done"], timeout=60)
    for unit_id in unit_ids:
        for name, send in sides.items():
            started = time.time()
            send(unit_id)
            answer = done.blpop(["done"], timeout=60)
            assert answer is not None, "the worker does not answer"
            times[name].append(1000 * (float(answer[1]) - started))
    return [[name, f"{statistics.median(t):.1f}", f"{sorted(t)[int(0.95 * len(t))]:.1f}"] for name, t in times.items()]
