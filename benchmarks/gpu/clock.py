"""Time limits of measurements."""

import time


class OutOfTime(Exception):
    """No time is left for this measurement."""


class Clock:
    """A deadline.

    Args:
        seconds: time until the deadline.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds to the deadline, at least 0."""
        return max(self._end - time.monotonic(), 0.0)

    def part(self, share: float) -> "Clock":
        """A clock for one part of the work, with a share, 0..1, of the remaining time."""
        return Clock(self.left * share)

    def need(self, seconds: float = 0.0) -> None:
        """Check that more than `seconds` are left.

        Raises:
            OutOfTime: they are not.
        """
        if self.left <= seconds:
            raise OutOfTime
