"""The log on disk, in order of users, so that one bucket of users is read at a time and never the whole log.

    CACHE/log/SOURCE/rows.parquet    the source's rows in order of (hash of the user, user, time, item, scenario)
    CACHE/log/SOURCE/users.parquet   rows and a digest of them per user
    CACHE/log/SOURCE/meta.json       rows, checksums
    CACHE/log/digests.json           digests of the files above, which are not read again while they do not change

A source is an immutable folder of validated tables and is put in order once. Which users have new, late, corrected or
withdrawn rows is seen from the small tables alone: of the sources that came or went.
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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.duck import arrow_of, tables_of
from core.errors import DataError, MissingArtifactError
from core.file_digests import FileDigests
from core.log import logger
from knowledge.log.catalogue import Catalogue
from knowledge.log.ordering import FILES, KEY, OrderedSource, put_in_order, time_span
from knowledge.log.sources import Log, item_positions, make_log
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
        names: of the sources in order, in order of their windows.
        user_type: Arrow type of user ids.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        parts: Sequence[OrderedSource],
        catalogue: Catalogue,
        ids: pa.DataType,
    ) -> None:
        self._connection, self._catalogue, self._parts = connection, catalogue, parts
        self.user_type = ids
        self._active: dict[int, pa.Array] = {}
        self.rows = sum(part.rows for part in parts)
        self.buckets = buckets_for(self.rows)
        self.names = tuple(part.folder.name for part in parts)
        numbers = pa.table({"part": [p.number for p in parts], "place": list(range(len(parts)))})
        connection.register("given", numbers)
        connection.execute("CREATE TEMP TABLE parts AS SELECT * FROM given")
        for name in FILES:
            # Sources of the same rows are one file, which has all their places.
            files = tables_of(list(dict.fromkeys(part.folder / name for part in parts)))
            connection.execute(f"CREATE TEMP VIEW {Path(name).stem}_ AS SELECT * FROM {files}")
        self._rows = "rows_ JOIN parts USING (part)"

    def hashes(self, users: pa.Array) -> np.ndarray:
        """The hash that puts each of some users into a bucket, int64 [n]."""
        self._connection.register("asked", pa.table({"user_id": users, "n": np.arange(len(users))}))
        found = arrow_of(
            self._connection,
            "SELECT n, any_value(hash) AS hash FROM users_ JOIN asked USING (user_id) GROUP BY n ORDER BY n",
        )
        return np.asarray(found["hash"])

    def changed(self, before: Sequence[str], items: pa.Array, most: int | None) -> pa.Array | None:
        """The users for whom something is not what it was.

        Args:
            before: names of the sources in order then.
            items: that changed since.
            most: how many of the most active users get prompts; None: who gets one does not depend on others.

        Returns:
            Those whose rows are not what they were, or who have a row of such an item, or who came into or fell out of the
            most active ones. None where a source of then is gone.
        """
        here = {part.folder.name: part.folder for part in self._parts}
        then = [self._parts[0].folder.parent / name for name in before]
        if not all((folder / "users.parquet").is_file() for folder in then):
            return None
        found = [pa.array([], self.user_type)]
        gone, new = _moved(before, self.names)
        if gone:
            found.append(self._with_other_rows([then[n] for n in gone], [here[self.names[n]] for n in new], then))
        elif new:
            found.append(self._users(f"SELECT user_id FROM {_users_of([here[self.names[n]] for n in new])}"))
        if len(items):
            self._connection.register("touched", pa.table({"item_id": items}))
            found.append(
                self._users(f"SELECT user_id FROM {self._rows} WHERE item_id IN (SELECT item_id FROM touched)")
            )
        if most is not None and (gone or new):
            active = self.most_active(most), self._most_active(most, _users_of(then))
            apart = (a.filter(pc.invert(pc.is_in(a, value_set=b))) for a, b in (active, active[::-1]))
            found += [users.cast(self.user_type) for users in apart]
        return pc.unique(pa.concat_arrays(found))

    def _with_other_rows(self, gone: Sequence[Path], new: Sequence[Path], before: Sequence[Path]) -> pa.Array:
        """Of the users with a row in a source that went or came, those whose rows in all sources are not what they were."""
        keys = []
        for folders in (before, [part.folder for part in self._parts]):
            told = (f"SELECT user_id, digest, {n} AS n FROM {_users_of([folder])}" for n, folder in enumerate(folders))
            keys.append(
                f"""SELECT user_id, string_agg(digest, '|' ORDER BY n) AS key FROM ({" UNION ALL ".join(told)})
                WHERE user_id IN (SELECT user_id FROM {_users_of([*gone, *new])}) GROUP BY user_id"""
            )
        return self._users(
            f"""SELECT coalesce(a.user_id, b.user_id) AS user_id FROM ({keys[0]}) a FULL JOIN ({keys[1]}) b USING (user_id)
            WHERE a.key IS DISTINCT FROM b.key"""
        )

    def _users(self, query: str) -> pa.Array:
        found = arrow_of(self._connection, f"SELECT DISTINCT user_id FROM ({query}) ORDER BY user_id")
        return found["user_id"].combine_chunks().cast(self.user_type)

    def gather(self, users: pa.Array | None = None) -> None:
        """Put the rows of some users (None: of all) into one place: from now on no others are read, and each file only once."""
        wanted = ""
        if users is not None:
            self._connection.register("gathered", pa.table({"user_id": users.cast(self.user_type)}))
            wanted = "WHERE user_id IN (SELECT user_id FROM gathered)"
        self._connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE chosen AS
            SELECT hash, user_id, item_id, scenario, t, label, place FROM {self._rows} {wanted} ORDER BY hash"""
        )
        self._rows = "chosen"

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
            self._connection.register("wanted", pa.table({"user_id": users.cast(self.user_type)}))
            wanted.append("user_id IN (SELECT user_id FROM wanted)")
        if before is not None:
            wanted.append(f"t < {int(before)}")
        rows = arrow_of(
            self._connection,
            f"SELECT user_id, item_id, scenario, t, label, place FROM {self._rows} WHERE {' AND '.join(wanted)}",
        )
        return make_log(rows, self._catalogue)

    def logs(self, before: int | None = None) -> Iterator[tuple[Bucket, Log]]:
        """All buckets with their rows."""
        for bucket in self.buckets:
            yield bucket, self.log(bucket, before=before)

    def most_active(self, count: int) -> pa.Array:
        """The users with the most rows (ties: the smaller id)."""
        if count not in self._active:
            self._active[count] = self._most_active(count, "users_")
        return self._active[count]

    def _most_active(self, count: int, users: str) -> pa.Array:
        query = f"SELECT user_id FROM {users} GROUP BY user_id ORDER BY sum(rows) DESC, user_id LIMIT {int(count)}"
        return arrow_of(self._connection, query).column(0).combine_chunks()

    def items_before(self, moment: int) -> np.ndarray:
        """Rows of each catalogue item before a moment, int64 [items]."""
        counts = np.zeros(len(self._catalogue.item_ids), dtype=np.int64)
        query = f"SELECT item_id, count(*) AS n FROM rows_ WHERE t < {int(moment)} GROUP BY item_id"
        found = arrow_of(self._connection, query)
        place = item_positions(found.column("item_id"), self._catalogue)
        counts[place[place >= 0]] = found.column("n").to_numpy()[place >= 0]
        return counts

    def counts(self, bounds: Sequence[int]) -> Iterator[Mapping[str, pa.Table]]:
        """What scenario statistics are counted from, rows that come twice once: of all rows where no two sources have any
        of one time, else of some buckets at a time.

        Args:
            bounds: microseconds, in order. A `place` is how many of them are not later than a row.

        Yields:
            `rows` (scenario, place, rows, positives), `users` (scenario, place of a user's first row there, users) and `items`
            (scenario, item_id, t: the item's first row there in these buckets, liked: positive rows before the last bound).
        """
        for rows in self._once():
            first = f"(SELECT scenario, user_id, min(t) AS t FROM {rows} GROUP BY scenario, user_id)"
            place = _place(bounds, 0, len(bounds))
            queries = {
                "rows": f"SELECT scenario, {place} AS place, count(*) AS rows, count(*) FILTER (label) AS positives FROM {rows}",
                "users": f"SELECT scenario, {place} AS place, count(*) AS users FROM {first}",
                "items": f"""SELECT scenario, item_id, min(t) AS t, count(*) FILTER (label AND t < {int(bounds[-1])}) AS liked
                    FROM {rows}""",
            }
            yield {name: arrow_of(self._connection, f"{query} GROUP BY ALL") for name, query in queries.items()}
        self._connection.execute("DROP TABLE IF EXISTS slice")

    def _once(self) -> Iterator[str]:
        """SQL: tables that together have every row once."""
        if _apart(self._parts):
            yield "rows_ JOIN parts USING (part)"
            return
        several, key = max(1, SLICE_ROWS * len(self.buckets) // max(1, self.rows)), ", ".join(KEY)
        for start in range(0, len(self.buckets), several):
            chosen = self.buckets[start : start + several]
            self._connection.execute(
                f"""CREATE OR REPLACE TEMP TABLE slice AS
                SELECT {key}, arg_max(label, place) AS label FROM rows_ JOIN parts USING (part)
                WHERE hash BETWEEN {chosen[0].low} AND {chosen[-1].high} GROUP BY {key}"""
            )
            yield "slice"


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


def _place(bounds: Sequence[int], low: int, high: int) -> str:
    """SQL: how many of the bounds are not later than `t`, where it is known to be from `low` to `high`."""
    if low == high:
        return str(low)
    middle = (low + high) // 2
    return f"CASE WHEN t < {int(bounds[middle])} THEN {_place(bounds, low, middle)} ELSE {_place(bounds, middle + 1, high)} END"


def _apart(parts: Sequence[OrderedSource]) -> bool:
    """Whether no two sources have rows of one time: then no row comes twice."""
    spans = sorted(span for part in parts if (span := time_span(part.folder / FILES[0])) is not None)
    return all(before[1] < after[0] for before, after in zip(spans, spans[1:], strict=False))


def _users_of(folders: Sequence[Path]) -> str:
    """SQL: the users of sources in order; sources of the same rows once."""
    return tables_of([folder / "users.parquet" for folder in dict.fromkeys(folders)])


def _moved(before: Sequence[str], now: Sequence[str]) -> tuple[list[int], list[int]]:
    """Places of the sources that went, and of those that came; all from the first difference on where others changed order."""
    both = set(before) & set(now)
    if [name for name in before if name in both] == [name for name in now if name in both]:
        return [n for n, name in enumerate(before) if name not in both], [n for n, x in enumerate(now) if x not in both]
    same = next((n for n, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
    return list(range(same, len(before))), list(range(same, len(now)))


def _within(bucket: Bucket) -> str:
    return f"hash BETWEEN {bucket.low} AND {bucket.high}"
