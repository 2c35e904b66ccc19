"""Turns one claimed unit into stored maps and rows: decode -> attribute -> check -> put -> record.

The protocol that loses nothing and repeats nothing (a crash may come between any two steps):

1. The claim has raised the unit's attempt in SQL, and a thread renews its lease.
2. If the sidecar of an earlier attempt is there, it is adopted and nothing is computed.
3. Map shards are put, then the sidecar: all rows of the unit as JSON, with the digests of the shards.
4. One transaction writes the rows and marks the unit done where the token still matches; otherwise we are fenced.

From the second attempt on a unit runs with care: each row is noted in SQL before it is decoded and computed, so that an
image that kills the process is found, failed, and left out. Knows nothing of Celery or of who called.
"""

import hashlib
import json
import logging
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from db.ledger import DEATHS, Ledger
from db.objects import Objects
from db.queries import get_run
from db.records import Entry, ImageRow, ImageState, Run, Unit
from db.session import Engine
from pipeline import maps, models, telemetry
from pipeline.datasets import Source, read_image, to_pixels
from pipeline.errors import AttribatchError, ObjectMissing, Retryable, SourceUnavailable, UnreadableImage, UsageError
from pipeline.explaining import Explained, Explainer, Picture, failed_row
from pipeline.spec import Preprocess, RunSpec

log = logging.getLogger("attribatch.engine")

DECODERS = 4  # threads: Pillow lets go of the interpreter while it decodes
RENEW_SECONDS = 5.0
RETRY_SECONDS = 2.0  # doubled by every attempt


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
    device: str = "cpu"
    allowed_modules: tuple[str, ...] = ()  # prefixes of `pkg.module:factory` models; empty allows all
    stop: threading.Event = field(default_factory=threading.Event)  # set by signal handlers


def run_unit(shop: Workshop, unit: Unit) -> Outcome:
    """Work on a claimed unit until it is done, failed, or given back. Raises no Exception."""
    with _lease(shop, unit) as lost:
        try:
            return _work(shop, unit, lost)
        except _LetGo:
            if lost.is_set():
                return Outcome.FENCED
            shop.ledger.release(unit)
            return Outcome.RELEASED
        except Exception as error:
            surprise = None if isinstance(error, AttribatchError) else error  # its traceback is worth reading
            about = (unit.number, unit.run_id, unit.attempt)
            log.error("unit %s of run %s failed, attempt %s: %s", *about, error, exc_info=surprise)  # noqa: TRY400
            retry_in = None if isinstance(error, UsageError) else RETRY_SECONDS * 2**unit.attempt
            return _failed(shop, unit, error, retry_in)


def _failed(shop: Workshop, unit: Unit, error: Exception, retry_in: float | None) -> Outcome:
    text = str(error) if isinstance(error, Retryable | UsageError) else _last_lines(error)
    try:
        shop.ledger.fail(unit, text, retry_in=retry_in)
    except Retryable:  # the database is away as well: the lease runs out, and sweep gives the unit back
        log.warning("unit %s of run %s: the failure could not be recorded", unit.number, unit.run_id)
    return Outcome.FAILED


def _work(shop: Workshop, unit: Unit, lost: threading.Event) -> Outcome:
    if unit.attempt > 1 and (rows := _sidecar_rows(shop.objects, unit)) is not None:
        return Outcome.ADOPTED if shop.ledger.complete(unit, rows) else Outcome.FENCED

    def check() -> None:
        if shop.stop.is_set() or lost.is_set():
            raise _LetGo

    run = _run(shop, unit.run_id)
    spec, source = RunSpec.from_json(run.spec), Source.from_json(run.source)
    explainer = Explainer(
        spec,
        load_members(spec, shop.device, shop.allowed_modules),
        samples=_samples(shop, spec, source),
        device=shop.device,
        check=check,
    )
    if unit.attempt == 1:
        pictures, failed = _decode(unit.entries, run, source, spec.preprocess, shop.max_pixels)
        explained = explainer.explain(run.id, pictures) if pictures else []
    else:
        explained, failed = _with_care(shop, unit, run, explainer)
    check()
    rows = sorted([e.row for e in explained] + failed, key=lambda row: row.row)
    layout = maps.layout_of(run, spec)
    shards = maps.encode(run.id, layout, unit.entries[0].row, _unit_maps(unit, layout, explained))
    rows = _put(shop, unit, run, shards, rows, lost)
    if not _committed(shop, unit, rows):
        return Outcome.FENCED
    telemetry.recorded(rows)
    return Outcome.DONE


def _with_care(shop: Workshop, unit: Unit, run: Run, explainer: Explainer) -> tuple[list[Explained], list[ImageRow]]:
    """Row by row, each noted before it is touched: whoever kills the process leaves its name."""
    deaths = shop.ledger.suspects(unit)
    spec, source = RunSpec.from_json(run.spec), Source.from_json(run.source)
    explained: list[Explained] = []
    failed: list[ImageRow] = []
    for entry in unit.entries:
        if deaths.get(entry.row, 0) >= DEATHS:
            reason = f"it ended its worker process {deaths[entry.row]} times; look at the image and the worker's memory"
            failed.append(failed_row(run.id, entry, reason))
            continue
        if not shop.ledger.note_row(unit, entry.row):
            raise _LetGo
        try:
            pictures, unreadable = _decode([entry], run, source, spec.preprocess, shop.max_pixels)
            explained += explainer.explain(run.id, pictures) if pictures else []
        except Exception:  # which is no death
            shop.ledger.clear_row(unit, entry.row)
            raise
        failed += unreadable
        shop.ledger.clear_row(unit, entry.row)
    return explained, failed


@telemetry.stage("decode")
def _decode(
    entries: Sequence[Entry], run: Run, source: Source, preprocess: Preprocess, max_pixels: int
) -> tuple[list[Picture], list[ImageRow]]:
    def one(entry: Entry) -> Picture | ImageRow:
        try:
            decoded = read_image(source, entry, max_pixels=max_pixels)
            return Picture(entry, decoded.sha256, to_pixels(decoded.image, preprocess, key=entry.key))
        except UnreadableImage as error:
            return failed_row(run.id, entry, str(error))

    with ThreadPoolExecutor(DECODERS) as pool:
        found = list(pool.map(one, entries))
    if not Path(source.root).is_dir():  # one image that is gone is a failed row; the folder that is gone comes back
        raise SourceUnavailable(f"{source.root} is not there; is its disk mounted? The unit waits and is tried again")
    return [f for f in found if isinstance(f, Picture)], [f for f in found if isinstance(f, ImageRow)]


def load_members(spec: RunSpec, device: str, allowed_modules: Sequence[str] = ()) -> list[nn.Module]:
    """The members of a spec on a device, from the process's cache."""
    dtype = torch.float64 if spec.precision == "float64" else torch.float32
    return [models.load(model, device=device, dtype=dtype, allowed_modules=allowed_modules) for model in spec.models]


def _samples(shop: Workshop, spec: RunSpec, source: Source) -> maps.Floats | None:
    if not spec.samples:
        return None
    entries = [Entry(-1, key, version) for key, version in spec.samples]
    images = [read_image(source, entry, max_pixels=shop.max_pixels).image for entry in entries]
    return np.stack([to_pixels(image, spec.preprocess, key=e.key) for image, e in zip(images, entries, strict=True)])


def _unit_maps(unit: Unit, layout: maps.Layout, explained: Sequence[Explained]) -> maps.UnitMaps:
    first, n = unit.entries[0].row, len(unit.entries)
    mean = np.full((n, layout.channels, layout.height, layout.width), np.nan, np.float32)
    std = np.full_like(mean, np.nan) if layout.spread else None
    path = np.full((n, 2, maps.PATH_POINTS), np.nan, np.float32)
    for one in explained:
        mean[one.row.row - first], path[one.row.row - first] = one.mean, one.path
        if std is not None and one.std is not None:
            std[one.row.row - first] = one.std
    return maps.UnitMaps(mean, std, path)


# ---- storing


def sidecar_key(run_id: str, number: int) -> str:
    """Where a unit's rows lie in object storage."""
    return f"runs/{run_id}/units/{number:06}.json"


@telemetry.stage("put")
def _put(
    shop: Workshop, unit: Unit, run: Run, shards: dict[str, bytes], rows: list[ImageRow], lost: threading.Event
) -> list[ImageRow]:
    """Put shards, then the sidecar, each once. Returns the rows that belong to what is stored."""
    for key, data in shards.items():
        if shop.objects.put_once(key, data) or shop.objects.get(key) == data:
            continue
        if (stored := _sidecar_rows(shop.objects, unit)) is not None:  # somebody else was faster: theirs stands
            return stored
        # An attempt died between its shards and its sidecar. Ours must match our rows: replace, while we hold the unit.
        if lost.is_set() or not shop.ledger.renew(unit):
            lost.set()
            raise _LetGo
        shop.objects.put(key, data)
    if lost.is_set() or not shop.ledger.renew(unit):  # a paused process that wakes here must not add its rows
        lost.set()
        raise _LetGo
    sidecar = {
        "run": run.id,
        "unit": unit.number,
        "spec_key": run.spec_key,
        "shards": {key: hashlib.sha256(data).hexdigest() for key, data in shards.items()},
        "rows": [asdict(row) for row in rows],
    }
    data = json.dumps(sidecar, separators=(",", ":")).encode()
    shop.objects.put(
        sidecar_key(run.id, unit.number), data
    )  # we hold the unit: whatever is there is older than our shards
    return rows


def read_sidecar(data: bytes) -> tuple[dict[str, str], list[ImageRow]]:
    """Digests of a unit's shards by key, and its rows."""
    sidecar = json.loads(data)
    rows = [ImageRow(**row | {"state": ImageState(row["state"])}) for row in sidecar["rows"]]
    return sidecar["shards"], rows


def _sidecar_rows(objects: Objects, unit: Unit) -> list[ImageRow] | None:
    try:
        shards, rows = read_sidecar(objects.get(sidecar_key(unit.run_id, unit.number)))
    except ObjectMissing:
        return None
    complete = all(objects.exists(key) for key in shards)
    return rows if complete and [row.row for row in rows] == [entry.row for entry in unit.entries] else None


@telemetry.stage("commit")
def _committed(shop: Workshop, unit: Unit, rows: Sequence[ImageRow]) -> bool:
    """Commit, trying for as long as the lease lasts. Past it the next attempt adopts the sidecar."""
    give_up = time.monotonic() + shop.lease_seconds
    while True:
        try:
            return shop.ledger.complete(unit, rows)
        except Retryable:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.5)


# ---- the lease


@contextmanager
def _lease(shop: Workshop, unit: Unit) -> Iterator[threading.Event]:
    """Renew the lease in a thread, long before it ends. The event says that it is lost: stop computing."""
    lost, over = threading.Event(), threading.Event()

    def renew() -> None:
        renewed = time.monotonic()
        while not over.wait(min(shop.lease_seconds / 3, RENEW_SECONDS)):
            try:
                if not shop.ledger.renew(unit):
                    lost.set()
                    return
                renewed = time.monotonic()
            except Retryable:
                if time.monotonic() - renewed > shop.lease_seconds:
                    lost.set()
                    return

    thread = threading.Thread(target=renew, name="attribatch-lease", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join()


@lru_cache(maxsize=64)
def _cached_run(_database: int, run_id: str, database: Engine) -> Run:
    return get_run(database, run_id)


def _run(shop: Workshop, run_id: str) -> Run:
    return _cached_run(id(shop.database), run_id, shop.database)


def _last_lines(error: BaseException, lines: int = 6) -> str:
    text = "".join(traceback.format_exception(error)).strip().splitlines()
    return "\n".join(text[-lines:])
