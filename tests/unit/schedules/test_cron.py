"""When schedules come due, across both changes of the clock, and what gates say."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from db.records import Schedule
from pipeline.errors import SpecError
from pipeline.schedules.cron import check_name, due, next_due, on_clock
from pipeline.spec.gate import Gate


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def turns(cron: str, after: str, count: int, timezone: str = "Europe/Berlin") -> list[str]:
    found, time = [], at(after)
    for _ in range(count):
        time = next_due(cron, timezone, time)
        found.append(f"{time:%m-%d %H:%M}")
    return found


def test_a_time_of_day_is_that_of_the_zone() -> None:
    assert next_due("0 2 * * *", "UTC", at("2026-07-01 12:00")) == at("2026-07-02 02:00")
    assert next_due("0 2 * * *", "Europe/Berlin", at("2026-07-01 12:00")) == at("2026-07-02 00:00")
    assert next_due("0 2 * * *", "Asia/Kolkata", at("2026-07-01 12:00")) == at("2026-07-01 20:30")
    assert next_due("0 2 * * 1", "UTC", at("2026-07-01 12:00")) == at("2026-07-06 02:00"), "a Monday"


def test_a_turn_is_strictly_later() -> None:
    assert next_due("0 2 * * *", "UTC", at("2026-07-01 02:00")) == at("2026-07-02 02:00")


def test_the_skipped_hour_delays_a_daily_job() -> None:
    """The hour that is skipped in spring delays a daily job and loses none."""
    # 29 March 2026 in Berlin: 01:59 is followed by 03:00, which is 01:00 UTC.
    assert turns("30 2 * * *", "2026-03-27 12:00", 4) == ["03-28 01:30", "03-29 01:00", "03-30 00:30", "03-31 00:30"]
    assert turns("0 * * * *", "2026-03-28 23:30", 4) == ["03-29 00:00", "03-29 01:00", "03-29 02:00", "03-29 03:00"]


def test_the_doubled_hour_runs_a_daily_job_once() -> None:
    """The hour that comes twice in autumn runs a daily job once."""
    # 25 October 2026 in Berlin: 02:30 is 00:30 UTC and again 01:30 UTC.
    assert turns("30 2 * * *", "2026-10-24 12:00", 3) == ["10-25 00:30", "10-26 01:30", "10-27 01:30"]
    assert turns("30 * * * *", "2026-10-24 23:45", 3) == ["10-25 00:30", "10-25 01:30", "10-25 02:30"]


def test_a_time_is_shown_on_the_clock_of_its_zone_which_is_named() -> None:
    assert on_clock(at("2026-07-01 00:00"), "Europe/Berlin") == "2026-07-01 02:00 CEST"
    assert [on_clock(at(f"2026-10-25 0{hour}:30"), "Europe/Berlin")[11:] for hour in (0, 1)] == [
        "02:30 CEST",
        "02:30 CET",
    ]
    assert on_clock(at("2026-07-01 00:00"), "UTC") == "2026-07-01 00:00 UTC"


@pytest.mark.parametrize("minute", range(0, 180, 7))
def test_the_next_time_is_never_in_the_past(minute: int) -> None:
    """Whoever asks within the doubled hour is never sent into the past."""
    now = at("2026-10-24 23:50") + timedelta(minutes=minute)
    expected = at("2026-10-25 00:30") if now < at("2026-10-25 00:30") else at("2026-10-26 01:30")
    assert next_due("30 2 * * *", "Europe/Berlin", now) == expected


@pytest.mark.parametrize(
    ("cron", "timezone", "message"),
    [
        ("0 2 * *", "UTC", "4 fields, not five"),
        ("0 0 2 * * *", "UTC", "6 fields, not five"),
        ("61 * * * *", "UTC", "Bad minute"),
        ("0 0 31 11 *", "UTC", "Bad day-of-month"),
        ("@daily", "UTC", "1 fields, not five"),
        ("0 2 * * *", "Mars/Olympus", "time zone 'Mars/Olympus' is not known"),
        ("0 2 * * *", "../etc/passwd", "is not known"),
    ],
)
def test_what_does_not_parse_is_named_with_an_example(cron: str, timezone: str, message: str) -> None:
    with pytest.raises(SpecError, match="write for example") as caught:
        next_due(cron, timezone, at("2026-07-01 12:00"))
    assert message in str(caught.value)


def test_due_schedules_are_sorted_the_longest_overdue_first() -> None:
    """Due are those whose time has come the longest overdue first."""
    now = at("2026-07-01 12:00")
    one = Schedule(1, "a", "0 2 * * *", "UTC", "{}", None, False, now, now)
    late = replace(one, name="late", next_due=now - timedelta(hours=3))
    later = replace(one, name="later", next_due=now + timedelta(seconds=1))
    paused = replace(late, name="paused", paused=True)
    assert [each.name for each in due([later, paused, replace(one, name="b"), one, late], now)] == ["late", "a", "b"]


@pytest.mark.parametrize(
    ("text", "value", "exceeded"),
    [
        ("drift>0.1", 0.1, False),
        ("drift>0.1", 0.11, True),
        ("drift >= .1", 0.1, True),
        (" ndcg < 0.9 ", 0.89, True),
        ("ndcg<=0.9", 0.91, False),
        ("class_drift>0", None, None),
    ],
)
def test_a_gate_compares_one_figure(text: str, value: float | None, exceeded: bool | None) -> None:
    gate = Gate.parse(text)
    others = dict.fromkeys(("drift", "class_drift", "ndcg"), 0.5)
    assert gate.exceeded(others | {gate.figure: value}) is exceeded


@pytest.mark.parametrize(
    "text", ["", "drift", "drift=0.1", "shift>0.1", "drift>0.1 or 1", "drift>-1", "drift>7", "drift>x"]
)
def test_what_is_no_gate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SpecError, match=r"drift>0\.1"):
        Gate.parse(text)


def test_a_misspelled_figure_of_a_gate_is_told_its_name() -> None:
    with pytest.raises(SpecError, match=r"no figure 'class_drft'; did you mean 'class_drift'\?"):
        Gate.parse("class_drft>0.1")


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "a" * 65, "a\n"])
def test_names_can_be_typed(name: str) -> None:
    with pytest.raises(SpecError, match="schedule name"):
        check_name(name)
    check_name("nightly-2.0_x")
