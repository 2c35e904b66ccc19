"""Names of worker processes, and which of them have ended: their leases are released at once."""

import os
import socket
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from db.ledger import Ledger


def release_dead(ledger: Ledger) -> None:
    """Release the leases of workers that are known to have ended, before the leases expire."""
    ledger.release_owned_by([name for name in ledger.lease_owners() if is_dead(name)])


def worker_name() -> str:
    """Name of this process as a lease owner: host, boot, pid and start time, so that a reused pid is a new worker."""
    state_and_start = _state_and_start(os.getpid())
    return f"{socket.gethostname()}:{_boot_id()}:{os.getpid()}:{state_and_start[1] if state_and_start else 0}"


def is_dead(worker: str) -> bool:
    """Whether a worker has ended. False for workers of other machines and containers, whose state is unknown here."""
    boot, pid, started = [*worker.split(":"), "", "", ""][1:4] if worker.count(":") == 3 else ("", "", "")
    if not boot or boot != _boot_id() or not pid.isdecimal():
        return False
    found = _state_and_start(int(pid))
    return found is None or found[1] != started or found[0] in "ZX"


def when_parent_is_gone(parent: int, then: Callable[[], None]) -> None:
    """Call `then` from a thread as soon as this process has another parent than `parent`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        then()

    threading.Thread(target=watch, name="attribatch-parent", daemon=True).start()


@cache
def _boot_id() -> str:
    """Boot id of the kernel and id of the pid namespace, within which a pid is unique; "" if they are not known.

    A host name is not enough: containers may share one.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _state_and_start(pid: int) -> tuple[str, str] | None:
    """State letter of a process, and its start in clock ticks since boot, which clock changes do not affect."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], fields[19]
