"""Logging: human on a terminal, plain lines elsewhere, JSON lines where asked for."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter
from rich.console import Console
from rich.logging import RichHandler

ROOT = "llm4msr"
# The request that is being answered; each line of the log that comes of it names it, where lines are JSON.
REQUEST_ID: ContextVar[str] = ContextVar("llm4msr_request_id", default="")
_STATE: dict[str, Console | None] = {"console": None}
_JSON: list[bool] = [False]


def logger(name: str) -> logging.Logger:
    """The logger of a room or module, e.g. `logger("ingest")`."""
    return logging.getLogger(f"{ROOT}.{name}")


def configure(fmt: str = "human", level: str = "INFO") -> None:
    """Send the product's log to stderr.

    Args:
        fmt: `human` (coloured on a terminal, plain lines elsewhere) or `json` (one object a line).
        level: a level name of the standard library.
    """
    handler: logging.Handler
    _STATE["console"] = None
    _JSON[0] = fmt == "json"
    if fmt == "json":
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(json_lines())
    elif sys.stderr.isatty():
        _STATE["console"] = Console(stderr=True)
        handler = RichHandler(console=_STATE["console"], show_path=False, rich_tracebacks=False, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    _quiet_libraries(handler)
    root = logging.getLogger(ROOT)
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def json_lines() -> logging.Formatter:
    """Makes one JSON object of a record, its traceback included."""
    return _JsonLines(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"levelname": "level"},
        reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's: the message again, in colours
    )


def is_json() -> bool:
    """Whether the log is JSON."""
    return _JSON[0]


def console() -> Console | None:
    """The terminal that the log goes to, shared so that a bar and lines do not write over each other; None: no terminal."""
    return _STATE["console"]


def is_shown() -> bool:
    """Whether anybody sees lines of level INFO."""
    root = logging.getLogger(ROOT)
    return bool(root.handlers) and root.isEnabledFor(logging.INFO)


class _JsonLines(JsonFormatter):
    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """As the library's, with the request's id."""
        super().add_fields(log_data, record, message_dict)
        if request := REQUEST_ID.get():
            log_data["request_id"] = request


def _quiet_libraries(handler: logging.Handler) -> None:
    """Deprecations inside the libraries are ours to read in tests, not the user's to read in a log.

    Feast and Great Expectations set filters of their own when they are imported, so that ours would not last: warnings
    become log records, and the records are filtered.
    """
    if not sys.warnoptions:
        logging.captureWarnings(True)
        caught = logging.getLogger("py.warnings")
        caught.handlers[:], caught.filters[:], caught.propagate = [handler], [_worth_reading], False
    for noisy in ("torch.fx", "torch.distributed", "fbgemm_gpu"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _worth_reading(record: logging.LogRecord) -> bool:
    return not any(
        kind in record.getMessage() for kind in ("DeprecationWarning: ", "FutureWarning: ", "PydanticDeprecated")
    )
