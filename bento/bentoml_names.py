"""Every private name of BentoML that this room uses; a test says which one an upgrade has moved."""

from __future__ import annotations

from typing import Any

# The logger that reports what a request raised, with a traceback whatever it was.
EXCEPTIONS_LOGGER = "bentoml._internal.server.http_app"
COUNTING_MIDDLEWARE = "RunnerTrafficMetricsMiddleware"


def instruments() -> Any:
    """The module with the middleware that counts requests.

    Raises:
        ImportError, AttributeError: it is elsewhere in this version of BentoML.
    """
    from bentoml._internal.server.http import instruments

    getattr(instruments, COUNTING_MIDDLEWARE)
    return instruments
