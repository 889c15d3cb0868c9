"""Every private name of BentoML that this room uses; a test says which one an upgrade has moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# The logger that reports what a request raised, with a traceback whatever it was.
EXCEPTIONS_LOGGER = "bentoml._internal.server.http_app"
COUNTING_MIDDLEWARE = "RunnerTrafficMetricsMiddleware"
# Names the module that its processes are started with.
WORKER_MODULE = "_SERVICE_WORKER_SCRIPT"


def instruments() -> Any:
    """The module with the middleware that counts requests.

    Raises:
        ImportError, AttributeError: it is elsewhere in this version of BentoML.
    """
    from bentoml._internal.server.http import instruments

    getattr(instruments, COUNTING_MIDDLEWARE)
    return instruments


def log_settings() -> list[dict[str, Any]]:
    """What BentoML sets up its log with: of its command line, and of the processes that serve.

    Raises:
        ImportError, AttributeError: it is elsewhere in this version of BentoML.
    """
    from bentoml._internal import log

    return [log.CLI_LOGGING_CONFIG, log.SERVER_LOGGING_CONFIG]


def start_workers_by(module: str) -> None:
    """Let the processes that serve begin in a module of ours, which goes on to `worker`.

    Raises:
        ImportError, AttributeError: it is elsewhere in this version of BentoML.
    """
    from _bentoml_impl.server import serving

    getattr(serving, WORKER_MODULE)
    setattr(serving, WORKER_MODULE, module)


def worker() -> Any:
    """The command of a process that serves."""
    from _bentoml_impl.worker.service import main

    return main


def stand_before(front: Callable[[Any], Any], connection: str) -> None:
    """Let what a service is asked come to `front` first, over connections of a class of ours.

    Args:
        front: takes BentoML's ASGI application and gives the one that is served.
        connection: of the HTTP server, `module:class`.

    Raises:
        ImportError, AttributeError: it is elsewhere in this version of BentoML or uvicorn.
    """
    import uvicorn.config
    from _bentoml_sdk.service.factory import Service

    made: Any = Service.to_asgi

    def to_asgi(self: Any, is_main: bool = True) -> Any:
        return front(made(self, is_main))

    Service.to_asgi = to_asgi
    uvicorn.config.HTTP_PROTOCOLS["auto"] = connection
