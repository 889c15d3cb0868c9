"""Rows in and out of the online store, through Feast's own encoding and stores.

Writing keeps the newer row: a row is left out when the store already has one that was published later; a correction
(same publish time) wins. Feast alone does neither the same on every store: SQLite always overwrites, Redis drops
corrections or, with `skip_dedup`, always overwrites.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import redis
from google.protobuf.message import DecodeError

from core.addresses import RedisAddress
from core.errors import DataError, StorageError
from feature_repo.feast_names import (
    EntityKey,
    FeatureStore,
    FeatureView,
    RedisOnlineStore,
    SqliteOnlineStore,
    Value,
    convert_arrow_to_proto,
    mmh3,
    quote_id,
    redis_key,
    serialize_entity_key,
    table_id,
)
from feature_repo.held_connections import HeldConnections, awaited_connections

# What reading bytes raises that were not written by us: of protobuf, or of our own checks.
_UNREADABLE = (DecodeError, TypeError, ValueError, KeyError, AttributeError)
Kind = tuple[str, int]
Kinds = list[tuple[str, Kind]]
# Reads of SQLite that may wait at once; each is a thread, which sleeps meanwhile.
WAITING = 32
DAMAGED: Literal["damaged"] = "damaged"
# Plain values by column; None: never written.
Row = dict[str, Any] | Literal["damaged"] | None
_ARRAYS = {"float_list_val": np.float32, "double_list_val": np.float64}


class OnlineTable:
    """The online rows of feature views.

    Args:
        store: an open Feast store.
        timeout_ms: how long SQLite waits for another process's lock; Redis's time-outs are in the store's address.
        retry: whether Redis commands are tried again; readers must not, or a dead store costs seconds.
    """

    def __init__(self, store: FeatureStore, timeout_ms: int = 30_000, retry: bool = True) -> None:
        self.config = store.config
        self.provider = store._get_provider()
        self.backend = cast(SqliteOnlineStore | RedisOnlineStore, self.provider.online_store)
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._held: HeldConnections | None = None
        with storage_errors(self.config):
            if isinstance(self.backend, SqliteOnlineStore):
                connection = self.backend._get_conn(self.config)
                connection.execute(f"PRAGMA busy_timeout = {int(timeout_ms)}")
            elif isinstance(self.backend, RedisOnlineStore):
                # Feast's own reading of an address knows no IPv6 and takes a password of digits for a number.
                address = RedisAddress.parse(self.config.online_store.connection_string)
                client = self.backend._client = redis.Redis(**address.arguments())
                self._awaited = awaited_connections(address.arguments())
                if not retry:
                    client.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 0))
                    self._held = HeldConnections(client.connection_pool)

    def write(self, view: FeatureView, rows: pa.RecordBatch, *, replace: bool = False) -> int:
        """Write a few thousand rows at the most, each entity once; returns how many are now in the store.

        A row that lost against a newer one counts: what the store holds is at least as new as what was asked.

        Args:
            view: whose rows they are.
            rows: ids, times and the view's columns.
            replace: these rows are the truth whatever their dates: what a catalogue says today.

        Raises:
            StorageError: the store does not answer, or does not hold afterwards what was written.
            DataError: a vector has not the view's length.
        """
        _check_lengths(view, rows)
        key = view.join_keys[0]
        ids = rows.column(key).to_pylist()
        offered = rows.column("published").to_pylist()
        found = self._published(view, ids) if not replace else [None] * len(ids)
        keep = [i for i, (new, old) in enumerate(zip(offered, found, strict=True)) if old is None or old <= new]
        if keep:
            chosen = rows if len(keep) == rows.num_rows else rows.take(pa.array(keep))
            kinds = {entity.name: entity.dtype.to_value_type() for entity in view.entity_columns}
            try:
                # One record batch: Feast converts the first chunk of a table only.
                encoded = convert_arrow_to_proto(chosen, view, kinds)
            except ValueError as error:
                raise DataError(f"view {view.name}: {error}") from error
            with storage_errors(self.config):
                self.provider.online_write_batch(self.config, view, encoded, progress=None)
        stored = self._published(view, ids)
        return sum(old is not None and old >= new for new, old in zip(offered, stored, strict=True))

    def remove(self, view: FeatureView, ids: Sequence[Any]) -> None:
        """Take a few thousand entities at the most out of a view; one that is not there is no error.

        Raises:
            StorageError: the store does not answer.
        """
        if not ids or not self.has_view(view):
            return
        version = self.config.entity_key_serialization_version
        keys = entity_keys(view.join_keys[0], ids)
        with storage_errors(self.config):
            if isinstance(self.backend, SqliteOnlineStore):
                connection = self.backend._get_conn(self.config)
                table = quote_id(table_id(self.config.project, view))
                with connection:
                    connection.executemany(
                        f"DELETE FROM {table} WHERE entity_key = ?", [(serialize_entity_key(k, version),) for k in keys]
                    )
                return
            fields = [mmh3(f"{view.name}:{field.name}") for field in view.features] + [f"_ts:{view.name}".encode()]
            with self._redis().pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hdel(redis_key(self.config.project, key, version), *fields)
                pipe.execute()

    def erase(self, key: str, ids: Sequence[Any], *, count_only: bool = False) -> int:
        """Take entities out of every view of every version, known to the registry or not; returns how many rows went.

        Args:
            key: their join key, e.g. `user_id`.
            ids: a few thousand at the most.
            count_only: leave them there.

        Raises:
            StorageError: the store does not answer.
        """
        version, keys = self.config.entity_key_serialization_version, entity_keys(key, ids)
        with storage_errors(self.config):
            if not isinstance(self.backend, SqliteOnlineStore):
                with self._redis().pipeline(transaction=False) as pipe:
                    for one in keys:
                        address = redis_key(self.config.project, one, version)
                        _ = pipe.exists(address) if count_only else pipe.delete(address)
                    return int(sum(pipe.execute()))
            connection, count = self.backend._get_conn(self.config), 0
            if not count_only:
                connection.execute("PRAGMA secure_delete = ON")
            addresses = [(serialize_entity_key(one, version),) for one in keys]
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            with connection:
                for (table,) in names:
                    columns = {row[1] for row in connection.execute(f"PRAGMA table_info({quote_id(table)})")}
                    if "entity_key" not in columns:
                        continue
                    where = f"FROM {quote_id(table)} WHERE entity_key = ?"
                    found = (connection.execute(f"SELECT count(*) {where}", one).fetchone()[0] for one in addresses)
                    count += sum(found)
                    if not count_only:
                        connection.executemany(f"DELETE {where}", addresses)
            if count_only:
                return count
            # What was deleted still lies in the log of writes until that is emptied.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return count

    def read(self, view: FeatureView, ids: Sequence[Any]) -> list[Row]:
        """The rows of some ids of one view; None where there is none, `DAMAGED` where it cannot be read."""
        return self._read(view, ids, None)

    def read_views(self, views: Sequence[FeatureView], key: Any) -> list[Row]:
        """As `read`, of one entity in several views of that entity: one command, or one query, for all of them."""
        if not views:
            return []
        plan = self._plan(views)
        wanted = entity_keys(plan.key, [key])[0]
        with storage_errors(self.config):
            if isinstance(self.backend, RedisOnlineStore):
                client = self._held or self._redis()
                return _rows_of(plan, client.hmget(self._hash_of(wanted), plan.fields))
            return self._read_tables(plan, wanted)

    async def read_views_async(
        self, views: Sequence[FeatureView], keys: Sequence[Any], seconds: float
    ) -> list[list[Row] | StorageError]:
        """As `read_views`, of several entities at once and while the event loop goes on, with one deadline over all of it.

        Returns:
            For each entity its rows, or what the store refuses them with.

        Raises:
            StorageError: the store does not answer in time, waiting for other reads included.
        """
        if not views or not keys:
            return [[] for _ in keys]
        plan = self._plan(views)
        with storage_errors(self.config):
            if isinstance(self.backend, RedisOnlineStore):
                addresses = [self._hash_of(key) for key in entity_keys(plan.key, keys)]
                found = await self._awaited.hmget(addresses, plan.fields, seconds)
                return [self._held_or_refused(plan, values) for values in found]
            read = asyncio.get_running_loop().run_in_executor(_threads(), self._read_each, views, keys)
            try:
                return await asyncio.wait_for(read, seconds)
            except TimeoutError as error:
                raise TimeoutError(f"no answer within {seconds * 1000:.0f} ms") from error

    def _read_each(self, views: Sequence[FeatureView], keys: Sequence[Any]) -> list[list[Row] | StorageError]:
        return [self.read_views(views, key) for key in keys]

    def _held_or_refused(self, plan: _Plan, values: Any) -> list[Row] | StorageError:
        try:
            with storage_errors(self.config):
                if isinstance(values, redis.ResponseError):
                    raise values
                return _rows_of(plan, values)
        except StorageError as error:
            return error

    def has_view(self, view: FeatureView) -> bool:
        """Whether the store could hold rows of a view; SQLite needs a table for it."""
        if not isinstance(self.backend, SqliteOnlineStore):
            return True
        with storage_errors(self.config):
            query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
            found = self.backend._get_conn(self.config).execute(query, (table_id(self.config.project, view),))
            return found.fetchone() is not None

    def _published(self, view: FeatureView, ids: Sequence[Any]) -> list[int | None]:
        if isinstance(self.backend, SqliteOnlineStore):
            return self._published_sqlite(view, ids)
        rows = self._read(view, ids, ["published"])
        return [row["published"] if isinstance(row, dict) else None for row in rows]

    def _published_sqlite(self, view: FeatureView, ids: Sequence[Any]) -> list[int | None]:
        """Feast's own read would fetch all columns of the rows, vectors too."""
        version = self.config.entity_key_serialization_version
        keys = [serialize_entity_key(key, version) for key in entity_keys(view.join_keys[0], ids)]
        table = table_id(self.config.project, view)
        query = f'SELECT entity_key, value FROM "{table}" WHERE feature_name = ? AND entity_key IN ({_marks(keys)})'
        with storage_errors(self.config):
            rows = self._sqlite().execute(query, ["published", *keys]).fetchall()
        found = {}
        for key, value in rows:
            with suppress(*_UNREADABLE):
                found[key] = Value.FromString(value).int64_val
        return [found.get(key) for key in keys]

    def _redis(self) -> Any:  # its annotations know no bytes
        return cast(RedisOnlineStore, self.backend)._get_client(self.config.online_store)

    def _sqlite(self) -> sqlite3.Connection:
        return cast(SqliteOnlineStore, self.backend)._get_conn(self.config)

    def _read(self, view: FeatureView, ids: Sequence[Any], columns: list[str] | None) -> list[Row]:
        if not ids:
            return []
        kinds = dict(_kinds(view))
        keys = entity_keys(view.join_keys[0], ids)
        try:
            with storage_errors(self.config):
                found = self.provider.online_read(self.config, view, keys, columns)
        except _UNREADABLE:
            # Feast reads all or nothing: one by one, only what is damaged is lost.
            return [row for one in ids for row in self._read(view, [one], columns)] if len(ids) > 1 else [DAMAGED]
        return [_decode(row, kinds) for _, row in found]

    def _hash_of(self, key: EntityKey) -> bytes:
        """The Redis hash of an entity: all its views are fields of it."""
        return redis_key(self.config.project, key, self.config.entity_key_serialization_version)

    def _read_tables(self, plan: _Plan, key: EntityKey) -> list[Row]:
        """SQLite has a table per view, and a row in it per column of an entity."""
        address = serialize_entity_key(key, self.config.entity_key_serialization_version)
        found: list[dict[str, bytes]] = [{} for _ in plan.kinds]
        query = self._sqlite().execute(plan.query, [address] * len(plan.kinds))
        for place, name, value in query:
            found[place][name] = value
        return [
            _row(kinds, [values.get(name) for name, _ in kinds])
            for kinds, values in zip(plan.kinds, found, strict=True)
        ]

    def _plan(self, views: Sequence[FeatureView]) -> _Plan:
        """What to ask for; made once, since Feast checks types at every look at a view."""
        known = tuple(view.name for view in views)
        if known not in self._plans:
            kinds = [_kinds(view) for view in views]
            fields = [mmh3(f"{view}:{name}") for view, own in zip(known, kinds, strict=True) for name, _ in own]
            tables = (table_id(self.config.project, view) for view in views)
            query = " UNION ALL ".join(
                f'SELECT {place}, feature_name, value FROM "{table}" WHERE entity_key = ?'
                for place, table in enumerate(tables)
            )
            self._plans[known] = _Plan(views[0].join_keys[0], fields, kinds, query)
        return self._plans[known]


@dataclass(frozen=True)
class _Plan:
    """The join key, the hash fields of all columns, the columns and their kinds view by view, and a SQLite query for them."""

    key: str
    fields: list[bytes]
    kinds: list[Kinds]
    query: str


def entity_keys(key: str, values: Sequence[Any]) -> list[EntityKey]:
    """Feast's keys of ids, which are integers or text."""
    return [
        EntityKey(
            join_keys=[key],
            entity_values=[Value(int64_val=value) if isinstance(value, int) else Value(string_val=value)],
        )
        for value in values
    ]


def _rows_of(plan: _Plan, values: Any) -> list[Row]:
    """What HMGET answered, view by view."""
    if not isinstance(values, list) or len(values) != len(plan.fields):
        raise redis.ResponseError(f"HMGET of {len(plan.fields)} fields was answered by {type(values).__name__}")
    rows: list[Row] = []
    begin = 0
    for kinds in plan.kinds:
        end = begin + len(kinds)
        rows.append(_row(kinds, values[begin:end]))
        begin = end
    return rows


@cache
def _threads() -> ThreadPoolExecutor:
    """Reads of SQLite that are awaited; shared by all readers of this process."""
    return ThreadPoolExecutor(WAITING, "online-read")


@contextmanager
def storage_errors(config: Any) -> Iterator[None]:
    """Turn what a broken online store raises into a StorageError."""
    try:
        yield
    except (sqlite3.Error, redis.RedisError, OSError) as error:
        # The address may hold a password: name its first part only.
        online = config.online_store
        where = getattr(online, "path", None) or f"{online.connection_string.split(',')[0]} (online.url)"
        hint = "; run `llm4msr materialize` first" if "no such table" in str(error) else ""
        raise StorageError(f"online store {where}: {type(error).__name__}: {error}{hint}") from error


def use_write_ahead_log(path: Path) -> None:
    """Let readers of a SQLite store go on while another process writes; the file remembers it."""
    with storage_errors_at(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()


@contextmanager
def storage_errors_at(path: Path) -> Iterator[None]:
    """As `storage_errors`, for a SQLite file."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"online store {path}: {error}") from error


def _check_lengths(view: FeatureView, rows: pa.RecordBatch) -> None:
    """Feast compares a vector's length with the declared one only where it has an index to search it by."""
    for column in view.features:
        if not column.vector_length:
            continue
        lengths = pc.unique(pc.list_value_length(rows.column(column.name))).drop_null().to_pylist()
        if lengths not in ([], [column.vector_length]):
            found = ", ".join(map(str, sorted(lengths)))
            message = f"view {view.name}: {column.name} has length {found}, declared is {column.vector_length}"
            raise DataError(message, column=column.name)


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


def _kinds(view: FeatureView) -> Kinds:
    """Each column of a view, the kind of value that it holds, and the length of its vectors."""
    return [
        (field.name, (f"{field.dtype.to_value_type().name.lower()}_val", field.vector_length))
        for field in view.features
    ]


def _row(kinds: Kinds, values: Sequence[bytes | None]) -> Row:
    """Plain values of encoded ones; None for a row that was never written."""
    try:
        row = {
            name: _plain(Value.FromString(raw), kind) if raw else None
            for (name, kind), raw in zip(kinds, values, strict=True)
        }
    except _UNREADABLE:
        return DAMAGED
    return None if row.get("published") is None else row


def _decode(row: Mapping[str, Value] | None, kinds: Mapping[str, Kind]) -> Row:
    """As `_row`, of what Feast's own read returns: stores differ in how they say that there is no row."""
    try:
        found = {} if row is None else {name: _plain(value, kinds[name]) for name, value in row.items()}
    except _UNREADABLE:
        return DAMAGED
    return None if found.get("published") is None else found


def _plain(value: Value, wanted: Kind) -> Any:
    """A value as Python or NumPy has it.

    Raises:
        ValueError: it is of another kind or length than its column, or no number that a model can take.
    """
    kind = value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    if kind != wanted[0]:
        raise ValueError(f"{kind} where {wanted[0]} belongs")
    held = getattr(value, kind)
    if not kind.endswith("_list_val"):
        if isinstance(held, float) and not math.isfinite(held):
            if math.isnan(held):
                return None
            raise ValueError(f"{held} is no number")
        return held
    if kind not in _ARRAYS:
        return list(held.val)
    array = np.array(held.val, dtype=_ARRAYS[kind])
    if (wanted[1] and len(array) != wanted[1]) or not np.isfinite(array).all():
        raise ValueError(f"a vector of {len(array)} numbers, or one that is none")
    return array
