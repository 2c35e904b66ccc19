"""Format names, figures and durations for people, alike in the terminal, in reports and on the page."""

from math import isfinite
from typing import TypeGuard

NONE = "–"


def visible(text: object) -> str:
    """Escape control characters and characters that change the writing direction; names are untrusted input."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def percent(value: float | None, places: int | None = None) -> str:
    """A share in percent, with two digits or `places` decimals; a dash for None and non-finite values."""
    if not known(value):
        return NONE
    hundred = 100 * value
    if places is not None:
        return f"{hundred:.{places}f} %"
    if 0 < abs(hundred) < 1e-3:
        return "under 0.001 %"
    return f"{hundred:#.2g} %" if 0 < abs(hundred) < 9.95 else f"{hundred:.0f} %"


def asked_percent(value: float) -> str:
    """A share that the user chose, as typed: 5 %, 0.5 %."""
    return f"{100 * value:g} %"


def unbroken(text: str) -> str:
    """Replace the space before % by a no-break space."""
    return text.replace(" %", "\u00a0%")


def number(value: float | None, digits: int = 2) -> str:
    """A figure with `digits` decimals; a dash for None and non-finite values."""
    return f"{value:.{digits}f}" if known(value) else NONE


def duration(seconds: float | None) -> str:
    """Seconds as seconds, minutes or hours."""
    if not known(seconds):
        return NONE
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def known(value: float | None) -> TypeGuard[float]:
    """Whether the value is a finite number."""
    return value is not None and isfinite(value)
