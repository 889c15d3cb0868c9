"""The service's page and its OpenAPI document: what it serves, requests that work, nothing from anywhere else."""

from __future__ import annotations

import importlib.metadata
import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jinja2

import feature_repo
from bento.live import LiveModel
from bento.problems import MEDIA_TYPE, schema
from core import Settings

TEMPLATE = Path(__file__).parent / "templates" / "page.html.j2"
# Nothing is loaded, sent or framed but by the page itself and to this service.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_DESCRIPTION = "Ranks candidates for a user in a scenario, and explains single scores."


def version() -> str:
    """The product's version."""
    try:
        return importlib.metadata.version("llm4msr")
    except importlib.metadata.PackageNotFoundError:
        return "from source"


def examples(settings: Settings, live: LiveModel | None) -> dict[str, Any]:
    """Route to a body that the service answers with 200, as far as something is live."""
    if live is None or not live.scenarios:
        return {}
    scenario = live.scenarios[0]["scenario"]
    rows = live.catalogue.members[scenario]
    user = feature_repo.known_user(settings)
    if user is None:
        user = 1 if not live.bundle.spec.has_text_ids("user_id") else "somebody"
    item: Any = live.catalogue.columns["item_id"][rows[0]] if len(rows) else None
    item = item.item() if hasattr(item, "item") else item
    found: dict[str, Any] = {"/rank": {"user_id": user, "scenario": scenario, "k": 5}}
    found["/rank/batch"] = {
        "requests": [{"user_id": user, "scenario": s["scenario"], "k": 5} for s in live.scenarios[:3]]
    }
    if item is not None:
        one = {"user_id": user, "scenario": scenario, "item_id": item}
        if settings.serving.explain:
            found["/explain"] = one
        if settings.push.http:
            row = {"event_timestamp": live.clock.now().isoformat(), "label": 1}
            found["/push"] = {"interactions": [{**one, **row}]}
    return found


def openapi(document: dict[str, Any], settings: Settings, live: LiveModel | None) -> dict[str, Any]:
    """BentoML's document with our title and version, working examples, and `/push` and `/explain` only where they are taken."""
    document = json.loads(json.dumps(document))
    document["info"] = {"title": "llm4msr", "version": version(), "description": _DESCRIPTION}
    document.pop("servers", None)
    bodies = examples(settings, live)
    for route, taken in (("/push", settings.push.http), ("/explain", settings.serving.explain)):
        if not taken:
            document["paths"].pop(route, None)
    _any_id(document)
    for path, routes in document["paths"].items():
        for route in routes.values():
            _with_refusals(route, 429 if path in ("/rank", "/rank/batch", "/explain", "/push") else None)
    for route, body in bodies.items():
        content = document["paths"].get(route, {}).get("post", {}).get("requestBody", {}).get("content", {})
        for kind in content.values():
            kind["example"] = body
    return document


def _with_refusals(route: dict[str, Any], busy: int | None) -> None:
    """Every status that a route may answer with beside 200, in the one shape of refusals."""
    content = {MEDIA_TYPE: {"schema": schema()}}
    responses = route.setdefault("responses", {})
    for status in [status for status in responses if status.isdigit() and int(status) >= 400]:
        del responses[status]
    codes = [400, 401, 403, 404, 413, 415, 500, 503, 504] if busy else [401, 500, 503]
    for status in [*codes, *([busy] if busy else [])]:
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": content}


def _any_id(part: Any) -> None:
    """Ids are numbers or text; BentoML's generator keeps the first of two types."""
    for name, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        if name in ("user_id", "item_id") and isinstance(value, dict) and value.get("type") == "integer":
            value.pop("type")
            value["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        _any_id(value)


def page(settings: Settings, live: LiveModel | None, refused: str | None) -> str:
    """The page at `/`: what is live, and forms to rank and explain with."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    body = examples(settings, live)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        project=settings.project,
        version=version(),
        live=live,
        refused=refused,
        scenarios=[]
        if live is None
        else [{**s, "items": len(live.catalogue.members[s["scenario"]])} for s in live.scenarios],
        user=body.get("/rank", {}).get("user_id", ""),
        examples={route: json.dumps(value, ensure_ascii=False) for route, value in body.items()},
    )
