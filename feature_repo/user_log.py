"""Every user's interactions, found by user: what the push path computes states from.

The validated log lies in files by window, in order of time; to find one user in it means to read it all. So each file is
put once into a SQLite table that is ordered by user, `root/cache/push/log.db`. It holds nothing that the files do not
hold: delete it, and the next push fills it again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa

from core import logger
from core.duck import database, quoted
from core.sqlite import transaction
from ingest import PushedLog

LOG = logger("feature_repo")
_TABLES = """
CREATE TABLE IF NOT EXISTS part (place INTEGER PRIMARY KEY, file TEXT, written INTEGER, bytes INTEGER);
CREATE TABLE IF NOT EXISTS row (user_id, t INTEGER, item_id, scenario TEXT, label INTEGER, created INTEGER,
    PRIMARY KEY (user_id, t, item_id, scenario)) WITHOUT ROWID;
"""
# In order of the key, so that rows are appended and not inserted; of repeats the last one counts.
_READ = """
SELECT user_id, epoch_us(event_timestamp) AS t, item_id, scenario, label, epoch_us(created_timestamp)
FROM read_parquet({file}, file_row_number = true) ORDER BY user_id, t, item_id, scenario, file_row_number
"""
_ROWS = "SELECT t, item_id, scenario, label, created FROM row WHERE user_id = ?"
_CHUNK = 50_000
# (time, item, scenario, label), of one user, in order of time, item and scenario
Rows = list[tuple[int, Any, str, int]]
Dated = tuple[int, Any, str, int, int]  # and when it was published


class UserLog:
    """The interactions of single users: those of validated windows and those that were pushed.

    Args:
        root: of the project.
        sources: validate artifacts, oldest window first; a later one wins a repeat.
    """

    def __init__(self, root: Path, sources: Sequence[Path]) -> None:
        self.file = root / "cache" / "push" / "log.db"
        self.pushed = PushedLog(root)
        self._sources = [source / "interactions.parquet" for source in sources]

    def prepare(self) -> int:
        """Put what is new of the sources into the table; returns how many rows that were.

        Raises:
            StorageError: the table cannot be written.
        """
        wanted = [(str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in self._sources]
        count = 0
        with self._open() as connection:
            known = connection.execute("SELECT file, written, bytes FROM part ORDER BY place").fetchall()
            if known == wanted:
                return 0
            if known != wanted[: len(known)]:
                connection.execute("DELETE FROM part")
                connection.execute("DELETE FROM row")
                known = []
            for place in range(len(known), len(wanted)):
                count += _load(connection, self._sources[place])
                connection.execute("INSERT INTO part VALUES (?, ?, ?, ?)", (place, *wanted[place]))
        LOG.info("the push path's log: %s rows of %s windows added", f"{count:,}", f"{len(wanted) - len(known):,}")
        return count

    def read(self, users: Sequence[Any], item: pa.DataType | None = None) -> dict[Any, Rows]:
        """All interactions of these users, each key once: the row published later, and of equals the validated one.

        With a type of items given, pushed rows of another do not count. Cost grows with the users' own rows, not with the
        log. Call `prepare` before.

        Raises:
            StorageError: a file cannot be read.
        """
        pushed = self.pushed.rows_of(users, item)
        with self._open() as connection:
            built = {user: connection.execute(_ROWS, (user,)).fetchall() for user in users}
        return {user: _union(built[user], pushed.get(user, [])) for user in users}

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        # It can be filled again: not worth waiting for the disk.
        return transaction(self.file, f"PRAGMA synchronous = OFF; {_TABLES}", "; it may be deleted")


def _union(built: list[Dated], pushed: list[Dated]) -> Rows:
    rows = {(t, i, s): (label, created) for t, i, s, label, created in built}
    for t, item, scenario, label, created in pushed:
        held = rows.get((t, item, scenario))
        if held is None or held[1] < created:
            rows[t, item, scenario] = (label, created)
    return [(*key, rows[key][0]) for key in sorted(rows)]


def _load(connection: sqlite3.Connection, file: Path) -> int:
    spill = Path(connection.execute("PRAGMA database_list").fetchone()[2]).parent
    count = 0
    with database(spill) as reader:
        found = reader.execute(_READ.format(file=quoted(file)))
        while rows := found.fetchmany(_CHUNK):
            connection.executemany("INSERT OR REPLACE INTO row VALUES (?, ?, ?, ?, ?, ?)", rows)
            count += len(rows)
    return count
