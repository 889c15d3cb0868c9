"""Logging and progress: human on a terminal, plain lines elsewhere, JSON lines where asked for."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from pythonjsonlogger.json import JsonFormatter
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
ROOT = "llm4msr"
_STATE = {"json": False}
_LINE_SECONDS = 10.0


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
    if fmt == "json":
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(
            JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields={"levelname": "level"})
        )
    elif sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False, rich_tracebacks=False, markup=False)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    _quiet_libraries(handler)
    root = logging.getLogger(ROOT)
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False
    _STATE["json"] = fmt == "json"


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


def progress(items: Iterable[T], description: str, total: int | None = None, unit: str = "") -> Iterator[T]:
    """Yield `items`, showing a bar on a terminal and a log line every ten seconds elsewhere.

    Args:
        items: what is worked through, one step each.
        description: what is being done, e.g. "embedding titles".
        total: number of steps; taken from `len(items)` where it has one.
        unit: what a step is, e.g. "shards".
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty() and not _STATE["json"]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(description, total=total)
            for item in items:
                yield item
                bar.advance(task)
        return
    log, last = logger("progress"), time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > _LINE_SECONDS:
            last = time.monotonic()
            log.info("%s: %s of %s %s", description, done, total if total is not None else "?", unit)
