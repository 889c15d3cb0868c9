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

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.errors import DataError, SettingsError
from core.settings import DataSettings
from core.tables import IdTypes
from ingest.delimited import header_of, read_csv
from ingest.place import Place, cast
from ingest.source import Source, existing
from ingest.times import to_timestamps

TABLES = ("interactions", "users", "items")
_CSV = re.compile(r"\.(csv|tsv)(\.\w+)?$")
_OURS = ("user_id", "item_id", "event_timestamp", "value")  # roles of interactions
# No leading zero or plus: `007` and `7` are two ids, which only a string can tell apart.
_INTEGER = r"^(0|-?[1-9]\d{0,17})$"


class Table(Source):
    """A log of your own; the scenario is a column of it (`data.scenario.column`, else `scenario`)."""

    rules = ("column",)

    def __init__(self, data: DataSettings) -> None:
        super().__init__(data)
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

    @functools.cached_property
    def ids(self) -> IdTypes:
        return IdTypes(self._id_type("user_id", "users"), self._id_type("item_id", "items"))

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
        numeric = self.data.label.op != "is"
        roles = {
            "user_id": self.ids.user,
            "item_id": self.ids.item,
            "event_timestamp": None,
            self.data.label.column: pa.float64() if numeric else None,
            "value": pa.string(),
        }
        if self.data.grade:
            roles.setdefault(self.data.grade, pa.float64())
        return self._stream("interactions", roles, {"weight": pa.float32()})

    def users(self) -> Iterator[pa.RecordBatch] | None:
        if "users" not in self.data.files:
            return None
        return self._stream("users", {"user_id": self.ids.user, **self.user_columns}, {"event_timestamp": None})

    def items(self) -> Iterator[pa.RecordBatch] | None:
        if "items" not in self.data.files:
            return None
        roles = {"item_id": self.ids.item, **self.item_columns}
        if "title" in self.data.item_text:
            roles["title"] = pa.string()
        optional = {"event_timestamp": None, "title": pa.string(), "scenarios": pa.string()}
        return map(_with_values, self._stream("items", roles, optional))

    def describe(self, values: list[str]) -> str:
        return f"Requests of scenario {' or '.join(values)}." if values else "All other requests."

    def _stream(
        self, table: str, roles: Mapping[str, pa.DataType | None], optional: Mapping[str, pa.DataType | None]
    ) -> Iterator[pa.RecordBatch]:
        """Batches with the roles as columns; a type of None means: as it is, a time becomes a timestamp."""
        for path in self._parts(table):
            header = _header(path, self.data.encoding)
            present = {role: kind for role, kind in optional.items() if self._column(table, role, header) in header}
            wanted = {**roles, **present}
            names = {role: self._column(table, role, header) for role in wanted}
            for role, name in names.items():
                if name not in header:
                    raise DataError(
                        f"no such column, needed as {role}; map it by data.columns; the file has: {', '.join(header)}",
                        file=path,
                        column=name,
                    )
            place = Place(path, 2 if _CSV.search(path.name) else 1)
            for batch in self._raw(path, names, wanted):
                yield self._converted(batch, names, wanted, place)
                place = place.after(batch.num_rows)

    def _raw(
        self, path: Path, names: Mapping[str, str], kinds: Mapping[str, pa.DataType | None]
    ) -> Iterator[pa.RecordBatch]:
        if not _CSV.search(path.name):
            return _read_parquet(path, list(dict.fromkeys(names.values())), self.data.batch_rows)
        columns: dict[str, pa.DataType] = {}
        for role, name in names.items():
            kind = kinds[role]
            if role == "event_timestamp" and self.data.timestamp_unit != "iso":
                kind = pa.float64()
            columns[name] = kind if kind is not None and columns.get(name, kind) == kind else pa.string()
        delimiter = "\t" if ".tsv" in path.suffixes else ","
        return read_csv(path, columns, delimiter=delimiter, newlines=True, encoding=self.data.encoding)

    def _converted(
        self,
        batch: pa.RecordBatch,
        names: Mapping[str, str],
        kinds: Mapping[str, pa.DataType | None],
        place: Place,
    ) -> pa.RecordBatch:
        columns = {}
        for role, kind in kinds.items():
            column, here = _plain(batch[names[role]]), place.at(names[role])
            if role == "event_timestamp":
                columns[role] = to_timestamps(column, self.data.timestamp_unit, here)
            elif kind is None:
                columns[role] = cast(_numbers(column), pa.float64(), here)
            else:
                columns[role] = cast(column, kind, here)
        return pa.RecordBatch.from_pydict(columns)

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

    def _id_type(self, key: str, entity: str) -> pa.DataType:
        """int64 where every file has whole numbers for this id, else string."""
        tables = [table for table in ("interactions", entity) if table in self.data.files]
        parts = [(table, part) for table in tables for part in self._parts(table)]
        return pa.int64() if all(self._is_integer(table, key, part) for table, part in parts) else pa.string()

    def _is_integer(self, table: str, key: str, path: Path) -> bool:
        header = _header(path, self.data.encoding)
        name = self._column(table, key, header)
        if name not in header:
            return True  # reading this file will say that the column is missing
        if not _CSV.search(path.name):
            kind = pq.read_schema(path).field(name).type
            return bool(pa.types.is_integer(kind.value_type if pa.types.is_dictionary(kind) else kind))
        return all(
            pc.all(pc.match_substring_regex(batch[key], _INTEGER)).as_py() is not False
            for batch in self._csv_ids(path, name, key)
        )

    def _csv_ids(self, path: Path, name: str, key: str) -> Iterator[pa.RecordBatch]:
        for batch in self._raw(path, {key: name}, {key: pa.string()}):
            yield batch.rename_columns([key])


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


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _numbers(column: pa.Array) -> pa.Array:
    """True and false, as words or values, as 1 and 0."""
    if pa.types.is_boolean(column.type):
        return column.cast(pa.int8())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.string())
        word = pc.utf8_lower(column)
        return pc.if_else(pc.equal(word, "true"), "1", pc.if_else(pc.equal(word, "false"), "0", column))
    return column


def _with_values(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`scenarios` (`|` between) becomes `values`, a list."""
    if "scenarios" not in batch.schema.names:
        return batch
    values = pc.split_pattern(batch["scenarios"], "|")
    return batch.drop_columns(["scenarios"]).append_column("values", values)
