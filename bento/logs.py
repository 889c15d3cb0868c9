"""A serving process's log: what a caller did wrong is one short line, and JSON where it was asked for."""

from __future__ import annotations

import logging

from bentoml.exceptions import BentoMLException
from pydantic import ValidationError

from bento.bentoml_names import EXCEPTIONS_LOGGER

_LONGEST = 200


def quiet_callers() -> None:
    """Log a request that was refused as one line; tracebacks are for our own faults."""
    logging.getLogger(EXCEPTIONS_LOGGER).addFilter(_refusal_as_line)


def all_in_one_format() -> None:
    """Let BentoML and the HTTP server write as the product does: one JSON object a line, where it does so."""
    ours = logging.getLogger("llm4msr").handlers
    for name in ("bentoml", "uvicorn", "uvicorn.error", "uvicorn.access"):
        other = logging.getLogger(name)
        other.handlers[:], other.propagate = list(ours), False


def short(text: str, most: int = _LONGEST) -> str:
    """A caller's text, no longer than a line of the log may be."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def _refusal_as_line(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        status, said = 400, ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    elif isinstance(error, BentoMLException) and error.error_code.value < 500:
        status, said = error.error_code.value, str(error)
    else:
        return True
    path, method = record.args if isinstance(record.args, tuple) and len(record.args) == 2 else ("?", "?")
    record.levelno, record.levelname = logging.WARNING, "WARNING"
    record.msg, record.args = "%s %s refused (%d): %s", (method, path, status, short(" ".join(said.split())))
    record.exc_info = record.exc_text = None
    return True
