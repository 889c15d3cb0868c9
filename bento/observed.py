"""Each request has an id, is timed and counted, and is a line of the log where that is asked for."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bento.admission import service_settings
from bento.asgi import App, Receive, Scope, Send
from bento.logs import short
from bento.metrics import ANSWER_SECONDS, CANDIDATES, DEGRADED, DEGRADED_ANSWERS, IN_FLIGHT
from core import Settings, logger
from core.log import REQUEST_ID, is_json

if TYPE_CHECKING:
    from bento.live import LiveModel

LOG = logger("access")
HEADER = b"x-request-id"
_ID = re.compile(rb"[\w.:/+=@-]{1,128}")
# Who asks them asks all the time, and is told in the metrics.
_UNSAID = frozenset({"/livez", "/readyz", "/metrics"})


@dataclass(slots=True)
class Asked:
    """What a request turned out to be: of several rankings in one request, all that they lacked, and the last one's scenario."""

    scenario: str = ""
    version: str = ""
    candidates: int = 0
    degraded: list[str] = field(default_factory=list)


class Tally:
    """What this process answered since it began, for people; `/metrics` has it for programs."""

    def __init__(self) -> None:
        self.answers = self.degraded = 0
        self.lacked: dict[str, int] = {}

    def add(self, degraded: Sequence[str]) -> None:
        """Count an answer."""
        self.answers += 1
        self.degraded += bool(degraded)
        for what in degraded:
            self.lacked[what] = self.lacked.get(what, 0) + 1

    def told(self) -> dict[str, Any]:
        """Counts, JSON-able."""
        return {"answers": self.answers, "degraded": self.degraded, "lacked": dict(self.lacked)}


TALLY = Tally()
_ASKED: ContextVar[Asked | None] = ContextVar("llm4msr_asked", default=None)


def answered(live: LiveModel, scenario: str, degraded: Sequence[str], candidates: int | None = None) -> None:
    """Count a ranking or an explanation that is about to be answered.

    Args:
        live: the model that answers.
        scenario: one that the model and the catalogue know.
        degraded: what the answer lacks.
        candidates: how many items were scored; None: it is no ranking.
    """
    version = str(live.versions.get("version", ""))
    TALLY.add(degraded)
    for what in degraded:
        DEGRADED.labels(what, scenario, version).inc()
    if degraded:
        DEGRADED_ANSWERS.labels(scenario, version).inc()
    if candidates is not None:
        CANDIDATES.labels(scenario, version).observe(candidates)
    asked = _ASKED.get()
    if asked is not None:
        asked.scenario, asked.version = scenario, version
        asked.candidates += candidates or 0
        asked.degraded += [what for what in degraded if what not in asked.degraded]


class Observed:
    """ASGI middleware, the outermost: sees each request come and its answer go.

    Args:
        app: what answers.
        routes: those that are counted and timed.
        settings: those of the service.
    """

    def __init__(self, app: App, routes: Iterable[str], settings: Callable[[], Settings] = service_settings) -> None:
        self.app, self._settings = app, settings
        self._in_flight = {route: IN_FLIGHT.labels(route) for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name, asked, status = _id_of(scope), Asked(), 0
        REQUEST_ID.set(name)
        _ASKED.set(asked)

        async def seen(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (HEADER, name.encode())]
            await send(message)

        at_hand = self._in_flight.get(scope["path"])
        begin = time.perf_counter()
        if at_hand is not None:
            at_hand.inc()
        try:
            await self.app(scope, receive, seen)
        finally:
            seconds = time.perf_counter() - begin
            if at_hand is not None:
                at_hand.dec()
                if status == 200:
                    ANSWER_SECONDS.labels(scope["path"], asked.scenario, asked.version).observe(seconds)
            if self._settings().serving.access_log and scope["path"] not in _UNSAID:
                _say(scope, status, seconds, asked)


def _id_of(scope: Scope) -> str:
    """The id that the caller gave the request, if it is one, or a new one."""
    given = next((value for name, value in scope["headers"] if name == HEADER), b"")
    return given.decode() if _ID.fullmatch(given) else secrets.token_hex(8)


def _say(scope: Scope, status: int, seconds: float, asked: Asked) -> None:
    method, route, ms = scope["method"], short(scope["path"], 80), round(seconds * 1000, 2)
    if not is_json():
        about = [asked.scenario, f"version {asked.version}", *asked.degraded] if asked.scenario else []
        LOG.info("%s %s %d, %.1f ms, %s", method, route, status, ms, ", ".join([*about, REQUEST_ID.get()]))
        return
    fields: dict[str, Any] = {"method": method, "route": route, "status": status, "ms": ms}
    if asked.scenario:
        fields |= {"scenario": asked.scenario, "version": asked.version, "degraded": asked.degraded}
        fields |= {"candidates": asked.candidates} if asked.candidates else {}
    LOG.info("%s %s %d", method, route, status, extra=fields)
