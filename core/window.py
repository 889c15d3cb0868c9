"""The half-open stretch of event time `[start, end)` that a stage works on."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from core.clock import as_utc, to_micros
from core.errors import SettingsError


@dataclass(frozen=True)
class Window:
    """Event time `[start, end)` in UTC (naive times are taken as UTC); None means unbounded on that side."""

    start: dt.datetime | None = None
    end: dt.datetime | None = None

    def __post_init__(self) -> None:
        for side in ("start", "end"):
            value = getattr(self, side)
            object.__setattr__(self, side, as_utc(value) if value is not None else None)
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise SettingsError(f"window: start {self.start.isoformat()} is not before end {self.end.isoformat()}")

    @classmethod
    def parse(cls, start: str | dt.datetime | None, end: str | dt.datetime | None) -> Window:
        """A window from ISO 8601 texts.

        Raises:
            SettingsError: a text is not a time, or start is not before end.
        """
        try:
            return cls(as_utc(start) if start else None, as_utc(end) if end else None)
        except ValueError as error:
            raise SettingsError(f"window: {error}; write times as 2024-01-31T00:00:00+00:00") from error

    @property
    def key(self) -> str:
        """A file-name-safe name, e.g. `20240101T000000Z_20240102T000000Z` or `all`."""
        if self.start is None and self.end is None:
            return "all"
        return f"{_stamp(self.start)}_{_stamp(self.end)}"

    def bounds_micros(self) -> tuple[int | None, int | None]:
        """Start and end in microseconds since 1970-01-01 UTC."""
        return (
            to_micros(self.start) if self.start is not None else None,
            to_micros(self.end) if self.end is not None else None,
        )

    def holds_any(self, first: int, last: int) -> bool:
        """Whether one of the times from `first` to `last` (microseconds) lies in it."""
        start, end = self.bounds_micros()
        return (start is None or last >= start) and (end is None or first < end)

    def as_json(self) -> dict[str, str | None]:
        """The form that manifests hold."""
        return {
            "start": self.start.isoformat() if self.start else None,
            "end": self.end.isoformat() if self.end else None,
        }


def _stamp(value: dt.datetime | None) -> str:
    return value.strftime("%Y%m%dT%H%M%S%fZ") if value is not None else "open"
