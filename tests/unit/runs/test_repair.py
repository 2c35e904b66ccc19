"""What `repair` and `retry` put right, and what they leave alone."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from db.queries import iter_images
from db.records import ImageState, Run, RunState, UnitState
from pipeline.api import Pipeline, RunRequest
from pipeline.engine.unit import Workshop
from pipeline.engine.worker import work
from pipeline.errors import ObjectMissing
from pipeline.outputs.report import write_report
from pipeline.storage.keys import manifest_key, report_key, run_key, sidecar_key
from tests.support.synthetic_audit import a_material


@pytest.fixture
def run(pipeline: Pipeline, shop: Workshop, request_: RunRequest) -> Run:
    stored = pipeline.submit(request_)
    work(shop, stored.id)
    return stored


def lose_the_index(pipeline: Pipeline) -> Pipeline:
    pipeline.close()
    for path in pipeline.settings.home.glob("index.db*"):
        path.unlink()
    return Pipeline(pipeline.settings)


@pytest.mark.slow
def test_repair_leaves_names_order_and_cancelled_runs_alone(pipeline: Pipeline, run: Run, request_: RunRequest) -> None:
    other = pipeline.submit(replace(request_, seed=5, name="other"))
    pipeline.cancel(other.id)
    pipeline.submit(replace(request_, name="renamed"))
    before = pipeline.runs()
    pipeline.repair()
    assert pipeline.runs() == before
    assert pipeline.status(other.id).state is RunState.CANCELLED


@pytest.mark.slow
def test_a_lost_index_is_rebuilt_in_the_stored_unit_size(pipeline: Pipeline, run: Run, request_: RunRequest) -> None:
    """A lost index comes back in the unit size that was stored."""
    pipeline.objects.delete(run_key(run.id))  # killed before it was put; another unit size is asked for then
    pipeline.submit(replace(request_, unit_size=8))
    with lose_the_index(pipeline) as rebuilt:
        found = rebuilt.repair()
        assert found.units_restored == 5
        assert rebuilt.status(run.id).state is RunState.DONE
        assert rebuilt.status(run.id).images_done == 18


@pytest.mark.slow
@pytest.mark.parametrize("text", ['{"shards":{},"rows":[]}', '{"shards":[],"rows":[]}', "null", "", '{"shards'])
def test_a_sidecar_that_does_not_hold_its_unit_is_damaged(text: str, pipeline: Pipeline, run: Run) -> None:
    pipeline.objects.put(sidecar_key(run.id, 2), text.encode())
    found = pipeline.repair()
    assert found.damaged == (sidecar_key(run.id, 2),)
    assert (found.units_intact, found.units_queued_again) == (4, 1)
    assert pipeline.status(run.id).units[UnitState.PENDING] == 1


@pytest.mark.slow
def test_array_metadata_is_put_back(pipeline: Pipeline, run: Run) -> None:
    rows = pipeline.find(run.id).rows
    for name, damage in (("mean", None), ("std", b"{")):
        key = f"runs/{run.id}/maps/{name}/zarr.json"
        pipeline.objects.delete(key) if damage is None else pipeline.objects.put(key, damage)
    with pytest.raises(ObjectMissing, match="try `attribatch repair`"):
        pipeline.read_maps(rows)
    pipeline.repair()
    assert pipeline.read_maps(rows).shape == (18, 1, 8, 8)


@pytest.mark.slow
def test_a_missing_shard_is_never_read_as_a_result(pipeline: Pipeline, run: Run) -> None:
    pipeline.objects.delete(f"runs/{run.id}/maps/mean/c/1/0/0/0")
    rows = pipeline.find(run.id).rows
    with pytest.raises(ObjectMissing, match=r"the map of image 'cat/4\.png' is missing in run"):
        pipeline.read_maps(rows)
    with pytest.raises(ObjectMissing, match="is missing in run"):
        pipeline.show(run.id, "cat/4.png")


@pytest.mark.slow
def test_one_run_that_cannot_be_rebuilt_does_not_stop_the_others(
    pipeline: Pipeline, shop: Workshop, run: Run, request_: RunRequest
) -> None:
    others = [pipeline.submit(replace(request_, seed=seed)) for seed in (1, 2)]
    pipeline.objects.put(run_key(others[0].id), b'{"id"')
    pipeline.objects.delete(manifest_key(others[1].id))
    found = pipeline.repair()
    assert set(found.damaged) == {run_key(other.id) for other in others}
    assert (found.runs, found.units_intact) == (1, 5)


@pytest.mark.slow
def test_retry_computes_units_with_failed_images_again(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest
) -> None:
    hidden = (dataset / "dog" / "1.png").rename(dataset / "hidden.tmp")
    hidden.rename(dataset / "dog" / "1.png")
    stored = pipeline.submit(request_)
    hidden = (dataset / "dog" / "1.png").rename(dataset / "hidden.tmp")
    work(shop, stored.id)
    assert pipeline.status(stored.id).images_failed == 1
    hidden.rename(dataset / "dog" / "1.png")
    assert pipeline.retry(stored.id) == 1
    work(shop, stored.id)
    assert pipeline.status(stored.id).state is RunState.DONE
    assert all(row.state is ImageState.DONE for row in iter_images(shop.database, stored.id))


def test_a_folder_that_is_away_fails_no_image(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = pipeline.submit(request_)
    away = dataset.rename(dataset.with_name("away"))
    unit = shop.ledger.claim("test", run_id=stored.id)
    assert unit is not None
    from pipeline.engine.unit import Outcome, run_unit

    assert run_unit(shop, unit) is Outcome.FAILED
    assert "is its disk mounted?" in pipeline.status(stored.id).errors[0]
    assert pipeline.status(stored.id).images_failed == 0
    away.rename(dataset)


@pytest.mark.slow
def test_what_a_run_leaves_in_storage_names_no_secret(pipeline: Pipeline, run: Run) -> None:
    stored = json.loads(pipeline.objects.get(run_key(run.id)))
    assert stored["id"] == run.id
    assert "password" not in json.dumps(stored)


@pytest.mark.slow
def test_an_audit_goes_on_where_images_are_gone(dataset: Path, pipeline: Pipeline, run: Run, tmp_path: Path) -> None:
    for name in ("cat/0.png", "dog/3.png", "eel/5.png"):
        (dataset / name).unlink()
    found, report = pipeline.audit(run.id, out=tmp_path / "report")
    assert found.images == 18
    assert report.exists()
    beside = json.loads(report.with_name("audit.json").read_text())
    assert pipeline.stored_audit(run.id) == json.loads(found.to_json()) == beside
    assert pipeline.stored_audit(run.id, by="label") is None
    assert pipeline.objects.get(report_key(run.id, "audit-predicted.html")) == report.read_bytes()
    with np.load(io.BytesIO(pipeline.objects.get(report_key(run.id, "audit-predicted.npz")))) as maps:
        assert {"classes", "mean", "mean_absolute", "std", "median", "member_std"} == set(maps.files)
        assert maps["mean"].shape[0] == len(found.classes)


@pytest.mark.slow
def test_an_audit_without_images_keeps_the_stored_one(pipeline: Pipeline, tmp_path: Path) -> None:
    """An audit without its images does not replace the stored one."""
    material = a_material()
    whole = write_report(material, pipeline.objects, by="predicted", folder=tmp_path / "whole")
    without = replace(material, available=lambda row: False)
    less = write_report(without, pipeline.objects, by="predicted", folder=tmp_path / "less")
    assert (whole.complete, less.complete) == (True, False)
    assert any("is kept" in remark for remark in less.remarks)
    stored = pipeline.objects.get(report_key(material.run.id, "audit-predicted.json"))
    assert stored == whole.to_json().encode() == (tmp_path / "whole" / "audit.json").read_bytes()
    assert (tmp_path / "less" / "audit.json").read_text() == less.to_json()


def test_schedules_come_back_with_a_new_index(pipeline: Pipeline, request_: RunRequest) -> None:
    """Schedules come back with a new index and those that were removed do not."""
    for name in ("nightly", "weekly", "gone"):
        pipeline.schedules.add(name, request_, cron="0 2 * * *", timezone="Europe/Berlin", fail_on="drift>0.1")
    pipeline.schedules.pause("weekly")
    pipeline.schedules.remove("gone")
    before = pipeline.schedules.listed()
    assert pipeline.repair().schedules_restored == 0
    pipeline.objects.put("schedules/broken.json", b'{"cron"')
    with lose_the_index(pipeline) as rebuilt:
        found = rebuilt.repair()
        assert (found.schedules_restored, found.damaged) == (2, ("schedules/broken.json",))
        after = rebuilt.schedules.listed()
        for one, other in zip(before, after, strict=True):
            assert replace(other, id=one.id, created_at=one.created_at) == one
        assert [each.paused for each in after] == [False, True]


def test_a_missing_or_old_schedule_record_is_rewritten(pipeline: Pipeline, request_: RunRequest) -> None:
    """A record of a schedule that is missing or old is written again."""
    pipeline.schedules.add("nightly", request_, cron="0 2 * * *")
    whole = pipeline.objects.get("schedules/nightly.json")
    for damage in (None, whole.replace(b"0 2", b"0 3")):
        pipeline.objects.delete("schedules/nightly.json") if damage is None else pipeline.objects.put(
            "schedules/nightly.json", damage
        )
        pipeline.repair()
        assert pipeline.objects.get("schedules/nightly.json") == whole
