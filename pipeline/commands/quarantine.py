"""`llm4msr quarantine`: what was rejected and why, and a second chance for it after a fix."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import Built, Manifest, Settings, Window
from core.errors import DataError
from core.tables import SCENARIOS
from core.words import did_you_mean
from pipeline.windows import artifact_store, stage_clock, with_replays

TABLES = ("interactions", "users", "items")
_OWN = ("rule", "run")


def counts(settings: Settings) -> list[dict[str, Any]]:
    """Rejected rows that still wait, by window, table and rule, in order of the windows."""
    found = []
    for validated, newest in _windows(settings):
        for table in TABLES:
            rules = pq.read_table(_file(newest, table), columns=["rule"])["rule"]
            for entry in sorted(pc.value_counts(rules).to_pylist(), key=lambda e: -e["counts"]):
                window = _name(validated)
                found.append({"window": window, "table": table, "rule": entry["values"], "rows": entry["counts"]})
    return found


def rejected(
    settings: Settings, table: str | None = None, rule: str | None = None, limit: int = 20
) -> list[dict[str, Any]]:
    """Rejected rows that still wait, each with its window and table.

    Args:
        settings: of the project.
        table: interactions, users or items; None: all of them.
        rule: only those of this rule.
        limit: so many of a table at the most.

    Raises:
        DataError: there is no such table.
    """
    if table is not None and table not in TABLES:
        hint = did_you_mean(table, TABLES)
        raise DataError(f"there is no quarantine of {table!r}{hint}; choose from {', '.join(TABLES)}")
    rows: list[dict[str, Any]] = []
    for name in TABLES if table is None else (table,):
        found: list[dict[str, Any]] = []
        for validated, newest in _windows(settings):
            kept = pq.read_table(_file(newest, name))
            if rule is not None:
                kept = kept.filter(pc.equal(kept["rule"], rule))
            own = {"window": _name(validated), "table": name}
            found += [{**own, **row} for row in kept.slice(0, limit - len(found)).to_pylist()]
        rows += found
    return rows


def replay(settings: Settings, window: Window = Window()) -> Manifest:
    """Judge a window's rejected rows by today's settings, and publish those that pass as a part of the window.

    Later stages read the part with the window. A row whose key the window holds already stays in quarantine, so that
    nothing counts twice; what fails again stays there too, so that nothing is lost. The same again changes nothing.

    Returns:
        The manifest of the part; its rows count what passed and what is `quarantined` still.

    Raises:
        MissingArtifactError: the window was not validated yet.
    """
    store, clock = artifact_store(settings), stage_clock(settings, window)
    validated = store.get("validate", window)

    def build(out: Path) -> Built:
        from validation import validate_source

        with tempfile.TemporaryDirectory(prefix="llm4msr-replay-") as scratch:
            source = _write_source(validated, settings, Path(scratch))
            run = validated.digest[:16]
            return validate_source(source, out, settings, clock, run, window=window, part_of=validated.path)

    return store.build(
        "replay",
        window,
        inputs={"validate": validated.digest, "clock": clock.now().isoformat() if clock.fixed is not None else ""},
        settings=settings.section("validation", "data"),
        rooms=("core", "validation"),
        builder=build,
    )


def _windows(settings: Settings) -> Iterator[tuple[Manifest, Manifest]]:
    """Each validated window, and the artifact whose quarantine holds what still waits."""
    validated: Manifest | None = None
    newest: Manifest | None = None
    for part in with_replays(settings, artifact_store(settings).all("validate")):
        if part.stage == "validate":
            if validated is not None and newest is not None:
                yield validated, newest
            validated = part
        newest = part
    if validated is not None and newest is not None:
        yield validated, newest


def _write_source(validated: Manifest, settings: Settings, folder: Path) -> Path:
    """The rejected rows as the tables they came in, and the scenarios known by now."""
    for table in TABLES:
        rows = pq.read_table(_file(validated, table)).drop_columns(list(_OWN))
        pq.write_table(rows, folder / f"{table}.parquet")
    known = pq.read_table(validated.file("scenarios.parquet"))
    names = set(known["scenario"].to_pylist())
    declared = [
        {"scenario": name, "title": about.title or name, "description": about.description or name}
        for name, about in settings.data.scenarios.items()
        if name not in names
    ]
    scenarios = pa.concat_tables([known, pa.Table.from_pylist(declared, schema=SCENARIOS)])
    pq.write_table(scenarios, folder / "scenarios.parquet")
    return folder


def _file(part: Manifest, table: str) -> Path:
    return part.file(f"quarantine_{table}.parquet")


def _name(part: Manifest) -> str:
    start, end = part.window["start"], part.window["end"]
    return "all" if start is None and end is None else f"{start or 'start'} to {end or 'end'}"


def as_text(rows: list[dict[str, Any]]) -> str:
    """One JSON object a line: for people and for other programs."""
    return "\n".join(json.dumps(row, default=str, ensure_ascii=False) for row in rows)
