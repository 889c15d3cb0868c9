"""The gate behind materialise: sampled keys must read back as they are offline, and be as fresh."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import Clock, Settings
from validation.docs import write_data_docs
from validation.report import Outcome
from validation.suites import online as suites

_TIME = "published"
_HOUR = 3600e6
_TICK = 1
_SHOWN = 3


def validate_online(
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    settings: Settings,
    clock: Clock,
    docs: Path | None = None,
    run_id: str = "",
) -> dict[str, Any]:
    """Judge what the online store answers.

    Args:
        samples: view -> one mapping per sampled key: `id`, `offline` (the newest values in the offline store, with
            `published` in microseconds) and `online` (the same columns as read back, or None).
        settings: `validation.max_online_age` bounds the age of each view's newest value, `validation.max_future` the skew.
        clock: what age is measured against; nothing online may be published later, but for the clock skew that a push may have.
        docs: where Data Docs go; None: none are written.
        run_id: the run that they name.

    Returns:
        What was found, JSON-able, the same for the same data.

    Raises:
        GateError: names view, key and column.
    """
    outcomes = [_view(view, rows, settings, clock) for view, rows in sorted(samples.items())]
    if docs is not None:
        write_data_docs(outcomes, docs, clock, run_id)
    return {"verdict": "passed", "tables": {outcome.suite.table: outcome.as_json() for outcome in outcomes}}


def _view(view: str, rows: Sequence[Mapping[str, Any]], settings: Settings, clock: Clock) -> Outcome:
    now, limit = clock.now_micros(), settings.validation.max_online_age
    # A row is published a tick after its event.
    latest = now + settings.validation.max_future // dt.timedelta(microseconds=1) + _TICK
    # Undated catalogue rows have no age.
    dated = view not in ("user_features", "item_features")
    outcome = Outcome(suites.suite(view, limit if dated else None), Path(f"online view {view}"))
    outcome.facts["sampled"] = len(rows)
    there = [row for row in rows if row["online"] is not None]
    newer = [row for row in there if row["online"][_TIME] > row["offline"][_TIME]]
    equal = [row for row in there if row["online"][_TIME] == row["offline"][_TIME]]
    outcome.facts["pushed_since"] = len(newer)
    age = min(((now - row["offline"][_TIME]) / _HOUR for row in rows), default=None)
    outcome.judge(
        {
            "missing_keys": _named(row for row in rows if row["online"] is None),
            "stale_keys": _named(row for row in there if row["online"][_TIME] < row["offline"][_TIME]),
            # A push may be newer than the artifacts, and as much before its time as a push may be.
            "early_keys": _named(row for row in newer if row["online"][_TIME] > latest),
            "wrong_values": _named(row for row in equal if _differing(row)),
            "age_hours": age if dated and limit is not None else None,
        }
    )
    return outcome


def _differing(row: Mapping[str, Any]) -> list[str]:
    """The columns whose value online is not the one offline, bit for bit."""
    return [name for name, value in row["offline"].items() if not _same(value, row["online"].get(name))]


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is None and other is None
    if isinstance(one, np.ndarray | list) or isinstance(other, np.ndarray | list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other or (one != one and other != other))


def _named(rows: Any) -> str:
    found = list(rows)
    if not found:
        return ""
    shown = ", ".join(_describe(row) for row in found[:_SHOWN])
    return f"{len(found)} of the sampled keys, e.g. {shown}"


def _describe(row: Mapping[str, Any]) -> str:
    columns = _differing(row) if row["online"] is not None else []
    return f"{row['id']} ({', '.join(columns)})" if columns else str(row["id"])
