"""What whoever reaches the port cannot make the process hold: large bodies, and metrics of paths that do not exist."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import bentoml

from bento.asgi import App, Receive, Scope, Send
from bento.bentoml_names import COUNTING_MIDDLEWARE, instruments
from bento.logs import short
from bento.problems import problem
from core import logger
from core.objects import TwiceError, read_json

LOG = logger("bento")
_JSON_TYPE = re.compile(r"application/(json|[\w.!#$&^-]+\+json)")
# 100,000 candidates with ids of a hundred letters are 10 MB; BentoML itself reads a body of any length into memory.
MAX_BODY = 16 * 2**20


async def refuse(
    scope: Scope, receive: Receive, send: Send, status: int, reason: str, headers: Mapping[str, str] | None = None
) -> None:
    """Answer a request without handing it on."""
    await problem(status, reason, headers)(scope, receive, send)


class BoundedBody:
    """ASGI middleware: a request whose body is longer than the limit is answered 413, and not read further.

    Args:
        app: what answers the others.
        limit: in bytes.
    """

    def __init__(self, app: App, limit: int = MAX_BODY) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, once it is known to be short enough."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length")
        if length is not None and length.isdigit():
            # The server hands on no more than was announced.
            held: Receive | None = receive if int(length) <= self.limit else None
        else:
            held = await self._read(receive)
        if held is not None:
            await self.app(scope, held, send)
            return
        await refuse(scope, receive, send, 413, f"the body is longer than {self.limit:,} bytes")

    async def _read(self, receive: Receive) -> Receive | None:
        """The body of unannounced length, to be received again; None if it is too long."""
        messages, size = [], 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self.limit:
                return None
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        messages.reverse()

        async def again() -> MutableMapping[str, Any]:
            return messages.pop() if messages else await receive()

        return again


class OnlyJson:
    """ASGI middleware: what is posted is JSON, and comes from no page of another site.

    A browser lets any page post a form or plain text to any address it reaches, without asking; a page of another site cannot post
    JSON without asking first, and nothing here says yes.

    Args:
        app: what answers the others.
        paths: that can be posted to; all else is answered 404 or 405 by the routes.
    """

    def __init__(self, app: App, paths: Iterable[str]) -> None:
        self.app, self.paths = app, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, if it may write."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self.paths:
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if not _JSON_TYPE.fullmatch(kind):
            said = f"content type {kind[:80]!r}" if kind else "a body without a content type"
            status, reason = 415, f"{said} is not taken; send Content-Type: application/json"
        elif _of_another_site(headers):
            status, reason = 403, "a page of another site may not call this service"
        else:
            await self.app(scope, receive, send)
            return
        LOG.info("%s %s refused (%d): %s", scope["method"], short(scope["path"], 80), status, reason)
        await refuse(scope, receive, send, status, reason)


def _of_another_site(headers: Mapping[str, str]) -> bool:
    if headers.get("sec-fetch-site", "") == "cross-site":
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()


class DistinctKeys:
    """ASGI middleware: interactions in whose JSON a key stands twice are answered 400; of two values one would vanish.

    Args:
        app: what answers the others, broken JSON too.
        paths: of the routes that take interactions.
    """

    def __init__(self, app: App, paths: Iterable[str] = ("/push",)) -> None:
        self.app, self.paths = app, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, once no key was found twice."""
        if scope["type"] != "http" or scope["path"] not in self.paths:
            await self.app(scope, receive, send)
            return
        messages: list[MutableMapping[str, Any]] = []
        while not messages or (messages[-1]["type"] == "http.request" and messages[-1].get("more_body")):
            messages.append(await receive())
        body = b"".join(message.get("body", b"") for message in messages)
        try:
            read_json(body)
        except TwiceError as error:
            await refuse(scope, receive, send, 400, str(error))
            return
        except ValueError:
            pass
        messages.reverse()

        async def again() -> MutableMapping[str, Any]:
            return messages.pop() if messages else await receive()

        await self.app(scope, again, send)


def bound_metrics(paths: Iterable[str]) -> None:
    """Let BentoML count requests of these paths only: it keeps series for each path that was ever asked for.

    It has no setting for that, and no public name. Call it before the service is built.
    """
    known = frozenset(paths)
    try:
        theirs = instruments()
        counted: Any = getattr(theirs, COUNTING_MIDDLEWARE)
    except (ImportError, AttributeError):
        LOG.warning("BentoML %s counts requests elsewhere: its metrics grow with each new path", bentoml.__version__)
        return

    class KnownPaths(counted):
        """BentoML's own, for paths that exist."""

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] in ("http", "websocket") and scope["path"] not in known:
                await self.app(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)

    setattr(theirs, COUNTING_MIDDLEWARE, KnownPaths)
