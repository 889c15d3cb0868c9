"""The interaction log of several windows as one DuckDB table: the union of validated sources without repeats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from core.contracts.chain import Chain
from core.duck import database, quoted
from core.errors import DataError, MissingArtifactError
from core.tables import GRADE, TIMESTAMP, UNDATED_MICROS, IdTypes

KEY = "user_id, item_id, scenario, t"


def id_types(sources: Sequence[Path]) -> IdTypes:
    """The types of the ids in the sources' interactions.

    Raises:
        MissingArtifactError: there is no source, or one has no interactions.parquet.
        DataError: two sources have different types.
    """
    if not sources:
        raise MissingArtifactError("no validated interactions to read; run `llm4msr run` or its first stages first")
    found: list[tuple[Path, IdTypes]] = []
    for source in sources:
        file = source / "interactions.parquet"
        if not file.is_file():
            raise MissingArtifactError(f"{file} does not exist; run the validate stage first")
        schema = pq.read_schema(file)
        found.append((file, IdTypes(schema.field("user_id").type, schema.field("item_id").type)))
    first_file, first = found[0]
    for file, types in found[1:]:
        for column in ("user", "item"):
            ours, theirs = getattr(types, column), getattr(first, column)
            if ours != theirs:
                message = f"ids are {ours} here and {theirs} in {first_file}; read both windows with one setting"
                raise DataError(message, file=file, column=f"{column}_id")
    return first


def time_span(sources: Sequence[Path]) -> tuple[int, int] | None:
    """The oldest and newest event time of the sources' rows in microseconds, from what their files say of themselves.

    Returns:
        None: there are no rows. Where a file does not say it, all time there is.
    """
    found: list[pa.Scalar] = []
    for source in sources:
        about = pq.read_metadata(source / "interactions.parquet")
        place = about.schema.to_arrow_schema().get_field_index("event_timestamp")
        groups = [about.row_group(number) for number in range(about.num_row_groups)]
        known = [group.column(place).statistics for group in groups if group.num_rows]
        if any(one is None or not one.has_min_max for one in known):
            return UNDATED_MICROS, 2**63 - 1
        found += [edge for one in known for edge in (one.min, one.max)]
    times = pa.array(found, TIMESTAMP).cast(pa.int64()).to_pylist()
    return (min(times), max(times)) if times else None


def comes_after(sources: Sequence[Path], chain: Chain) -> bool:
    """Whether all rows of these sources are later than those of a chain."""
    span = time_span(sources)
    return span is None or chain.until is None or span[0] > chain.until


@contextmanager
def open_log(
    sources: Sequence[Path], scratch: Path, *, start: int | None = None, end: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with a table `log`: user_id, item_id, scenario, t (microseconds), label, weight, grade.

    Repeats of (user, item, scenario, time) are one row: the last one of the latest source counts.

    Args:
        sources: folders that hold interactions.parquet, earlier windows first.
        scratch: where it spills what does not fit.
        start: rows from this time on, in microseconds.
        end: rows before this time, in microseconds.
    """
    with database(scratch) as connection:
        bounds = [f"t >= {int(start)}"] if start is not None else []
        bounds += [f"t < {int(end)}"] if end is not None else []
        read = " UNION ALL ".join(_select(source, order) for order, source in enumerate(sources))
        connection.execute(
            f"CREATE TEMP TABLE log AS SELECT {KEY}, last.label AS label, last.weight AS weight, last.grade AS grade FROM ("
            f"SELECT {KEY}, arg_max({{'label': label, 'weight': weight, 'grade': grade}}, place) AS last FROM ({read}) "
            f"WHERE {' AND '.join(bounds) or 'true'} GROUP BY {KEY})"
        )
        yield connection


def _select(source: Path, order: int) -> str:
    path = source / "interactions.parquet"
    file, grade = quoted(path), GRADE if GRADE in pq.read_schema(path).names else "NULL::FLOAT"
    return (
        f"SELECT user_id, item_id, scenario, epoch_us(event_timestamp) AS t, label, weight, {grade} AS grade, "
        f"({order}::BIGINT << 44) + file_row_number AS place FROM read_parquet({file}, file_row_number = true)"
    )
