"""Processes that end are replaced: at once where they ask for it, later where they cannot start; signals end all."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from workers.supervisor import REPLACE

SUPERVISE = """
import sys
from workers import supervisor
supervisor.STOP_SECONDS, supervisor.QUIT_SECONDS = 20.0, 0.5
supervisor.Supervisor([sys.executable, "-c", open(sys.argv[1]).read(), sys.argv[2]], [{}, {}]).run()
"""


def supervised(folder: Path, child: str) -> "subprocess.Popen[bytes]":
    """A supervisor of two processes, each of which runs `child` with a folder and its number as arguments."""
    (folder / "child.py").write_text("import os, signal, sys, time\n" + textwrap.dedent(child))
    return subprocess.Popen([sys.executable, "-c", SUPERVISE, str(folder / "child.py"), str(folder)])


def lives(folder: Path, seat: int) -> list[float]:
    """When the processes of a seat began."""
    path = folder / f"lives-{seat}"
    return [float(line) for line in path.read_text().split()] if path.exists() else []


NOTE = 'open(f"{sys.argv[1]}/lives-{sys.argv[2]}", "a").write(f"{time.time()}\\n")\n'


def wait_for(folder: Path, seat: int, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(lives(folder, seat)) < count:
        assert time.monotonic() < deadline, f"{len(lives(folder, seat))} of {count}"
        time.sleep(0.05)


@pytest.mark.slow
def test_crashed_processes_wait_longer_each_time(tmp_path: Path) -> None:
    """Who asks to be replaced is at once and who falls waits longer each time."""
    process = supervised(tmp_path, NOTE + f"sys.exit({REPLACE} if sys.argv[2] == '0' else 1)")
    try:
        wait_for(tmp_path, 0, 8)
        wait_for(tmp_path, 1, 3)
    finally:
        process.terminate()
        assert process.wait(20) == 0
    falls = lives(tmp_path, 1)
    assert falls[1] - falls[0] >= 1.0
    assert falls[2] - falls[1] >= 2.0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_lets_its_processes_finish(tmp_path: Path, number: int) -> None:
    child = NOTE + (
        "signal.signal(signal.SIGTERM, lambda *_: (open(f'{sys.argv[1]}/bye-{sys.argv[2]}', 'w'), sys.exit(0)))\n"
        "open(f'{sys.argv[1]}/ready-{sys.argv[2]}', 'w')\ntime.sleep(60)"
    )
    process = supervised(tmp_path, child)
    while not all((tmp_path / f"ready-{seat}").exists() for seat in (0, 1)):
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(20) == 0
    assert all((tmp_path / f"bye-{seat}").exists() for seat in (0, 1))
    assert len(lives(tmp_path, 0)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[signal.SIGQUIT], [signal.SIGTERM, signal.SIGTERM]])
def test_in_a_hurry_it_ends_those_that_do_not_listen(tmp_path: Path, signals: list[int]) -> None:
    child = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(f"{sys.argv[1]}/pid-{sys.argv[2]}", "w").write(str(os.getpid()))
        time.sleep(60)
    """
    process = supervised(tmp_path, child)
    while not all((tmp_path / f"pid-{seat}").exists() for seat in (0, 1)):
        time.sleep(0.05)
    time.sleep(0.1)
    begun = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.3)
    assert process.wait(20) == 0
    assert time.monotonic() - begun < 5
    for seat in (0, 1):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / f"pid-{seat}").read_text()), 0)
