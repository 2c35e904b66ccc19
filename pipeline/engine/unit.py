"""Turns one claimed unit into stored maps and rows: decode -> attribute -> check -> put -> record.

The protocol loses nothing and repeats nothing, whichever two steps a crash comes between:

1. The claim increments the unit's attempt in SQL, and a thread renews its lease.
2. If the unit has a sidecar, it is adopted and nothing is computed. A sidecar of a newer version fails the unit.
3. Stored attributions are reused, the others are computed. Map shards are put, then the sidecar: all rows of the unit
   as JSON, with the digests of the shards.
4. One transaction writes the rows and marks the unit done if the token still matches; otherwise the worker is fenced.

From the second attempt on, each row is noted in SQL before it is decoded and computed, so that an image that kills the
process is found, failed, and left out.

The device does not wait for input or output: a pool decodes the next images while a part of the unit is computed, and
another thread encodes, puts and commits the computed unit while the caller computes the next one.
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
from pipeline.engine.reuse import Reuse
from pipeline.engine.rows import describe, failed_row
from pipeline.errors import AttribatchError, MapsGone, RecordTooNew, Retryable, UnreadableImage, UsageError
from pipeline.models import registry
from pipeline.spec.run_spec import RunSpec
from pipeline.storage import arrays
from pipeline.storage import sidecar as storing
from pipeline.storage.arrays import Floats
from pipeline.storage.keys import sidecar_key

log = logging.getLogger("attribatch.engine")

RESIDENT_SHARE = 0.5  # share of a GPU's free memory that all members of an ensemble may fill
RETRY_SECONDS = 2.0  # wait before the first retry; doubled by every attempt


Value = TypeVar("Value")
Step = Literal["claimed", "started", "decoded", "computed", "shards put", "sidecar put", "committed"]
OnStep = Callable[[Step, Unit], None]


class Outcome(StrEnum):
    """Result of an attempt at a unit."""

    DONE = "done"
    ADOPTED = "adopted"  # an earlier attempt had stored it, and died before its commit
    RELEASED = "released"  # the worker is stopping
    FENCED = "fenced"  # the lease was lost; another worker has the unit
    FAILED = "failed"  # retried if the ledger allows another attempt


class _LetGo(Exception):
    """Stop computing: the worker is stopping, or the lease is lost."""


@dataclass
class Workshop:
    """The stores, the device and the state of a worker process."""

    database: Engine
    ledger: Ledger
    objects: Objects
    lease_seconds: float
    max_pixels: int
    s3_endpoint_url: str | None = None  # endpoint of S3 sources; None: Amazon S3
    device: str = "cpu"
    allowed_modules: tuple[str, ...] = ()  # prefixes of `pkg.module:factory` models; empty allows all
    on_step: OnStep = lambda *_: None  # called after each step; "started": there is nothing to adopt
    stop: threading.Event = field(default_factory=threading.Event)  # set by signal handlers
    storing: "Future[Outcome] | None" = None  # the unit that is stored in the background
    storing_digests: frozenset[str] = frozenset()  # SHA-256 of its images
    storer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "attribatch-store"))

    def is_storing(self) -> bool:
        """Whether a unit is computed but not stored yet."""
        return self.storing is not None and not self.storing.done()

    def finish(self) -> None:
        """Wait until the computed unit is stored."""
        if self.storing is not None:
            wait([self.storing])


@dataclass(frozen=True, slots=True)
class _Result:
    """A unit that is computed but not stored yet."""

    run: Run
    spec: RunSpec
    computed: list[Computed]
    failed: list[ImageRow]
    reuse: Reuse
    made_on: dict[str, str]


def run_unit(shop: Workshop, unit: Unit) -> Outcome:
    """Work on a claimed unit until it is done, failed or released. Does not raise Exception."""
    return begin_unit(shop, unit).result()


def begin_unit(shop: Workshop, unit: Unit) -> "Future[Outcome]":
    """Compute a claimed unit, then store it in the background. Waits if another unit is still being stored."""
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
    """The value of a step, or the outcome of the unit if the step failed."""
    try:
        return step()
    except _LetGo:
        if lost.is_set():
            return Outcome.FENCED
        with suppress(Retryable):  # or the lease runs out, and sweep gives the unit back
            shop.ledger.release(unit)
        return Outcome.RELEASED
    except Exception as error:
        surprise = None if isinstance(error, AttribatchError) else error  # log its traceback
        about = (unit.number, unit.run_id, unit.attempt)
        log.error("unit %s of run %s failed, attempt %s: %s", *about, error, exc_info=surprise)  # noqa: TRY400 - exc_info gives the traceback, and only where nobody expected the error: else its sentence says all
        retry_in = None if isinstance(error, UsageError) else RETRY_SECONDS * 2**unit.attempt
        return _failed(shop, unit, error, retry_in)


def _failed(shop: Workshop, unit: Unit, error: Exception, retry_in: float | None) -> Outcome:
    text = str(error) if isinstance(error, Retryable | UsageError | RecordTooNew) else _last_lines(error)
    try:
        shop.ledger.fail(unit, text, retry_in=retry_in)
    except Retryable:  # the database is away as well: the lease runs out, and sweep gives the unit back
        log.warning("unit %s of run %s: the failure could not be recorded", unit.number, unit.run_id)
    return Outcome.FAILED


def _adopted(shop: Workshop, unit: Unit) -> Outcome | None:
    """Commit the sidecar of an earlier attempt; None if there is none. Raises RecordTooNew."""
    if (rows := storing.stored_rows(shop.objects, unit)) is None:
        return None
    try:
        adopted = shop.ledger.complete(unit, rows)
        shop.on_step("committed", unit)
        return Outcome.ADOPTED if adopted else Outcome.FENCED
    except MapsGone:  # its rows point to maps that were removed
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
    result = _Result(run, spec, [], [], Reuse(shop.database, run, spec, unit), {})
    entries = result.reuse.unread()
    if not entries:  # everything is reused: no model is loaded
        return result
    explainer = _explainer(shop, spec, decoder, lost)
    result.made_on.update(device=explainer.device_kind, torch=torch.__version__)

    def take(pictures: Sequence[Picture], failed: Sequence[Unreadable]) -> None:
        result.failed.extend(failed_row(run.id, one.entry, one.error) for one in failed)
        if any(picture.sha256 in shop.storing_digests for picture in pictures):
            shop.finish()  # then it can be reused
        pictures = result.reuse.uncomputed(pictures)
        if not pictures:
            return
        if not result.computed:
            given = [Entry(-1, *entry) for entry in spec.calibration]
            calibration.calibrate(shop.objects, explainer, unit, lambda: decoder.pictures(given), pictures)
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
    """Compute row by row. Each row is noted first, so that SQL names the row at which a process died."""
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
        except Exception:  # the process did not die
            shop.ledger.clear_row(unit, entry.row)
            raise
        shop.ledger.clear_row(unit, entry.row)


def _store(shop: Workshop, unit: Unit, result: _Result, lost: threading.Event) -> Outcome:
    shop.on_step("computed", unit)
    run, spec = result.run, result.spec
    explained = [one for computed in result.computed for one in describe(run.id, spec, computed)]
    rows = [one.row for one in explained] + result.failed + result.reuse.after(explained)
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
    """Whether an ensemble would fill the memory of a GPU, so that its members must take turns there."""
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
    """Put the shards, then the sidecar, each once. Returns the rows of the stored sidecar."""
    for key, data in shards.items():
        if shop.objects.put_once(key, data) or shop.objects.get(key) == data:
            continue
        if (stored := storing.stored_rows(shop.objects, unit)) is not None:  # another worker was faster: keep its rows
            return stored
        # An attempt died between its shards and its sidecar. Shards must match our rows: replace them.
        _still_ours(shop, unit, lost)
        shop.objects.put(key, data)
    _still_ours(shop, unit, lost)  # a process that was paused until here must not add its rows
    shop.on_step("shards put", unit)
    # We hold the unit: a stored sidecar would be older than our shards.
    shop.objects.put(sidecar_key(unit.run_id, unit.number), sidecar)
    shop.on_step("sidecar put", unit)
    return rows


def _still_ours(shop: Workshop, unit: Unit, lost: threading.Event) -> None:
    if lost.is_set() or not shop.ledger.renew(unit):
        lost.set()
        raise _LetGo


@telemetry.stage("commit")
def _committed(shop: Workshop, unit: Unit, rows: Sequence[ImageRow]) -> bool:
    """Commit; retry until the lease ends. After that the next attempt adopts the sidecar."""
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
