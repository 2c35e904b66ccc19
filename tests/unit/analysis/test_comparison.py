"""Figures of pairs of maps equal SciPy's on each pair, and what is kept of them equals numpy on all."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cosine
from scipy.stats import spearmanr

from pipeline.analysis.comparison import Sums, alike, batch_size
from pipeline.analysis.statistics import LINEAR_BINS
from tests.support.records import make_row

NAMES = ("cat", "dog", "eel")


def pair_of(count: int = 90, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(count, channels, 8, 10)).astype(np.float32)
    moved = rng.uniform(0, 2, size=(count, 1, 1, 1))
    return one, (one + moved * rng.normal(size=one.shape)).astype(np.float32)


def rows_of(count: int) -> list:
    rows = [replace(make_row("a" * 12, row), predicted=NAMES[row % 3], sha256=f"{row}") for row in range(count)]
    others = [
        replace(row, run_id="b" * 12, row=row.row + 7, predicted="eel" if row.row < 9 else row.predicted)
        for row in rows
    ]
    others[5] = replace(others[5], sha256="other bytes")
    return list(zip(rows, others, strict=True))


def test_figures_of_each_pair_are_those_of_scipy_ties_included() -> None:
    one, other = pair_of()
    one[:30], other[:30] = one[:30].round(), other[:30].round()  # ties everywhere
    found = alike(one, other)
    for index, (a, b) in enumerate(zip(one.astype(float), other.astype(float), strict=True)):
        assert found.cosine[index] == pytest.approx(1 - cosine(a.ravel(), b.ravel()))
        ranks = spearmanr(np.abs(a.sum(0)).ravel(), np.abs(b.sum(0)).ravel()).statistic
        assert found.rank_correlation[index] == pytest.approx(ranks)
        mean = (np.abs(a).sum() + np.abs(b).sum()) / 2
        assert found.distance[index] == pytest.approx(np.abs(a - b).sum() / mean)
    assert found.cosine.min() < 0.5 < 0.98 < found.cosine.max()


def test_channels_and_their_sum_are_compared_as_sums() -> None:
    """One run with channels and one with their sum are compared as sums."""
    one, other = pair_of()
    summed = alike(one, other.sum(axis=1, keepdims=True))
    both = alike(one.sum(axis=1, keepdims=True), other.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(summed.cosine, both.cosine)
    np.testing.assert_allclose(summed.rank_correlation, alike(one, other).rank_correlation, atol=1e-6)


def test_maps_without_a_direction_equal_each_other() -> None:
    """Maps without a direction are equal to each other and unrelated to others."""
    zero, even, some = np.zeros((1, 1, 4, 4)), np.ones((1, 1, 4, 4)), np.arange(16.0).reshape(1, 1, 4, 4)
    found = alike(np.concatenate([zero, zero, even, even]), np.concatenate([zero, some, even, some]))
    assert found.cosine.tolist()[:3] == pytest.approx([1, 0, 1])
    assert found.rank_correlation.tolist() == pytest.approx([1, 0, 1, 0])
    assert found.distance.tolist()[:3] == [0, 2, 0]


def summed_up(limit: int, batch: int, by: str = "predicted") -> tuple[Sums, np.ndarray, np.ndarray]:
    one, other = pair_of()
    pairs, sums = rows_of(len(one)), Sums(by, limit)  # type: ignore[arg-type]
    for start in range(0, len(one), batch):
        part = slice(start, start + batch)
        sums.add(pairs[part], one[part], other[part])
    return sums, one, other


def test_what_is_kept_of_batches_equals_numpy_over_all() -> None:
    sums, one, other = summed_up(limit=4, batch=7)
    found = alike(one, other)
    for name in ("cosine", "rank_correlation", "distance"):
        values, kept = getattr(found, name), sums.quantiles(name)
        exact = np.quantile(values, [0.1, 0.5, 0.9], method="inverted_cdf")
        assert [kept.p10, kept.median, kept.p90] == pytest.approx(exact.tolist(), abs=3 / LINEAR_BINS)
    assert (sums.images, sums.flips, sums.changed_files) == (90, 6, 1)  # 3 of the first 9 are eels in both runs
    lowest = np.argsort(found.cosine)[:4]
    assert [each.row_a for each in sums.changed] == lowest.tolist()
    assert [each.row_b for each in sums.changed] == (lowest + 7).tolist()
    assert sums.changed[0].distance == pytest.approx(found.distance[lowest[0]])


def test_classes_are_those_of_the_first_run() -> None:
    """Classes are those of the first run and hold the same images in both."""
    sums, one, other = summed_up(limit=1, batch=32)
    classes = {each.class_name: each for each in sums.classes(sums.drift("a", "b"))}
    found = alike(one, other)
    for index, name in enumerate(NAMES):
        assert classes[name].images == 30
        assert classes[name].cosine == pytest.approx(found.cosine[index::3].mean())
        assert 0 < classes[name].drift < 1
    by_label, _, _ = summed_up(limit=1, batch=32, by="label")
    assert [(c.class_name, c.images) for c in by_label.classes(by_label.drift("a", "b"))] == [("cat", 45)]


def test_quantiles_of_equal_runs_are_exact() -> None:
    one, _ = pair_of(20)
    sums = Sums("predicted", 3)
    sums.add(rows_of(20), one, one)
    for name, value in (("cosine", 1), ("rank_correlation", 1), ("distance", 0)):
        kept = sums.quantiles(name)
        assert (kept.p10, kept.median, kept.p90) == pytest.approx((value,) * 3, abs=1e-12)


def test_large_maps_are_read_few_at_a_time() -> None:
    assert batch_size(3 * 224 * 224) == 27
    assert batch_size(64) == 256
    assert batch_size(10**9) == 1
