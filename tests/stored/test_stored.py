"""Homes that earlier versions wrote are read, upgraded and repaired. See README.md beside this file."""

from dataclasses import replace
from pathlib import Path

import pytest

from db.queries import iter_images
from db.records import ImageRow, OccasionState, RunState
from db.session import SCHEMA
from pipeline.api import Pipeline
from pipeline.engine.worker import open_workshop, work
from pipeline.models.training.ensemble_manifest import Ensemble, ensemble_models
from pipeline.spec.request import repeat
from pipeline.spec.run_spec import RunSpec


def ids(home: Pipeline) -> list[str]:
    """The runs `fitted`, the second turn of `nightly`, and its first."""
    return [run.id for run in home.runs()]


def rows(home: Pipeline, runs: list[str]) -> list[ImageRow]:
    return [row for run in runs for row in iter_images(home.database, run)]


def test_the_index_is_upgraded_and_answers(home: Pipeline) -> None:
    assert home.index.revision == SCHEMA
    assert [run.name for run in home.runs()] == ["fitted", "nightly", "nightly"]
    _, second, first = ids(home)
    for run, images in zip(ids(home), (42, 42, 36), strict=True):
        found = home.status(run)
        assert (found.state, found.images_done, found.images_failed) == (RunState.PARTIAL, images, 1)
    assert home.reused(second) == 36
    assert [row.key for row in home.find(second, where="failed").rows] == ["dog/broken.png"]
    assert len(home.find(first, where="label = 'eel' and error_estimate < 0.05").rows) == 12


def test_specs_keep_their_keys(home: Pipeline) -> None:
    for run in home.runs():
        spec = RunSpec.from_json(run.spec)
        assert spec.key == run.spec_key
        assert spec.to_json() == run.spec


@pytest.mark.slow
def test_maps_images_and_measurements_are_read(home: Pipeline) -> None:
    fitted, second, first = ids(home)
    assert home.show(second, "eel/00.png").startswith(b"\x89PNG")
    record = home.find_image(fitted, "cat/01.png")
    assert record.map().shape == record.image().shape == (1, 16, 16)
    assert set(home.tuning(fitted)["nodes"]["knots"]) == {"black", "uniform:n=2"}
    (ways,) = home.tuning(first).values()
    assert len(ways["members"]) == 2


@pytest.mark.slow
def test_reports_are_read_and_made_again(home: Pipeline, root: Path) -> None:
    fitted, second, first = ids(home)
    before, comparison, evaluation = home.stored_audit(first), home.stored_comparison(fitted, second), home.evaluation()
    assert before is not None
    assert before["findings"][0]["class"] == "eel"
    assert comparison is not None
    assert comparison["shared_images"] == 42
    assert evaluation is None
    assert {one["name"] for one in (home.evaluation(second) or {})["metrics"]} >= {"deletion_auc", "infidelity"}
    again, _ = home.audit(first, out=root / "report")
    assert [one.images for one in again.classes] == [one["images"] for one in before["classes"]]
    assert home.compare(fitted, second).cosine.median == pytest.approx(comparison["cosine"]["median"])
    assert home.export(first, format="png", out=root / "overlays", limit=2, overwrite=True).images == 2


def test_schedules_and_their_history_are_read(home: Pipeline) -> None:
    assert [(one.name, one.paused) for one in home.schedules.listed()] == [("nightly", False), ("paused", True)]
    latest, earlier = home.schedules.history("nightly")
    assert [latest.run_id, latest.previous_run_id] == ids(home)[1:]
    assert (latest.state, earlier.drift) == (OccasionState.PARTIAL, None)
    assert latest.drift == pytest.approx(0.0004, abs=1e-4)
    assert {one.class_name for one in home.schedules.classes(latest)} == {"cat", "dog", "eel"}


def test_the_ensemble_is_loaded(root: Path) -> None:
    assert Ensemble.read(root / "ensemble").accuracy == 1.0
    assert len(ensemble_models(root / "ensemble")) == 2


def test_a_new_run_of_the_same_request_computes_nothing(home: Pipeline) -> None:
    second = home.get_run("nightly")
    stored = home.submit(repeat(second))
    shop = open_workshop(home.settings)
    work(shop, stored.id)
    shop.database.dispose()
    assert stored.spec_key == second.spec_key
    assert stored.id != second.id  # for the images are elsewhere now
    assert home.reused(stored.id) == home.status(stored.id).images_done == 42


def test_repair_finds_nothing_to_do(home: Pipeline) -> None:
    found = home.repair()
    assert (found.runs, found.units_intact, found.units_restored, found.damaged) == (3, 8, 0, ())


def test_repair_rebuilds_a_lost_index(home: Pipeline) -> None:
    runs, schedules = ids(home), home.schedules.listed()
    before = rows(home, runs)
    home.close()
    for path in home.settings.home.glob("index.db*"):
        path.unlink()
    with Pipeline(home.settings) as rebuilt:
        found = rebuilt.repair()
        assert (found.runs, found.units_restored, found.schedules_restored, found.damaged) == (3, 8, 2, ())
        assert rows(rebuilt, runs) == before
        for one, other in zip(schedules, rebuilt.schedules.listed(), strict=True):
            assert replace(one, id=other.id, created_at=other.created_at, next_due=other.next_due) == other
