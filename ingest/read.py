"""From a source to the four canonical tables of a window, in one pass over the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.catalogues import Catalogues
from core.clock import from_micros, wall
from core.contracts.ingested import Ingested
from core.digest import sha256_json
from core.errors import DataError, SettingsError
from core.file_digests import FileDigests
from core.forgotten import Forgotten
from core.log import logger
from core.manifest import Built
from core.pace import progress
from core.parquet import options
from core.settings import Settings
from core.tables import UNDATED_MICROS, graded, interactions_schema
from core.window import Window
from ingest.canonical import Entities, canonical_interactions, nullable
from ingest.delimited import rebatch
from ingest.labels import WordCount
from ingest.pushed import PushedLog, merge
from ingest.scenarios import ScenarioMap, scenario_table
from ingest.source import Source
from ingest.times import unit_of_micros

LOG = logger("ingest")
# Columns that every table has for itself.
_KEYS = ("user_id", "item_id", "scenario", "scenarios", "event_timestamp", "created_timestamp")
Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def open_source(settings: Settings) -> Source:
    """The reader of the source that the settings name.

    Raises:
        SettingsError: the scenario rule does not fit the source, or a declared column is not among the source's.
        DataError: `data.path` is not a folder, or a file in it cannot be used.
    """
    data = settings.data
    if not data.path.is_dir():
        raise DataError("data.path is not a folder; set it to where the source's files lie", file=data.path)
    source: Source
    if data.source == "movielens":
        from ingest.movielens import MovieLens

        source = MovieLens(data)
    elif data.source == "kuaisar":
        from ingest.kuaisar import KuaiSar

        source = KuaiSar(data)
    elif data.source == "amazon":
        from ingest.amazon import Amazon

        source = Amazon(data)
    else:
        from ingest.table import Table

        source = Table(data)
    _check_declared(source)
    return source


def source_digest(settings: Settings) -> str:
    """Hex SHA-256 over the names and bytes of all files that the source reads.

    Raises:
        DataError: a file is missing.
    """
    base = settings.data.path
    files, known = open_source(settings).files(), FileDigests(settings.root / "cache" / "source_files.json")
    found = {str(p.relative_to(base) if p.is_relative_to(base) else p): known.of(p) for p in files}
    known.keep()
    return sha256_json(found)


def read_source(
    settings: Settings,
    window: Window,
    out: Path,
    pushed: PushedLog | None = None,
    forgotten: Forgotten | None = None,
) -> Built:
    """Read the source and write interactions, users, items and scenarios of a window, meta.json and catalogues.json.

    Rows keep the source's order; rows outside the window are left out. Cells that a row rule can judge (no scenario,
    no id, a label other than 0 and 1, a time in the future) are passed on for validation to reject; rows without a
    time are passed on with every window.

    Args:
        settings: whose `data` section counts.
        window: the event time wanted.
        out: an existing folder.
        pushed: what was pushed; rows of the window that the source does not hold follow its own.
        forgotten: whose rows are dropped.

    Returns:
        Row counts of the four tables; and `forgotten`, the rows of forgotten users, where there were any.

    Raises:
        DataError: a file is missing, empty, or cannot be understood; the message names file, row and column.
        SettingsError: the settings do not fit the source.
    """
    source = open_source(settings)
    for path in source.files():
        LOG.debug("reading %s", path)
    for note in source.notes():
        LOG.info("%s", note)
    mapping = ScenarioMap(settings.data.scenario, source.rule)
    drop = _Forget(forgotten)
    log = _write_log(source, mapping, window, out / "interactions.parquet", drop)
    if pushed is not None:
        _add_pushed(log, drop.rows(pushed.between(window, source.ids)), out / "interactions.parquet")
    users = _write_entities(Entities.users(source, mapping), log.users, window, out / "users.parquet", drop)
    items = _write_entities(Entities.items(source, mapping), log.items, window, out / "items.parquet", drop)
    scenarios = scenario_table(settings.data, source, mapping, log.scenarios)
    _write(scenarios, out / "scenarios.parquet")
    Ingested(
        user_id=str(source.ids.user),
        item_id=str(source.ids.item),
        first=log.first,
        last=log.now if log.last is None and log.future else log.last,
        rows=log.rows,
        empty=log.empty,
    ).write(out)
    _catalogues(source, log, window).write(out)
    rows = {"interactions": log.rows, "users": users, "items": items, "scenarios": scenarios.num_rows}
    if drop.count:
        LOG.info("%s rows of forgotten users were dropped", f"{drop.count:,}")
        rows["forgotten"] = drop.count
    return Built(rows=rows)


class _Forget:
    """Drops the rows of forgotten users, and counts them."""

    def __init__(self, forgotten: Forgotten | None) -> None:
        self.forgotten, self.count = forgotten, 0

    def rows(self, table: Rows) -> Rows:
        """The rows of others."""
        if not self.forgotten or "user_id" not in table.schema.names:
            return table
        kept = table.filter(self.forgotten.keep(table["user_id"]))
        self.count += table.num_rows - kept.num_rows
        return kept


def _catalogues(source: Source, log: _LogWriter, window: Window) -> Catalogues:
    """What the window's tables of users, items and scenarios are, and as of when."""
    data, (start, end) = source.data, window.bounds_micros()
    moments = [log.last + 1 if log.last is not None else None, start, end, 0]
    return Catalogues(
        users="log" if log.users is not None else data.catalogue_kind("users"),
        items="log" if log.items is not None else data.catalogue_kind("items"),
        # A quiet day does not end a scenario; leaving it out of the settings does.
        scenarios="snapshot" if data.scenarios or data.scenario.groups else "log",
        as_of=next(moment for moment in moments if moment is not None),
    )


class _LogWriter:
    """Writes batches of the log and remembers what the other tables need: ids, scenarios, first and last time.

    The last time is that of the newest row that the machine's clock has reached: a replay stands there, and one row of
    the year 5000 must not carry it along. If all rows are of the future it is the machine's time.
    """

    def __init__(self, source: Source) -> None:
        self.rows = self.read = 0
        self.now = wall().now_micros()
        self.first: int | None = None
        self.last: int | None = None
        self.future = False
        self.span: tuple[int, int] | None = None
        self.scenarios: set[str] = set()
        self.words = WordCount(source.label) if source.label.words else None
        self.users = None if source.users() is not None else pa.array([], source.ids.user)
        self.items = None if source.items() is not None else pa.array([], source.ids.item)

    def note(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        self.scenarios.update(pc.unique(batch["scenario"]).drop_null().to_pylist())
        times = batch["event_timestamp"].cast(pa.int64())
        span = pc.min_max(times).as_py()
        if span["min"] is not None:
            self.first = span["min"] if self.first is None else min(self.first, span["min"])
            self.future = self.future or span["max"] > self.now
            reached = pc.max(times.filter(pc.less_equal(times, self.now))).as_py() if self.future else span["max"]
            if reached is not None:
                self.last = reached if self.last is None else max(self.last, reached)
        if self.users is not None:
            self.users = _merged(self.users, batch["user_id"])
        if self.items is not None:
            self.items = _merged(self.items, batch["item_id"])

    def pass_over(self, times: pa.Array) -> None:
        """Remember from when to when the source's rows are, within the window or not."""
        found = pc.min_max(times.cast(pa.int64())).as_py()
        if found["min"] is not None:
            low, high = self.span or (found["min"], found["max"])
            self.span = min(low, found["min"]), max(high, found["max"])

    @property
    def empty(self) -> bool:
        """Whether no row is known to lie in the window while others lie elsewhere; undated rows lie in every window."""
        return self.first is None and self.span is not None


def _write_log(source: Source, mapping: ScenarioMap, window: Window, path: Path, drop: _Forget) -> _LogWriter:
    log, schema = _LogWriter(source), nullable(interactions_schema(source.ids, graded(source.data)))
    with pq.ParquetWriter(path, schema, **options(schema)) as writer:
        rows = _windowed(source, mapping, window, log, drop)
        for batch in progress(rows, "reading the log", unit="rows", size=lambda batch: batch.num_rows):
            log.note(batch)
            writer.write_batch(batch)
    if not log.read:
        raise DataError("the log is empty: no row below the header", file=source.files()[0])
    if log.words is not None:
        _say_words(log.words)
    if log.span is not None:
        _check_span(*log.span, log, window, source)
    return log


def _say_words(words: WordCount) -> None:
    """What counted as positive: a misspelt word would make a wrong log in silence."""
    LOG.info("data.label: %s", words)
    if words.seen and (missing := words.missing()):
        LOG.warning("data.label.in: no row says %s in column %r", ", ".join(missing), words.rule.column)


def _check_span(oldest: int, newest: int, log: _LogWriter, window: Window, source: Source) -> None:
    """A wrong unit of time must not look like a window without rows."""
    unit = f"set data.timestamp_unit{_fitting(newest, source)}"
    if newest < UNDATED_MICROS:
        raise DataError(
            f"the newest row is of {from_micros(newest).date()}, before 1990; {unit}", file=source.files()[0]
        )
    if not log.empty:
        return
    if oldest > log.now:
        raise DataError(f"every row lies in the future; {unit}", file=source.files()[0])
    span = [from_micros(time).isoformat() for time in (max(oldest, 0), min(newest, log.now))]
    LOG.warning("no row of the log lies in window %s; its rows are of %s to %s", window.key, *span)


def _fitting(last: int, source: Source) -> str:
    unit = unit_of_micros(last, source.data.timestamp_unit)
    return f": {unit}" if unit else " to the unit of the times (s, ms, us, ns)"


def _add_pushed(log: _LogWriter, rows: pa.Table, path: Path) -> None:
    if not rows.num_rows:
        return
    counted, replaced = merge(path, rows)
    for batch in counted.to_batches():
        log.note(batch)
    log.rows -= replaced
    held = rows.num_rows - counted.num_rows
    LOG.info("%s pushed rows, %s of them in the source too", f"{rows.num_rows:,}", f"{held + replaced:,}")


def _windowed(
    source: Source, mapping: ScenarioMap, window: Window, log: _LogWriter, drop: _Forget
) -> Iterator[pa.RecordBatch]:
    def kept() -> Iterator[pa.RecordBatch]:
        for raw in source.interactions(window):
            log.read += raw.num_rows
            batch = canonical_interactions(raw, source, mapping)
            log.pass_over(batch["event_timestamp"])
            inside = _inside(batch["event_timestamp"], window)
            if log.words is not None:
                log.words.add(raw[source.label.column].filter(inside))
            yield drop.rows(batch.filter(inside))
        log.read += source.passed_over.rows
        log.pass_over(pa.array(source.passed_over.edges, pa.int64()))

    return rebatch(kept(), source.data.batch_rows)


def _write_entities(entities: Entities, ids: pa.Array | None, window: Window, path: Path, drop: _Forget) -> int:
    rows, end = 0, Window(None, window.end)
    with pq.ParquetWriter(path, entities.schema, **options(entities.schema)) as writer:
        for batch in rebatch(entities.batches(ids), entities.source.data.batch_rows):
            batch = drop.rows(batch.filter(_inside(batch["event_timestamp"], end)))
            rows += batch.num_rows
            writer.write_batch(batch)
    return rows


def _inside(times: pa.Array, window: Window) -> pa.Array:
    """Which rows lie in the window; rows without a time count as inside, so that validation sees them."""
    start, end = window.bounds_micros()
    micros = times.cast(pa.int64())
    inside = pa.repeat(pa.scalar(True), len(times))
    if start is not None:
        inside = pc.and_(inside, pc.fill_null(pc.greater_equal(micros, start), True))
    if end is not None:
        inside = pc.and_(inside, pc.fill_null(pc.less(micros, end), True))
    return inside


def _merged(known: pa.Array, more: pa.Array) -> pa.Array:
    """Distinct ids in order of first appearance."""
    new = pc.unique(more).drop_null()
    new = new.filter(pc.invert(pc.is_in(new, value_set=known)))
    return pa.concat_arrays([known, new]) if len(new) else known


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")


def _check_declared(source: Source) -> None:
    data = source.data
    known = {
        "user_categorical": source.user_columns,
        "user_dense": source.user_columns,
        "item_categorical": source.item_columns,
        "item_dense": source.item_columns,
        "item_text": {"title": pa.string(), **source.item_columns},
    }
    for field, columns in known.items():
        for name in getattr(data, field):
            if name in _KEYS:
                without = "; [] does without text" if field == "item_text" else ""
                raise SettingsError(
                    f"data.{field} names {name!r}, which is a key; name columns that say something{without}"
                )
            if name not in columns:
                has = ", ".join(columns) or "none"
                raise SettingsError(f"data.{field} names {name!r}, which source {data.source!r} lacks; it has: {has}")
