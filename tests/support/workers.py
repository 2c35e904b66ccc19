"""Worker processes for the tests, forked from a process that has imported everything: 20 ms each instead of 3 s.

A `Fault` may be injected: at one step of the protocol, the first worker to reach it sends itself a signal. Each worker
notes a unit in the file `notes` before it computes it (not if it only adopts it), and in `messages` the id of each unit
that a message names.
"""

import functools
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

import boto3  # noqa: F401 - what the workers need is imported before they are forked
import psycopg  # noqa: F401
import torch

import workers.__main__ as celery_worker
from db.records import Unit
from pipeline import logs
from pipeline.datasets.decoder import Decoder
from pipeline.engine import unit as engine
from pipeline.engine.explainer import Explainer
from pipeline.engine.identity import when_parent_is_gone
from pipeline.engine.unit import OnStep, Step, Workshop
from pipeline.engine.worker import open_workshop, work
from pipeline.errors import Retryable
from pipeline.settings import Settings
from workers import consumer
from workers.consumer import Consumer

STEPS = ("claimed", "decoded", "computed", "shards put", "sidecar put", "committed")
RETRY_SECONDS = 0.05  # doubled by every attempt: the product waits 2 s


@dataclass(frozen=True)
class Fault:
    """What is injected into a worker.

    Attributes:
        at: one of `STEPS`, or "" for none.
        flag: a file; only the worker that creates it is hit.
        signal: that it sends itself.
        image: key of an image that ends every process that decodes it.
        skew_seconds: by which its clock is wrong.
        visibility_seconds: Redis' patience with a message that is not acknowledged; None as the product sets it.
        stuck_device: raise an error of CUDA while the file `flag` does not exist, then no device answers.
    """

    at: str = ""
    flag: str = ""
    signal: int = signal.SIGKILL
    image: str = ""
    skew_seconds: float = 0.0
    visibility_seconds: int | None = None
    stuck_device: bool = False


NO_FAULT = Fault()


def start(
    environment: dict[str, str], folder: Path, run_id: str | None = None, fault: Fault = NO_FAULT
) -> ForkServerProcess:
    """A worker of one run that claims straight from SQL, or of all runs that Celery brings it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    worker = context.Process(target=_live, args=(environment, folder, run_id, fault), daemon=True)
    worker.start()
    return worker


def note_starts(notes: Path) -> OnStep:
    """Notes each unit that is not adopted, before its images are read."""

    def on_step(step: Step, unit: Unit) -> None:
        if step == "started":
            with notes.open("a") as file:
                file.write(f"{unit.run_id} {unit.number} {unit.attempt} {os.getpid()}\n")

    return on_step


def _recording_messages(notes: Path) -> Callable[..., str]:
    run = Consumer.run

    def note(self: Consumer, unit_id: int) -> str:
        with notes.open("a") as file:
            file.write(f"{unit_id}\n")
        return run(self, unit_id)

    return note


def _live(environment: dict[str, str], folder: Path, run_id: str | None, fault: Fault) -> None:
    os.environ.update(environment)
    with (folder / "workers.log").open("ab") as log:
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    parent = os.getppid()
    with ExitStack() as patched:
        patched.enter_context(mock.patch.object(engine, "RETRY_SECONDS", RETRY_SECONDS))
        for target, name, stand_in in _replacements(fault):
            patched.enter_context(mock.patch.object(target, name, stand_in))
        open_ = functools.partial(open_workshop, on_step=_steps(folder / "notes", fault))
        if run_id is None:
            patched.enter_context(mock.patch.object(celery_worker, "open_workshop", open_))
            patched.enter_context(mock.patch.object(Consumer, "run", _recording_messages(folder / "messages")))
            sys.argv = ["worker", "--child", "0", "--parent", str(parent), "--device", "cpu"]
            sys.exit(celery_worker.main())
        logs.configure("console", level=logging.WARNING)
        _work(open_(Settings.from_env()), run_id, parent)


def _steps(notes: Path, fault: Fault) -> OnStep:
    note = note_starts(notes)

    def on_step(step: Step, unit: Unit) -> None:
        note(step, unit)
        if step == fault.at:
            _send_once(fault)

    return on_step


def _work(shop: Workshop, run_id: str, parent: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: shop.stop.set())
    when_parent_is_gone(parent, shop.stop.set)
    while not shop.stop.is_set():
        try:
            work(shop, run_id)
            break
        except Retryable as error:
            logging.getLogger("attribatch.hand").warning("%s", error)
            time.sleep(0.2)
    shop.database.dispose()


def _replacements(fault: Fault) -> list[tuple[Any, str, Any]]:
    """What is replaced by what: (object, attribute, stand-in)."""
    replacements: list[tuple[Any, str, Any]] = []
    if fault.image:
        replacements.append((Decoder, "one", _deadly(fault.image)))
    if fault.skew_seconds:
        right = time.time
        replacements.append((time, "time", lambda: right() + fault.skew_seconds))
    if fault.visibility_seconds is not None:
        replacements.append((celery_worker, "make_app", _impatient(fault.visibility_seconds)))
    if fault.stuck_device:
        replacements += _stuck(Path(fault.flag))
    return replacements


def _send_once(fault: Fault) -> None:
    try:
        Path(fault.flag).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), fault.signal)


def _deadly(key: str) -> Callable[..., Any]:
    decode = Decoder.one

    def one(decoder: Decoder, entry: Any) -> Any:
        if entry.key == key:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(decoder, entry)

    return one


def _impatient(seconds: int) -> Callable[..., Any]:
    make = celery_worker.make_app

    def make_app(settings: Settings) -> Any:
        app = make(settings)
        quick = {"visibility_timeout": seconds, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
        app.conf.broker_transport_options = {**app.conf.broker_transport_options, **quick}
        return app

    return make_app


def _stuck(flag: Path) -> list[tuple[Any, str, Any]]:
    compute = Explainer.compute
    broken = []

    def fail_once(self: Explainer, pictures: Any) -> Any:
        if not flag.exists():
            flag.touch()
            broken.append(True)
        if broken:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        return compute(self, pictures)

    return [(Explainer, "compute", fail_once), (consumer, "is_broken", lambda device: bool(broken))]
