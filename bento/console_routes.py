"""The routes of the page for people: `/console`, and what it asks for below it. GET alone, since nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from bentoml.exceptions import InvalidArgument
from fastapi import APIRouter, HTTPException, Query
from starlette.responses import HTMLResponse, Response

from bento import console
from bento.live import LiveModel
from bento.page import HEADERS
from bento.problems import RETRY

Id = Annotated[str, Query(max_length=1_000)]


def console_routes(service: Callable[[], Any]) -> APIRouter:
    """The routes.

    Args:
        service: hands out the service that answers.
    """
    routes, prompts = APIRouter(include_in_schema=False), console.Prompts()

    def allowed() -> Any:
        ranker = service()
        if not ranker.settings.serving.explain:
            raise HTTPException(404, "this service explains nothing; see serving.explain")
        return ranker

    def live_model() -> tuple[Any, LiveModel]:
        ranker = allowed()
        if ranker.live.current is None:
            raise HTTPException(503, f"nothing to serve yet: {ranker.live.refused}", RETRY)
        return ranker, ranker.live.current

    def user_id(ranker: Any, live: LiveModel, value: str) -> Any:
        try:
            return ranker.read_user_id(value, live)
        except InvalidArgument as error:
            raise HTTPException(400, str(error)) from error

    @routes.get("/console")
    async def page() -> Response:
        allowed()
        return HTMLResponse(console.TEMPLATE.read_text(encoding="utf-8"), headers=HEADERS)

    @routes.get("/console/health")
    async def health() -> dict[str, Any]:
        ranker = allowed()
        return console.health(ranker.live.current, ranker.live.refused)

    @routes.get("/console/users")
    async def users(begins: Id = "") -> list[Any]:
        _, live = live_model()
        return await asyncio.to_thread(console.find_users, live, begins)

    @routes.get("/console/ranking")
    async def ranking(
        user: Id, scenario: str, k: Annotated[int, Query(ge=1, le=console.MOST)] = 10, knowledge: bool = True
    ) -> dict[str, Any]:
        ranker, live = live_model()
        if scenario not in live.catalogue.members or scenario not in live.bundle.spec.scenarios:
            raise HTTPException(400, "unknown scenario; /scenarios names them")
        state, degraded, texts = await ranker.read_person(live, user_id(ranker, live, user), scenario)
        found = await asyncio.to_thread(console.ranking, live, state, scenario, k, knowledge)
        told = dict(zip(("user_text", "scenario_text"), (text and text[0] for text in texts), strict=True))
        return {**found, **told, "degraded": degraded}

    @routes.get("/console/prompt")
    async def prompt(user: Id) -> dict[str, Any]:
        ranker, live = live_model()
        return await prompts.of(ranker.settings, user_id(ranker, live, user))

    return routes
