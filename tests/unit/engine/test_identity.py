"""Which workers are dead, whatever machine or container they ran on."""

import subprocess
import time
from pathlib import Path

from pipeline.engine.identity import is_dead, worker_name


def test_a_worker_knows_the_living_from_the_dead() -> None:
    host, machine, pid, started = worker_name().split(":")
    assert not is_dead(worker_name())
    assert is_dead(f"{host}:{machine}:{pid}:1"), "another process that had this pid before"
    assert is_dead(f"{host}:{machine}:{2**22 - 1}:{started}")
    assert is_dead(f"renamed:{machine}:{2**22 - 1}:{started}"), "the machine is the same whatever it is called"
    boot, namespace = machine.split("/")
    assert not is_dead(f"{host}:{boot}/{int(namespace) + 1}:{2**22 - 1}:{started}"), "a container may share the name"
    assert not is_dead(f"{host}:{boot[:-1]}x/{namespace}:{2**22 - 1}:{started}"), "so may another machine"
    assert not is_dead("celery@host")
    with subprocess.Popen(["sleep", "60"]) as child:
        name = f"{host}:{machine}:{child.pid}:{Path(f'/proc/{child.pid}/stat').read_text().split()[21]}"
        assert not is_dead(name)
        child.kill()
        while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.01)
        assert is_dead(name), "a zombie computes nothing"
