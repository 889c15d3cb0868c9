"""The only source of now. TTLs, freshness, future checks, decay and windows read a `Clock`, never the system time.

`wall()` is the machine's time. `replay(t)` stands still at `t`, so that a historical log can be served and tested as
if its end were now.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

UTC = dt.UTC


def as_utc(value: dt.datetime | str) -> dt.datetime:
    """A timezone-aware UTC time from a datetime or an ISO 8601 string; a naive one is taken as UTC."""
    if isinstance(value, str):
        value = dt.datetime.fromisoformat(value)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# The event time of catalogue rows whose source does not date them: before any log, and not 1970 (which an online
# store may use for "missing").
UNDATED = as_utc("1990-01-01")


def to_micros(value: dt.datetime) -> int:
    """Microseconds since 1970-01-01 UTC, exact (no floating point)."""
    delta = as_utc(value) - dt.datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_micros(value: int) -> dt.datetime:
    """The UTC time `value` microseconds after 1970-01-01."""
    return dt.datetime(1970, 1, 1, tzinfo=UTC) + dt.timedelta(microseconds=int(value))


@dataclass(frozen=True)
class Clock:
    """A source of now. `fixed` is None for the machine's own time."""

    fixed: dt.datetime | None = None

    def now(self) -> dt.datetime:
        """The current time, timezone-aware, in UTC."""
        return self.fixed if self.fixed is not None else dt.datetime.now(UTC)

    def now_micros(self) -> int:
        """The current time in microseconds since 1970-01-01 UTC."""
        return to_micros(self.now())


def wall() -> Clock:
    """A clock that shows the machine's time."""
    return Clock()


def replay(at: dt.datetime | str) -> Clock:
    """A clock that stands still at `at`."""
    return Clock(as_utc(at))
