"""When a PACS may be asked, and how fast: off-hours and a rate. Pure, but for what it is given."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from typing_extensions import override

LOOK_S = 30.0
"""A wait looks at the clock this often: clocks are set, and machines sleep."""


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of a day, local time; ``start`` belongs to it, ``end`` does not.

    Attributes:
        start: Minutes after midnight.
        end: Minutes after midnight; less than ``start`` where the window spans midnight.
    """

    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> "Window":
        """``HH:MM-HH:MM``.

        Raises:
            ValueError: Anything else, or a window of no or all minutes.
        """
        try:
            start, end = (_minutes(part) for part in text.split("-"))
        except ValueError:
            raise ValueError('give hours as "20:00-06:00"') from None
        if start == end:
            raise ValueError("start and end are the same minute; leave hours out to mean always")
        return cls(start, end)

    @override
    def __str__(self) -> str:
        return "-".join(f"{m // 60:02}:{m % 60:02}" for m in (self.start, self.end))

    def is_open(self, at: datetime) -> bool:
        """Whether the PACS may be asked at this local time."""
        minute = at.hour * 60 + at.minute
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


class Pace:
    """Spends bytes no faster than a rate: the average since the first byte never exceeds it."""

    def __init__(
        self,
        bytes_per_s: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._rate, self._clock, self._sleep = bytes_per_s, clock, sleep
        self._due = 0.0

    def spend(self, size: int) -> None:
        """Wait until ``size`` bytes more are within the rate. Idle time is not saved up."""
        if self._rate is None:
            return
        now = self._clock()
        self._due = max(self._due, now) + size / self._rate
        self._sleep(self._due - now)


def _minutes(text: str) -> int:
    hour, minute = text.strip().split(":")
    at = int(hour) * 60 + int(minute)
    if not (hour.isdigit() and len(minute) == 2 and int(minute) < 60 and 0 <= at < 24 * 60):
        raise ValueError(text)
    return at
