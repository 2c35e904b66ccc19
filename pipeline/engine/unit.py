"""Turns one claimed unit into stored maps and rows: decode -> attribute -> check -> put -> record.

The protocol that loses nothing and repeats nothing (a crash may come between any two steps):

1. The claim has raised the unit's attempt in SQL, and a thread renews its lease.
2. If the sidecar of an earlier attempt is there, it is adopted and nothing is computed.
3. What is attributed already is looked up, the rest is computed. Map shards are put, then the sidecar: all rows of the
   unit as JSON, with the digests of the shards.
4. One transaction writes the rows and marks the unit done where the token still matches; otherwise we are fenced.

From the second attempt on a unit runs with care: each row is noted in SQL before it is decoded and computed, so that an
image that kills the process is found, failed, and left out. Knows nothing of Celery or of who called.

The device waits for nobody: a pool decodes the images to come while a part of the unit is computed; another thread
describes, encodes, puts and records what was computed while the caller goes on with the next unit.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import nn

from db.ledger import Ledger
from db.objects import Objects
from db.queries import get_run
from db.records import DEATHS, Entry, ImageRow, Run, Unit
from db.session import Engine
from pipeline import telemetry
from pipeline.datasets import Source
from pipeline.datasets.decoder import Decoder, Picture, Unreadable
from pipeline.engine import calibration
from pipeline.engine.explainer import Computed, Explainer
from pipeline.engine.lease import held_lease
from pipeline.engine.reuse import Known
from pipeline.engine.rows import describe, failed_row
from pipeline.errors import AttribatchError, MapsGone, Retryable, UnreadableImage, UsageError
from pipeline.models import registry
from pipeline.spec.run_spec import RunSpec
from pipeline.storage import arrays
from pipeline.storage import sidecar as storing
from pipeline.storage.arrays import Floats
from pipeline.storage.keys import sidecar_key

log = logging.getLogger("attribatch.engine")

RESIDENT_SHARE = 0.5  # of a GPU's free memory that all members of an ensemble may fill
RETRY_SECONDS = 2.0  # doubled by every attempt


Value = TypeVar("Value")
Step = Literal["claimed", "started", "decoded", "computed", "shards put", "sidecar put", "committed"]
OnStep = Callable[[Step, Unit], None]


class Outcome(StrEnum):
    """What became of a unit in these hands."""

    DONE = "done"
    ADOPTED = "adopted"  # an earlier attempt had computed it, and died before it said so
    RELEASED = "released"  # we were asked to stop
    FENCED = "fenced"  # the lease was lost; somebody else has the unit
    FAILED = "failed"  # for now or for good: the ledger decides


class _LetGo(Exception):
    """Stop computing: we were asked to, or the lease is lost."""


@dataclass
class Workshop:
    """What a worker process needs to work on units."""

    database: Engine
    ledger: Ledger
    objects: Objects
    lease_seconds: float
    max_pixels: int
    s3_endpoint_url: str | None = None  # of sources on S3
    device: str = "cpu"
    allowed_modules: tuple[str, ...] = ()  # prefixes of `pkg.module:factory` models; empty allows all
    on_step: OnStep = lambda *_: None  # called after each step; "started": there is nothing to adopt
    stop: threading.Event = field(default_factory=threading.Event)  # set by signal handlers
    storing: "Future[Outcome] | None" = None  # the unit that is being stored
    storing_digests: frozenset[str] = frozenset()  # of the images in it
    storer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "attribatch-store"))

    def is_storing(self) -> bool:
        """Whether a unit is computed and not stored yet."""
        return self.storing is not None and not self.storing.done()

    def finish(self) -> None:
        """Wait until what is computed is stored too."""
        if self.storing is not None:
            wait([self.storing])


@dataclass(frozen=True, slots=True)
class _Result:
    """A unit that is computed and not stored yet."""

    run: Run
    spec: RunSpec
    computed: list[Computed]
    failed: list[ImageRow]
    known: Known
    made_on: dict[str, str]


def run_unit(shop: Workshop, unit: Unit) -> Outcome:
    """Work on a claimed unit until it is done, failed, or given back. Raises no Exception."""
    return begin_unit(shop, unit).result()


def begin_unit(shop: Workshop, unit: Unit) -> "Future[Outcome]":
    """As `run_unit`, but what is computed is stored while the caller goes on. One unit at a time is stored."""
    with ExitStack() as held:
        lost = held.enter_context(held_lease(lambda: shop.ledger.renew(unit), shop.lease_seconds))
        result = _guarded(shop, unit, lost, lambda: _compute(shop, unit, lost))
        shop.finish()
        if isinstance(result, Outcome):
            known: Future[Outcome] = Future()
            known.set_result(result)
            return known
        lease = held.pop_all()

    def store() -> Outcome:
        with lease:
            return _guarded(shop, unit, lost, lambda: _store(shop, unit, result, lost))

    shop.storing_digests = frozenset(p.sha256 for computed in result.computed for p in computed.pictures)
    shop.storing = shop.storer.submit(copy_context().run, store)
    return shop.storing


def _guarded(shop: Workshop, unit: Unit, lost: threading.Event, step: Callable[[], Value]) -> Value | Outcome:
    """What a step gives, or what became of the unit when it failed."""
    try:
        return step()
    except _LetGo:
        if lost.is_set():
            return Outcome.FENCED
        with suppress(Retryable):  # or the lease runs out, and sweep gives the unit back
            shop.ledger.release(unit)
        return Outcome.RELEASED
    except Exception as error:
        surprise = None if isinstance(error, AttribatchError) else error  # its traceback is worth reading
        about = (unit.number, unit.run_id, unit.attempt)
        log.error("unit %s of run %s failed, attempt %s: %s", *about, error, exc_info=surprise)  # noqa: TRY400 - exc_info gives the traceback, and only where nobody expected the error: else its sentence says all
        retry_in = None if isinstance(error, UsageError) else RETRY_SECONDS * 2**unit.attempt
        return _failed(shop, unit, error, retry_in)


def _failed(shop: Workshop, unit: Unit, error: Exception, retry_in: float | None) -> Outcome:
    text = str(error) if isinstance(error, Retryable | UsageError) else _last_lines(error)
    try:
        shop.ledger.fail(unit, text, retry_in=retry_in)
    except Retryable:  # the database is away as well: the lease runs out, and sweep gives the unit back
        log.warning("unit %s of run %s: the failure could not be recorded", unit.number, unit.run_id)
    return Outcome.FAILED


def _adopted(shop: Workshop, unit: Unit) -> Outcome | None:
    """What became of a unit that an earlier attempt had stored; None where there is nothing to adopt."""
    if unit.attempt == 1 or (rows := storing.stored_rows(shop.objects, unit)) is None:
        return None
    try:
        adopted = shop.ledger.complete(unit, rows)
        shop.on_step("committed", unit)
        return Outcome.ADOPTED if adopted else Outcome.FENCED
    except MapsGone:  # what it says is true no more
        shop.objects.delete(sidecar_key(unit.run_id, unit.number))
        return None


def _compute(shop: Workshop, unit: Unit, lost: threading.Event) -> _Result | Outcome:
    shop.on_step("claimed", unit)
    if (adopted := _adopted(shop, unit)) is not None:
        return adopted
    shop.on_step("started", unit)
    run = get_run(shop.database, unit.run_id)
    spec, source = RunSpec.from_json(run.spec), Source.from_json(run.source, shop.s3_endpoint_url)
    decoder = Decoder(source, spec.preprocess, shop.max_pixels)
    result = _Result(run, spec, [], [], Known(shop.database, run, spec, unit), {})
    entries = result.known.unread()
    if not entries:  # no model is loaded for what is known
        return result
    explainer = _explainer(shop, spec, decoder, lost)
    result.made_on.update(device=explainer.device_kind, torch=torch.__version__)

    def take(pictures: Sequence[Picture], failed: Sequence[Unreadable]) -> None:
        result.failed.extend(failed_row(run.id, one.entry, one.error) for one in failed)
        if any(picture.sha256 in shop.storing_digests for picture in pictures):
            shop.finish()  # then it is known
        pictures = result.known.uncomputed(pictures)
        if not pictures:
            return
        if not result.computed:
            given = [Entry(-1, *entry) for entry in spec.calibration]
            calibration.tune(shop.objects, explainer, unit, lambda: decoder.pictures(given), pictures)
        shop.on_step("decoded", unit)
        result.computed.append(explainer.compute(pictures))

    if unit.attempt == 1:
        for pictures, failed in decoder.ahead(entries):
            take(pictures, failed)
    else:
        _with_care(shop, unit, entries, decoder, take)
    _check(shop, lost)
    return result


def _check(shop: Workshop, lost: threading.Event) -> None:
    if shop.stop.is_set() or lost.is_set():
        raise _LetGo


def _with_care(
    shop: Workshop,
    unit: Unit,
    entries: Sequence[Entry],
    decoder: Decoder,
    take: Callable[[Sequence[Picture], Sequence[Unreadable]], None],
) -> None:
    """Row by row, each noted before it is touched: whoever kills the process leaves its name."""
    deaths = shop.ledger.suspects(unit)
    for entry in entries:
        if deaths.get(entry.row, 0) >= DEATHS:
            reason = f"it ended its worker process {deaths[entry.row]} times; look at the image and the worker's memory"
            take([], [Unreadable(entry, reason)])
            continue
        if not shop.ledger.note_row(unit, entry.row):
            raise _LetGo
        try:
            for pictures, failed in decoder.ahead([entry]):
                take(pictures, failed)
        except Exception:  # which is no death
            shop.ledger.clear_row(unit, entry.row)
            raise
        shop.ledger.clear_row(unit, entry.row)


def _store(shop: Workshop, unit: Unit, result: _Result, lost: threading.Event) -> Outcome:
    shop.on_step("computed", unit)
    run, spec = result.run, result.spec
    explained = [one for computed in result.computed for one in describe(run.id, spec, computed)]
    rows = [one.row for one in explained] + result.failed + result.known.after(explained)
    rows.sort(key=lambda row: row.row)
    shards = storing.encode_maps(run, arrays.layout_of(run, spec), unit, explained) if explained else {}
    rows = _put(shop, unit, shards, rows, lost, storing.encode_sidecar(run, unit.number, shards, rows, result.made_on))
    if not _committed(shop, unit, rows):
        return Outcome.FENCED
    telemetry.recorded(rows)
    return Outcome.DONE


def _explainer(shop: Workshop, spec: RunSpec, decoder: Decoder, lost: threading.Event) -> Explainer:
    take_turns = must_take_turns(spec, shop.device)
    return Explainer(
        spec,
        load_members(spec, "cpu" if take_turns else shop.device, shop.allowed_modules),
        samples=_samples(spec, decoder),
        device=shop.device,
        check=lambda: _check(shop, lost),
        take_turns=take_turns,
    )


def load_members(spec: RunSpec, device: str, allowed_modules: Sequence[str] = ()) -> list[nn.Module]:
    """The members of a spec on a device, from the process's cache."""
    dtype = torch.float64 if spec.precision == "float64" else torch.float32
    return [registry.load(model, device=device, dtype=dtype, allowed_modules=allowed_modules) for model in spec.models]


def _samples(spec: RunSpec, decoder: Decoder) -> Floats | None:
    if not spec.samples:
        return None
    [(pictures, failed)] = decoder.ahead([Entry(-1, key, version) for key, version, _ in spec.samples], parts=1)
    if failed:
        raise UnreadableImage(f"a baseline is drawn from an image of the data set, but {failed[0].error}")
    for picture, (key, _, digest) in zip(pictures, spec.samples, strict=True):
        if digest and picture.sha256 != digest:
            raise UnreadableImage(f"baselines are drawn from {key!r}, whose content changed; submit the run again")
    return np.stack([picture.pixels for picture in pictures])


def must_take_turns(spec: RunSpec, device: str) -> bool:
    """Whether an ensemble would fill the memory of a GPU: then one member at a time lies there."""
    if not device.startswith("cuda") or len(spec.models) == 1:
        return False
    members = load_members(spec, "cpu")
    size = sum(p.numel() * p.element_size() for member in members for p in member.parameters())
    return size > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]


# ---- storing


@telemetry.stage("put")
def _put(
    shop: Workshop, unit: Unit, shards: dict[str, bytes], rows: list[ImageRow], lost: threading.Event, sidecar: bytes
) -> list[ImageRow]:
    """Put shards, then the sidecar, each once. Returns the rows that belong to what is stored."""
    for key, data in shards.items():
        if shop.objects.put_once(key, data) or shop.objects.get(key) == data:
            continue
        if (stored := storing.stored_rows(shop.objects, unit)) is not None:  # somebody else was faster: theirs stands
            return stored
        # An attempt died between its shards and its sidecar. Ours must match our rows: replace, while we hold the unit.
        _still_ours(shop, unit, lost)
        shop.objects.put(key, data)
    _still_ours(shop, unit, lost)  # a paused process that wakes here must not add its rows
    shop.on_step("shards put", unit)
    # We hold the unit: whatever sidecar is there is older than our shards.
    shop.objects.put(sidecar_key(unit.run_id, unit.number), sidecar)
    shop.on_step("sidecar put", unit)
    return rows


def _still_ours(shop: Workshop, unit: Unit, lost: threading.Event) -> None:
    if lost.is_set() or not shop.ledger.renew(unit):
        lost.set()
        raise _LetGo


@telemetry.stage("commit")
def _committed(shop: Workshop, unit: Unit, rows: Sequence[ImageRow]) -> bool:
    """Commit, trying for as long as the lease lasts. Past it the next attempt adopts the sidecar."""
    give_up = time.monotonic() + shop.lease_seconds
    while True:
        try:
            done = shop.ledger.complete(unit, rows)
        except MapsGone:
            raise
        except Retryable:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.5)
        else:
            shop.on_step("committed", unit)
            return done


def _last_lines(error: BaseException, lines: int = 6) -> str:
    text = "".join(traceback.format_exception(error)).strip().splitlines()
    return "\n".join(text[-lines:])
