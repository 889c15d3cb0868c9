"""One shape of every refusal: `application/problem+json` (RFC 9457), whoever refused: our routes, BentoML or the framework.

    {"type": "about:blank", "title": "Bad Request", "status": 400, "code": "bad_request", "detail": "what is wrong",
     "errors": [{"field": "k", "reason": "..."}]}

`code` is for programs and stays what it is; `detail` is for people. `errors` is there where fields of the body are wrong.
What a caller sent is not sent back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from bento.asgi import App, Receive, Scope, Send
from bento.logs import short

MEDIA_TYPE = "application/problem+json"
# With a 503.
RETRY = {"Retry-After": "2"}
CODES: Mapping[int, str] = {
    400: "bad_request",
    401: "token_needed",
    403: "other_site",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_long",
    415: "not_json",
    422: "bad_request",
    429: "busy",
    500: "internal_error",
    503: "unavailable",
    504: "too_slow",
}
_MOST_ERRORS, _LONGEST = 20, 500
# Of the refusal that is replaced: they describe its body.
_OF_THE_BODY = (b"content-type", b"content-length")


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, errors: Sequence[Mapping[str, str]] = ()
) -> Response:
    """A refusal.

    Args:
        status: HTTP's.
        detail: what is wrong and what to do, for people.
        headers: sent along.
        errors: field and reason of what is wrong in the body.
    """
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": CODES.get(status, "refused" if status < 500 else "internal_error"),
        "detail": detail,
        **({"errors": list(errors)} if errors else {}),
    }
    return Response(json.dumps(body, ensure_ascii=False), status, dict(headers or {}), MEDIA_TYPE)


class Problems:
    """ASGI middleware: gives every refusal that has another shape this one.

    Args:
        app: what answers.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and put a refusal into shape."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start: MutableMapping[str, Any] | None = None
        body = bytearray()

        async def shaped(message: MutableMapping[str, Any]) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _has_another_shape(message):
                start = message
            elif start is None or message["type"] != "http.response.body":
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    await _answer(start, bytes(body), scope, receive, send)

        await self.app(scope, receive, shaped)


def schema() -> dict[str, Any]:
    """Of a refusal, for the OpenAPI document."""
    text = {"type": "string"}
    error = {"type": "object", "properties": {"field": text, "reason": text}, "required": ["field", "reason"]}
    properties = {
        "type": text,
        "title": text,
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": sorted({*CODES.values(), "refused"})},
        "detail": text,
        "errors": {"type": "array", "items": error},
    }
    return {"type": "object", "properties": properties, "required": ["type", "title", "status", "code", "detail"]}


def _has_another_shape(start: Mapping[str, Any]) -> bool:
    kind = dict(start["headers"]).get(b"content-type", b"")
    return start["status"] >= 400 and not kind.startswith(MEDIA_TYPE.encode())


async def _answer(start: Mapping[str, Any], body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
    detail, errors = _told(body)
    status = start["status"]
    answer = problem(status, detail or HTTPStatus(status).phrase, errors=errors)
    kept = [(name, value) for name, value in start["headers"] if name.lower() not in _OF_THE_BODY]
    answer.raw_headers = [*kept, *answer.raw_headers]
    if scope["method"] == "HEAD":
        answer.body = b""
    await answer(scope, receive, send)


def _told(body: bytes) -> tuple[str, list[dict[str, str]]]:
    """The reason of a refusal of any shape, and the fields that are wrong."""
    try:
        told = json.loads(body)
    except ValueError:
        return short(body.decode("utf-8", "replace").strip(), _LONGEST), []
    told = told[0] if isinstance(told, list) and told else told
    if not isinstance(told, dict):
        return short(str(told), _LONGEST), []
    details = told.get("detail")
    if not isinstance(details, list):
        return short(str(details or told.get("error") or ""), _LONGEST), []
    errors = [
        {"field": ".".join(map(str, one.get("loc", ()))), "reason": short(str(one.get("msg", "")), _LONGEST)}
        for one in details[:_MOST_ERRORS]
        if isinstance(one, dict)
    ]
    return "; ".join(": ".join(filter(None, one.values())) for one in errors), errors
