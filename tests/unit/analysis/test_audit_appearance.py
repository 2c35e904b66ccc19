"""Content that is a mark is told from what objects show in a place, in part of the images too, and gives its extent."""

import numpy as np
import pytest

from pipeline.analysis.audit.appearance import contrast, d_prime, extent, lower_end, most_alike, parted
from pipeline.analysis.audit.boxes import Box, cut
from pipeline.analysis.audit.thresholds import ALIKE
from pipeline.runs.view import Floats
from tests.support.planted_worlds import digits, marked

BOTTOM = (2, 21, 31, 32)  # where words and dates stand


def test_contrast_is_the_mean_distance_from_the_surroundings() -> None:
    pixels = np.zeros((1, 2, 32, 32), np.float32)
    pixels[0, 0, 10, 20] = 0.9  # in one of two channels
    found = contrast(pixels)
    # 0.8 at the point and 0.1 on the 8 around it, halved by the other channel, averaged over 3 x 3
    assert found[0, 10, 20] == pytest.approx((0.8 + 8 * 0.1) / 9 / 2, rel=1e-4)
    assert found[0, 10, 22] == pytest.approx(3 * 0.1 / 9 / 2, rel=1e-4)
    assert np.count_nonzero(found > 1e-6) == 25
    np.testing.assert_allclose(contrast(np.full((2, 3, 40, 30), 0.7, np.float32)), 0, atol=1e-6)


def test_contrast_is_pooled_over_a_part_of_the_image() -> None:
    """Contrast of a larger image is pooled over as large a part of it."""
    pixels = np.zeros((1, 1, 128, 128), np.float32)
    pixels[0, 0, 64, 64] = 1.0
    rows = np.flatnonzero(contrast(pixels)[0].max(axis=1) > 1e-6)
    assert rows.max() - rows.min() + 1 == 3 + 3 * 4 - 1


def test_d_prime_is_in_standard_deviations() -> None:
    """D prime is the distance of the means in standard deviations."""
    rng = np.random.default_rng(0)
    own, others = rng.normal(0, 0.1, (400, 5)), rng.normal(0, 0.1, (4000, 5))
    own[:, 2] += 0.5
    assert d_prime(own, others) == pytest.approx(0.5 / 0.11, rel=0.1)


def test_d_prime_of_the_same_content_is_about_zero() -> None:
    """D prime of the same content is about zero and of a constant mark is large."""
    rng = np.random.default_rng(0)
    same = [d_prime(rng.uniform(size=(16, 48)), rng.uniform(size=(150, 48))) for _ in range(20)]
    assert abs(np.mean(same)) < 0.3
    assert d_prime(np.ones((16, 48)), np.zeros((150, 48))) > 100
    assert d_prime(np.zeros((16, 48)), np.zeros((150, 48))) == 0


def of_threes(kind: str, bearing: int) -> tuple[Floats, Floats]:
    """Contrast of 24 threes, the first of which bear a mark, and of 150 other digits."""
    pixels, labels = digits()
    own, others = pixels[labels == 3][:24], pixels[labels != 3][:150]
    own = marked(own, np.arange(24) < bearing, kind, seed=1)
    return contrast(own), contrast(others)


@pytest.mark.parametrize("kind", ["watermark", "date", "logo"])
@pytest.mark.parametrize("bearing", [24, 12, 8])
def test_a_mark_on_all_or_some_of_the_images_is_alike(kind: str, bearing: int) -> None:
    own, others = of_threes(kind, bearing)
    value, part = most_alike(cut(own, BOTTOM), cut(others, BOTTOM))
    assert lower_end(value, len(part)) > ALIKE
    assert set(part) <= set(range(bearing))
    assert len(part) >= 8


@pytest.mark.parametrize("kind", ["watermark", "date", "logo"])
def test_images_with_and_without_a_mark_are_separated(kind: str) -> None:
    """Images are parted into those that bear a mark and those that do not."""
    own, others = (cut(values, BOTTOM) for values in of_threes(kind, 12))
    bearing, bare = parted(own, others, np.arange(6))
    assert sorted([*bearing, *bare]) == list(range(24))
    assert set(range(6)) <= set(bearing)
    assert len(set(bearing) & set(range(12))) >= 11
    assert set(bare[:6]) <= set(range(12, 24)), "the least like it come first"


@pytest.mark.parametrize(("kind", "whole"), [("watermark", (4, 22, 28, 30)), ("logo", (10, 24, 30, 31))])
@pytest.mark.parametrize("bearing", [24, 12, 8])
def test_a_part_of_a_mark_leads_to_the_whole(kind: str, bearing: int, whole: Box) -> None:
    own, others = of_threes(kind, bearing)
    found = extent(own[:bearing], others, (12, 24, 18, 28))
    assert found is not None
    np.testing.assert_allclose(found, whole, atol=2)


@pytest.mark.parametrize("label", range(10))
def test_what_digits_show_in_a_place_varies(label: int) -> None:
    pixels, labels = digits()
    own, others = contrast(pixels[labels == label][:24]), contrast(pixels[labels != label][:150])
    for box in (BOTTOM, (8, 8, 24, 24), (0, 0, 16, 16), (12, 4, 20, 28)):
        value, part = most_alike(cut(own, box), cut(others, box))
        assert lower_end(value, len(part)) < ALIKE


def test_without_a_difference_all_images_are_one_part() -> None:
    same = np.ones((24, 10), np.float32)
    value, part = most_alike(same, np.ones((50, 10), np.float32))
    assert (value, len(part)) == (0, 24)


def test_what_fills_the_image_is_no_mark() -> None:
    rng = np.random.default_rng(0)
    own = contrast(rng.uniform(0, 1, (12, 1, 32, 32)).astype(np.float32))
    assert extent(own, np.zeros_like(own), (4, 4, 8, 8)) is None
