"""A port for operators beside the one for callers: `/metrics`, the documents and the probes, which callers then do not reach.

It is served by the same event loop: a process that hangs is not alive there either.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from bento.admission import OPEN, service_settings
from bento.asgi import App, Receive, Scope, Send
from bento.exposition import PATH as METRICS
from bento.front import BoundedConnection
from bento.limits import refuse
from core import Settings, logger
from core.errors import StorageError
from core.settings import ServingSettings

LOG = logger("bento")
DOCUMENTS = frozenset({"/docs.json", "/schema.json"})
PAGES = frozenset({"/", "/console"})
# Only at the admin port where there is one; the probes are at both.
OPERATORS = frozenset({METRICS, f"{METRICS}/", "/healthz", *DOCUMENTS})
_CAME_BY_ADMIN = "llm4msr.admin"


class Ports:
    """ASGI middleware: answers 404 to what is not for the port that a request came by, or is switched off.

    Args:
        app: what answers the others.
        settings: those of the service.
    """

    def __init__(self, app: App, settings: Callable[[], Settings] = service_settings) -> None:
        self.app, self._settings = app, settings
        AdminPort.answers = self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, if it came by the right port."""
        if scope["type"] == "http" and (reason := self._is_not_here(scope)):
            await refuse(scope, receive, send, 404, reason)
            return
        await self.app(scope, receive, send)

    def _is_not_here(self, scope: Scope) -> str:
        path, serving = scope["path"], self._settings().serving
        if not serving.docs and (path in DOCUMENTS or path in PAGES or path.startswith("/console/")):
            return "this service shows no pages and documents; see serving.docs"
        if scope.get(_CAME_BY_ADMIN):
            return "" if path in OPERATORS or path in OPEN else "not at this port; see serving.admin_port"
        return "at the admin port only; see serving.admin_port" if serving.admin_port and path in OPERATORS else ""


class AdminPort:
    """Listens for operators.

    Args:
        serving: where; nothing happens where no admin port is set.

    Attributes:
        answers: the app of this process, once it is built.
    """

    answers: App | None = None

    def __init__(self, serving: ServingSettings) -> None:
        self._serving = serving
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to listen.

        Raises:
            StorageError: the port is taken.
        """
        serving = self._serving
        if not serving.admin_port:
            return
        config = uvicorn.Config(
            _by_admin,
            http=BoundedConnection,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            ssl_certfile=serving.ssl_certfile,
            ssl_keyfile=serving.ssl_keyfile,
        )
        listening = _listen(serving.admin_host or serving.host, serving.admin_port)
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]))

    async def close(self) -> None:
        """Answer what is under way, and listen no more."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task


class _Server(uvicorn.Server):
    """Leaves signals to the server of the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _by_admin(scope: Scope, receive: Receive, send: Send) -> None:
    assert AdminPort.answers is not None, "the app is built before the service starts"
    scope[_CAME_BY_ADMIN] = True
    await AdminPort.answers(scope, receive, send)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that the processes of one service share."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind, protocol)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        found.bind(address)
    except OSError as error:
        found.close()
        raise StorageError(
            f"port {port} of {host} cannot be used ({error.strerror}); see serving.admin_port"
        ) from error
    return found
