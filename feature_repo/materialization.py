"""Bring the newest values online: explicit windows, bounded batches, every row counted.

Why this does not go through `FeatureStore.materialize`: docs/decisions/feast-materialise.md.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from feast import FeatureStore, FeatureView
from feast.feature_view import FeatureViewState
from sqlalchemy.exc import SQLAlchemyError

from core import Clock, Settings, from_micros, logger, progress
from core.digest import sha256_text
from core.errors import StorageError
from core.store import replace_json
from feature_repo import views
from feature_repo.online import OnlineTable, use_write_ahead_log
from feature_repo.online_source import Span, write_source
from feature_repo.overlay import WRITE_BATCH, feast_folder, open_store
from feature_repo.views import Generation, SourcePaths

LOG = logger("feature_repo")
# Rows whose publish time lies a little before the window are written again: late data is not lost.
OVERLAP = dt.timedelta(days=1)
_DAWN = 0


@dataclass(frozen=True)
class Probe:
    """What is known to be online of a view: one id that must be there, and from which event time on it was filled."""

    view: str
    id: Any
    rows: int
    since: int


def materialize(
    settings: Settings,
    clock: Clock,
    *,
    sources: Sequence[Path],
    features: Path,
    knowledge: Path,
    start: int | None = None,
    end: int | None = None,
) -> dict[str, int]:
    """Write the newest value of every entity to the online store, and tell the registry of this generation.

    What counts is published between `start` (less an overlap of a day) and the clock's now; where the clock is the
    machine's own, all that is built is published now, before its lag is over: a lag is what training assumes. A view that is not yet
    online, or was lost, is written from the beginning whatever `start` says. Doing it twice changes nothing; a newer
    row that was pushed meanwhile stays; a correction with the same times wins.

    Args:
        settings: stores, declared columns, history length, times to live.
        clock: values published after its now stay offline, if it stands still.
        sources: validate artifacts, oldest window first.
        features, knowledge: artifact folders.
        start: window start in microseconds; None for everything.
        end: window end in microseconds. The artifacts hold nothing after it; rows that a lag publishes later
            than `end` are written as soon as the clock allows.

    Returns:
        Feast view name to rows written.

    Raises:
        StorageError: a store cannot be reached, or does not hold afterwards what was written.
        MissingArtifactError: an earlier stage has not been run.
    """
    del end
    store, generation, paths = apply(settings, sources=sources, features=features, knowledge=knowledge)
    table = OnlineTable(store)
    until = clock.now_micros()
    overlap = OVERLAP // dt.timedelta(microseconds=1)
    written = {}
    for view, feast_view in views.value_views(generation, paths).items():
        probe = _live_probe(settings, table, feast_view)
        since = _DAWN if start is None or probe is None else max(_DAWN, min(start - overlap, until))
        span = Span(since, until, live=clock.fixed is None)
        file, rows = write_source(generation, paths, view, feast_view, span, settings.features.history_length)
        _write_online(table, feast_view, file, rows)
        _remember(settings, feast_view, file, rows, since, probe)
        _record(store, feast_view, span)
        written[feast_view.name] = rows
    LOG.info("online: %s", ", ".join(f"{name} {count:,}" for name, count in written.items()))
    return written


def apply(
    settings: Settings, *, sources: Sequence[Path], features: Path, knowledge: Path
) -> tuple[FeatureStore, Generation, SourcePaths]:
    """Tell the shared registry of the generation that settings and artifacts make; other generations stay.

    Returns:
        The open store, the generation and the files behind its views.

    Raises:
        StorageError: the registry cannot be reached or written.
    """
    folder = feast_folder(settings)
    users, items = (views.entity_table(sources, name, folder / "sources") for name in ("users", "items"))
    generation = views.generation_of(settings, users=users, items=items, knowledge=knowledge)
    paths = views.shared_paths(settings, users=users, items=items, features=features, knowledge=knowledge)
    if settings.online.store == "sqlite":
        use_write_ahead_log(folder / "online.db")
    try:
        store = open_store(settings)
        views.apply(store, generation, paths)
    except (SQLAlchemyError, OSError) as error:
        raise StorageError(f"Feast registry of project {settings.project}: {error}") from error
    body = {"generation": generation.as_json(), "paths": {k: str(v.resolve()) for k, v in asdict(paths).items()}}
    replace_json(folder / "generations" / f"{generation.name}.json", body)
    replace_json(folder / "generations" / "latest.json", {"name": generation.name})
    return store, generation, paths


def declared_generations(settings: Settings) -> list[tuple[Generation, SourcePaths]]:
    """All generations that were ever applied below this root, the current one last."""
    folder = feast_folder(settings) / "generations"
    latest = folder / "latest.json"
    if not latest.is_file():
        return []
    newest = json.loads(latest.read_text())["name"]
    files = sorted(folder.glob("*.json"), key=lambda file: (file.stem == newest, file.stem))
    bodies = [json.loads(file.read_text()) for file in files if file.stem != "latest"]
    return [
        (Generation.from_json(b["generation"]), SourcePaths(**{k: Path(v) for k, v in b["paths"].items()}))
        for b in bodies
    ]


def probe_of(settings: Settings, view: str) -> Probe | None:
    """What `materialize` remembers of a view in the settings' online store, by Feast name."""
    path = _probe_file(settings, view)
    return Probe(**json.loads(path.read_text())) if path.is_file() else None


def is_live(table: OnlineTable, view: FeatureView, probe: Probe | None) -> bool:
    """Whether a view was filled and still is: its remembered row can be read."""
    if probe is None or not table.has_view(view):
        return False
    return probe.id is None or table.read(view, [probe.id])[0] is not None


def _live_probe(settings: Settings, table: OnlineTable, view: FeatureView) -> Probe | None:
    probe = probe_of(settings, view.name)
    return probe if is_live(table, view, probe) else None


def _write_online(table: OnlineTable, view: FeatureView, file: Path, rows: int) -> None:
    batches = pq.ParquetFile(file).iter_batches(batch_size=WRITE_BATCH)
    count = 0
    for batch in progress(batches, f"writing {view.name}", total=-(-rows // WRITE_BATCH), unit="batches"):
        count += table.write(view, batch)
    if count != rows:
        raise StorageError(
            f"view {view.name}: {rows:,} rows were to go online, {count:,} did; see whether the online store is full "
            "or evicts keys, then run `llm4msr materialize` again"
        )


def _remember(settings: Settings, view: FeatureView, file: Path, rows: int, since: int, old: Probe | None) -> None:
    if old is not None and (rows == 0 or old.id is not None):
        kept = Probe(view.name, old.id, max(rows, old.rows), min(since, old.since))
    else:
        key = next(pq.ParquetFile(file).iter_batches(1, columns=list(view.join_keys)))[0][0].as_py() if rows else None
        kept = Probe(view.name, key, rows, since)
    replace_json(_probe_file(settings, view.name), asdict(kept))


def _record(store: FeatureStore, view: FeatureView, span: Span) -> None:
    """Let the registry know, once per span: it keeps every interval for good."""
    start, end = from_micros(span.since), from_micros(span.until)
    known = store.registry.get_feature_view(view.name, store.project)
    if (start, end) in known.materialization_intervals and known.state == FeatureViewState.AVAILABLE_ONLINE:
        return
    try:
        store.registry.apply_materialization(known, store.project, start, end)
    except (SQLAlchemyError, OSError) as error:
        raise StorageError(f"Feast registry of project {store.project}: {error}") from error


def _probe_file(settings: Settings, view: str) -> Path:
    address = settings.online.url if settings.online.store == "redis" else "sqlite"
    return feast_folder(settings) / "probes" / sha256_text(address)[:8] / f"{view}.json"
