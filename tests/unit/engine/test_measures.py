"""Figures of maps in closed form."""

import numpy as np
import pytest

from pipeline.engine.rows import measure, member_disagreement


def test_an_even_map_spreads_everywhere() -> None:
    found = measure(np.ones((1, 1, 16, 16)))
    assert found.border_share[0] == pytest.approx(1 - (12 / 16) ** 2)
    assert found.center_x[0] == found.center_y[0] == pytest.approx(0.5)
    assert found.entropy[0] == pytest.approx(1)
    assert found.gini[0] == pytest.approx(0)
    assert found.positive_share[0] == 1


def test_one_pixel_holds_all() -> None:
    maps = np.zeros((1, 3, 16, 16))
    maps[0, 1, 0, 15] = -2
    found = measure(maps)
    assert found.border_share[0] == pytest.approx(1)
    assert found.center_x[0] == pytest.approx(15.5 / 16)
    assert found.center_y[0] == pytest.approx(0.5 / 16)
    assert found.entropy[0] == pytest.approx(0)
    assert found.gini[0] == pytest.approx(1 - 1 / 256)
    assert found.positive_share[0] == 0


def test_scale_changes_nothing() -> None:
    maps = np.random.default_rng(0).standard_normal((2, 3, 9, 7))
    one, other = measure(maps), measure(1e-9 * maps)
    for name in ("border_share", "center_x", "center_y", "entropy", "gini", "positive_share"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name))


def test_a_map_of_zeros_or_nan_has_no_figures() -> None:
    maps = np.zeros((2, 1, 4, 4))
    maps[1] = np.nan
    found = measure(maps)
    for name in ("border_share", "center_x", "center_y", "gini", "positive_share", "entropy"):
        assert np.isnan(getattr(found, name)).all(), name


def test_disagreement_is_the_spread_relative_to_the_map() -> None:
    mean = np.array([[[[1.0, -3.0]]]])
    assert member_disagreement(np.array([[[[0.5, 0.5]]]]), mean)[0] == pytest.approx(0.25)
    assert member_disagreement(np.zeros_like(mean), mean)[0] == 0
