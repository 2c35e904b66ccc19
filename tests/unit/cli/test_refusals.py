"""What a command cannot do it says before it asks, announces or computes anything, with the remedy."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from db.records import RunState
from pipeline.api import Pipeline, RunRequest
from pipeline.cli.app import app
from pipeline.engine.unit import Workshop
from pipeline.engine.worker import work
from pipeline.errors import NotFound, UsageError
from pipeline.formatting import plural
from pipeline.outputs import report


def call(pipeline: Pipeline, *arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"ATTRIBATCH_HOME": str(pipeline.settings.home)})


@pytest.mark.parametrize(("command", "said"), [("remove", "Delete"), ("schedule run-now", "loading")])
def test_an_unknown_name_is_told_before_anything_else(pipeline: Pipeline, command: str, said: str) -> None:
    found = call(pipeline, *command.split(), "nope")
    assert isinstance(found.exception, NotFound)
    assert said not in found.output


def test_removing_asks_for_the_run_that_is_meant(pipeline: Pipeline, request_: RunRequest) -> None:
    run = pipeline.submit(request_)
    assert f"Delete run {run.id} (latest) and its maps?" in call(pipeline, "remove", "latest").output
    assert pipeline.get_run("latest").id == run.id


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_told_before_an_audit(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pipeline.submit(replace(request_, n_steps=2))
    work(shop, run.id)
    monkeypatch.setattr(report, "audit", lambda *_, **__: pytest.fail("the work has begun"))
    file = tmp_path / "file"
    file.touch()
    for command in (["audit"], ["show", "0"]):
        for place in ("/proc/x", str(file / "x")):
            found = call(pipeline, *command, "--out", place)
            assert isinstance(found.exception, UsageError), found.output
            assert place in str(found.exception)
    assert call(pipeline, "show", "0", "--out", str(tmp_path / "new" / "a.png")).exit_code == 0


def test_a_run_without_images_fails_and_one_is_singular(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, tmp_path: Path
) -> None:
    """A run without any image is failed and one is counted as one."""
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "a.png").write_bytes(b"no image")
    run = pipeline.submit(replace(request_, source=str(tmp_path / "alone")))
    work(shop, run.id)
    assert pipeline.status(run.id).state is RunState.FAILED
    assert "1 unit re-armed" in call(pipeline, "retry", "latest").output
    assert [plural(count, "image") for count in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
