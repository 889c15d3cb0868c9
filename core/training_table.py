"""Reading a training table: its segments as one table, with what is not kept in the rows because a later night changes it.

    rows/            one segment a window, or several merged ones, in order of (time, user, item, scenario)
    vectors/         KIND.npy, which KIND_row numbers; ITEMS_ids.parquet: whose vector each row of a kind of item vectors is
    spec.json        see `core.contracts.dataset_spec`

Not kept are `row_id` (a row's place), `split` (by the spec's rule), and the present row of an item's vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.contracts.dataset_spec import DatasetSpec
from core.contracts.kinds import is_of
from core.errors import DataError, MissingArtifactError
from core.segments import schema_of, segments, table_path
from core.splits import SAMPLED, assign_splits
from core.tables import GRADE, TIMESTAMP

ROWS = "rows"
# Given by `read_rows` where the rows do not hold them.
_GIVEN = ("row_id", "split")


def table_of(folder: Path) -> Path:
    """Where the rows of a dataset artifact are, for `core.segments`."""
    return table_path(folder, ROWS)


def item_ids(folder: Path, view: str) -> Path:
    """The file that says whose the vectors of a kind of item vectors are, in their order."""
    return folder / "vectors" / f"{view}_ids.parquet"


def columns_of(folder: Path) -> list[str]:
    """The columns that `read_rows` can give.

    Raises:
        DataError: the table is not there or cannot be read.
    """
    kept = _schema(folder).names
    return [*(name for name in _GIVEN if name not in kept), *kept]


def read_rows(folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a dataset artifact in order of time; places of vectors and ends of histories are int32.

    Args:
        folder: of the artifact.
        columns: which, in this order; None: all. A `grade` that no row has is left out.

    Raises:
        DataError: a file cannot be read, or a column is not there; the message names it.
    """
    known, spec = columns_of(folder), DatasetSpec.read(folder)
    wanted = known if columns is None else list(dict.fromkeys(columns))
    for name in wanted:
        if name not in known:
            raise DataError(
                "the training table lacks this column; run `llm4msr dataset` again", file=table_of(folder), column=name
            )
    kept = _schema(folder).names
    read = [name for name in wanted if name in kept]
    texts = [view for view in spec.vectors if is_of(view, "item") and item_ids(folder, view).is_file()]
    texts = [view for view in texts if f"{view}_row" in wanted]
    more = ["item_id"] if texts else []
    more += ["event_timestamp"] if spec.start is not None or "row_id" in wanted and not read else []
    computed = "split" in wanted and "split" not in kept and spec.split is not None
    more += ["user_id", "event_timestamp", *([SAMPLED] if SAMPLED in kept else [])] if computed else []
    rows = _read(folder, list(dict.fromkeys([*read, *more])))
    if spec.start is not None:
        rows = rows.filter(pc.greater_equal(rows["event_timestamp"], pa.scalar(spec.start, pa.int64()).cast(TIMESTAMP)))
    for view in texts:
        rows = _numbered(rows, view, pq.read_table(item_ids(folder, view)).column(0).combine_chunks())
    if computed and spec.split is not None:
        rows = rows.append_column("split", assign_splits(rows, spec.split, spec.train_start or 0))
    if "row_id" in wanted and "row_id" not in kept:
        rows = rows.append_column("row_id", pa.array(np.arange(rows.num_rows)))
    if GRADE in wanted and rows[GRADE].null_count == rows.num_rows:
        wanted = [name for name in wanted if name != GRADE]
    return rows.select(wanted)


def _numbered(rows: pa.Table, view: str, ids: pa.Array) -> pa.Table:
    """With the present place of each item's vector in place of that of the night on which the row was written."""
    name = f"{view}_row"
    place = pc.index_in(rows["item_id"].cast(ids.type), value_set=ids)
    known = pc.if_else(pc.is_valid(rows[name]), place, pa.scalar(None, pa.int32()))
    return rows.set_column(rows.schema.get_field_index(name), name, known)


def _schema(folder: Path) -> pa.Schema:
    try:
        return schema_of(table_of(folder))
    except (OSError, pa.ArrowInvalid, MissingArtifactError) as error:
        raise _unreadable(folder, error) from error


def _read(folder: Path, columns: list[str]) -> pa.Table:
    try:
        return pa.concat_tables([pq.read_table(file, columns=columns) for file in segments(table_of(folder))])
    except (OSError, pa.ArrowInvalid, MissingArtifactError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> DataError:
    return DataError(f"cannot be read ({error}); run `llm4msr dataset` again", file=table_of(folder))
