"""Interactions that were pushed: kept until, and after, a window of the log holds them.

One SQLite file, `root/live/pushed.db`, because a push must be on the disk when it returns, and because a user's rows must
be found without a look at anyone else's. One row per (user, item, scenario, time): of two, the one that was published later
(`created_timestamp`) counts, and of equals the one that came last.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.duck import arrow_of, database, name_of, quoted
from core.files import replace_file
from core.ids import read_id
from core.log import logger
from core.sqlite import transaction
from core.tables import TIMESTAMP, IdTypes, from_values, interactions_schema
from core.window import Window

LOG = logger("ingest")
_TABLES = """
CREATE TABLE IF NOT EXISTS pushed (user_id, t INTEGER, item_id, scenario TEXT, label INTEGER, weight REAL,
    created INTEGER, PRIMARY KEY (user_id, t, item_id, scenario)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pushed_by_time ON pushed (t);
CREATE TABLE IF NOT EXISTS waiting (user_id PRIMARY KEY) WITHOUT ROWID;
"""
_ADD = """
INSERT INTO pushed VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (user_id, t, item_id, scenario)
DO UPDATE SET label = excluded.label, weight = excluded.weight, created = excluded.created
WHERE excluded.created >= pushed.created
"""
_COLUMNS = ("user_id", "event_timestamp", "item_id", "scenario", "label", "weight", "created_timestamp")
_ORDER = "SELECT * FROM pushed WHERE t >= ? AND t < ? ORDER BY t, user_id, item_id, scenario"
_OF_TYPES = _ORDER.replace("ORDER BY", "AND typeof(user_id) = ? AND typeof(item_id) = ? ORDER BY")
_EVER = (-(2**63), 2**63 - 1)
_BATCH = 65_536
_KEY = ("user_id", "item_id", "scenario", "event_timestamp")


class PushedLog:
    """The rows that were pushed below a root; safe for several processes of one machine.

    Args:
        root: of the project; `root/live` is made when something is added.
    """

    def __init__(self, root: Path) -> None:
        self.file = root / "live" / "pushed.db"

    def add(self, rows: pa.Table) -> None:
        """Keep rows in the schema of interactions, and note that their users wait to be written online.

        Raises:
            StorageError: the file cannot be written.
        """
        table = rows.select(_COLUMNS)
        for name in ("event_timestamp", "created_timestamp"):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, table[name].cast(TIMESTAMP).cast(pa.int64()))
        columns = [column.to_pylist() for column in table.columns]
        with self._open() as connection:
            connection.executemany(_ADD, zip(*columns, strict=True))
            connection.executemany("INSERT OR IGNORE INTO waiting VALUES (?)", ((user,) for user in set(columns[0])))

    def waiting(self, kind: pa.DataType) -> list[Any]:
        """Users with ids of a type whose rows are kept but whose state was not yet written online, in order."""
        query = "SELECT user_id FROM waiting WHERE typeof(user_id) = ? ORDER BY user_id"
        with self._open() as connection:
            return [user for (user,) in connection.execute(query, (_stored_as(kind),))]

    def written(self, users: Iterable[Any]) -> None:
        """These users' states are online now."""
        with self._open() as connection:
            connection.executemany("DELETE FROM waiting WHERE user_id = ?", ((user,) for user in users))

    def users(self, kind: pa.DataType | None = None) -> list[Any]:
        """All users with rows, in order; only those with ids of a type, where one is given."""
        if not self.file.is_file():
            return []
        with self._open() as connection:
            found = connection.execute("SELECT DISTINCT user_id, typeof(user_id) FROM pushed ORDER BY user_id")
            return [user for user, stored in found if kind is None or stored == _stored_as(kind)]

    def erase(self, users: Sequence[Any], *, count_only: bool = False) -> int:
        """Remove all rows of these users, and what is left of them in the file; returns how many there were."""
        if not self.file.is_file():
            return 0
        marks = [(user,) for user in users]
        with self._open() as connection:
            count = sum(
                connection.execute("SELECT count(*) FROM pushed WHERE user_id = ?", mark).fetchone()[0]
                for mark in marks
            )
            if count_only:
                return int(count)
            connection.execute("PRAGMA secure_delete = ON")
            for table in ("pushed", "waiting"):
                connection.executemany(f"DELETE FROM {table} WHERE user_id = ?", marks)
        with self._open() as connection:
            connection.execute("VACUUM")
        return int(count)

    def rows_of(
        self, users: Sequence[Any], item: pa.DataType | None = None
    ) -> dict[Any, list[tuple[int, Any, str, int, int]]]:
        """(time, item, scenario, label, created) of each of these users that has any, in order of time; microseconds.

        With a type of items given, those of another do not count.
        """
        query = "SELECT t, item_id, scenario, label, created FROM pushed WHERE user_id = ?"
        own: tuple[str, ...] = ()
        if item is not None:
            query, own = f"{query} AND typeof(item_id) = ?", (_stored_as(item),)
        with self._open() as connection:
            found = {user: connection.execute(query, (user, *own)).fetchall() for user in users}
        return {user: rows for user, rows in found.items() if rows}

    def settle(self, ids: IdTypes) -> None:
        """Write ids of another type as these types do: a number as its digits, digits as the number.

        Rows whose id cannot be of the type stay as they are, and count for nothing until it can be.
        """
        if not self.file.is_file():
            return
        with self._open() as connection:
            for table, key, kind in (
                ("pushed", "user_id", ids.user),
                ("pushed", "item_id", ids.item),
                ("waiting", "user_id", ids.user),
            ):
                other = "integer" if pa.types.is_string(kind) else "text"
                found = connection.execute(f"SELECT DISTINCT {key} FROM {table} WHERE typeof({key}) = ?", (other,))
                for (value,) in found.fetchall():
                    try:
                        change = (read_id(value, kind, ()), value)
                    except ValueError:
                        LOG.warning("pushed rows of %s %r count for nothing: ids are integers now", key, value)
                        continue
                    connection.execute(f"UPDATE OR REPLACE {table} SET {key} = ? WHERE {key} = ?", change)

    def between(self, window: Window, ids: IdTypes) -> pa.Table:
        """The rows of a window in the schema of interactions, in order of time."""
        self.settle(ids)
        kinds = (_stored_as(ids.user), _stored_as(ids.item))
        with self._open() as connection:
            rows = connection.execute(_OF_TYPES, (*_bounds(window), *kinds)).fetchall()
        columns = dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(_COLUMNS, ())
        return from_values(columns, interactions_schema(ids))

    def digest(self, window: Window) -> str | None:
        """Hex SHA-256 of the rows of a window; None where there are none."""
        if not self.file.is_file():
            return None
        digest, count = hashlib.sha256(), 0
        with self._open() as connection:
            for row in connection.execute(_ORDER, _bounds(window)):
                digest.update(repr(row).encode())
                count += 1
        return digest.hexdigest() if count else None

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self.file, _TABLES)


def merge(path: Path, pushed: pa.Table) -> tuple[pa.Table, int]:
    """Add what was pushed to a window's interactions; a key that the source holds too counts once.

    Of two rows of one key the one published later counts, and of equals the source's. Context columns are not pushed: a
    pushed row has those of the source's row whose place it takes, if both say the same label, else none.

    Args:
        path: the source's rows; replaced.
        pushed: rows in the schema of interactions, one per key.

    Returns:
        The pushed rows that count, and how many rows of the source they took the place of.
    """
    schema = pq.read_schema(path)
    matches = _matches(path, schema, pushed)
    number, place, published = (matches[name].to_numpy() for name in ("n", "place", "created"))
    created = pushed["created_timestamp"].cast(pa.int64()).to_numpy()
    rival = np.full(pushed.num_rows, _EVER[0])
    np.maximum.at(rival, number, published)
    counts = created > rival
    beaten = np.unique(place[counts[number]])
    winners = _with_context(pushed, matches, schema).filter(pa.array(counts))
    if winners.num_rows:
        _rewrite(path, beaten, winners)
    return winners.select(pushed.column_names), len(beaten)


def _matches(path: Path, schema: pa.Schema, pushed: pa.Table) -> pa.Table:
    """Rows of a file that share a key with a pushed row: `place` in the file, `created` (microseconds), `n` pushed,
    `same` (the label) and the context columns, those published last at the end.
    """
    numbered = pushed.select([*_KEY, "label"]).append_column("n", pa.array(np.arange(pushed.num_rows)))
    context = "".join(f", s.{name_of(name)}" for name in _context(schema))
    with database(path.parent) as connection:
        connection.register("pushed", numbered)
        return arrow_of(
            connection,
            "SELECT s.file_row_number AS place, epoch_us(s.created_timestamp) AS created, p.n AS n, "
            f"coalesce(s.label = p.label, false) AS same{context} "
            f"FROM read_parquet({quoted(path)}, file_row_number = true) s "
            f"JOIN pushed p USING ({', '.join(_KEY)}) ORDER BY created, place",
        )


def _with_context(pushed: pa.Table, matches: pa.Table, schema: pa.Schema) -> pa.Table:
    same = np.flatnonzero(matches["same"].to_numpy())
    source = np.full(pushed.num_rows, -1)
    source[matches["n"].to_numpy()[same]] = same
    for name in _context(schema):
        values = matches[name].cast(schema.field(name).type).take(pa.array(source, mask=source < 0))
        pushed = pushed.append_column(name, values)
    return pushed


def _context(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if name not in _COLUMNS]


def _rewrite(path: Path, beaten: np.ndarray, winners: pa.Table) -> None:
    source = pq.ParquetFile(path)

    def write(scratch: Path) -> None:
        begin = 0
        with pq.ParquetWriter(scratch, source.schema_arrow, compression="zstd") as writer:
            for batch in source.iter_batches(_BATCH):
                kept = np.ones(batch.num_rows, dtype=bool)
                kept[beaten[(beaten >= begin) & (beaten < begin + batch.num_rows)] - begin] = False
                writer.write_batch(batch.filter(pa.array(kept)))
                begin += batch.num_rows
            writer.write_table(winners.select(source.schema_arrow.names).cast(source.schema_arrow))

    replace_file(path, write)


def _stored_as(kind: pa.DataType) -> str:
    """What SQLite calls ids of a type."""
    return "text" if pa.types.is_string(kind) else "integer"


def _bounds(window: Window) -> tuple[int, int]:
    start, end = window.bounds_micros()
    return _EVER[0] if start is None else start, _EVER[1] if end is None else end
