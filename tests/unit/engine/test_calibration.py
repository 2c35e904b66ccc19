"""What a run measures once and all its workers share: where its nodes stand, how its members run; and when not."""

import json
from dataclasses import replace

import numpy as np
import pytest

from db.queries import iter_images
from db.records import DEATHS, ImageRow, Run
from pipeline.api import Pipeline, RunRequest
from pipeline.engine import calibration, explainer
from pipeline.engine.explainer import Explainer
from pipeline.engine.unit import Outcome, Workshop, run_unit
from pipeline.engine.worker import work
from pipeline.spec.run_spec import RunSpec, calibration_images
from pipeline.storage.keys import tuning_prefix
from tests.support.specs import spec


@pytest.fixture
def request_(request_: RunRequest) -> RunRequest:
    """So many steps that a fit on eight images costs less than a twentieth of the run."""
    return replace(request_, n_steps=600, baselines=("black",))


def rows(shop: Workshop, run: Run) -> list[ImageRow]:
    return list(iter_images(shop.database, run.id))


def test_a_fit_costs_at_most_a_twentieth_of_the_run() -> None:
    assert calibration_images(spec(n_steps=50), 207) == 0
    assert calibration_images(spec(n_steps=50), 208) == 8
    assert calibration_images(spec(n_steps=50), 1_000_000) == 16
    assert calibration_images(spec(tolerance=0.03), 1_000) == 16
    assert calibration_images(spec(nodes="uniform"), 1_000_000) == 0
    assert calibration_images(spec(method="gausslegendre"), 1_000_000) == 0
    assert calibration_images(spec(method="gausslegendre", tolerance=0.03), 1_000_000) == 16
    assert calibration_images(spec(attribution="saliency"), 1_000_000) == 0


@pytest.mark.slow
def test_nodes_are_fitted_once_for_all_workers(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes are fitted once and every worker uses what is stored."""
    run = pipeline.submit(request_)
    assert len(RunSpec.from_json(run.spec).calibration) == 8
    fits = []
    fit = Explainer.fit
    monkeypatch.setattr(Explainer, "fit", lambda self, given: fits.append(len(given)) or fit(self, given))
    work(shop, run.id)
    assert fits == [8]
    nodes = pipeline.tuning(run.id)["nodes"]
    assert len(nodes["images"]) == 8
    assert nodes["knots"]["black"] == sorted(nodes["knots"]["black"])
    used = []
    attribute = explainer.integrated_gradients
    monkeypatch.setattr(
        explainer,
        "integrated_gradients",
        lambda *a, **o: used.extend(p.knots for p in o["profile"]) or attribute(*a, **o),
    )
    bent = [0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0]
    shop.objects.put(
        f"{tuning_prefix(run.id)}nodes.json", json.dumps({"knots": {"black": bent}, "images": []}).encode()
    )
    before = pipeline.read_maps(rows(shop, run))
    for number in range(5):
        shop.objects.delete(f"runs/{run.id}/units/{number:06}.json")
        shop.ledger.requeue(run.id, number)
    work(shop, run.id)
    assert set(used) == {tuple(bent)}
    assert fits == [8]
    # The limit is the same integral wherever nodes stand.
    np.testing.assert_allclose(pipeline.read_maps(rows(shop, run)), before, rtol=0.05, atol=2e-3 * np.abs(before).max())


@pytest.mark.slow
def test_fitted_and_even_nodes_agree_within_their_errors(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest
) -> None:
    """Fitted and even nodes give the same maps within their stated errors."""
    fitted, even = (pipeline.submit(replace(request_, nodes=nodes)) for nodes in ("fitted", "uniform"))
    assert fitted.id != even.id
    for run in (fitted, even):
        work(shop, run.id)
    one, two = (pipeline.read_maps(rows(shop, run)) for run in (fitted, even))
    apart = np.abs(one - two).sum((1, 2, 3)) / np.abs(two).sum((1, 2, 3))
    stated = [(a.error_estimate or 0) + (b.error_estimate or 0) for a, b in zip(rows(shop, fitted), rows(shop, even))]  # noqa: B905
    assert (apart <= 3 * np.array(stated) + 2e-3).all(), "float16 rounding and thrice the sum of both estimates"
    assert pipeline.tuning(even.id) == {}


def test_calibration_images_do_not_change_the_key() -> None:
    """The key of an attribution does not depend on the calibration images."""
    assert spec(calibration=(("a", "1", None),)).key == spec().key
    assert spec(nodes="uniform").key != spec().key
    assert RunSpec.from_json(spec(calibration=(("a", "1", "x"),)).to_json()).calibration == (("a", "1", "x"),)


@pytest.mark.slow
def test_labels_as_targets_are_known_for_calibration_images_too(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest
) -> None:
    run = pipeline.submit(replace(request_, target="label"))
    work(shop, run.id)
    assert pipeline.tuning(run.id)["nodes"]["images"]
    assert all(row.target == row.label for row in rows(shop, run))


def test_after_deaths_nothing_is_measured_any_more(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pipeline.submit(replace(request_, precision="auto"))
    monkeypatch.setattr(Explainer, "fit", lambda *_: pytest.fail("it may be what killed the others"))
    monkeypatch.setattr(calibration.Explainer, "choose_variants", lambda *_: pytest.fail("likewise"))
    for _ in range(DEATHS):
        assert shop.ledger.claim("dead", run_id=run.id) is not None
        shop.ledger.release_owned_by(["dead"])
    unit = shop.ledger.claim("test", run_id=run.id)
    assert unit is not None
    assert unit.attempt == DEATHS + 1
    assert run_unit(shop, unit) is Outcome.DONE
    found = pipeline.tuning(run.id)
    assert found["nodes"]["images"] == []
    assert [way["name"] for name in found if name != "nodes" for way in found[name]["members"]] == ["as given"] * 2


@pytest.mark.slow
def test_fast_members_are_chosen_once_per_device_kind(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ways are chosen once per device kind and stored with their error."""
    run = pipeline.submit(replace(request_, precision="auto", nodes="uniform", n_steps=20))
    work(shop, run.id)
    (name,) = pipeline.tuning(run.id)
    assert name.startswith("precision/cpu")
    members = pipeline.tuning(run.id)[name]["members"]
    assert len(members) == 2
    assert all(way["error"] <= 0.015 for way in members)
    plain = pipeline.submit(replace(request_, nodes="uniform", n_steps=20))
    work(shop, plain.id)
    one, two = (pipeline.read_maps(rows(shop, each)) for each in (run, plain))
    # The fastest variant depends on the machine. Its promise is a relative L1 error; maps are stored as float16.
    distance = np.abs(one - two).sum() / np.abs(two).sum()
    assert distance <= 1e-3 + 2 * max(way["error"] for way in members)
    monkeypatch.setattr(Explainer, "choose_variants", lambda *_: pytest.fail("it is stored"))
    shop.objects.delete(f"runs/{run.id}/units/000000.json")
    shop.ledger.requeue(run.id, 0)
    work(shop, run.id)
    assert len(rows(shop, run)) == 18
