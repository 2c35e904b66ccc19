"""Which schedules are due, and when each comes due next. Time comes in as an argument.

Times of day are those of the schedule's time zone, as in Debian's cron. A job at a fixed time that the clock skips in
spring runs right after the jump. A job at a time that the clock shows twice in autumn runs the first time only. Jobs
of every hour or every few minutes follow the time that passes. cronsim computes the times; croniter 7.0 would run
`30 2 * * *` twice on the night of 25 October 2026 in Berlin.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from db.records import Schedule
from pipeline.errors import SpecError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_EXAMPLE = "write for example '0 2 * * *' (daily at 2)"


def check_name(name: str) -> None:
    """Refuse a name that is awkward to type.

    Raises:
        SpecError: it is longer than 64 characters, or has characters other than letters, digits, '.', '_' and '-'.
    """
    if NAME.fullmatch(name) is None:
        raise SpecError(
            f"schedule name {name!r}: begin with a letter or digit, then use these, '.', '_' or '-', 64 at most"
        )


def next_due(cron: str, timezone: str, after: datetime) -> datetime:
    """The first time after `after` (any zone) that a schedule comes due, in UTC.

    Args:
        cron: five fields as crontab(5) has them: minute, hour, day of month, month, day of week.
        timezone: time zone of the fields, for example Europe/Berlin.
        after: a time with a zone.

    Raises:
        SpecError: the fields or the zone do not parse, or no day fits.
    """
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        raise SpecError(f"time zone {timezone!r} is not known; write for example Europe/Berlin or UTC") from None
    if len(cron.split()) != 5:
        raise SpecError(f"cron {cron!r} has {len(cron.split())} fields, not five; {_EXAMPLE}")
    try:
        for found in CronSim(cron, after.astimezone(zone)):
            due = found.astimezone(UTC)
            if due > after:  # in the second pass of a doubled hour the first result is in the first pass
                return due
    except CronSimError as error:
        raise SpecError(f"cron {cron!r}: {error}; {_EXAMPLE}") from error
    raise SpecError(f"cron {cron!r} never comes due: no month has such a day")


def on_clock(moment: datetime, timezone: str) -> str:
    """A time as the clock of a zone shows it, with the zone's abbreviation: 2026-07-01 02:00 CEST."""
    return f"{moment.astimezone(ZoneInfo(timezone)):%Y-%m-%d %H:%M %Z}"


def due(schedules: Iterable[Schedule], now: datetime) -> list[Schedule]:
    """The schedules that are due, the longest overdue first; equals by name."""
    found = [each for each in schedules if not each.paused and each.next_due <= now]
    return sorted(found, key=lambda each: (each.next_due, each.name))
