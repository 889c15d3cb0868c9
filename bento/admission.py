"""Who is let in: callers with the right token, and no more of them at once than can be answered soon.

Everything here is decided before a body is read: a refusal costs next to nothing, so that a crowd does not hold up those within.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import SecretStr

from bento import deadline
from bento.asgi import App, Receive, Scope, Send
from bento.deadline import TooLateError
from bento.limits import refuse
from bento.metrics import REFUSED
from core import Settings, load_settings

Group = Literal["read", "write", "admin"]
Room = tuple[str, int, str]
"""A name, how many are let in, and the setting that says so."""
# They say nothing but that the process lives, and who asks them has no token.
OPEN = frozenset({"/livez", "/readyz"})
# An empty page with a field for the token: a browser sends none when it opens one.
SHELL = "/console"
_WRITE, _ADMIN = frozenset({"/push"}), frozenset({"/metrics"})
# Routes that wait for processor time, each with its own room: rankings do not wait behind pushes, nor pushes behind them.
_RANKING = frozenset({"/rank", "/rank/batch", "/explain", "/console/ranking"})


@cache
def service_settings() -> Settings:
    """The settings of this process."""
    return load_settings(os.environ.get("LLM4MSR_SETTINGS", "llm4msr.yaml"))


def group_of(path: str) -> Group | None:
    """Whose token a path asks for; None: nobody's."""
    if path in OPEN or path == SHELL:
        return None
    if path in _WRITE:
        return "write"
    return "admin" if path.startswith(tuple(_ADMIN)) else "read"


class Tokens:
    """ASGI middleware: a request without the token of its route is answered 401; where no token is set, all come in.

    Args:
        app: what answers the others.
        settings: those of the service.
    """

    def __init__(self, app: App, settings: Callable[[], Settings] = service_settings) -> None:
        self.app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, if it may be answered."""
        group = group_of(scope["path"]) if scope["type"] in ("http", "websocket") else None
        wanted = self._settings().serving.tokens.of(group) if group is not None else None
        if group is None or wanted is None or _bears(scope, wanted):
            await self.app(scope, receive, send)
            return
        REFUSED.labels("token").inc()
        reason = f"this route needs a token: send Authorization: Bearer TOKEN (settings: serving.tokens.{group})"
        await refuse(scope, receive, send, 401, reason, {"WWW-Authenticate": "Bearer"})


class Admission:
    """ASGI middleware: a request that would have to wait behind too many others is answered 429, at once.

    Args:
        app: what answers the others.
        settings: those of the service.
    """

    # Of this process: what stands before BentoML asks it, too.
    latest: ClassVar[Admission | None] = None

    def __init__(self, app: App, settings: Callable[[], Settings] = service_settings) -> None:
        self.app, self._settings = app, settings
        self._within, self._turns = {"rank": 0, "push": 0}, _Turns()
        Admission.latest = self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, if there is room."""
        room = self._room_of(scope["path"]) if scope["type"] == "http" else None
        if room is None:
            await self.app(scope, receive, send)
            return
        if self.full(scope["path"]) is not None:
            await self.refuse(room, scope, receive, send)
            return
        name = room[0]
        try:
            deadline.begin(dict(scope["headers"]))
        except ValueError as error:
            await refuse(scope, receive, send, 400, str(error))
            return
        self._within[name] += 1
        try:
            await self._turns.come()
            deadline.left()
            await self._turns.metered(self.app(scope, receive, send))
        except TooLateError as error:
            REFUSED.labels("late").inc()
            await refuse(scope, receive, send, 504, str(error))
        finally:
            self._within[name] -= 1

    def full(self, path: str) -> Room | None:
        """The room of a path, if nobody more is let in."""
        room = self._room_of(path)
        return None if room is None or self._within[room[0]] < room[1] else room

    async def refuse(self, room: Room, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 429."""
        _, most, setting = room
        REFUSED.labels("busy").inc()
        reason = f"{most:,} such requests are being answered; try again in a second ({setting})"
        await refuse(scope, receive, send, 429, reason, {"Retry-After": "1"})

    def _room_of(self, path: str) -> Room | None:
        settings = self._settings()
        if path in _RANKING:
            return "rank", settings.serving.max_concurrency, "serving.max_concurrency"
        if path in _WRITE:
            return "push", settings.push.max_concurrency, "push.max_concurrency"
        return None


class _Turns:
    """Lets requests begin in their order, some in each turn of the event loop.

    A ranking hardly waits once it has begun: without this the loop would work through all that have come before it looks for
    more, and a crowd would wait uncounted in the sockets. Rankings get as much of the loop's time as all the rest: the refusals
    of a crowd that does not go away must not starve them either.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turning = False
        self._begun = self._taken = 0.0
        self._usual = 0.002

    async def come(self) -> None:
        """Wait for a turn."""
        loop = asyncio.get_running_loop()
        mine = loop.create_future()
        self._waiting.append(mine)
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn)
        await mine

    async def metered(self, request: Awaitable[None]) -> None:
        """Answer a request that has its turn, and remember what it took of the loop's time."""
        meter = _Metered(request)
        try:
            await meter
        finally:
            self._taken += meter.seconds
            self._usual += 0.1 * (min(max(meter.seconds, 0.0005), 0.05) - self._usual)

    def _turn(self) -> None:
        now = time.perf_counter()
        others = now - self._begun - self._taken
        self._begun, self._taken = now, 0.0
        for _ in range(min(max(1, int(others / self._usual)), len(self._waiting))):
            if not (first := self._waiting.popleft()).done():  # else its caller is gone
                first.set_result(None)
        self._turning = bool(self._waiting)
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)


class _Metered:
    """Awaits something and counts the seconds in which it ran, not those in which it waited.

    Args:
        work: a coroutine.
    """

    def __init__(self, work: Awaitable[None]) -> None:
        self._work, self.seconds = work, 0.0

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._work.__await__()
        step, given = steps.send, None
        while True:
            begin = time.perf_counter()
            try:
                waits_for = step(given)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - begin
            try:
                given, step = (yield waits_for), steps.send
            except BaseException as error:
                given, step = error, steps.throw


def _bears(scope: Scope, token: SecretStr) -> bool:
    """Whether a request has the token; takes as long for a nearly right one as for any other."""
    given = dict(scope["headers"]).get(b"authorization", b"")
    scheme, _, value = given.partition(b" ")
    right = hmac.compare_digest(value.strip(), token.get_secret_value().encode())
    return scheme.lower() == b"bearer" and right
