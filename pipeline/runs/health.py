"""Checks of an installation: disk, index, clock, object storage, device and broker."""

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex

from db.objects import open_objects
from db.session import SCHEMA, Index, inspect_schema, open_engine
from pipeline.errors import AttribatchError, StoreUnavailable
from pipeline.settings import Settings

CLOCK_SECONDS = 5.0  # largest accepted difference; more makes logs hard to compare


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its result."""

    name: str
    ok: bool
    detail: str


def examine(settings: Settings) -> list[Check]:
    """Try all parts that a run needs, and clean up. A failure is a check that is not `ok`, not an exception."""
    tried: list[tuple[str, Callable[[Settings], str]]] = [
        ("python", lambda _: sys.version.split()[0]),
        ("disk", _disk),
        ("index", _index),
        ("clock", _clock),
        ("objects", _objects),
        ("device", _device),
    ]
    if settings.broker_url is not None:
        tried.append(("broker", _broker))
    return [_check(name, attempt, settings) for name, attempt in tried]


def _check(name: str, attempt: Callable[[Settings], str], settings: Settings) -> Check:
    try:
        return Check(name, ok=True, detail=attempt(settings))
    except (AttribatchError, OSError, RuntimeError, ValueError, ImportError) as error:
        return Check(name, ok=False, detail=str(error))


def _disk(settings: Settings) -> str:
    settings.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.home).free
    if free < 2**30:
        raise StoreUnavailable(f"{settings.home} has {free / 2**20:.0f} MB left; a run may need more")
    return f"{settings.home}, {free / 2**30:.0f} GB free"


def _index(settings: Settings) -> str:
    started = time.monotonic()
    found = _inspect(settings)
    if found.revision == SCHEMA:
        schema = f"schema {SCHEMA}"
    elif found.revision is None and found.url.startswith("sqlite"):
        schema = "no tables yet; the first command creates them"
    else:
        raise StoreUnavailable(
            f"{found.url} has schema {found.revision or 'none'}, this version needs {SCHEMA}; "
            "run `attribatch migrate`, or install the version that wrote it"
        )
    return f"{found.url}, {schema}, {1000 * (time.monotonic() - started):.0f} ms"


def _clock(settings: Settings) -> str:
    ahead = _inspect(settings).ahead_seconds
    if abs(ahead) > CLOCK_SECONDS:
        raise StoreUnavailable(
            f"the database's clock is {ahead:+.1f} s from this machine's; set both by NTP: leases use the database's "
            "clock, and S3 refuses requests that are signed far from its own"
        )
    return f"{1000 * ahead:+.0f} ms between the database and this machine"


def _inspect(settings: Settings) -> Index:
    database = open_engine(settings.database_url)
    try:
        return inspect_schema(database)
    finally:
        database.dispose()


def _objects(settings: Settings) -> str:
    objects = open_objects(settings.objects_url, s3_endpoint_url=settings.s3_endpoint_url)
    key = f"doctor/{token_hex(8)}"
    try:
        if not objects.put_once(key, b"0123456789") or objects.put_once(key, b"other"):
            raise StoreUnavailable(
                f"{objects} does not honor a conditional put: two workers could overwrite each other"
            )
        if objects.get(key) != b"0123456789" or objects.get(key, 3, 4) != b"3456":
            raise StoreUnavailable(f"{objects} returns other bytes than were put, or ignores ranges")
    finally:
        objects.delete(key)
    return f"{objects}: put, conditional put, get, range, delete"


def _device(settings: Settings) -> str:
    import torch

    from pipeline.engine.devices import pick_device

    device = pick_device(settings.device)
    torch.ones(2, device=device).sum().item()
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    return f"{device} ({name}), torch {torch.__version__}"


def _broker(settings: Settings) -> str:
    from pipeline.engine.broker import reach_broker

    return reach_broker(settings.broker_url or "")
