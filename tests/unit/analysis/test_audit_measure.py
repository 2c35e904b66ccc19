"""Swaps, pastes and rates, on models whose answers are known."""

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.analysis.audit.boxes import paste
from pipeline.analysis.audit.measure import Trial, draw_pool, run_trial
from pipeline.analysis.audit.propose import Candidate
from pipeline.analysis.statistics import exceeds, wilson
from tests.support.synthetic_audit import CLASSES, a_material, classes_of, rows_of


@pytest.mark.parametrize(("hits", "images"), [(0, 24), (1, 24), (12, 24), (24, 24), (3, 96)])
def test_rates_have_wilsons_interval(hits: int, images: int) -> None:
    expected = binomtest(hits, images).proportion_ci(method="wilson")
    found = wilson(hits / images, images)
    assert found.low == pytest.approx(expected.low, abs=1e-4)
    assert found.high == pytest.approx(expected.high, abs=1e-4)


def test_a_rate_exceeds_another_if_significantly_larger() -> None:
    """A rate exceeds another when the difference is significant."""
    assert exceeds(wilson(0.9, 24), wilson(0.1, 24))
    assert exceeds(wilson(0.25, 24), wilson(0.0, 24))
    assert not exceeds(wilson(0.1, 24), wilson(0.0, 24))
    assert not exceeds(wilson(0.6, 24), wilson(0.5, 24))
    assert not exceeds(wilson(0.1, 24), wilson(0.9, 24))


def test_paste_changes_each_images_own_box_and_nothing_else() -> None:
    images, sources = np.zeros((2, 3, 8, 8), np.float32), np.ones((2, 3, 8, 8), np.float32)
    out = paste(images, sources, np.array([(0, 0, 2, 3), (5, 4, 8, 8)]))
    assert out[0].sum() == 3 * 2 * 3
    assert out[0, :, :3, :2].all()
    assert out[1].sum() == 3 * 3 * 4
    assert out[1, :, 4:, 5:].all()
    assert not images.any()


def trial_at(region: tuple[int, int, int, int], **world: object) -> Trial | None:
    material = a_material(**world)  # type: ignore[arg-type]
    rows = classes_of(material.done(), "predicted")["mark"]
    everything = tuple(range(len(rows)))
    candidate = Candidate("mark", region, 0.3, 0.01, 1.0, 0.005, order=everything, leaning=len(rows))
    pool = draw_pool(material, rows_of(material), np.random.default_rng(0))
    return run_trial(material, candidate, rows, pool, index=CLASSES.index("mark"), seed=0)


def test_a_mark_that_decides_is_necessary_and_sufficient() -> None:
    """A mark that alone decides is necessary and sufficient and random windows are not."""
    trial = trial_at((0, 0, 4, 4))
    assert trial is not None
    assert (trial.necessity.value, trial.sufficiency.value) == (1.0, 1.0)
    assert (trial.control_necessity.value, trial.control_sufficiency.value) == (0.0, 0.0)
    assert trial.likeness > 6
    assert len(trial.examples) == 6
    assert trial.extent is not None
    np.testing.assert_allclose(trial.extent, (0, 0, 4, 4), atol=2)


def test_the_images_with_the_mark_are_named() -> None:
    """Where most of the first images do not bear the mark those that do are told."""
    material = a_material(rate=0.5, count=360)
    rows = classes_of(material.done(), "predicted")["mark"]
    bears = (material.images(rows)[:, 0, :4, :4] > 0.9).all(axis=(1, 2))
    bare, bearing = list(np.flatnonzero(~bears)), list(np.flatnonzero(bears))
    order = [*bare[:16], *bearing[:8], *bare[16:24], *bearing[8:32]]
    candidate = Candidate("mark", (0, 0, 4, 4), 0.3, 0.01, 1.0, 0.005, order=tuple(order), leaning=len(order))
    pool = draw_pool(material, rows_of(material), np.random.default_rng(0))
    trial = run_trial(material, candidate, rows, pool, index=CLASSES.index("mark"), seed=0)
    assert trial is not None
    assert trial.surely < 2
    assert trial.mixed
    assert set(trial.alike) <= {rows[place].key for place in bearing[:32]}
    assert len(trial.alike) >= 8
    assert set(trial.examples) <= set(trial.alike)
    assert trial.alike_likeness > 6


def test_another_window_does_nothing() -> None:
    trial = trial_at((24, 24, 28, 28))
    assert trial is not None
    assert (trial.necessity.value, trial.sufficiency.value) == (0.0, 0.0)
    assert trial.likeness < 2


def test_the_pool_is_balanced_over_classes_and_bounded() -> None:
    material = a_material(count=600)
    few = [row for row in material.done() if row.predicted == "dark"][:10]
    pool = draw_pool(
        material, [row for row in material.done() if row.predicted != "dark"] + few, np.random.default_rng(0)
    )
    assert np.bincount(pool.predicted).tolist() == [91, 91, 10]


def test_too_few_images_are_not_tested() -> None:
    material = a_material(count=12)
    rows = classes_of(material.done(), "predicted")["mark"]
    candidate = Candidate("mark", (0, 0, 4, 4), 0.3, 0.01, 1.0, 0.005, order=tuple(range(len(rows))), leaning=4)
    pool = draw_pool(material, rows_of(material), np.random.default_rng(0))
    assert run_trial(material, candidate, rows, pool, index=0, seed=0) is None
