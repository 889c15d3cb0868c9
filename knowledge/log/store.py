"""The log on disk, in order of users, so that one bucket of users is read at a time and never the whole log.

    CACHE/log/SOURCE/rows.parquet    the source's rows in order of (hash of the user, user, time, item, scenario)
    CACHE/log/SOURCE/users.parquet   rows and a digest of them per user
    CACHE/log/SOURCE/meta.json       times of the first and last row, checksums
    CACHE/log/digests.json           digests of the files above, which are not read again while they do not change

A source is an immutable folder of validated tables and is put in order once. Which users have new, late, corrected or
withdrawn rows is seen from the small tables alone: a user's key is a hash of the digests of all sources.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.duck import arrow_of, tables_of
from core.errors import DataError, MissingArtifactError
from core.file_digests import FileDigests
from core.log import logger
from knowledge.log.ordering import FILES, KEY, OrderedSource, put_in_order
from knowledge.log.sources import Catalogue, Log, item_positions, make_log
from knowledge.storage import queries
from knowledge.storage.buckets import Bucket, buckets_for
from knowledge.storage.cleanup import in_use, sweep

LOG = logger("knowledge")
# Rows of which statistics are counted at a time.
SLICE_ROWS = 500_000


class LogStore:
    """The log of several sources, read by buckets of users. Use it as a context: it holds a database connection.

    Attributes:
        rows: of all sources together; rows that come twice count twice here, and once wherever they are read.
        buckets: of users, in order of their hashes.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        parts: Sequence[OrderedSource],
        catalogue: Catalogue,
        ids: pa.DataType,
    ) -> None:
        self._connection, self._catalogue, self._user_type = connection, catalogue, ids
        self._active: dict[int, pa.Array] = {}
        self.rows = sum(part.rows for part in parts)
        self.buckets = buckets_for(self.rows)
        numbers = pa.table({"part": [p.number for p in parts], "place": list(range(len(parts)))})
        connection.register("given", numbers)
        connection.execute("CREATE TEMP TABLE parts AS SELECT * FROM given")
        for name in FILES:
            # Sources of the same rows are one file, which has all their places.
            files = tables_of(list(dict.fromkeys(part.folder / name for part in parts)))
            connection.execute(f"CREATE TEMP VIEW {Path(name).stem}_ AS SELECT * FROM {files}")

    def users(self, bucket: Bucket) -> pa.Table:
        """The bucket's users in order of id: user_id, hash, rows, and `key`, which changes when a row does."""
        return arrow_of(
            self._connection,
            f"""SELECT user_id, any_value(hash) AS hash, sum(rows)::BIGINT AS rows,
                md5(string_agg(digest, '|' ORDER BY place)) AS key
            FROM users_ JOIN parts USING (part) WHERE {_within(bucket)} GROUP BY user_id ORDER BY user_id""",
        )

    def log(self, bucket: Bucket, users: pa.Array | None = None, before: int | None = None) -> Log:
        """The rows of the bucket's users.

        Args:
            bucket: of users.
            users: only those of these users; None: of all.
            before: microseconds; only rows before it; None: all.

        Raises:
            DataError: a row's scenario is not in the scenario table.
        """
        wanted = [_within(bucket)]
        if users is not None:
            self._connection.register("wanted", pa.table({"user_id": users.cast(self._user_type)}))
            wanted.append("user_id IN (SELECT user_id FROM wanted)")
        if before is not None:
            wanted.append(f"t < {int(before)}")
        rows = arrow_of(
            self._connection,
            "SELECT user_id, item_id, scenario, t, label, place FROM rows_ JOIN parts USING (part) "
            f"WHERE {' AND '.join(wanted)}",
        )
        return make_log(rows, self._catalogue)

    def logs(self, before: int | None = None) -> Iterator[tuple[Bucket, Log]]:
        """All buckets with their rows."""
        for bucket in self.buckets:
            yield bucket, self.log(bucket, before=before)

    def users_with(self, bucket: Bucket, items: pa.Array) -> pa.Array:
        """The bucket's users with a row of one of these items."""
        self._connection.register("touched", pa.table({"item_id": items}))
        found = arrow_of(
            self._connection,
            f"""SELECT DISTINCT user_id FROM rows_
            WHERE {_within(bucket)} AND item_id IN (SELECT item_id FROM touched)""",
        )
        return found.column(0).combine_chunks()

    def most_active(self, count: int) -> pa.Array:
        """The users with the most rows (ties: the smaller id)."""
        if count not in self._active:
            query = f"SELECT user_id FROM users_ GROUP BY user_id ORDER BY sum(rows) DESC, user_id LIMIT {int(count)}"
            self._active[count] = arrow_of(self._connection, query).column(0).combine_chunks()
        return self._active[count]

    def items_before(self, moment: int) -> np.ndarray:
        """Rows of each catalogue item before a moment, int64 [items]."""
        counts = np.zeros(len(self._catalogue.item_ids), dtype=np.int64)
        query = f"SELECT item_id, count(*) AS n FROM rows_ WHERE t < {int(moment)} GROUP BY item_id"
        found = arrow_of(self._connection, query)
        place = item_positions(found.column("item_id"), self._catalogue)
        counts[place[place >= 0]] = found.column("n").to_numpy()[place >= 0]
        return counts

    def slices(self, until: int) -> Iterator[Mapping[str, pa.Table]]:
        """What scenario statistics are counted from, some buckets at a time, rows that come twice once.

        Args:
            until: microseconds; `liked` counts rows before it.

        Yields:
            `rows` (scenario, t, label), `users` (scenario, t: a user's first row there) and `items` (scenario, item_id,
            t: the item's first row there in these buckets, liked: positive rows).
        """
        several = max(1, SLICE_ROWS * len(self.buckets) // max(1, self.rows))
        for start in range(0, len(self.buckets), several):
            chosen = self.buckets[start : start + several]
            key = ", ".join(KEY)
            self._connection.execute(
                f"""CREATE OR REPLACE TEMP TABLE slice AS
                SELECT {key}, arg_max(label, place) AS label FROM rows_ JOIN parts USING (part)
                WHERE hash BETWEEN {chosen[0].low} AND {chosen[-1].high} GROUP BY {key}"""
            )
            yield {
                "rows": arrow_of(self._connection, "SELECT scenario, t, label FROM slice"),
                "users": arrow_of(
                    self._connection, "SELECT scenario, min(t) AS t FROM slice GROUP BY scenario, user_id"
                ),
                "items": arrow_of(
                    self._connection,
                    f"""SELECT scenario, item_id, min(t) AS t, count(*) FILTER (label AND t < {int(until)}) AS liked
                    FROM slice GROUP BY scenario, item_id""",
                ),
            }
        self._connection.execute("DROP TABLE IF EXISTS slice")


@contextmanager
def open_log(sources: Sequence[Path], cache: Path, catalogue: Catalogue, before: int) -> Iterator[LogStore]:
    """The log of the sources' rows with times before `before` (microseconds); new sources are put in order first.

    Args:
        sources: folders of validated tables; of rows that come twice, the later source's last counts.
        cache: the sources in order are kept below it.
        catalogue: of the same sources.
        before: rows at or after it are not read.

    Raises:
        MissingArtifactError: a source has no interactions.
        DataError: sources have ids of different types.
    """
    ids = _id_type(sources)
    folder = cache / "log"
    sweep(cache)
    scratch = folder / f".spill.{uuid.uuid4().hex}"
    scratch.mkdir(parents=True)
    try:
        with in_use(scratch), queries.database(scratch) as connection:
            known = FileDigests(folder / "digests.json")
            parts = [put_in_order(connection, source, folder, before, known) for source in sources]
            known.keep()
            yield LogStore(connection, parts, catalogue, ids)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _id_type(sources: Sequence[Path]) -> pa.DataType:
    found: list[pa.DataType] = []
    for source in sources:
        file = source / "interactions.parquet"
        if not file.is_file():
            raise MissingArtifactError(f"{file} does not exist; run `llm4msr validate` first")
        found.append(pq.read_schema(file).field("user_id").type)
        if found[-1] != found[0]:
            raise DataError(f"user ids are {found[-1]} here and {found[0]} in {sources[0]}", file=file)
    return found[0]


def _within(bucket: Bucket) -> str:
    return f"hash BETWEEN {bucket.low} AND {bucket.high}"
