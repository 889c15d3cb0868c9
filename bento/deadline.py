"""A request's own deadline: how long its caller waits. What comes later is for nobody, and is not computed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar

# The second is what Envoy, and with it a service mesh, says of the time that is left.
HEADERS = (b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms")
_LONGEST_DIGITS = 9

_UNTIL: ContextVar[float | None] = ContextVar("llm4msr_deadline", default=None)


class TooLateError(Exception):
    """The caller waits no longer."""

    def __init__(self) -> None:
        super().__init__(f"the request's own deadline is over ({HEADERS[0].decode()})")


def begin(headers: Mapping[bytes, bytes]) -> None:
    """Start the clock of a request.

    Args:
        headers: of the request, by their names in lower case.

    Raises:
        ValueError: a header is there and holds no number of milliseconds.
    """
    given = next(((name, headers[name].strip()) for name in HEADERS if name in headers), None)
    if given is None:
        _UNTIL.set(None)
        return
    name, value = given
    if not value.isdigit() or len(value) > _LONGEST_DIGITS:
        raise ValueError(f"{name.decode()} is no whole number of milliseconds")
    _UNTIL.set(time.monotonic() + int(value) / 1000)


def until() -> float | None:
    """When the request at hand must be answered, on the monotonic clock; None: whenever it is."""
    return _UNTIL.get()


def left(until: float | None = None) -> float | None:
    """Seconds that are left for a request; None where it has no deadline.

    Args:
        until: of the request; None: that of the request at hand.

    Raises:
        TooLateError: there are none left.
    """
    if (until := _UNTIL.get() if until is None else until) is None:
        return None
    if (seconds := until - time.monotonic()) <= 0:
        raise TooLateError
    return seconds
