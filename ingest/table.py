"""Your own tables: parquet or CSV files, mapped by `data.files` and `data.columns`.

`data.files` names `interactions` and, where you have them, `users` and `items`, below `data.path`: a `.parquet`, `.csv`
or `.tsv` file (also `.gz`), or a folder of parquet files, read in order of their names.

`data.columns` maps our names to yours, e.g. `user_id: uid`; `users.event_timestamp: changed_at` maps a name for one
table only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.errors import DataError, SettingsError
from core.ids import Spellings
from core.log import logger
from core.settings import DataSettings
from core.spelling import is_text
from core.tables import TIMESTAMP, IdTypes
from core.words import did_you_mean
from ingest.delimited import header_of, read_csv
from ingest.place import Place
from ingest.source import Source, existing
from ingest.values import Values

LOG = logger("ingest")

TABLES = ("interactions", "users", "items")
_CSV = re.compile(r"\.(csv|tsv)(\.\w+)?$")
_OURS = ("user_id", "item_id", "event_timestamp", "value")  # roles of interactions


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
            if name in _OURS:
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
        return [part for table in TABLES if table in self.data.files for part in self._parts(table)]

    def interactions(self) -> Iterator[pa.RecordBatch]:
        roles = {
            "user_id": self.ids.user,
            "item_id": self.ids.item,
            "event_timestamp": TIMESTAMP,
            "value": pa.string(),
        }
        if self.data.label.op != "all":
            roles[self.data.label.column] = None
        if self.data.grade:
            roles.setdefault(self.data.grade, pa.float64())
        return self._stream("interactions", roles, {"weight": pa.float64()})

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
        self, table: str, roles: Mapping[str, pa.DataType | None], optional: Mapping[str, pa.DataType | None]
    ) -> Iterator[pa.RecordBatch]:
        """Batches with the roles as columns; a type of None is that of the label's column: what its rule looks at."""
        for path in self._parts(table):
            header = _header(path, self.data.encoding)
            present = {role: kind for role, kind in optional.items() if self._column(table, role, header) in header}
            wanted = {**roles, **present, **self._asked_for(table, optional)}
            names = {role: self._column(table, role, header) for role in wanted}
            for role, name in names.items():
                if name not in header:
                    raise DataError(self._missing(role, header), file=path, column=name)
            place = Place(path, 2 if _CSV.search(path.name) else 1)
            for batch in self._raw(path, names):
                yield self._converted(table, batch, names, wanted, place)
                place = place.after(batch.num_rows)

    def _raw(self, path: Path, names: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        if not _CSV.search(path.name):
            return _read_parquet(path, list(dict.fromkeys(names.values())), self.data.batch_rows)
        columns = dict.fromkeys(names.values(), pa.string())
        delimiter = "\t" if ".tsv" in path.suffixes else ","
        return read_csv(path, columns, delimiter=delimiter, newlines=True, encoding=self.data.encoding)

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
                columns[role] = values.times(column, here)
            elif pa.types.is_floating(kind):
                columns[role] = values.numbers(column, here)
            else:
                columns[role] = values.text(column, here)
        return pa.RecordBatch.from_pydict(columns)

    def _check_names(self) -> None:
        """Refuse a name in data.columns that nothing reads: the mapping would be lost without a word."""
        data = self.data
        known = ["user_id", "item_id", "event_timestamp", "weight", "title", "scenarios", data.label.column]
        known += [name for name in (data.grade, data.scenario.column or "scenario") if name]
        for field in ("user_categorical", "user_dense", "item_categorical", "item_dense", "item_text"):
            known += getattr(data, field)
        for name in data.columns:
            _, _, role = name.partition(".") if name.partition(".")[0] in TABLES else ("", "", name)
            if role not in known:
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
        elif role == "value":
            mend = "set data.scenario.column to the column that names the scenario"
        elif role == data.grade:
            mend = f"set data.grade, or {mend}"
        else:
            for field in ("user_categorical", "user_dense", "item_categorical", "item_dense", "item_text"):
                if role in getattr(data, field):
                    without = " ([] does without text)" if field == "item_text" else ""
                    mend = f"correct data.{field}{without}, or {mend}"
                    break
        wanted = "the scenario" if role == "value" else role
        return f"no such column, needed as {wanted}; {mend}; the file has: {', '.join(header)}"

    def _column(self, table: str, role: str, header: list[str]) -> str:
        """The source's name of a role, as the settings map it."""
        columns = self.data.columns
        if role == "value":
            role = self.data.scenario.column or "scenario"
        if f"{table}.{role}" in columns:
            return columns[f"{table}.{role}"]
        mapped = columns.get(role, role)
        return mapped if mapped in header or role not in header else role

    def _parts(self, table: str) -> list[Path]:
        path = self.data.path / self.data.files[table]
        if path.is_dir():
            parts = sorted(p for p in path.rglob("*.parquet") if not p.name.startswith((".", "_")))
            if not parts:
                raise DataError("this folder holds no parquet files", file=path)
            return parts
        if not _CSV.search(path.name) and path.suffix not in (".parquet", ".pq"):
            raise DataError(f"data.files.{table} must end in .parquet, .csv or .tsv (.gz), or be a folder", file=path)
        return [existing(path, f"see data.path and data.files.{table}")]

    def _id_type(self, entity: Literal["user", "item"]) -> pa.DataType:
        """What `data.ids` says; else int64 where every file has whole numbers for this id, else string."""
        asked = self.data.ids_of(entity)
        if asked != "auto":
            return pa.string() if asked == "string" else pa.int64()
        tables = [table for table in ("interactions", f"{entity}s") if table in self.data.files]
        found = [self._spellings(table, f"{entity}_id", part) for table in tables for part in self._parts(table)]
        if any(not one.integers and one.floats for one in found):
            LOG.warning("some %s ids are spelled as floats (102.0) and others are text: they stay as written", entity)
        return pa.int64() if all(one.integers for one in found) else pa.string()

    def _are_numbers(self, table: str, key: str, path: Path) -> bool:
        """Whether every id of a file spells a whole number, some as 102.0: then 102 is meant, also where ids are text."""
        if self.data.ids_of("user" if key == "user_id" else "item") != "auto":
            return False
        found = self._spellings(table, key, path)
        return found.integers and found.floats > 0

    def _spellings(self, table: str, key: str, path: Path) -> Spellings:
        """How a file writes an id; looked at once."""
        if (table, key, path) not in self._seen:
            self._seen[table, key, path] = self._look_at(table, key, path)
        return self._seen[table, key, path]

    def _look_at(self, table: str, key: str, path: Path) -> Spellings:
        header, found = _header(path, self.data.encoding), Spellings()
        name = self._column(table, key, header)
        if name not in header:
            return found  # reading this file will say that the column is missing
        if not _CSV.search(path.name):
            kind = pq.read_schema(path).field(name).type
            if is_text(kind):
                # The file itself says so, whatever the ids of today look like.
                return Spellings(text=1)
            if not pa.types.is_uint64(kind) and not pa.types.is_decimal(kind):
                return found
        for batch in self._raw(path, {key: name}):
            found.add(batch[name], self.data.nulls)
        return found


def _declared(categorical: list[str], dense: list[str]) -> dict[str, pa.DataType]:
    return {**dict.fromkeys(categorical, pa.string()), **dict.fromkeys(dense, pa.float64())}


def _header(path: Path, encoding: str | None) -> list[str]:
    if _CSV.search(path.name):
        return header_of(path, delimiter="\t" if ".tsv" in path.suffixes else ",", encoding=encoding)
    return list(_parquet(path).schema_arrow.names)


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"not a parquet file ({error})", file=path) from error


def _read_parquet(path: Path, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    with _parquet(path) as file:
        try:
            # Group by group: one iterator over all of them holds memory for the whole file.
            for group in range(file.num_row_groups):
                yield from file.iter_batches(batch_size=rows, columns=columns, row_groups=[group], use_threads=False)
        except OSError as error:
            raise DataError(f"damaged parquet file ({error})", file=path) from error


def _with_values(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`scenarios` (`|` between) becomes `values`, a list."""
    if "scenarios" not in batch.schema.names:
        return batch
    values = pc.split_pattern(batch["scenarios"], "|")
    return batch.drop_columns(["scenarios"]).append_column("values", values)
