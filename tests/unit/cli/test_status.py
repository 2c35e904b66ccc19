"""The list of runs that `attribatch status` prints."""

from dataclasses import replace

from typer.testing import CliRunner

from pipeline.api import Pipeline, RunRequest
from pipeline.cli.app import app


def test_status_lists_the_latest_runs_and_counts_the_others(pipeline: Pipeline, request_: RunRequest) -> None:
    for seed in (1, 2, 3):
        latest = pipeline.submit(replace(request_, seed=seed))
    environment = {"ATTRIBATCH_HOME": str(pipeline.settings.home)}
    found = CliRunner().invoke(app, ["status", "--limit", "1"], env=environment).output
    assert found.count("pending") == 1
    assert latest.id in found
    assert "2 earlier runs not listed; --limit 3 lists all" in found
    assert CliRunner().invoke(app, ["status"], env=environment).output.count("pending") == 3
