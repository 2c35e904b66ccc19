"""A Chromium of this machine, and servers of the page as processes."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WANTED = os.environ.get("ATTRIBATCH_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@dataclass(frozen=True)
class Server:
    """A process that serves."""

    url: str
    process: "subprocess.Popen[str]"


def start(home: Path, *options: str, command: str = "serve") -> Server:
    """`attribatch serve` or `up` as a process, once it listens."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ATTRIBATCH_")}
    program = [sys.executable, "-c", "from pipeline.cli.app import main; main()", command, "--port", "0", *options]
    process = subprocess.Popen(
        program, env=kept | {"ATTRIBATCH_HOME": str(home), "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "the page is at " in line:
            return Server(line.split("the page is at ")[1].split(";")[0].strip().rstrip("/"), process)
    raise AssertionError(f"the server ended with {process.wait()}")


def stop(server: Server) -> int:
    server.process.terminate()
    try:
        server.process.communicate(timeout=40)
    except subprocess.TimeoutExpired:
        server.process.kill()
        raise
    return server.process.returncode


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Until a function says yes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
