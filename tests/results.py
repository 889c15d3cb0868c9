"""Results of a run for tests: what a test does not name is there, and says nothing."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)
_NOTHING: dict[Any, Any] = {int: 0, float: 0.0, bool: False, str: ""}


def filled(kind: type[Model], body: Mapping[str, Any] | None = None) -> Model:
    """A result of which a test names the parts that matter."""
    return kind.model_validate(_complete(kind, dict(body or {})))


def _complete(kind: Any, body: Any) -> Any:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if body is None else _complete(parts[0], body)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {name: f for name, f in kind.model_fields.items() if f.is_required() or name in body}
        return {
            **body,
            **{name: _complete(f.annotation, body.get(name, _default(f.annotation))) for name, f in fields.items()},
        }
    if origin in (Mapping, dict) or getattr(origin, "__name__", "") == "Mapping":
        return {key: _complete(parts[1], value) for key, value in body.items()}
    return body


def _default(kind: Any) -> Any:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType) and type(None) in parts:
        return None
    if origin is typing.Literal:
        return parts[-1]
    if origin is tuple:
        return ()
    return _NOTHING.get(kind, {})
