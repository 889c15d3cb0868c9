"""What stands before all else in a process that serves: bounds on a request's head, and the first look at a crowd.

Beneath it BentoML traces and counts each request, which costs more than to refuse it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bento.admission import Admission
from bento.asgi import App, Receive, Scope, Send

# Of a request's line and headers; the server itself bounds neither.
MAX_HEAD = 64 * 2**10
HEAD_SECONDS = 10.0


class Front:
    """ASGI application: refuses what `Admission` would refuse for want of room, and hands all else on.

    Args:
        app: BentoML's.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, if there is room."""
        admission = Admission.latest
        room = admission.full(scope["path"]) if admission is not None and scope["type"] == "http" else None
        if room is None or admission is None:
            await self.app(scope, receive, send)
        else:
            await admission.refuse(room, scope, receive, send)


class BoundedConnection(HttpToolsProtocol):
    """A connection whose heads are not longer than MAX_HEAD and are here within HEAD_SECONDS; else it is closed."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._head, self._within_head = 0, True
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, as long as the head is not too long."""
        super().data_received(data)
        if not self._within_head or self.transport.is_closing():
            return
        self._head += len(data)
        if self._head > MAX_HEAD:
            self.send_400_response("The headers are too long.")
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head, self._within_head = 0, True

    def on_headers_complete(self) -> None:
        """A head is here; one too long that came at once is refused, as the parser refuses what is no HTTP."""
        self._within_head = False
        self._stop_waiting()
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > MAX_HEAD:
            raise ValueError("the headers are too long")
        super().on_headers_complete()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
