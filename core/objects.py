"""JSON as data may hold it: no key twice in an object, because of two values one would vanish without a word."""

from __future__ import annotations

import json
from typing import Any


class TwiceError(ValueError):
    """A key stands twice in one object."""


def read_json(text: str | bytes) -> Any:
    """Decode a JSON text.

    Raises:
        ValueError: it is none, or an object in it has a key twice; the message says which.
    """
    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not JSON: byte {error.start} is not UTF-8 text") from error
    except RecursionError as error:
        raise ValueError("not JSON: nested too deep") from error


def once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """The pairs as a dictionary.

    Raises:
        TwiceError: a key stands twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise TwiceError(f"the key {twice!r} stands twice in one object")
    return found
