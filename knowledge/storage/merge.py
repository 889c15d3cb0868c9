"""From buckets of users to one artifact in order of (watermark, user), without ever holding it.

Keys are sorted on the disk; vectors lie in a scratch file in the order they came and are copied in the order they go. Users
who were not made again keep what the artifact before has of them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.duck import slices, tables_of
from core.segments import TableWriter, row_counts, segments
from core.tables import knowledge_text_schema
from knowledge.storage import queries
from knowledge.storage.matrix import DIGEST, IndexedMatrix, Known, Rows, text_table

# Rows of the output made at a time.
_ROWS = 16_384
_TEXT = "user_id, watermark, text, text_source, version"
# Superseded texts are left where they are until there are as many of them as of others.
_MOST_TEXTS = 2


class Merge:
    """Takes tables in any order and writes matrices and texts in order of (watermark, user).

    Args:
        scratch: a folder for work in progress, removed at the end.
        made: the users who are made again; None: all, and nobody keeps anything.
    """

    def __init__(self, scratch: Path, made: pa.Array | None) -> None:
        self._scratch, self._made = scratch, made
        self._counts: dict[str, int] = {}
        self._files: dict[str, int] = {}

    def __enter__(self) -> Merge:
        self._scratch.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def add(self, name: str, table: pa.Table) -> None:
        """A bucket's table: user_id, watermark, and `vector`, `digest` and `hash`, or a text and what made it.

        Vectors go to the scratch file; what is sorted is narrow.
        """
        if "vector" in table.column_names:
            path = self._scratch / f"{name}.records"
            begin = path.stat().st_size if path.is_file() else 0
            body = _fixed(table["vector"].combine_chunks()) if len(table) else b""
            with path.open("ab") as stream:
                stream.write(body)
            width = table.schema.field("vector").type.byte_width
            places = pa.array(begin // max(1, width) + np.arange(len(table)))
            table = table.drop_columns(["vector"]).append_column("place", places)
        number = self._files[name] = self._files.get(name, 0) + 1
        pq.write_table(table, self._scratch / f"{name}.{number}.parquet")
        self._counts[name] = self._counts.get(name, 0) + table.num_rows

    def matrix(self, name: str, out: IndexedMatrix, lag: int, dim: int) -> int:
        """Write the rows of a kind; returns how many there are.

        Args:
            name: of the tables that were added.
            out: open.
            lag: microseconds from watermark to readable.
            dim: of the vectors.
        """
        known = out.known if self._made is not None else None
        with queries.database(self._scratch) as connection, _Scattered(self._scratch / f"{name}.records", dim) as made:
            query = f"SELECT user_id, watermark, hash, digest, place, false AS kept FROM {self._tables(name)}"
            if known is not None and self._only_new(connection, name, known):
                out.take(len(known.watermarks))
                query = f"{query} ANTI JOIN before USING (user_id, watermark)"
            elif known is not None:
                query = f"""{query} UNION ALL BY NAME SELECT user_id, watermark, hash, place, true AS kept FROM before
                    WHERE user_id NOT IN (SELECT user_id FROM made)"""
            for table in slices(connection, f"{query} ORDER BY watermark, user_id", _ROWS):
                vectors, digests = np.zeros((len(table), dim), np.float32), np.zeros((len(table), DIGEST), np.uint8)
                kept, place = table["kept"].to_numpy(), table["place"].to_numpy()
                vectors[~kept] = made.take(place[~kept])
                digests[~kept] = _rows(table["digest"].combine_chunks().filter(pa.array(~kept)), np.uint8, DIGEST)
                if known is not None and kept.any():
                    vectors[kept], digests[kept] = known.vectors[place[kept]], known.digests[place[kept]]
                rows = Rows("user_id", table["user_id"].combine_chunks(), table["watermark"].to_numpy(), lag)
                out.write(rows, table["hash"].combine_chunks(), vectors, digests)
        return len(out)

    def texts(self, name: str, folder: Path, user_id: pa.DataType, lag: int, before: Path | None) -> int:
        """Write the table of texts for people, `user_text`, of which a user's newest counts; returns its rows.

        Args:
            name: of the tables that were added.
            folder: of the artifact.
            user_id: the type of ids.
            lag: microseconds from watermark to readable.
            before: the table in the artifact before.
        """
        before = before if self._made is not None else None
        old = sum(row_counts(before)) if before is not None else 0
        schema = knowledge_text_schema("user_id", user_id)
        query = f"SELECT {_TEXT} FROM {self._tables(name)}"
        with queries.database(self._scratch) as connection, TableWriter(folder, name, schema, before) as out:
            if before is not None:
                _view_texts(connection, before)
                self._register(connection)
                new, users = self._new_texts(connection, query)
                if new is not None and old + new <= _MOST_TEXTS * users:
                    out.take(old)
                    query = f"{query} ANTI JOIN newest USING (user_id, watermark)"
                else:
                    old = 0
                    query = f"""{query} UNION ALL BY NAME SELECT {_TEXT} FROM newest
                        WHERE user_id NOT IN (SELECT user_id FROM made)"""
            for table in slices(connection, f"{query} ORDER BY watermark, user_id", _ROWS):
                rows = Rows("user_id", table["user_id"].combine_chunks(), table["watermark"].to_numpy(), lag)
                out.write(text_table(rows, table["text"], table["version"], table["text_source"]))
                old += len(table)
        return old

    def _only_new(self, connection: duckdb.DuckDBPyConnection, name: str, known: Known) -> bool:
        """Whether all that was known of the users who were made again is as it was, and the rest is later than all before."""
        index = segments(known.index)
        connection.execute(
            f"""CREATE VIEW before AS SELECT user_id, epoch_us(watermark) AS watermark, prompt_sha256 AS hash, "row" AS place
            FROM {tables_of(index)}"""
        )
        self._register(connection)
        joined = f"FROM {self._tables(name)} m JOIN before b USING (user_id, watermark)"
        matched = 0
        for table in slices(connection, f"SELECT digest, b.place AS place {joined}", _ROWS):
            digests = _rows(table["digest"].combine_chunks(), np.uint8, DIGEST)
            if (known.digests[table["place"].to_numpy()] != digests).any():
                return False
            matched += len(table)
        [(first,)] = connection.execute(
            f"SELECT min(watermark) FROM {self._tables(name)} ANTI JOIN before USING (user_id, watermark)"
        ).fetchall()
        [(there, last)] = connection.execute(
            "SELECT count(*) FILTER (user_id IN (SELECT user_id FROM made)), max(watermark) FROM before"
        ).fetchall()
        return bool(there == matched and (first is None or last is None or first > last))

    def _new_texts(self, connection: duckdb.DuckDBPyConnection, query: str) -> tuple[int | None, int]:
        """How many texts are new, where each is its user's and later than all before, else None; and the users there are."""
        [(new, first, moved, here, strange)] = connection.execute(
            f"""SELECT count(*) FILTER (n.user_id IS NULL OR n.watermark <> m.watermark),
                min(m.watermark) FILTER (n.user_id IS NULL OR n.watermark <> m.watermark),
                count(*) FILTER (n.watermark = m.watermark AND
                    (n.text, n.text_source, n.version) IS DISTINCT FROM (m.text, m.text_source, m.version)),
                count(n.user_id), count(*) FILTER (n.user_id IS NULL)
            FROM ({query}) m LEFT JOIN newest n USING (user_id)"""
        ).fetchall()
        [(there, known, last)] = connection.execute(
            "SELECT count(*) FILTER (user_id IN (SELECT user_id FROM made)), count(*), max(watermark) FROM newest"
        ).fetchall()
        appended = not moved and here == there and (first is None or last is None or first > last)
        return (new if appended else None), known + strange

    def _register(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.register("made", pa.table({"user_id": self._made}))

    def _tables(self, name: str) -> str:
        return tables_of([self._scratch / f"{name}.{number + 1}.parquet" for number in range(self._files[name])])


def newest_texts(table: Path) -> str:
    """SQL: each user's newest text."""
    files = tables_of(segments(table))
    return f"SELECT * FROM {files} QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY watermark DESC) = 1"


def _view_texts(connection: duckdb.DuckDBPyConnection, before: Path) -> None:
    columns = "* REPLACE (epoch_us(watermark) AS watermark)"
    connection.execute(f"CREATE VIEW newest AS SELECT {columns} FROM ({newest_texts(before)})")


class _Scattered:
    """Vectors of a file, read in any order. Not a memory map: pages around each would come in with it."""

    def __init__(self, path: Path, dim: int) -> None:
        self._path, self._dim = path, dim

    def __enter__(self) -> _Scattered:
        self._file = os.open(self._path, os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def take(self, places: np.ndarray) -> np.ndarray:
        """The vectors at some places, float32 [n, dim]."""
        width = 4 * self._dim
        found = b"".join(os.pread(self._file, width, int(place) * width) for place in places)
        return np.frombuffer(found, "<f4").reshape(-1, self._dim)


def vectors_column(vectors: np.ndarray) -> pa.Array:
    """Rows of a contiguous array as fixed-size binary, without a copy."""
    rows = np.ascontiguousarray(vectors)
    width = rows.shape[1] * rows.itemsize
    return pa.Array.from_buffers(pa.binary(width), len(rows), [None, pa.py_buffer(rows)])


def _rows(column: pa.Array, dtype: Any, width: int) -> np.ndarray:
    """A binary column of one width as an array [n, width]."""
    return np.frombuffer(b"".join(column.to_pylist()), dtype).reshape(-1, width)


def _fixed(column: pa.Array) -> memoryview:
    """The bytes of a fixed-size binary column."""
    width = column.type.byte_width
    return memoryview(column.buffers()[1])[column.offset * width : (column.offset + len(column)) * width]
