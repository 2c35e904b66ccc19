"""One unit: what is stored, what each crash point leaves behind, what an image or a model may break."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from db.ledger import Ledger
from db.queries import iter_images
from db.records import DEATHS, Entry, ImageRow, ImageState, Run, RunState, Unit, UnitState
from pipeline.api import Pipeline, RunRequest
from pipeline.datasets.decoder import Decoder, Picture, Unreadable
from pipeline.engine import unit as engine
from pipeline.engine.unit import Outcome, Step, Workshop, run_unit
from pipeline.engine.worker import open_workshop, work
from pipeline.errors import StoreUnavailable
from pipeline.models import registry
from pipeline.spec.request import ModelRequest
from pipeline.storage.keys import sidecar_key
from pipeline.storage.sidecar import read_sidecar


@pytest.fixture
def run(pipeline: Pipeline, request_: RunRequest) -> Run:
    return pipeline.submit(request_)


def claim(shop: Workshop, run: Run) -> Unit:
    unit = shop.ledger.claim("test", run_id=run.id)
    assert unit is not None
    return unit


def rows(shop: Workshop, run: Run) -> list[ImageRow]:
    return list(iter_images(shop.database, run.id))


def break_members(monkeypatch: pytest.MonkeyPatch, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """Let every member pass through a function of (member, pixels)."""
    load = registry.load

    class Broken(nn.Module):
        def __init__(self, member: nn.Module) -> None:
            super().__init__()
            self.member = member

        def forward(self, pixels: Tensor) -> Tensor:
            return forward(self.member, pixels)

    monkeypatch.setattr(registry, "load", lambda *args, **options: Broken(load(*args, **options)))


def test_a_run_ends_with_one_row_and_map_for_every_image(pipeline: Pipeline, shop: Workshop, run: Run) -> None:
    """A run ends with one row and one readable map for every image."""
    work(shop, run.id)
    found = rows(shop, run)
    assert [row.row for row in found] == list(range(18))
    assert all(row.state is ImageState.DONE for row in found)
    maps = pipeline.read_maps(found)
    assert maps.shape == (18, 1, 8, 8)
    for row, one in zip(found, maps, strict=True):
        assert row.output is not None
        assert row.baseline_output is not None
        assert row.convergence_delta is not None
        change = row.output - row.baseline_output + row.convergence_delta
        assert one.sum() == pytest.approx(change, rel=5e-3, abs=5e-3), "completeness of what is stored"
        assert row.evaluations == 2 * 3 * 8
        assert row.label in ("cat", "dog", "eel")
        assert row.error_estimate is not None
        top = json.loads(row.top_classes or "")
        assert {name for name, _ in top} == {"cat", "dog", "eel"}
        assert top[0] == [row.predicted, pytest.approx(row.probability, abs=1e-3)]
    assert pipeline.status(run.id).state is RunState.DONE


@pytest.mark.slow
def test_one_member_alone_neither_agrees_nor_disagrees(
    pipeline: Pipeline, shop: Workshop, run: Run, request_: RunRequest
) -> None:
    alone = pipeline.submit(replace(request_, models=request_.models[:1], name="alone"))
    work(shop, alone.id)
    assert {(row.member_disagreement, row.sign_agreement) for row in rows(shop, alone)} == {(None, None)}
    work(shop, run.id)
    assert all(row.member_disagreement for row in rows(shop, run))


@pytest.mark.slow
def test_maps_do_not_depend_on_how_images_are_cut_into_units(
    tmp_path: Path, pipeline: Pipeline, shop: Workshop, run: Run, request_: RunRequest
) -> None:
    work(shop, run.id)
    with Pipeline.open(tmp_path / "other") as other:
        again = other.submit(replace(request_, unit_size=7))
        assert again.id == run.id, "the unit size is no part of what is computed"
        shop2 = open_workshop(replace(other.settings, device="cpu"))
        work(shop2, again.id)
        one, two = rows(shop, run), rows(shop2, again)
        np.testing.assert_allclose(pipeline.read_maps(one), other.read_maps(two), rtol=2e-3, atol=1e-5)
        assert [row.predicted for row in one] == [row.predicted for row in two]
        shop2.database.dispose()


def test_the_same_request_is_the_same_run(pipeline: Pipeline, run: Run, request_: RunRequest) -> None:
    again = pipeline.submit(replace(request_, name="again"))
    assert again.id == run.id
    assert again.name == "again"
    assert sum(pipeline.status(run.id).units.values()) == 5


def test_each_step_is_reported_in_order(shop: Workshop, run: Run) -> None:
    steps: list[Step] = []
    assert run_unit(replace(shop, on_step=lambda step, unit: steps.append(step)), claim(shop, run)) is Outcome.DONE
    assert list(dict.fromkeys(steps)) == list(get_args(Step))


def test_a_sidecar_of_a_dead_attempt_is_adopted(shop: Workshop, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sidecar of an attempt that died before its commit is adopted."""

    def dying(step: Step, unit: Unit) -> None:
        if step == "sidecar put":
            raise SystemExit

    unit = claim(shop, run)
    with pytest.raises(SystemExit):
        run_unit(replace(shop, on_step=dying), unit)
    assert rows(shop, run) == []
    shop.ledger.release_owned_by(["test"])
    monkeypatch.setattr(Decoder, "one", lambda *_: pytest.fail("nothing may be computed again"))
    again = shop.ledger.claim("test", unit_id=unit.id)
    assert again is not None
    assert run_unit(shop, again) is Outcome.ADOPTED
    assert len(rows(shop, run)) == 4


def test_shards_without_a_sidecar_are_replaced(pipeline: Pipeline, shop: Workshop, run: Run) -> None:
    """Shards of an attempt that died before its sidecar are replaced."""
    unit = claim(shop, run)
    key = f"runs/{run.id}/maps/mean/c/0/0/0/0"
    shop.objects.put(key, b"half of something else")
    assert run_unit(shop, unit) is Outcome.DONE
    assert key in read_sidecar(shop.objects, sidecar_key(run.id, 0)).shards
    assert not np.isnan(pipeline.read_maps(rows(shop, run))).any()


def test_a_zombie_is_fenced_and_changes_nothing(shop: Workshop, run: Run) -> None:
    zombie = claim(shop, run)
    shop.ledger.release_owned_by(["test"])
    fresh = shop.ledger.claim("other", unit_id=zombie.id)
    assert fresh is not None
    assert run_unit(shop, fresh) in (Outcome.DONE, Outcome.ADOPTED)
    before = rows(shop, run), shop.objects.get(sidecar_key(run.id, 0))
    assert run_unit(shop, zombie) is Outcome.FENCED
    assert (rows(shop, run), shop.objects.get(sidecar_key(run.id, 0))) == before


def test_asked_to_stop_it_gives_the_unit_back_uncounted(
    shop: Workshop, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(member: nn.Module, pixels: Tensor) -> Tensor:
        shop.stop.set()
        return member(pixels)

    break_members(monkeypatch, stop)
    assert run_unit(shop, claim(shop, run)) is Outcome.RELEASED
    assert rows(shop, run) == []
    again = shop.ledger.claim("test", run_id=run.id)
    assert again is not None
    assert again.attempt == 1


def test_a_lease_is_renewed_while_a_unit_is_slow(shop: Workshop, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(member: nn.Module, pixels: Tensor) -> Tensor:
        time.sleep(0.02)
        return member(pixels)

    break_members(monkeypatch, slow)
    quick = replace_shop(shop, lease_seconds=0.4)
    unit = claim(quick, run)
    others: list[int] = []
    sweeper = threading.Timer(1.0, lambda: others.append(quick.ledger.sweep()))
    sweeper.start()
    assert run_unit(quick, unit) is Outcome.DONE
    sweeper.join()
    assert others == [0], "the sweep took nothing, though the unit ran for longer than its lease"


def replace_shop(shop: Workshop, *, lease_seconds: float) -> Workshop:
    ledger = Ledger(shop.database, lease_seconds=lease_seconds)
    return replace(shop, ledger=ledger, lease_seconds=lease_seconds)


def test_an_unreadable_image_fails_alone_and_says_why(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest
) -> None:
    (dataset / "cat" / "1.png").write_bytes(b"")
    (dataset / "dog" / "2.png").write_bytes((dataset / "dog" / "3.png").read_bytes()[:60])
    run = pipeline.submit(request_)
    work(shop, run.id)
    failed = {row.key: row.error for row in rows(shop, run) if row.state is ImageState.FAILED}
    assert set(failed) == {"cat/1.png", "dog/2.png"}
    assert "empty" in str(failed["cat/1.png"])
    assert len(rows(shop, run)) == 18
    assert pipeline.status(run.id).state is RunState.PARTIAL


def test_a_map_that_is_not_finite_fails_its_image_alone(
    pipeline: Pipeline, shop: Workshop, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    bright = pipeline.read_images([ImageRow(run.id, 3, "cat/3.png", entry_version(pipeline, run, 3), ImageState.DONE)])[
        0
    ]

    def poison(member: nn.Module, pixels: Tensor) -> Tensor:
        same = (pixels - torch.from_numpy(bright)).abs().flatten(1).sum(1) < 1e-6
        return member(pixels) + torch.where(same, torch.nan, 0.0)[:, None]

    break_members(monkeypatch, poison)
    work(shop, run.id)
    failed = [row for row in rows(shop, run) if row.state is ImageState.FAILED]
    assert [row.key for row in failed] == ["cat/3.png"]
    assert "not finite" in str(failed[0].error)


def entry_version(pipeline: Pipeline, run: Run, row: int) -> str:
    from pipeline.runs.plan import read_manifest
    from pipeline.storage.keys import manifest_key

    return list(read_manifest(pipeline.objects.get(manifest_key(run.id))))[row].version


def test_a_model_that_raises_fails_its_units(shop: Workshop, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that raises fails its units after bounded attempts and says where."""

    def explode(member: nn.Module, pixels: Tensor) -> Tensor:
        raise IndexError("no such layer")

    break_members(monkeypatch, explode)
    monkeypatch.setattr(engine, "RETRY_SECONDS", 0.0)
    work(shop, run.id)
    from db.queries import progress

    found = progress(shop.database, run.id)
    assert found.state is RunState.FAILED
    assert found.units[UnitState.FAILED] == 5
    assert found.attempts == 5 * 5
    assert "IndexError: no such layer" in found.errors[0]


@pytest.mark.slow
def test_out_of_memory_halves_the_chunk_and_gives_the_same_maps(
    pipeline: Pipeline, shop: Workshop, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(shop, run.id)
    whole, sizes = pipeline.read_maps(rows(shop, run)), []

    def small(member: nn.Module, pixels: Tensor) -> Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 5:
            raise torch.OutOfMemoryError("injected")
        return member(pixels)

    break_members(monkeypatch, small)
    shop.ledger.requeue(run.id, 1)
    shop.objects.delete(sidecar_key(run.id, 1))
    work(shop, run.id)
    assert max(sizes) > 5
    np.testing.assert_allclose(pipeline.read_maps(rows(shop, run)), whole, rtol=2e-3, atol=1e-5)


@pytest.mark.slow
def test_an_image_that_kills_its_process_is_left_out(shop: Workshop, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that kills its process is found failed and left out."""
    decode = Decoder.one

    def deadly(decoder: Decoder, entry: Entry) -> Picture | Unreadable:
        if entry.key == "dog/0.png":
            raise SystemExit("killed")  # which no `except Exception` sees, as it would not see SIGKILL
        return decode(decoder, entry)

    monkeypatch.setattr(Decoder, "one", deadly)
    deaths = 0
    while (unit := shop.ledger.claim("test", run_id=run.id)) is not None:
        try:
            run_unit(shop, unit)
        except SystemExit:
            shop.ledger.release_owned_by(["test"])
            deaths += 1
        assert deaths < 20
    found = rows(shop, run)
    assert len(found) == 18
    assert [row.key for row in found if row.state is ImageState.FAILED] == ["dog/0.png"]
    assert f"ended its worker process {DEATHS} times" in str(found[6].error)
    assert deaths == DEATHS + 1


def test_a_database_that_is_away_for_a_moment_costs_nothing(
    shop: Workshop, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, calls = shop.ledger.complete, []

    def flaky(unit: Unit, found: list[ImageRow]) -> bool:
        calls.append(unit)
        if len(calls) < 3:
            raise StoreUnavailable("away")
        return complete(unit, found)

    monkeypatch.setattr(shop.ledger, "complete", flaky)
    assert run_unit(shop, claim(shop, run)) is Outcome.DONE
    assert len(calls) == 3


def test_weights_changed_after_submission_fail_the_run(
    tmp_path: Path, pipeline: Pipeline, shop: Workshop, run: Run, members: tuple[ModelRequest, ...]
) -> None:
    """Weights that changed after submission fail the run with a clear reason."""
    assert members[0].weights is not None
    assert members[1].weights is not None
    Path(members[0].weights).write_bytes(Path(members[1].weights).read_bytes())
    registry.clear_cache()
    work(shop, run.id)
    found = pipeline.status(run.id)
    assert found.units[UnitState.FAILED] == 5
    assert found.attempts == 5, "trying again changes nothing"
    assert "changed" in found.errors[0]


def test_a_sidecar_holds_everything_the_index_does(shop: Workshop, run: Run) -> None:
    work(shop, run.id)
    stored = [row for number in range(5) for row in read_sidecar(shop.objects, sidecar_key(run.id, number)).rows]
    assert stored == rows(shop, run)
    assert json.loads(shop.objects.get(sidecar_key(run.id, 0)))["spec_key"] == run.spec_key


@pytest.mark.parametrize("attribution", ["saliency", "input_x_gradient"])
@pytest.mark.parametrize("channels", ["keep", "sum"])
def test_other_attributions_go_the_same_way(
    attribution: str, channels: str, pipeline: Pipeline, shop: Workshop, request_: RunRequest
) -> None:
    run = pipeline.submit(replace(request_, attribution=attribution, channels=channels))
    work(shop, run.id)
    assert np.isfinite(pipeline.read_maps(rows(shop, run))).all()
    if attribution == "saliency":
        assert all(row.completeness_gap is None for row in rows(shop, run))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["predicted", "label", "rank:2", "class:eel"])
def test_the_target_is_what_was_asked_for(
    target: str, pipeline: Pipeline, shop: Workshop, request_: RunRequest
) -> None:
    run = pipeline.submit(replace(request_, target=target))
    work(shop, run.id)
    for row in rows(shop, run):
        expected = {"predicted": row.predicted, "label": row.label, "class:eel": "eel"}.get(target)
        assert row.target == expected if expected else row.target != row.predicted


@pytest.mark.slow
def test_precision_auto_gives_the_maps_of_float32(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """Precision auto gives the maps of float32 and tries each member once."""
    caplog.set_level("INFO", "attribatch.explaining")
    maps = []
    for precision in ("float32", "auto"):
        run = pipeline.submit(replace(request_, precision=precision))
        work(shop, run.id)
        maps.append(pipeline.read_maps(rows(shop, run)))
    plain, fast = maps
    assert np.abs(fast - plain).sum() / np.abs(plain).sum() < 0.015
    said = [record.message for record in caplog.records if "runs as" in record.message]
    assert len(said) == 2, "two members, five units"
    assert "error=" in said[0]
