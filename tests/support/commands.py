"""The `attribatch` command as a process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ATTRIBATCH = str(Path(sys.executable).parent / "attribatch")


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ATTRIBATCH_")}
    return kept | {"ATTRIBATCH_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def attribatch(home: Path, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    found = subprocess.run([ATTRIBATCH, *arguments], env=environment(home), capture_output=True, text=True, timeout=240)
    assert code is None or found.returncode == code, found.stdout + found.stderr
    return found


def answer(home: Path, *arguments: str, code: int = 0) -> Any:
    return json.loads(attribatch(home, *arguments, "--json", code=code).stdout)
