"""The service's page and its OpenAPI document: what it serves, requests that work, nothing from anywhere else."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jinja2
from pydantic import BaseModel

import feature_repo
from bento.live import LiveModel
from bento.problems import MEDIA_TYPE, schema
from bento.schemas import BatchAnswer, ExplainAnswer, PushAnswer, RankAnswer
from core import Settings

ANSWERS: Mapping[str, type[BaseModel]] = {
    "/rank": RankAnswer,
    "/rank/batch": BatchAnswer,
    "/explain": ExplainAnswer,
    "/push": PushAnswer,
}
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
    # BentoML writes `type: null`, which its 3.0 does not know.
    document["openapi"] = "3.1.0"
    document["info"] = {"title": "llm4msr", "version": version(), "description": _DESCRIPTION}
    document.pop("servers", None)
    bodies = examples(settings, live)
    for route, taken in (("/push", settings.push.http), ("/explain", settings.serving.explain)):
        if not taken:
            document["paths"].pop(route, None)
    _true_answers(document)
    names = [] if live is None else [one["scenario"] for one in live.scenarios]
    for described in _schemas(document):
        _mend(described, names)
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


def _true_answers(document: dict[str, Any]) -> None:
    """Describe answers by our own types: BentoML's generator loses which of their fields may be null."""
    components = document.setdefault("components", {}).setdefault("schemas", {})
    for route, answer in ANSWERS.items():
        described = answer.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
        components |= described.pop("$defs", {})
        components[answer.__name__] = described
        for one in document["paths"].get(route, {}).values():
            for content in one.get("responses", {}).get("200", {}).get("content", {}).values():
                content["schema"] = {"$ref": f"#/components/schemas/{answer.__name__}"}


def _schemas(part: Any) -> Iterator[dict[str, Any]]:
    """Every object of a document that describes an object's fields."""
    if isinstance(part, dict):
        if isinstance(part.get("properties"), dict):
            yield part
        for value in part.values():
            yield from _schemas(value)
    elif isinstance(part, list):
        for value in part:
            yield from _schemas(value)


def _mend(described: dict[str, Any], scenarios: list[str]) -> None:
    """Say of fields what BentoML's generator loses: it keeps the first of two types, and no null.

    Args:
        described: an object's schema.
        scenarios: that can be asked for; none where nothing is live.
    """
    for name, field in described["properties"].items():
        if name in ("user_id", "item_id") and field.get("type") == "integer":
            field.pop("type")
            field["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        if "default" in field and field["default"] is None and isinstance(field.get("type"), str):
            field["type"] = [field["type"], "null"]
        if name == "scenario" and scenarios and "title" not in described["properties"]:
            field["enum"] = scenarios


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
