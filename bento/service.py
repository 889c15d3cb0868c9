"""The BentoML service: one per process, ranking on the live bundle and the online store.

Run with `llm4msr serve`, or `bentoml serve bento.service:Ranker` with LLM4MSR_SETTINGS naming the settings file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from core import configure, load_settings, logger

# One process has one core's work: threads inside a product of this size only wait for each other. PyTorch reads it when it is
# loaded, in the process that answers: BentoML's parent process needs neither it nor Feast.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A serving process imports this module first: set up before the libraries below have anything to warn of.
if not logging.getLogger("llm4msr").handlers:
    configure(os.environ.get("LLM4MSR_LOG_FORMAT", "human"))

import bentoml
from bentoml import get_current_service
from bentoml.exceptions import BentoMLException, InvalidArgument, NotFound
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import feature_repo
from bento import deadline
from bento.admission import Admission, Tokens
from bento.announce import announce
from bento.asked import Wanted, check_scenario, id_type, one_id, read_request
from bento.configured import configured
from bento.console_routes import console_routes
from bento.deadline import TooLateError
from bento.explanation import explain
from bento.exposition import Exposition
from bento.intake import Intake
from bento.limits import BoundedBody, DistinctKeys, OnlyJson, bound_metrics
from bento.live import Live, LiveModel
from bento.logs import json_everywhere, quiet_callers
from bento.metrics import BUCKETS, REFUSED, store_read
from bento.observed import Observed, answered
from bento.page import HEADERS, openapi, page
from bento.ports import AdminPort, Ports
from bento.problems import RETRY, Problems, problem
from bento.ranking import Ranking
from bento.schemas import (
    BatchAnswer,
    Candidates,
    Context,
    Count,
    Excluded,
    ExcludeSeen,
    ExplainAnswer,
    Id,
    Only,
    PushAnswer,
    RankAnswer,
    RankRequest,
    ScenarioInfo,
)
from bento.scorer import Filters, pick_candidates, rank
from core.errors import CorruptArtifactError, Llm4msrError, StorageError, UserError
from core.ids import read_id

if TYPE_CHECKING:
    from feature_repo import UserState

LOG = logger("bento")
# BentoML's own routes are POST only; what is read without a body lives in this app beside them.
GET = FastAPI(title="llm4msr", docs_url=None, redoc_url=None, openapi_url=None)
GET.include_router(console_routes(get_current_service))
# Seconds for which one thread keeps the others of this process waiting at the most, while it runs Python.
SWITCH_SECONDS = 0.001
UNAVAILABLE = "online_store:unavailable"
# Seconds between two lines of the log that say the same of a store.
QUIET_SECONDS = 10.0
# Rankings in one request.
MAX_BATCH = 100


@bentoml.service(
    name="llm4msr",
    traffic={"timeout": 10},
    metrics={"enabled": True, "duration": {"buckets": list(BUCKETS)}},
    logging={"access": {"enabled": False}},
    **configured(),
)
@bentoml.asgi_app(GET, path="/")
class Ranker:
    """Ranks candidates for a user in a scenario and explains single scores."""

    def __init__(self) -> None:
        self.settings = load_settings(os.environ.get("LLM4MSR_SETTINGS", "llm4msr.yaml"))
        self.live = Live(self.settings, _exercise)
        self.intake = Intake(self.settings)
        self.admin = AdminPort(self.settings.serving)
        self.ranking = Ranking()
        self._quiet_until = 0.0
        self._unsaid = 0
        self._ended = threading.Event()

    @bentoml.on_startup
    async def open_admin_port(self) -> None:
        """Listen for operators, too."""
        await self.admin.open()

    @bentoml.on_shutdown
    async def close_admin_port(self) -> None:
        """Listen for operators no more."""
        await self.admin.close()

    @bentoml.on_startup
    def warm_up(self) -> None:
        """Load what is published, score once, and look for news from then on."""
        quiet_callers()
        if os.environ.get("LLM4MSR_LOG_FORMAT") == "json":
            json_everywhere()
        sys.setswitchinterval(SWITCH_SECONDS)
        self.live.start()
        self.intake.start()
        announce(self._ended)

    @bentoml.on_shutdown
    def shut_down(self) -> None:
        """Stop polling, and finish the push that is under way."""
        self._ended.set()
        self.live.stop()
        self.ranking.stop()
        self.intake.stop()

    async def __is_ready__(self) -> bool:
        return self.live.current is not None and self.live.current.populated

    @bentoml.api
    async def rank(
        self,
        user_id: Id,
        scenario: str,
        candidates: Candidates = None,
        k: Count = None,
        context: Context = None,
        exclude: Excluded = None,
        exclude_seen: ExcludeSeen = False,
        only: Only = None,
    ) -> RankAnswer:
        """Rank candidates (default: all items of the scenario) for a user; the best `k` come back."""
        # BentoML has validated each field.
        request = RankRequest.model_construct(
            user_id=user_id,
            scenario=scenario,
            candidates=candidates,
            k=k,
            context=context,
            exclude=exclude,
            exclude_seen=exclude_seen,
            only=only,
        )
        return await _in_time(self._rank_all([request]))

    @bentoml.api(route="/rank/batch")
    async def rank_batch(self, requests: Annotated[list[RankRequest], Field(max_length=MAX_BATCH)]) -> BatchAnswer:
        """Rank for several users, or in several scenarios, as `/rank` does; what is read of users is read at once."""
        return await _in_time(self._rank_all(requests, batch=True))

    async def _rank_all(self, requests: Sequence[RankRequest], *, batch: bool = False) -> Any:
        if (live := self.live.current) is None:
            return self._nothing_yet()
        nulls = self.settings.data.nulls
        wanted = [
            read_request(request, live, nulls, f"requests[{place}]: " if batch else "")
            for place, request in enumerate(requests)
        ]
        with _internal_errors():
            users = await self._read_users(live, list(dict.fromkeys(one.user_id for one in wanted)))
            answers = []
            for place, one in enumerate(wanted):
                if place:
                    await asyncio.sleep(0)  # others have their turn
                answers.append(await self._answer(live, one, *users[one.user_id]))
            # Plain values, encoded here: to validate an answer of our own costs more than to score it.
            return _json(
                {"answers": answers, "versions": live.versions} if batch else answers[0] | {"versions": live.versions}
            )

    async def _answer(self, live: LiveModel, wanted: Wanted, user: UserState, lacks: list[str]) -> dict[str, Any]:
        """One ranking, as an answer holds it."""
        deadline.left()
        request, filters = wanted.request, wanted.filters
        if request.exclude_seen:
            filters = Filters([*filters.exclude, *user.history], filters.only)
        most = self.settings.serving.max_candidates
        chosen = pick_candidates(live, request.scenario, wanted.candidates, most, filters)
        degraded = lacks + _scenario_status(live, request.scenario)
        if chosen.withdrawn:
            degraded.append("candidates:withdrawn")
        if chosen.truncated:
            degraded.append("candidates:truncated")
        if request.context:
            degraded.append("context:not_read")
        answered(live, request.scenario, degraded, len(chosen.rows))
        k = request.k or self.settings.serving.k
        rows, scores = await self.ranking.rank(live, user, request.scenario, chosen.rows, k)
        ids, titles = live.catalogue.columns["item_id"], live.catalogue.titles
        ranked = zip(ids[rows].tolist(), rows.tolist(), scores.tolist(), strict=True)
        return {
            "user_id": request.user_id,
            "scenario": request.scenario,
            "items": [{"item_id": item, "title": titles[row], "score": score} for item, row, score in ranked],
            "candidates": len(chosen.rows),
            "unknown_candidates": chosen.unknown,
            "degraded": degraded,
        }

    @bentoml.api
    async def explain(self, user_id: Id, scenario: str, item_id: Id) -> ExplainAnswer:
        """Why an item has its score for a user in a scenario. Off where `serving.explain` is false."""
        return await _in_time(self._explaining(user_id, scenario, item_id))

    async def _explaining(self, user_id: Id, scenario: str, item_id: Id) -> Any:
        if not self.settings.serving.explain:
            raise NotFound("this service explains nothing; see serving.explain")
        if (live := self.live.current) is None:
            return self._nothing_yet()
        check_scenario(live, scenario)
        known_id, item = self.read_user_id(user_id, live), self._id("item_id", item_id, live)
        if item not in live.catalogue.rows:
            gone = "is withdrawn: the newest catalogue no longer has it"
            why = gone if item in live.catalogue.withdrawn else "is not in the catalogue"
            raise InvalidArgument(f"item_id {item_id!r} {why}")
        with _internal_errors():
            user, degraded, texts = await self.read_person(live, known_id, scenario)
            # It scores whole scenarios: not in the loop, where rankings are.
            row = live.catalogue.rows[item]
            answer = await asyncio.to_thread(explain, live, user, scenario, row, texts, degraded, user_id)
            answered(live, scenario, degraded)
            return _json(answer)

    @bentoml.api
    async def push(self, interactions: list[Any]) -> PushAnswer:
        """Take fresh interactions: their users' state is new online when this answers. Off unless `push.http` is set."""
        if not self.intake.open:
            raise NotFound("this service takes no interactions; set push.http, or use `llm4msr push`")
        limit = self.settings.push.max_request_rows
        if len(interactions) > limit:
            raise InvalidArgument(f"{len(interactions):,} interactions; at most {limit:,} in one request")
        with _internal_errors():
            try:
                done = await self.intake.take(interactions)
            except (UserError, CorruptArtifactError) as error:
                self._warn(error)
                return _unavailable("the stores do not take interactions now; push them again")
            rejected = [asdict(fault) for fault in done.faults]
            return _json(
                {
                    "pushed": done.rows,
                    "users": done.users,
                    "rejected": rejected,
                    "unknown_items": done.unknown_items,
                    "forgotten": done.forgotten,
                }
            )

    @GET.get("/", include_in_schema=False)
    async def index(self) -> Response:
        """The page of this service; BentoML's own would load from elsewhere."""
        return HTMLResponse(page(self.settings, self.live.current, self.live.refused), headers=HEADERS)

    @GET.get("/docs.json", include_in_schema=False)
    async def openapi_document(self) -> Response:
        """What the routes take and answer."""
        return JSONResponse(openapi(_service().openapi_spec.asdict(), self.settings, self.live.current))

    @GET.get("/scenarios")
    async def scenarios(self) -> list[ScenarioInfo]:
        """The scenarios this service ranks for."""
        live = self.live.current
        if live is None:
            raise HTTPException(503, self.live.waits_for, RETRY)
        return [
            ScenarioInfo(
                **s,
                items=len(live.catalogue.members[s["scenario"]]),
                has_knowledge=s["scenario"] in live.scenario_vectors,
            )
            for s in live.scenarios
        ]

    def _nothing_yet(self) -> Any:
        return _unavailable(self.live.waits_for)

    def _id(self, name: Literal["user_id", "item_id"], value: Any, live: LiveModel) -> int | str:
        return one_id(name, value, id_type(name, live), self.settings.data.nulls)

    def read_user_id(self, value: Any, live: LiveModel) -> int | str:
        """A user's id as the log has it.

        Raises:
            InvalidArgument: it can be none.
        """
        return self._id("user_id", value, live)

    async def read_person(
        self, live: LiveModel, user_id: int | str, scenario: str
    ) -> tuple[UserState, list[str], tuple[Any, Any]]:
        """A user's state, what was missing, and the texts about user and scenario with their sources."""
        user, degraded = await self._read_user(live, user_id)
        texts = (
            await self._read_text(live, "user", user.user_id, degraded),
            await self._read_text(live, "scenario", scenario, degraded),
        )
        return user, degraded + _scenario_status(live, scenario), texts

    async def _read_text(self, live: LiveModel, kind: str, key: Any, degraded: list[str]) -> tuple[str, str] | None:
        if UNAVAILABLE in degraded:
            return None
        try:
            with store_read("text"):
                return await live.reader.read_text_async(kind, key, deadline.left())
        except Llm4msrError as error:
            self._warn(error)
            degraded.append(UNAVAILABLE)
            return None

    async def _read_user(self, live: LiveModel, user_id: int | str) -> tuple[UserState, list[str]]:
        """The user's online state and what was missing, stale or unreachable of it."""
        return (await self._read_users(live, [user_id]))[user_id]

    async def _read_users(
        self, live: LiveModel, user_ids: Sequence[int | str]
    ) -> dict[int | str, tuple[UserState, list[str]]]:
        """As `_read_user`, of several users in one read."""
        found: Sequence[UserState | StorageError]
        try:
            with store_read("user"):
                found = await live.reader.read_users_async(user_ids, deadline.left())
        except StorageError as error:
            found = [error] * len(user_ids)
        return {user_id: self._state_of(live, user_id, one) for user_id, one in zip(user_ids, found, strict=True)}

    def _state_of(
        self, live: LiveModel, user_id: int | str, found: UserState | StorageError
    ) -> tuple[UserState, list[str]]:
        if isinstance(found, StorageError):
            self._warn(found)
            return feature_repo.UserState.unknown(user_id), [*live.reduced, UNAVAILABLE]
        lacks = [f"{view}:{status}" for view, status in found.status.items() if status != "found"]
        return found, [*live.reduced, *lacks]

    def _warn(self, error: Exception) -> None:
        """Say what a store did, once a while: it fails for every request."""
        now = time.monotonic()
        self._unsaid += 1
        if now < self._quiet_until:
            return
        times = f" ({self._unsaid:,} times)" if self._unsaid > 1 else ""
        LOG.warning("%s%s", error, times)
        self._quiet_until, self._unsaid = now + QUIET_SECONDS, 0


async def _in_time(work: Awaitable[Any]) -> Any:
    """An answer, or 504 where the request's own deadline is over before it is made."""
    try:
        return await work
    except TooLateError as error:
        REFUSED.labels("late").inc()
        return problem(504, str(error))


def _unavailable(reason: str) -> Any:
    """503 with its reason, which BentoML would replace by a sentence that says nothing."""
    return problem(503, reason, RETRY)


def _service() -> Any:
    """The class above as BentoML's decorator made it."""
    return Ranker


_service().add_asgi_middleware(Ports)
_service().add_asgi_middleware(Observed, routes=[api.route for api in _service().apis.values()])
_service().add_asgi_middleware(Problems)
_service().add_asgi_middleware(Tokens)
_service().add_asgi_middleware(Exposition)
_service().add_asgi_middleware(Admission)
_service().add_asgi_middleware(OnlyJson, paths=[api.route for api in _service().apis.values()])
_service().add_asgi_middleware(BoundedBody)
_service().add_asgi_middleware(DistinctKeys)  # within the bound
_ROUTES = [
    *(api.route for api in _service().apis.values()),
    *(route.path for route in GET.routes if isinstance(route, Route)),
]
bound_metrics(["/livez", "/readyz", *_ROUTES])


def _scenario_status(live: LiveModel, scenario: str) -> list[str]:
    unknown = live.reads_scenarios and scenario not in live.scenario_vectors
    return ["scenario_knowledge:missing"] if unknown else []


@contextmanager
def _internal_errors() -> Iterator[None]:
    """BentoML answers 400 to any pydantic error; one raised in here is a server's fault, and so a 500."""
    try:
        yield
    except (BentoMLException, TooLateError):
        raise
    except Exception as error:
        LOG.exception("the request failed")
        raise BentoMLException(f"the request failed: {type(error).__name__}") from error


def _json(body: Any) -> Any:
    """An answer that BentoML passes on as it is."""
    text = (
        body.model_dump_json()
        if isinstance(body, BaseModel)
        else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    )
    return Response(text, media_type="application/json")


def _exercise(live: LiveModel) -> None:
    """Score once, so that the first request is as fast as the others and a pair that does not fit is refused."""
    user = feature_repo.UserState.unknown(read_id("0", id_type("user_id", live)))
    try:
        user = live.reader.read_user(user.user_id)
    except Llm4msrError as error:
        LOG.warning("online store: %s", error)
    for known in live.scenarios[:1]:
        scenario = known["scenario"]
        rank(live, user, scenario, live.catalogue.ascending[scenario][:100], 1)
