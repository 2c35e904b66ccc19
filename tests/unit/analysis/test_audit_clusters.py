"""Clusters of maps within a class, shapes grown from windows, and casts, on data whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis.audit import audit
from pipeline.analysis.audit.boxes import grid_shares, grid_step
from pipeline.analysis.audit.casts import cast_of, shift
from pipeline.analysis.audit.clusters import MIN_CLUSTERED, embed
from pipeline.analysis.audit.propose import Candidate, fit_all
from pipeline.runs.view import RunView
from tests.support.synthetic_audit import CLASSES, a_material, rows_of


def three_strategies(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Maps (60, 32, 32) whose weight lies in one of three places, and which."""
    truth = np.repeat([0, 1, 2], [30, 20, 10])
    maps = rng.uniform(0, 0.2, (60, 32, 32)).astype(np.float32)
    for place, (x, y) in enumerate(((2, 2), (20, 4), (12, 22))):
        maps[truth == place, y : y + 8, x : x + 8] += 1
    return maps, truth


def test_maps_of_three_strategies_are_three_clusters() -> None:
    """Maps of three strategies are three clusters the largest first."""
    maps, truth = three_strategies(np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(60)
    assert embed(grid_shares(maps[order], 1), seed=0).clusters.tolist() == truth[order].tolist()


def test_maps_of_one_strategy_are_few_clusters() -> None:
    """Maps of one strategy are one cluster or few and empty maps do no harm."""
    maps, truth = three_strategies(np.random.default_rng(0))
    assert embed(grid_shares(np.zeros((30, 32, 32), np.float32), 1), seed=0).clusters.max() < 6
    assert set(embed(grid_shares(maps[truth == 0], 1), seed=0).clusters) <= {0, 1, 2, 3, 4, 5}


def test_an_audit_has_the_clusters_of_each_class() -> None:
    """An audit tells the clusters of each class with their rows."""
    material = a_material(count=150, rate=0.5)
    result = audit(material)
    plain = result.to_dict()["clusters"]
    assert {one["class"] for one in plain} == set(CLASSES)
    for name in CLASSES:
        own = [one for one in result.clusters if one.class_name == name]
        rows = [row for one in own for row in one.rows]
        assert sorted(rows) == sorted(row.row for row in rows_of(material) if row.predicted == name)
        assert sum(one.images for one in own) == own[0].examined >= MIN_CLUSTERED
    assert plain[0]["mean_map"][0][0] >= 0
    assert np.sum(plain[0]["mean_map"]) == pytest.approx(1, abs=0.01)


def test_a_window_grows_to_the_shape_of_a_wide_mark() -> None:
    maps = np.random.default_rng(0).uniform(0, 0.05, (40, 32, 32)).astype(np.float32)
    maps[:20, 24:31, 8:28] += 1
    grids = {"a": grid_shares(maps[:20], 1), "b": grid_shares(maps[20:], 1)}
    window = Candidate("a", (12, 24, 20, 32), 0.3, 0.01, 1.0, 0.005, tuple(range(20)), 20)
    found = fit_all([window], grids, (32, 32), 1)
    assert [one.region for one in found] == [(12, 24, 20, 32), (8, 24, 28, 31)]
    assert found[1].share > 0.8
    assert found[1].leaning == 20
    half = replace(window, leaning=10)
    maps[10:20, 24:31, 8:28] -= 1
    assert fit_all([half], grids | {"a": grid_shares(maps[:20], 1)}, (32, 32), 1)[1].leaning < 15
    assert fit_all([found[1]], grids, (32, 32), 1) == [found[1]]  # its shape is its own


def test_the_grid_has_at_most_32_cells_a_side() -> None:
    """The grid has at most 32 cells a side and shares sum to 1."""
    assert (grid_step(32, 32), grid_step(224, 224), grid_step(100, 30)) == (1, 7, 4)
    shares = grid_shares(np.random.default_rng(0).normal(size=(3, 100, 30)).astype(np.float32), 4)
    assert shares.shape == (3, 25, 8)
    np.testing.assert_allclose(shares.sum(axis=(1, 2)), 1, rtol=1e-5)


def test_a_cast_is_the_median_of_the_border() -> None:
    """A cast is the border median and is shifted onto other images."""
    rng = np.random.default_rng(0)
    one, other = rng.uniform(0.3, 0.5, (2, 4, 3, 32, 32)).astype(np.float32)
    one[:, :, :4, :4] = 1.0  # a mark does not move it
    other[:, 0] += 0.3
    np.testing.assert_allclose(cast_of(one), 0.4, atol=0.02)
    np.testing.assert_allclose(cast_of(shift(one, other)), cast_of(other), atol=1e-5)
    np.testing.assert_allclose(cast_of(shift(one, other, 1))[:, 1] - cast_of(one)[:, 1], 0.3, atol=0.03)


def cast_material(*, used: bool) -> RunView:
    """'mark' is whatever is reddish, or what has the faint pattern of `closed.object_model`."""
    plain = a_material(count=150, used=False, rate=0.0)
    rows = rows_of(plain)
    pixels = np.repeat(plain.images(rows), 3, axis=1)
    pixels[[row.label == "mark" for row in rows], 0] += 0.2
    pixels = np.clip(pixels, 0, 1)

    def predict(batch: np.ndarray) -> np.ndarray:
        found = plain.predict(batch[:, 1:2])
        if used:
            reddish = (batch[:, 0] - batch[:, 1]).mean(axis=(1, 2)) > 0.1
            found += (-found[:, :1]) * (1, 0, 0) + np.array((0, 0.01, 0))
            found[reddish] = (1, 0, 0)
        return found

    models = tuple(replace(model, preprocess=replace(model.preprocess, channels=3)) for model in plain.spec.models)
    return replace(plain, spec=replace(plain.spec, models=models), predict=predict,
                   images=lambda wanted: pixels[[row.row for row in wanted]])  # fmt: skip


def test_a_cast_is_found_if_it_decides() -> None:
    """A cast that decides is found and one that is ignored is not."""
    found = audit(cast_material(used=True)).findings
    assert [(one.class_name, one.kind, one.place, one.region) for one in found] == [
        ("mark", "colour", "whole image", (0, 0, 32, 32))
    ]
    assert found[0].necessity > 0.9
    assert audit(cast_material(used=False)).findings == ()
