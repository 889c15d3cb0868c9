"""The push path: fresh interactions change their users' counters, history and pooled vector online at once.

This is what makes a lag of zero honest: training assumes that these values are known from the next microsecond on.
The states are computed from the users' whole log by the functions of the batch path, so that both write equal rows.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView
from feast.errors import FeatureViewNotFoundException
from sqlalchemy.exc import SQLAlchemyError

from core import Clock, Settings, logger, to_micros
from core.digest import sha256_file
from core.errors import DataError, MissingArtifactError, StorageError
from core.tables import TIMESTAMP, conform, interactions_schema
from feature_repo.log import id_types
from feature_repo.online import OnlineTable
from feature_repo.overlay import WRITE_BATCH, open_store
from feature_repo.statistics import TICK, EntityState, entity_state
from feature_repo.views import safe

LOG = logger("feature_repo")
_COLUMNS = "user_id, item_id, scenario, event_timestamp, label"


def push(
    settings: Settings,
    clock: Clock,
    rows: pa.Table,
    *,
    sources: Sequence[Path],
    pooler: Pooler | None = None,
) -> dict[str, int]:
    """Write the state that the users of fresh interactions now have to the online store.

    The rows are kept in `root/live` first, so that nothing is lost if the store is down; pushing them again is
    harmless. A row is counted once, however often it comes and whether or not a later ingest brings it too.

    Args:
        settings: stores, prior, history length, thresholds and `max_age` of the pooled vector.
        clock: rows later than its now (and `validation.max_future`) are refused.
        rows: the schema of `core.tables.interactions_schema`.
        sources: validate artifacts, oldest window first.
        pooler: makes pooled vectors, e.g. `knowledge.load_pooler(artifact)`; keep it between calls. Without it
            pooled vectors wait for the next materialisation.

    Returns:
        Feast view name to users written.

    Raises:
        DataError: the rows lack a column, hold a null or a wrong label, or lie in the future.
        MissingArtifactError: nothing was materialised yet.
        StorageError: the live folder or the online store cannot be written.
    """
    ids = id_types(sources)
    rows = _checked(conform(rows, interactions_schema(ids), "interactions"), settings, clock)
    if not rows.num_rows:
        return {}
    with _turn(settings.root / "live"):
        _keep(rows, settings.root / "live")
        logs = list(_logs(rows["user_id"].unique(), sources, settings.root / "live"))
        states = {user: entity_state(log, settings) for user, log in logs}
        writer = _Writer(settings, ids.user)
        written = {
            "user_stats": writer.write("user_stats", states, _stats),
            "user_history": writer.write(
                "user_history", states, lambda s: {"history": (s.history, pa.list_(ids.item))}
            ),
        }
        if pooler is not None:
            name = f"user_pooled_{safe(pooler.version)}"
            written[name] = writer.write_pooled(name, _snapshots(logs, settings), pooler)
    LOG.info("pushed %s rows of %s users", f"{rows.num_rows:,}", f"{len(states):,}")
    return written


class Pooler(Protocol):
    """What `knowledge.Pooler` does: a user's pooled vector from the item ids of positives and negatives."""

    version: str

    def pool(self, positives: Sequence[Any], negatives: Sequence[Any]) -> np.ndarray | None: ...  # noqa: D102


class _Writer:
    """Writes users' rows into value views; each view's row says when it was published."""

    def __init__(self, settings: Settings, user: pa.DataType) -> None:
        self.user = user
        self.store = open_store(settings)
        self.table = OnlineTable(self.store)

    def write(self, name: str, states: Mapping[Any, EntityState], columns: Callable[[EntityState], dict]) -> int:
        rows = [(user, state.watermark, columns(state)) for user, state in states.items()]
        return self._write(self._view(name), rows)

    def write_pooled(self, name: str, snapshots: Iterable[tuple[Any, int, list, list]], pooler: Pooler) -> int:
        """Only users whose row count passed a threshold since their vector was made."""
        view, rows = self._view(name), []
        for user, watermark, positives, negatives in snapshots:
            old = self.table.read(view, [user])[0]
            if old is not None and old["watermark"] >= watermark:
                continue
            vector = pooler.pool(positives, negatives)
            if vector is not None:
                values = np.asarray(vector, dtype=np.float32).tolist()
                rows.append((user, watermark, {"vector": (values, pa.list_(pa.float32()))}))
        return self._write(view, rows)

    def _write(self, view: FeatureView, rows: list[tuple[Any, int, dict]]) -> int:
        count = 0
        for begin in range(0, len(rows), WRITE_BATCH):
            count += self.table.write(view, self._batch(rows[begin : begin + WRITE_BATCH]))
        if count != len(rows):
            raise StorageError(f"view {view.name}: {len(rows):,} rows were pushed, {count:,} arrived; push them again")
        return count

    def _batch(self, rows: list[tuple[Any, int, dict]]) -> pa.RecordBatch:
        marks = pa.array([mark for _, mark, _ in rows], pa.int64())
        columns = {
            "user_id": pa.array([user for user, _, _ in rows], self.user),
            "event_timestamp": marks.cast(TIMESTAMP),
            "created_timestamp": marks.cast(TIMESTAMP),
            "watermark": marks,
            "published": marks,
        }
        for name, (_, kind) in rows[0][2].items():
            columns[name] = pa.array([values[name][0] for _, _, values in rows], kind)
        return pa.RecordBatch.from_pydict(columns)

    def _view(self, name: str) -> FeatureView:
        try:
            return self.store.registry.get_feature_view(name, self.store.project)
        except FeatureViewNotFoundException as error:
            raise MissingArtifactError(f"Feast knows no view {name}; run `llm4msr materialize` first") from error
        except (SQLAlchemyError, OSError) as error:
            raise StorageError(f"Feast registry of project {self.store.project}: {error}") from error


def _stats(state: EntityState) -> dict[str, tuple[Any, pa.DataType]]:
    return {
        "user_rows": (state.rows, pa.int64()),
        "user_positives": (state.positives, pa.int64()),
        "user_rate": (state.rate, pa.float32()),
    }


def _checked(rows: pa.Table, settings: Settings, clock: Clock) -> pa.Table:
    labels = rows["label"]
    bad = pc.invert(pc.is_in(labels, pa.array([0, 1], pa.int8()))).to_pylist()
    if any(bad):
        raise DataError("a label is 0 or 1", row=bad.index(True), column="label")
    limit = clock.now() + settings.validation.max_future
    late = pc.greater(rows["event_timestamp"], pa.scalar(limit, TIMESTAMP)).to_pylist()
    if any(late):
        raise DataError(f"later than {limit.isoformat()}", row=late.index(True), column="event_timestamp")
    return rows


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One push at a time on this machine: each must see the rows of those before it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise StorageError(f"{folder} cannot be used ({error}); push the rows again") from error


def _keep(rows: pa.Table, folder: Path) -> None:
    """One file per push, named by its content: the same push again is the same file."""
    scratch = folder / f".{uuid.uuid4().hex}"
    try:
        pq.write_table(rows, scratch, compression="zstd")
        scratch.replace(folder / f"{sha256_file(scratch)[:24]}.parquet")
    finally:
        scratch.unlink(missing_ok=True)


def _logs(users: pa.Array, sources: Sequence[Path], live: Path) -> Iterator[tuple[Any, pa.Table]]:
    """Every interaction of some users, earlier windows first, pushed rows last."""
    files = [source / "interactions.parquet" for source in sources]
    # A file that was pushed later must win a repeat: order by when it came.
    files += sorted(live.glob("*.parquet"), key=lambda f: (f.stat().st_mtime_ns, f.name))
    parts = [
        f"SELECT {_COLUMNS}, {n} AS part, file_row_number AS place FROM read_parquet('{_quoted(f)}', "
        "file_row_number = true)"
        for n, f in enumerate(files)
    ]
    asked = pa.table({"user_id": users})
    with duckdb.connect() as connection:
        connection.register("asked", asked)
        query = f"SELECT * FROM ({' UNION ALL '.join(parts)}) SEMI JOIN asked USING (user_id)"
        found = connection.sql(f"{query} ORDER BY user_id, part, place").to_arrow_table().combine_chunks()
    keys = found["user_id"].to_pylist()
    begin = 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or keys[end] != keys[begin]:
            yield keys[begin], found.slice(begin, end - begin)
            begin = end


def _snapshots(
    logs: Iterable[tuple[Any, pa.Table]], settings: Settings
) -> Iterator[tuple[Any, int, list[Any], list[Any]]]:
    """The newest pooled snapshot that is due: user, watermark, item ids of positives and of negatives before it."""
    age, every = (
        span and span // dt.timedelta(microseconds=1) for span in (settings.knowledge.max_age, settings.knowledge.every)
    )
    for user, log in logs:
        rows = {(r["item_id"], r["scenario"], r["event_timestamp"]): r["label"] for r in log.to_pylist()}
        ordered = sorted((to_micros(time), item, label) for (item, _, time), label in rows.items())
        mark = newest_snapshot([time for time, _, _ in ordered], settings.knowledge.thresholds, age, every)
        if mark is not None:
            before = [(item, label) for time, item, label in ordered if time < mark]
            yield user, mark, [i for i, label in before if label == 1], [i for i, label in before if label == 0]


def newest_snapshot(
    times: Sequence[int], thresholds: Iterable[int], max_age: int | None, every: int | None = None
) -> int | None:
    """The watermark of a user's newest snapshot, by the batch path's rule; None before the first threshold.

    Args:
        times: the user's event times, ascending, in microseconds.
        thresholds: row counts that make a snapshot.
        max_age: microseconds after which the next row makes another one; None for never.
        every: microseconds; the first row in each such period of the calendar makes one too; None for never.
    """
    pending = [k - 1 for k in sorted(set(thresholds)) if k <= len(times)]
    if every is not None and pending:
        first = [i for i in range(pending[0] + 1, len(times)) if times[i] // every != times[i - 1] // every]
        pending = sorted({*pending, *first})
    newest = None
    while pending:
        newest = pending.pop(0)
        if max_age is not None:
            aged = bisect_left(times, times[newest] + TICK + max_age)
            if aged < len(times) and (not pending or aged < pending[0]):
                pending.insert(0, aged)
    return None if newest is None else times[newest] + TICK


def _quoted(file: Path) -> str:
    return str(file).replace("'", "''")
