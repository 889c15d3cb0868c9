"""A serving process's log: what a caller did wrong is one short line, and JSON where it was asked for."""

from __future__ import annotations

import logging
import re
import sys
import threading
from types import TracebackType
from typing import Any

from bentoml.exceptions import BentoMLException
from pydantic import ValidationError

from bento.bentoml_names import EXCEPTIONS_LOGGER, log_settings
from core import logger
from core.log import json_lines

LOG = logger("bento")
# What Python's `repr` writes of a text: what a caller sent is not for the log.
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_FORMATTER = "llm4msr.json"

_LONGEST = 200


def quiet_callers() -> None:
    """Log a request that was refused as one line; tracebacks are for our own faults."""
    logging.getLogger(EXCEPTIONS_LOGGER).addFilter(_refusal_as_line)


def keep_ours() -> None:
    """Let what BentoML sets up its log with leave the product's loggers as they are."""
    for settings in _theirs():
        settings["disable_existing_loggers"] = False


def json_everywhere() -> None:
    """One JSON object a line, whoever writes it: all libraries, those that set up their log later, and tracebacks."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(json_lines())
    logging.getLogger().handlers[:] = [handler]
    for name in ("bentoml", "uvicorn", "uvicorn.error", "uvicorn.access", "circus"):
        other = logging.getLogger(name)
        other.handlers[:], other.propagate = [], True
    for settings in _theirs():
        settings.setdefault("formatters", {})[_FORMATTER] = {"()": json_lines}
        for one in settings["handlers"].values():
            # Their filter adds fields that say what ours say.
            one["formatter"], one["filters"] = (
                _FORMATTER,
                [name for name in one.get("filters", ()) if name != "tracing"],
            )
        for one in settings["loggers"].values():
            one["propagate"] = not one.get("handlers")  # else a line would be written twice
    sys.excepthook = _tell
    threading.excepthook = _tell_thread


def _theirs() -> list[dict[str, Any]]:
    try:
        return log_settings()
    except (ImportError, AttributeError):
        LOG.warning("BentoML sets up its log elsewhere in this version; some lines may be missing, or no JSON")
        return []


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    LOG.critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def _tell_thread(arguments: Any) -> None:
    if arguments.exc_value is not None:
        _tell(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)


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
    record.levelno, record.levelname = logging.INFO, "INFO"
    said = _QUOTED.sub("'...'", " ".join(said.split()))
    record.msg, record.args = "%s %s refused (%d): %s", (method, path, status, short(said))
    record.exc_info = record.exc_text = None
    return True
