"""Your own tables: parquet or CSV files, mapped by `data.files` and `data.columns`.

`data.files` names `interactions` and, where you have them, `users` and `items`, below `data.path`: a parquet or CSV file
(also compressed), a folder of either, or a pattern of names; several files are read in order of their names.

`data.columns` maps our names to yours, e.g. `user_id: uid`; `users.event_timestamp: changed_at` maps a name for one
table only.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from core.errors import DataError, SettingsError
from core.ids import Spellings
from core.log import logger
from core.settings import DataSettings
from core.spelling import is_text
from core.tables import TIMESTAMP, IdTypes
from core.window import Window
from core.words import did_you_mean
from ingest.parts import Parts, parts_of
from ingest.place import Place
from ingest.raw import RawFile
from ingest.source import VALUE, VALUES, Source
from ingest.values import Values

LOG = logger("ingest")

TABLES = ("interactions", "users", "items")
_OURS = ("user_id", "item_id", "event_timestamp", VALUE)  # roles of interactions
_ONE_LINE = {*_OURS, "scenarios", "weight"}  # and the label and the grade


class Table(Source):
    """A log of your own; the scenario is a column of it (`data.scenario.column`, else `scenario`)."""

    rules = ("column",)

    def __init__(self, data: DataSettings) -> None:
        super().__init__(data)
        self._seen: dict[tuple[str, str, Path], Spellings] = {}
        if "interactions" not in data.files:
            raise SettingsError("data.files must name the file of `interactions`")
        if unknown := sorted(set(data.files) - set(TABLES)):
            raise SettingsError(f"data.files: unknown table {unknown[0]!r}; there are {', '.join(TABLES)}")
        for field, name in (("data.label.column", data.label.column), ("data.grade", data.grade)):
            if name in (*_OURS, "weight"):
                raise SettingsError(
                    f"{field}: {name!r} has a meaning of its own here; give the column another name, e.g. "
                    f"data.columns: {{outcome: {name}}}"
                )

        self._check_names()

    @functools.cached_property
    def ids(self) -> IdTypes:
        return IdTypes(self._id_type("user"), self._id_type("item"))

    @property
    def user_columns(self) -> Mapping[str, pa.DataType]:
        return _declared(self.data.user_categorical, self.data.user_dense)

    @property
    def item_columns(self) -> Mapping[str, pa.DataType]:
        text = [name for name in self.data.item_text if name != "title" and name not in self.data.item_dense]
        return _declared([*self.data.item_categorical, *text], self.data.item_dense)

    def files(self) -> list[Path]:
        return [part.path for table in TABLES if table in self.data.files for part in self._parts(table).found]

    def notes(self) -> list[str]:
        return [f"{table}: {note}" for table in TABLES if table in self.data.files for note in self._notes(table)]

    def interactions(self, window: Window | None = None) -> Iterator[pa.RecordBatch]:
        roles = {
            "user_id": self.ids.user,
            "item_id": self.ids.item,
            "event_timestamp": TIMESTAMP,
            VALUE: pa.string(),
        }
        if self.data.label.op != "all":
            roles[self.data.label.column] = None
        if self.data.grade:
            roles.setdefault(self.data.grade, pa.float64())
        columns, outcomes = self.data.columns, (self.data.label.column, self.data.grade or self.data.label.column)
        # A column that is called weight may be the outcome.
        weighs_not = columns.get("weight", "weight") in {columns.get(name, name) for name in outcomes}
        return self._stream("interactions", roles, {} if weighs_not else {"weight": pa.float64()}, window)

    def users(self) -> Iterator[pa.RecordBatch] | None:
        if "users" not in self.data.files:
            return None
        return self._stream("users", {"user_id": self.ids.user, **self.user_columns}, {"event_timestamp": TIMESTAMP})

    def items(self) -> Iterator[pa.RecordBatch] | None:
        if "items" not in self.data.files:
            return None
        roles = {"item_id": self.ids.item, **self.item_columns}
        if "title" in self.data.item_text:
            roles["title"] = pa.string()
        optional = {"event_timestamp": TIMESTAMP, "title": pa.string(), "scenarios": pa.string()}
        return map(_with_values, self._stream("items", roles, optional))

    def describe(self, values: list[str]) -> str:
        return f"Requests of scenario {' or '.join(values)}." if values else "All other requests."

    def _stream(
        self,
        table: str,
        roles: Mapping[str, pa.DataType | None],
        optional: Mapping[str, pa.DataType | None],
        window: Window | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Batches with the roles as columns; a type of None is that of the label's column: what its rule looks at."""
        files = self._files(table)
        present = {
            role: kind
            for role, kind in optional.items()
            if any(self._column(table, role, file.header) in file.header for file in files)
        }
        wanted = {**roles, **present, **self._asked_for(table, optional)}
        one_line = _ONE_LINE | {self.data.label.column, self.data.grade}
        for file in files:
            names = {role: self._column(table, role, file.header) for role in wanted}
            for role, name in names.items():
                if name not in file.header:
                    raise DataError(self._missing(role, file.header), file=file.path, column=name)
            place = file.place()
            for group, rows in enumerate(file.groups):
                if window is not None and self._passes_over(file, names["event_timestamp"], group, rows, window):
                    place = place.after(rows)
                    continue
                for batch in file.read(names.values(), self.data.batch_rows, group):
                    if file.has_breaks:
                        _refuse_breaks(batch, [name for role, name in names.items() if role in one_line], place)
                    yield self._converted(table, batch, names, wanted, place)
                    place = place.after(batch.num_rows)

    def _passes_over(self, file: RawFile, name: str, group: int, rows: int, window: Window) -> bool:
        """Whether the file says that all times of a group lie outside the window; it is noted then."""
        edges = file.edges(name, group)
        if edges is None:
            return False
        try:
            times = Values(self.data).times(edges, file.place().at(name)).cast(pa.int64()).to_pylist()
        except DataError:
            return False  # reading the rows says which one it is
        if None in times or window.holds_any(*times):
            return False
        self.passed_over.rows += rows
        self.passed_over.edges += times
        return True

    def _converted(
        self,
        table: str,
        batch: pa.RecordBatch,
        names: Mapping[str, str],
        kinds: Mapping[str, pa.DataType | None],
        place: Place,
    ) -> pa.RecordBatch:
        columns, values = {}, Values(self.data)
        for role, kind in kinds.items():
            column, here = batch[names[role]], place.at(names[role])
            if role in ("user_id", "item_id"):
                assert kind is not None
                if self._are_numbers(table, role, place.file):
                    column = values.ids(column, pa.int64(), here)
                columns[role] = values.ids(column, kind, here)
            elif kind is None:
                columns[role] = values.outcomes(column, self.data.label, here)
            elif kind == TIMESTAMP:
                columns[role] = self._times(table, column, here)
            elif pa.types.is_floating(kind):
                columns[role] = values.numbers(column, here)
            else:
                columns[role] = values.text(column, here)
        return pa.RecordBatch.from_pydict(columns)

    def _times(self, table: str, column: pa.Array, place: Place) -> pa.Array:
        try:
            return Values(self.data).times(column, place)
        except DataError as error:
            columns = self.data.columns
            if table == "interactions" or "event_timestamp" not in columns or f"{table}.event_timestamp" in columns:
                raise
            raise DataError(
                f"{error}; data.columns.event_timestamp maps this column for every table: if it is something else here, map "
                "data.columns.interactions.event_timestamp instead"
            ) from error

    def _check_names(self) -> None:
        """Refuse a name in data.columns that nothing reads: the mapping would be lost without a word."""
        data = self.data
        known = ["user_id", "item_id", "event_timestamp", "weight", "title", "scenarios", data.label.column]
        known += [name for name in (data.grade, data.scenario.column or "scenario") if name]
        for field in ("user_categorical", "user_dense", "item_categorical", "item_dense", "item_text"):
            known += getattr(data, field)
        for name in data.columns:
            _, _, role = name.partition(".") if name.partition(".")[0] in TABLES else ("", "", name)
            if role not in known and name not in known:
                raise SettingsError(
                    f"data.columns: nothing reads {name!r}{did_you_mean(role, known)}; a name on the left is one of "
                    f"{', '.join(dict.fromkeys(known))}, or `TABLE.` and one of them"
                )

    def _asked_for(self, table: str, optional: Mapping[str, pa.DataType | None]) -> dict[str, pa.DataType | None]:
        """Optional roles that the settings map for this table: their column must be there."""
        columns = self.data.columns
        # A time is mapped for the log, and other tables need not have one.
        return {
            role: kind
            for role, kind in optional.items()
            if f"{table}.{role}" in columns or (role in columns and role != "event_timestamp")
        }

    def _missing(self, role: str, header: list[str]) -> str:
        """What to say of a file without the column that a role is read from."""
        data, mend = self.data, f"map it by data.columns.{role}"
        if role == data.label.column:
            mend = f"set data.label.column to the column that says what the user did, or {mend}"
        elif role == VALUE:
            mend = "set data.scenario.column to the column that names the scenario"
        elif role == data.grade:
            mend = f"set data.grade, or {mend}"
        else:
            for field in ("user_categorical", "user_dense", "item_categorical", "item_dense", "item_text"):
                if role in getattr(data, field):
                    without = " ([] does without text)" if field == "item_text" else ""
                    mend = f"correct data.{field}{without}, or {mend}"
                    break
        wanted = "the scenario" if role == VALUE else role
        return f"no such column, needed as {wanted}; {mend}; the file has: {', '.join(header)}"

    def _column(self, table: str, role: str, header: list[str]) -> str:
        """The source's name of a role, as the settings map it."""
        columns = self.data.columns
        if role == VALUE:
            role = self.data.scenario.column or "scenario"
        if f"{table}.{role}" in columns:
            return columns[f"{table}.{role}"]
        mapped = columns.get(role, role)
        return mapped if mapped in header or role not in header else role

    @functools.cache  # noqa: B019  # a source lives as long as one reading
    def _parts(self, table: str) -> Parts:
        return parts_of(self.data.path, self.data.files[table], f"data.files.{table}")

    @functools.cache  # noqa: B019
    def _files(self, table: str) -> list[RawFile]:
        dialect, known = self.data.csv.of(table), self._known_names
        return [RawFile(part, dialect, self.data.encoding, known) for part in self._parts(table).found]

    @property
    def _known_names(self) -> set[str]:
        """Column names that the settings mention or that we look for."""
        declared = {*self.user_columns, *self.item_columns, self.data.label.column, self.data.scenario.column or ""}
        ours = {"user_id", "item_id", "event_timestamp", "scenario", "title", "label", "weight"}
        return ours | declared | set(self.data.columns.values())

    def _notes(self, table: str) -> list[str]:
        parts, files = self._parts(table), self._files(table)
        if len(files) == 1 and not parts.left_out:
            return []
        empty = [file.path.name for file in files if not file.rows]
        return [parts.says(self.data.path), *([f"no row in {', '.join(empty[:3])}"] if empty else [])]

    def _id_type(self, entity: Literal["user", "item"]) -> pa.DataType:
        """What `data.ids` says; else int64 where every file has whole numbers for this id, else string."""
        asked = self.data.ids_of(entity)
        if asked != "auto":
            return pa.string() if asked == "string" else pa.int64()
        tables = [table for table in ("interactions", f"{entity}s") if table in self.data.files]
        found = [self._spellings(table, f"{entity}_id", file) for table in tables for file in self._files(table)]
        if any(not one.integers and one.floats for one in found):
            LOG.warning("some %s ids are spelled as floats (102.0) and others are text: they stay as written", entity)
        return pa.int64() if all(one.integers for one in found) else pa.string()

    def _are_numbers(self, table: str, key: str, path: Path) -> bool:
        """Whether every id of a file spells a whole number, some as 102.0: then 102 is meant, also where ids are text."""
        if self.data.ids_of("user" if key == "user_id" else "item") != "auto":
            return False
        file = next(file for file in self._files(table) if file.path == path)
        found = self._spellings(table, key, file)
        return found.integers and found.floats > 0

    def _spellings(self, table: str, key: str, file: RawFile) -> Spellings:
        """How a file writes an id; looked at once."""
        if (table, key, file.path) not in self._seen:
            self._seen[table, key, file.path] = self._look_at(table, key, file)
        return self._seen[table, key, file.path]

    def _look_at(self, table: str, key: str, file: RawFile) -> Spellings:
        found = Spellings()
        name = self._column(table, key, file.header)
        if name not in file.header:
            return found  # reading this file will say that the column is missing
        if not file.is_text(name):
            kind = file.type_of(name)
            if is_text(kind):
                # The file itself says so, whatever the ids of today look like.
                return Spellings(text=1)
            if not pa.types.is_uint64(kind) and not pa.types.is_decimal(kind):
                return found
        for batch in file.read([name], self.data.batch_rows):
            found.add(batch[name], self.data.nulls)
        return found


def _refuse_breaks(batch: pa.RecordBatch, names: list[str], place: Place) -> None:
    for name in names:
        broken = pc.match_substring_regex(batch[name], "[\r\n]")
        if pc.any(broken).as_py():
            row = pc.index(broken, True).as_py()
            seen = batch[name][row].as_py().splitlines()
            raise place.at(name).error(
                f"{seen[0]!r} and {len(seen) - 1} more lines are one value here, which holds no line break; is a quote "
                "missing on this line? Mend it, or set data.csv.quote: none if quotes are text",
                row,
            )


def _declared(categorical: list[str], dense: list[str]) -> dict[str, pa.DataType]:
    return {**dict.fromkeys(categorical, pa.string()), **dict.fromkeys(dense, pa.float64())}


def _with_values(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`scenarios` (`|` between) becomes `values`, a list."""
    if "scenarios" not in batch.schema.names:
        return batch
    values = pc.split_pattern(batch["scenarios"], "|")
    return batch.drop_columns(["scenarios"]).append_column(VALUES, values)
