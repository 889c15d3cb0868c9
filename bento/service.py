"""The BentoML service: one per process, ranking on the live bundle and the online store.

Run with `llm4msr serve`, or `bentoml serve bento.service:Ranker` with LLM4MSR_SETTINGS naming the settings file.
"""

from __future__ import annotations

import gc
import os
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.exceptions import BentoMLException, InvalidArgument, ServiceUnavailable
from fastapi import FastAPI
from pydantic import Field

from bento.live import Generation, Live
from bento.schemas import ExplainAnswer, NearItem, RankAnswer, RankedItem, ScenarioInfo, Versions
from bento.scorer import nearest_history, pick_candidates, rank, score_parts
from core import configure, load_settings, logger
from core.errors import Llm4msrError
from feature_repo import UserState

LOG = logger("bento")
Id = int | str
# BentoML's own routes are POST only; what is read without a body lives in this app beside them.
GET = FastAPI(title="llm4msr", docs_url=None, redoc_url=None, openapi_url=None)
# BentoML's default buckets begin at 5 ms: too coarse for a ranker that answers in 2.
BUCKETS = [0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0]


@bentoml.service(
    name="llm4msr",
    traffic={"timeout": 10},
    metrics={"enabled": True, "duration": {"buckets": BUCKETS}},
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(GET, path="/")
class Ranker:
    """Ranks candidates for a user in a scenario and explains single scores."""

    def __init__(self) -> None:
        configure(os.environ.get("LLM4MSR_LOG_FORMAT", "human"))
        self.settings = load_settings(os.environ.get("LLM4MSR_SETTINGS", "llm4msr.yaml"))
        self.live = Live(self.settings)

    @bentoml.on_startup
    def warm_up(self) -> None:
        """Load, score once, and keep what was loaded out of the garbage collector's full passes."""
        self.live.start()
        if self.live.current is not None:
            _exercise(self.live.current)
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown
    def shut_down(self) -> None:
        """Stop polling."""
        self.live.stop()

    async def __is_ready__(self) -> bool:
        return self.live.current is not None and self.live.current.populated

    @bentoml.api
    async def rank(
        self,
        user_id: Id,
        scenario: str,
        candidates: list[Id] | None = None,
        k: Annotated[int | None, Field(ge=1, le=10_000)] = None,
        context: dict[str, Any] | None = None,
    ) -> RankAnswer:
        """Rank candidates (default: all items of the scenario) for a user; the best `k` come back."""
        live = self._live(scenario)
        user, degraded = await _read_user(live, _as_id(user_id, live, "user_id"))
        wanted = None if candidates is None else [_as_id(item, live, "item_id") for item in candidates]
        chosen = pick_candidates(live, scenario, wanted, self.settings.serving.max_candidates)
        if scenario not in live.scenario_vectors and "scenario" in live.bundle.info["vectors"]:
            degraded.append("scenario_knowledge:missing")
        rows, scores = _ours(lambda: rank(live, user, scenario, chosen.rows, k or self.settings.serving.k))
        ids, titles = live.catalogue.columns["item_id"], live.catalogue.titles
        return RankAnswer(
            user_id=user_id,
            scenario=scenario,
            items=[
                RankedItem(item_id=_plain(ids[row]), title=titles[row], score=float(score))
                for row, score in zip(rows, scores, strict=True)
            ],
            candidates=len(chosen.rows),
            unknown_candidates=chosen.unknown,
            degraded=degraded,
            versions=Versions(**live.versions),
        )

    @bentoml.api
    async def explain(self, user_id: Id, scenario: str, item_id: Id) -> ExplainAnswer:
        """Why an item has its score for a user in a scenario."""
        live = self._live(scenario)
        item = _as_id(item_id, live, "item_id")
        if item not in live.catalogue.rows:
            raise InvalidArgument(f"item_id {item_id!r} is not in the catalogue")
        row = live.catalogue.rows[item]
        user, degraded = await _read_user(live, _as_id(user_id, live, "user_id"))
        known, neutral = _ours(lambda: score_parts(live, user, scenario, row))
        user_text = _text(live, "user", user.user_id, degraded)
        scenario_text = _text(live, "scenario", scenario, degraded)
        return ExplainAnswer(
            user_id=user_id,
            scenario=scenario,
            item_id=item_id,
            title=live.catalogue.titles[row],
            score=float(known.probability[0]),
            backbone_logit=float(known.backbone_logit[0]),
            scenario_logit=float(known.scenario_logit[0]),
            neutral_score=float(neutral.probability[0]),
            user_text=user_text and user_text[0],
            user_text_source=user_text and user_text[1],
            scenario_text=scenario_text and scenario_text[0],
            nearest_history=[
                NearItem(
                    item_id=_plain(live.catalogue.columns["item_id"][r]), title=live.catalogue.titles[r], similarity=s
                )
                for r, s in nearest_history(live, user, row)
            ],
            degraded=degraded,
            versions=Versions(**live.versions),
        )

    @GET.get("/scenarios")
    async def scenarios(self) -> list[ScenarioInfo]:
        """The scenarios this service ranks for."""
        live = self._live(None)
        return [
            ScenarioInfo(
                **s,
                items=len(live.catalogue.members[s["scenario"]]),
                has_knowledge=s["scenario"] in live.scenario_vectors,
            )
            for s in live.catalogue.scenarios
        ]

    def _live(self, scenario: str | None) -> Generation:
        live = self.live.current
        if live is None:
            raise ServiceUnavailable(f"nothing to serve yet: {self.live.refused}")
        if scenario is not None and scenario not in live.catalogue.members:
            raise InvalidArgument(f"unknown scenario {scenario!r}; known: {', '.join(live.catalogue.members)}")
        return live


async def _read_user(live: Generation, user_id: Any) -> tuple[UserState, list[str]]:
    """The user's online state and what was missing, stale or unreachable of it."""
    try:
        user = await live.reader.read_user_async(user_id)
    except Llm4msrError as error:
        LOG.warning("online store: %s", error)
        return UserState.unknown(user_id), ["online_store:unavailable"]
    return user, [f"{view}:{status}" for view, status in user.status.items() if status != "found"]


def _text(live: Generation, kind: str, key: Any, degraded: list[str]) -> tuple[str, str] | None:
    try:
        return live.reader.read_text(kind, key)
    except Llm4msrError as error:
        LOG.warning("online store: %s", error)
        if "online_store:unavailable" not in degraded:
            degraded.append("online_store:unavailable")
        return None


def _ours(score: Any) -> Any:
    """Run scoring; BentoML answers 400 to any pydantic or value error, but one raised here is a server's fault."""
    try:
        return score()
    except Exception as error:
        LOG.exception("scoring failed")
        raise BentoMLException(f"scoring failed: {type(error).__name__}") from error


def _as_id(value: Id, live: Generation, name: str) -> Id:
    """The id in the type the log had: `"42"` and 42 are one user where ids are integers."""
    kind = live.bundle.info["id_types"][name]
    if kind == "string":
        return str(value)
    try:
        return int(value)
    except ValueError as error:
        raise InvalidArgument(f"{name} {value!r}: ids are integers here") from error


def _plain(value: Any) -> Id:
    return value.item() if isinstance(value, np.generic) else value


def _exercise(live: Generation) -> None:
    scenario = live.catalogue.scenarios[0]["scenario"]
    user = UserState.unknown(_as_id("0", live, "user_id"))
    try:
        user = live.reader.read_user(user.user_id)
    except Llm4msrError as error:
        LOG.warning("online store: %s", error)
    rank(live, user, scenario, live.catalogue.members[scenario][:100], 1)
