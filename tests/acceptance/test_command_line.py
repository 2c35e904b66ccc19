"""The command line as a person uses it: real processes, a folder for a home, wrong inputs, kills."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from db.records import UnitState
from pipeline.api import Pipeline
from pipeline.spec.request import ModelRequest
from tests.support.commands import ATTRIBATCH, answer, attribatch, environment


@pytest.fixture
def run_arguments(dataset: Path, members: tuple[ModelRequest, ...]) -> list[str]:
    models = [part for m in members for part in ("--model", m.source, "--weights", str(m.weights))]
    return ["run", str(dataset), *models, "--baseline", "black", "--baseline", "uniform:n=2", "--unit-size", "3"]


def test_run_status_query_show_audit(tmp_path: Path, run_arguments: list[str]) -> None:
    home = tmp_path / "home"
    dry = attribatch(home, *run_arguments, "--dry-run").stdout
    assert "18 images x 6 paths x 50 steps = 5,400 gradient evaluations" in dry
    done = answer(home, *run_arguments, "--name", "first")
    assert done["progress"]["images_done"] == 18
    assert "first" in attribatch(home, "status").stdout
    assert answer(home, "status", "first")[0]["run"] == done["run"]
    page = answer(home, "query", "latest", "--sort", "-error_estimate", "--limit", "5")
    estimates = [row["error_estimate"] for row in page["rows"]]
    assert estimates == sorted(estimates, reverse=True)
    rest = answer(home, "query", "latest", "--sort", "-error_estimate", "--limit", "50", "--after", page["next"])
    assert len({row["key"] for row in page["rows"] + rest["rows"]}) == 18
    csv = attribatch(home, "query", "latest", "--where", "label = 'cat'", "--csv").stdout.splitlines()
    assert csv[0].startswith("run_id,row,key")
    assert len(csv) == 7
    asked = ("--where", "entropy > 0 or label = 'gini'", "--sort", "-sign_agreement")
    titles = attribatch(home, "query", "latest", *asked).stdout.splitlines()[0].split()
    assert titles[-2:] == ["entropy", "sign_agreement"]
    assert titles.count("label") == 1
    unlabelled = attribatch(home, "query", "latest", "--where", "error = null").stdout
    assert "error is empty for these images" in unlabelled
    png = tmp_path / "cat.png"
    attribatch(home, "show", "cat/0.png", "--out", str(png))
    with Image.open(png) as picture:
        assert picture.width > 600
    audit = answer(home, "audit", "latest", "--out", str(tmp_path / "report"))
    assert set(audit) >= {"findings", "candidates", "classes"}
    gated = attribatch(home, "audit", "latest", "--fail-on", "findings>90", "--fail-on", "border_share>=0", code=4)
    assert "gate exceeded: border_share>=0 (0." in gated.stdout
    assert "findings>90" not in gated.stdout
    html = (tmp_path / "report" / "report.html").read_text()
    assert done["run"] in html
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_an_unreadable_image_is_exit_code_3(tmp_path: Path, dataset: Path, run_arguments: list[str]) -> None:
    """An image that cannot be read makes the run partial exit code 3."""
    (dataset / "dog" / "4.png").write_text("not an image")
    found = attribatch(tmp_path / "home", *run_arguments, code=3)
    assert "partial" in found.stdout
    assert "dog/4.png" in found.stdout


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_any_time_the_same_command_resumes(seed: int, tmp_path: Path, run_arguments: list[str]) -> None:
    """Killed at any time the same command goes on and ends alike."""
    calm, home = tmp_path / "calm", tmp_path / "home"
    arguments = [*run_arguments, "--n-steps", "400"]
    attribatch(calm, *arguments)
    luck, kills = random.Random(seed), 0
    while kills < 3:
        process = subprocess.Popen(
            [ATTRIBATCH, *arguments], env=environment(home), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(luck.uniform(2, 9))
        if luck.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)  # the power goes
        else:
            process.kill()  # the parent alone: its workers notice and stop
        process.wait()
        kills += 1
    attribatch(home, *arguments)
    with Pipeline.open(calm) as one, Pipeline.open(home) as other:
        expected, found = one.find(limit=100).rows, other.find(limit=100).rows
        assert [(row.key, row.predicted) for row in found] == [(row.key, row.predicted) for row in expected]
        np.testing.assert_allclose(other.read_maps(found), one.read_maps(expected), rtol=2e-3, atol=1e-5)
        progress = other.status("latest")
        assert progress.attempts <= sum(progress.units.values()) + 2 * kills, "a kill: one computed, one stored"


def test_interrupted_it_gives_its_unit_back(tmp_path: Path, run_arguments: list[str]) -> None:
    """Interrupted it gives its unit back and says how to go on."""
    home = tmp_path / "home"
    arguments = [*run_arguments, "--n-steps", "4000"]
    process = subprocess.Popen(
        [
            "env",
            "--default-signal=INT",
            ATTRIBATCH,
            *arguments,
        ],  # who is started behind `&` inherits that it is ignored
        env=environment(home),
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    with Pipeline.open(home) as pipeline:
        while not any(pipeline.status(run.id).units[UnitState.LEASED] for run in pipeline.runs()):
            assert time.monotonic() < deadline, "no unit was begun"
            time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, said = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "the same command resumes" in said
    units = answer(home, "status", "latest")[0]["progress"]["units"]
    assert units["leased"] == 0
    assert units["pending"] > 0


def test_a_deleted_index_is_rebuilt_from_the_sidecars(tmp_path: Path, run_arguments: list[str]) -> None:
    home = tmp_path / "home"
    attribatch(home, *run_arguments)
    before = answer(home, "query", "latest", "--limit", "100")["rows"]
    for path in home.glob("index.db*"):
        path.unlink()
    repaired = answer(home, "repair")
    assert (repaired["runs"], repaired["units_restored"], repaired["units_queued_again"]) == (1, 6, 0)
    assert answer(home, "query", "latest", "--limit", "100")["rows"] == before
    assert answer(home, "repair")["units_intact"] == 6


def test_a_damaged_object_is_found_and_computed_again(tmp_path: Path, run_arguments: list[str]) -> None:
    home = tmp_path / "home"
    run = answer(home, *run_arguments)["run"]
    maps = home / "objects" / "runs" / run / "maps" / "mean" / "c"
    shard = maps / "2" / "0" / "0" / "0"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100] + b"X" + whole[101:])
    (maps / "4" / "0" / "0" / "0").unlink()
    repaired = answer(home, "repair")
    assert repaired["units_queued_again"] == 2
    assert len(repaired["damaged"]) == 2
    assert answer(home, *run_arguments)["progress"]["images_done"] == 18
    assert shard.read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "/nowhere", "--model", "torchvision:resnet18@DEFAULT"], "/nowhere does not exist"),
        (["status", "nope"], "nope"),
        (["query", "--where", "colour = 3"], "colour"),
        (["audit", "--by", "shape"], "shape"),
        (["audit", "--fail-on", "beauty>1"], "beauty>1"),
    ],
)
def test_wrong_input_is_named_in_one_breath_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, run_arguments: list[str]
) -> None:
    home = tmp_path / "home"
    if arguments[0] != "run":
        attribatch(home, *run_arguments)
    found = attribatch(home, *arguments, code=2)
    assert message in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--baseline", "grey"], "kind 'grey' is none of"),
        (["--target", "class:fish"], "class 'fish' is not among the 3"),
        (["--tolerance", "7"], "--tolerance is 7.0"),
        (["--n-steps", "-5"], "--n-steps is -5"),
        (["--channels", "3"], "channel"),
        (["--classes", "NAMES"], "3 outputs"),
        (["--weights", "missing.pt"], "missing.pt"),
    ],
)
def test_a_wrong_run_is_refused_before_any_unit_starts(
    extra: list[str], message: str, tmp_path: Path, dataset: Path, factory: Path
) -> None:
    home = tmp_path / "home"
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\n")
    extra = [str(names) if part == "NAMES" else part for part in extra]
    found = attribatch(home, "run", str(dataset), "--model", f"{factory}:make", *extra, code=2)
    assert message in found.stderr
    assert ("loading models" in found.stderr) == (extra[0] not in ("--baseline", "--tolerance", "--n-steps"))
    assert attribatch(home, "status").stdout.startswith("no runs yet")


def test_help_answers_at_once_and_every_command_shows_an_example() -> None:
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import pipeline.cli.app"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    slow = {"torch", "numpy", "sqlalchemy"}
    assert not slow & {line.split("|")[-1].strip() for line in imported.splitlines()}
    for command in ("demo", "run", "status", "query", "audit", "show", "models show", "models list", "doctor",
                    "repair", "cancel", "retry", "remove", "gc", "worker", "beat", "migrate"):  # fmt: skip
        found = subprocess.run([ATTRIBATCH, *command.split(), "--help"], capture_output=True, text=True, check=True)
        assert "Example: attribatch" in found.stdout, command
    found = subprocess.run([ATTRIBATCH, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"attribatch \d+\.\d+\.\d+\n", found.stdout)


def test_doctor_finds_what_is_wrong(tmp_path: Path) -> None:
    assert all(check["ok"] for check in answer(tmp_path / "home", "doctor"))
    blocked = tmp_path / "file"
    blocked.write_text("")
    found = answer(blocked / "home", "doctor", code=1)
    assert {check["name"] for check in found if not check["ok"]} >= {"disk", "index", "objects"}


def test_models_show_says_what_a_model_takes(tmp_path: Path, members: tuple[ModelRequest, ...]) -> None:
    one = members[0]
    found = attribatch(tmp_path, "models", "show", one.source, "--weights", str(one.weights)).stdout
    assert "1 x 8 x 8" in found
    assert "cat, dog, eel" in found
    assert "resnet50" in attribatch(tmp_path, "models", "list", "resnet5").stdout
