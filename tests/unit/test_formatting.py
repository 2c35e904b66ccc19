"""Figures as people read them."""

import pytest

from pipeline.formatting import asked_percent, duration, number, percent, unbroken


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"), (float("nan"), "–"), (0.0, "0 %"), (1.0, "100 %"), (0.004, "0.40 %"), (0.0046, "0.46 %"),
        (0.05, "5.0 %"), (0.0994, "9.9 %"), (0.0996, "10 %"), (0.247, "25 %"), (-0.004, "-0.40 %"),
        (1e-6, "under 0.001 %"), (3.0, "300 %"),
    ],
)  # fmt: skip
def test_a_share_has_two_digits(value: float | None, shown: str) -> None:
    assert percent(value) == shown


def test_a_share_has_as_many_places_as_asked_for() -> None:
    assert percent(0.9933, 1) == "99.3 %"
    assert percent(0.05, 0) == "5 %"
    assert percent(None, 1) == "–"


def test_a_share_that_was_asked_for_stands_as_it_was_written() -> None:
    assert [asked_percent(value) for value in (0.05, 0.005, 0.123)] == ["5 %", "0.5 %", "12.3 %"]


def test_no_line_breaks_between_a_share_and_its_sign() -> None:
    assert unbroken("72 % lost, 18 % turned") == "72\u00a0% lost, 18\u00a0% turned"


def test_figures_and_times() -> None:
    assert number(1.0059) == "1.01"
    assert number(None) == number(float("inf")) == "–"
    assert [duration(seconds) for seconds in (89, 90, 5399, 5400)] == ["89 s", "2 min", "90 min", "1.5 h"]
