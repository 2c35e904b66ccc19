"""Schedules as a person uses them: real processes, two ticks at once, a process that stands by, wrong inputs."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from db.records import UnitState
from pipeline.api import Pipeline
from pipeline.spec.request import ModelRequest
from tests.support.commands import ATTRIBATCH, answer, attribatch, environment
from tests.support.ledger_states import pass_hours


@pytest.fixture
def scheduled(dataset: Path, members: tuple[ModelRequest, ...]) -> list[str]:
    """The options of `schedule add` for the small data set and ensemble."""
    models = [part for m in members for part in ("--model", m.source, "--weights", str(m.weights))]
    return [str(dataset), *models, "--unit-size", "3", "--n-steps", "8", "--cron", "0 2 * * *"]


def come_due(home: Path) -> None:
    with Pipeline.open(home) as pipeline:
        pass_hours(pipeline.database, 24)


def test_a_schedule_from_its_first_day_to_its_last(tmp_path: Path, dataset: Path, scheduled: list[str]) -> None:
    home = tmp_path / "home"
    added = ["schedule", "add", "nightly", *scheduled, "--timezone", "Europe/Berlin", "--fail-on", "drift>0.001"]
    assert re.search(r"next due \d{4}-\d\d-\d\d 0[23]:00 CES?T;", attribatch(home, *added).stdout), "on its own clock"
    assert re.search(r"Berlin +\d{4}-\d\d-\d\d 0[23]:00 CES?T", attribatch(home, "schedule", "list").stdout)
    (listed,) = answer(home, "schedule", "list")
    assert (listed["name"], listed["request"]["source"], listed["paused"]) == ("nightly", str(dataset), False)
    assert "nothing is due" in attribatch(home, "schedule", "tick").stdout
    come_due(home)
    (first,) = answer(home, "schedule", "tick")
    assert (first["state"], first["drift"]) == ("done", None)
    assert "nothing changed" in attribatch(home, "schedule", "run-now", "nightly").stdout
    for path in (dataset / "cat").iterdir():
        Image.fromarray(np.tri(8, dtype=np.uint8) * 255).save(path)
    come_due(home)
    (third,) = answer(home, "schedule", "tick", code=4)
    assert third["exceeded"] is True
    assert third["drift"] > 0.001
    history = answer(home, "schedule", "history", "nightly")
    assert [turn["state"] for turn in history] == ["done"] * 3
    assert [turn["unchanged"] for turn in history] == [False, True, None]
    assert sum(each["images"] for each in history[0]["classes"]) == 18
    printed = attribatch(home, "schedule", "history", "nightly").stdout
    assert "GATE EXCEEDED" in printed
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d CES?T", printed)
    assert "nothing changed: the same run as before" in printed
    assert answer(home, "query", "nightly", "--limit", "1")["rows"][0]["run_id"] == third["run_id"]
    attribatch(home, "schedule", "pause", "nightly")
    assert "paused" in attribatch(home, "schedule", "list").stdout
    attribatch(home, "schedule", "resume", "nightly")
    attribatch(home, "schedule", "remove", "nightly")
    assert answer(home, "schedule", "list") == []
    assert len(answer(home, "status")) == 2, "its runs stay"


def test_two_ticks_at_once_run_a_turn_once(tmp_path: Path, scheduled: list[str]) -> None:
    home = tmp_path / "home"
    attribatch(home, "schedule", "add", "nightly", *scheduled)
    come_due(home)
    command = [ATTRIBATCH, "schedule", "tick", "--json"]
    ticks = [
        subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [json.loads(tick.communicate(timeout=240)[0]) for tick in ticks]
    assert [tick.returncode for tick in ticks] == [0, 0]
    assert sorted(map(len, said)) == [0, 1]
    (turn,) = answer(home, "schedule", "history", "nightly")
    assert turn["state"] == "done"
    assert answer(home, "status")[0]["progress"]["attempts"] == 6, "every unit was claimed once"


def test_a_missing_source_is_exit_code_1(tmp_path: Path, dataset: Path, scheduled: list[str]) -> None:
    """A source that is gone is exit code 1 with the reason in the history."""
    home = tmp_path / "home"
    attribatch(home, "schedule", "add", "nightly", *scheduled)
    dataset.rename(tmp_path / "moved")
    come_due(home)
    assert f"{dataset} does not exist" in attribatch(home, "schedule", "tick", code=1).stdout
    assert f"{dataset} does not exist" in attribatch(home, "schedule", "history", "nightly").stdout


def test_up_runs_what_comes_due_until_it_is_asked_to_stop(tmp_path: Path, scheduled: list[str]) -> None:
    home = tmp_path / "home"
    attribatch(home, "schedule", "add", "nightly", *scheduled)
    process = subprocess.Popen(
        [ATTRIBATCH, "up"], env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        come_due(home)
        deadline = time.monotonic() + 120
        with Pipeline.open(home) as pipeline:
            while not (turns := pipeline.schedules.history("nightly")) or turns[0].ended_at is None:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=40)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert turns[0].state == "done"
    assert "standing by" in err
    assert "nightly: running" in out
    assert "nightly: done" in out


def test_up_that_is_stopped_in_the_middle_gives_its_units_back(tmp_path: Path, scheduled: list[str]) -> None:
    home = tmp_path / "home"
    slow = [*scheduled, "--n-steps", "8000"]
    attribatch(home, "schedule", "add", "nightly", *slow)
    come_due(home)
    process = subprocess.Popen(
        [ATTRIBATCH, "up"], env=environment(home), start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    with Pipeline.open(home) as pipeline:
        while not any(pipeline.status(run.id).units[UnitState.LEASED] for run in pipeline.runs()):
            assert time.monotonic() < deadline
            time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        (run,) = pipeline.runs()
        assert pipeline.status(run.id).units[UnitState.LEASED] == 0
        assert [turn.state for turn in pipeline.schedules.history("nightly")] == ["running"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cron", "0 2 * *"], "4 fields, not five"),
        (["--cron", "0 2 * * *", "--timezone", "Europe/Berlim"], "time zone 'Europe/Berlim' is not known"),
        (["--cron", "0 2 * * *", "--fail-on", "drift=0.1"], "gate 'drift=0.1'"),
        (["--cron", "0 2 * * *", "--target", "class:fish"], "class 'fish' is not among the 3"),
    ],
)
def test_a_wrong_schedule_is_refused_exit_code_2(
    more: list[str], message: str, tmp_path: Path, dataset: Path, factory: Path
) -> None:
    home = tmp_path / "home"
    arguments = ["schedule", "add", "nightly", str(dataset), "--model", f"{factory}:make", *more]
    found = attribatch(home, *arguments, code=2)
    assert message in found.stderr
    assert "Traceback" not in found.stderr
    assert answer(home, "schedule", "list") == []


def test_an_unknown_schedule_is_exit_code_2(tmp_path: Path) -> None:
    """An unknown schedule is exit code 2 and every command shows an example."""
    for command in ("pause", "resume", "remove", "run-now", "history"):
        assert "no schedules yet" in attribatch(tmp_path, "schedule", command, "nope", code=2).stderr
    for command in ("add", "list", "pause", "resume", "remove", "run-now", "tick", "history"):
        assert "Example" in attribatch(tmp_path, "schedule", command, "--help").stdout, command
    assert "Example: attribatch up" in attribatch(tmp_path, "up", "--help").stdout
