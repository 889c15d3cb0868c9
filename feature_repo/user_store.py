"""Users' rows in the online store as Feast keeps them, read and written without Feast: what a push needs of it.

As in `online`, a row is left out when the store already has one that was published later; a correction wins.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from core import Settings
from core.errors import MissingArtifactError, StorageError
from feature_repo.wire import as_text, encode, entity_key, field_id, integer, table_id, time_field, timestamp

if TYPE_CHECKING:
    import redis

KEY = "user_id"
WRITE_BATCH = 1000
TIMEOUT_MS = 30_000
Kinds = Mapping[str, pa.DataType]


@dataclass(frozen=True)
class UserRow:
    """One user's row of a view: when it was published and its columns, in the order of their types."""

    user: int | str
    published: int
    values: tuple[Any, ...]


class UserStore(ABC):
    """The online rows of users; every view has the columns `watermark` and `published` beside its own."""

    def write(self, view: str, rows: Sequence[UserRow], kinds: Kinds) -> int:
        """Write a few thousand rows at the most, each user once; returns how many the store now holds.

        A row that lost against a newer one counts: what the store holds is at least as new as what was asked.

        Args:
            view: its Feast name.
            rows: what to write; `published` is also the watermark.
            kinds: the columns' types.

        Raises:
            MissingArtifactError: the store has no such view.
            StorageError: the store does not answer.
        """
        if not rows:
            return 0
        users = [row.user for row in rows]
        known = self.times(view, users)
        self._put(
            view, [row for row, old in zip(rows, known, strict=True) if old is None or old <= row.published], kinds
        )
        stored = self.times(view, users)
        return sum(new is not None and new >= row.published for row, new in zip(rows, stored, strict=True))

    @abstractmethod
    def times(self, view: str, users: Sequence[int | str], column: str = "published") -> list[int | None]:
        """When the users' rows of a view were published, or their `watermark`, in microseconds; None where there is none."""

    @abstractmethod
    def _put(self, view: str, rows: Sequence[UserRow], kinds: Kinds) -> None:
        """Write rows whatever the store has."""


def user_store(settings: Settings) -> UserStore:
    """The store of a project, as section `online` says."""
    if settings.online.store == "sqlite":
        return _Sqlite(settings.root.resolve() / "feast" / "online.db", settings.project)
    return _Redis(settings)


def _encoded(row: UserRow, kinds: Kinds) -> Iterator[tuple[str, bytes, str | None]]:
    """Each column's name, value and readable text."""
    for (name, kind), value in zip(kinds.items(), row.values, strict=True):
        yield name, encode(value, kind), as_text(value, kind)
    for name in ("watermark", "published"):
        yield name, encode(row.published, pa.int64()), str(row.published)


class _Sqlite(UserStore):
    def __init__(self, file: Path, project: str) -> None:
        self.file, self.project = file, project

    def times(self, view: str, users: Sequence[int | str], column: str = "published") -> list[int | None]:
        keys = [entity_key(KEY, user) for user in users]
        marks = ",".join("?" * len(keys))
        query = f"SELECT entity_key, value FROM {self._table(view)} WHERE feature_name = ? AND entity_key IN ({marks})"
        with self._opened(view) as connection:
            found = dict(connection.execute(query, [column, *keys]).fetchall())
        return [integer(found.get(key)) for key in keys]

    def _put(self, view: str, rows: Sequence[UserRow], kinds: Kinds) -> None:
        columns = ("entity_key", "feature_name", "value", "value_text", "event_ts", "created_ts")
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns[2:])
        insert = (
            f"INSERT INTO {self._table(view)} ({', '.join(columns)}) VALUES (?, ?, ?, ?, ?, ?) "
            f"ON CONFLICT (entity_key, feature_name) DO UPDATE SET {changes}"
        )
        lines = []
        for row in rows:
            key, time = entity_key(KEY, row.user), _seconds(row.published)
            lines += [(key, name, value, text, time, time) for name, value, text in _encoded(row, kinds)]
        with self._opened(view) as connection, connection:
            connection.executemany(insert, lines)

    def _table(self, view: str) -> str:
        return '"' + table_id(self.project, view).replace('"', '""') + '"'

    @contextmanager
    def _opened(self, view: str) -> Iterator[sqlite3.Connection]:
        if not self.file.is_file():
            raise MissingArtifactError(f"{self.file} does not exist; run `llm4msr materialize` first")
        try:
            with closing(sqlite3.connect(self.file, timeout=TIMEOUT_MS / 1000)) as connection:
                yield connection
        except sqlite3.Error as error:
            if "no such table" in str(error):
                raise MissingArtifactError(
                    f"{self.file} has no view {view}; run `llm4msr materialize` first"
                ) from error
            raise StorageError(f"online store {self.file}: {error}") from error


def _seconds(micros: int) -> int:
    """A time as Feast's SQLite store keeps it: a naive UTC time, read as local."""
    return int(dt.datetime.fromtimestamp(micros / 1_000_000, dt.UTC).replace(tzinfo=None).timestamp())


class _Redis(UserStore):
    def __init__(self, settings: Settings) -> None:
        import redis

        self._error = redis.RedisError
        self._project, self._address = settings.project.encode(), settings.online.address
        seconds = TIMEOUT_MS / 1000
        given = {**self._address.arguments(), "socket_timeout": seconds, "socket_connect_timeout": seconds}
        self._client = redis.Redis(**given)

    def times(self, view: str, users: Sequence[int | str], column: str = "published") -> list[int | None]:
        field = field_id(view, column)
        with self._pipeline() as pipe:
            for user in users:
                pipe.hget(self._key(user), field)  # type: ignore[arg-type]
            return [integer(value) for value in pipe.execute()]

    def _put(self, view: str, rows: Sequence[UserRow], kinds: Kinds) -> None:
        with self._pipeline() as pipe:
            for row in rows:
                fields = {time_field(view): timestamp(row.published)}
                fields |= {field_id(view, name): value for name, value, _ in _encoded(row, kinds)}
                pipe.hset(self._key(row.user), mapping=fields)  # type: ignore[arg-type]
            pipe.execute()

    def _key(self, user: int | str) -> bytes:
        return entity_key(KEY, user) + self._project

    @contextmanager
    def _pipeline(self) -> Iterator[redis.client.Pipeline]:
        try:
            with self._client.pipeline(transaction=False) as pipe:
                yield pipe
        except (self._error, OSError) as error:
            # The address may hold a password: its text does not show it.
            raise StorageError(f"online store {self._address} (online.url): {type(error).__name__}: {error}") from error
