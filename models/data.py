"""What the room is given: the point-in-time training table, and single ranking requests of the same content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.contracts.dataset_spec import DatasetSpec
from core.contracts.kinds import is_of
from core.contracts.statistics import statistic_columns
from core.errors import DataError, MissingArtifactError
from core.matrix import Rows, open_matrix
from core.segments import segments, table_path
from core.training_table import columns_of, read_rows

USER_STATS = tuple(statistic_columns("user"))
ITEM_STATS = tuple(statistic_columns("item"))
ROW_COLUMNS = ("row_id", "user_id", "item_id", "scenario", "label", "weight", "split", *USER_STATS, *ITEM_STATS)


@dataclass
class TrainingData:
    """A dataset artifact in memory; the vector matrices stay memory-mapped.

    Args:
        rows: one row per interaction, in order of (event_timestamp, user_id, item_id). `history_end` is how many of the
            user's positives the row may read; an optional `history_begin`, at most that, hides the first ones.
        user_log: every user's positives in order, `position` counting from 0.
        vectors: kind -> float32 [n, d] that the `*_row` columns index.
        spec: the dataset's spec.json.
    """

    rows: pa.Table
    user_log: pa.Table
    vectors: Mapping[str, Rows]
    spec: DatasetSpec

    def indices(self, split: str) -> np.ndarray:
        """Row numbers of a split, int64, ascending."""
        mask = pc.equal(self.rows.column("split"), split)
        return np.flatnonzero(mask.to_numpy(zero_copy_only=False).astype(bool))


@dataclass
class RequestBatch:
    """Candidates to score, raw, as a ranking service knows them: U users, B candidates.

    Args:
        scenario: name of each candidate's scenario, [B].
        user: user_id, declared user columns, statistics (`user_rows`, ...), each [U]; None is missing.
        user_index: which user each candidate is for, int64 [B].
        history: item ids of each user's newest positives, newest last, [U].
        item: item_id, declared item columns, statistics, each [B].
        user_vectors: kind -> float32 [U, d]; a row with NaN, or None, is unknown.
        item_text: float32 [B, d]; a row with NaN is unknown.
        scenario_vectors: scenario -> float32 [d]; an absent one is unknown.
        scenario_key: key into `scenario_vectors` of each candidate, [B]; none: its scenario.
    """

    scenario: list[str]
    user: dict[str, list[Any]]
    user_index: np.ndarray
    history: list[list[Any]]
    item: dict[str, Any]
    user_vectors: dict[str, np.ndarray | None] = field(default_factory=dict)
    item_text: np.ndarray | None = None
    scenario_vectors: dict[str, np.ndarray] = field(default_factory=dict)
    scenario_key: list[str] | None = None


def load_dataset(folder: Path) -> TrainingData:
    """Read a dataset artifact.

    Raises:
        DataError: a file is missing or unreadable, or the rows lack a column; the message names them.
    """
    try:
        spec = DatasetSpec.read(folder)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error}); run `llm4msr dataset` again", file=folder / DatasetSpec.FILE
        ) from error
    declared = [*spec.columns("user"), *spec.columns("item")]
    references = [f"{kind}_row" for kind in spec.vectors]
    dated = ("user_stats", "item_stats", "user_history", *spec.vectors)
    # The gate's evidence that nothing was read before it was known: a third of a row.
    unread = {f"{view}_{end}" for view in dated for end in ("watermark", "published")} - set(declared)
    needed = (*ROW_COLUMNS, "history_end", *declared, *references)
    rows = read_rows(
        folder, list(dict.fromkeys([*needed, *(name for name in columns_of(folder) if name not in unread)]))
    )
    user_log = _read(table_path(folder, "user_log"), ("user_id", "position", "item_id"))
    vectors = {kind: _matrix(folder / "vectors" / f"{kind}.npy", found.dim) for kind, found in spec.vectors.items()}
    return TrainingData(rows, user_log, vectors, spec)


def request_batch_from_rows(data: TrainingData, row_indices: Sequence[int] | np.ndarray) -> RequestBatch:
    """The request a service would have built at these rows' times: the offline side of parity tests.

    Args:
        data: the dataset.
        row_indices: positions in `data.rows`, [B]; every row is a user of its own, so U = B.
    """
    index = np.asarray(row_indices, np.int64)
    rows, spec = data.rows.take(pa.array(index)), data.spec
    user = {n: rows.column(n).to_pylist() for n in ("user_id", *spec.columns("user"), *USER_STATS)}
    item = {n: rows.column(n).to_pylist() for n in ("item_id", *spec.columns("item"), *ITEM_STATS)}
    scenario = rows.column("scenario").to_pylist()
    scenario_row = row_numbers(rows, "scenario") if "scenario" in spec.vectors else np.full(len(index), -1)
    keys = [f"{name}@{number}" for name, number in zip(scenario, scenario_row.tolist(), strict=True)]
    known = {key: int(number) for key, number in zip(keys, scenario_row, strict=True) if number >= 0}
    return RequestBatch(
        scenario=scenario,
        user=user,
        user_index=np.arange(len(index)),
        history=_histories(data, rows),
        item=item,
        user_vectors={kind: vectors_of(data, rows, kind) for kind in spec.vectors if is_of(kind, "user")},
        item_text=vectors_of(data, rows, "item_text") if "item_text" in spec.vectors else None,
        scenario_vectors={key: np.array(data.vectors["scenario"][number]) for key, number in known.items()},
        scenario_key=keys,
    )


def row_numbers(rows: pa.Table, kind: str) -> np.ndarray:
    """Rows of a vector matrix, int64 [N]; -1 where there is none."""
    return pc.fill_null(rows.column(f"{kind}_row"), -1).cast(pa.int64()).to_numpy()


def vectors_of(data: TrainingData, rows: pa.Table, kind: str) -> np.ndarray:
    """The vectors of some rows, float32 [N, d]; a missing one is NaN."""
    numbers = row_numbers(rows, kind)
    found = np.full((len(numbers), data.spec.vectors[kind].dim), np.nan, np.float32)
    known = numbers >= 0
    found[known] = data.vectors[kind][numbers[known]]
    return found


def log_order(user_log: pa.Table) -> pa.Table:
    """The log by user, then position; untouched when it is so already."""
    users, position = user_log.column("user_id"), user_log.column("position").to_numpy()
    if len(position) < 2:
        return user_log
    same = pc.equal(users.slice(1), users.slice(0, len(users) - 1)).to_numpy(zero_copy_only=False).astype(bool)
    in_order = np.where(same, position[1:] == position[:-1] + 1, position[1:] == 0).all() and position[0] == 0
    starts = np.flatnonzero(np.concatenate(([True], ~same)))
    if in_order and len(starts) == pc.count_distinct(users).as_py():
        return user_log
    return user_log.sort_by([("user_id", "ascending"), ("position", "ascending")])


def log_starts(user_log: pa.Table, users: pa.ChunkedArray) -> np.ndarray:
    """Where each of `users` begins in an ordered log, int64; -1 without a log."""
    position = user_log.column("position").to_numpy()
    starts = np.flatnonzero(position == 0)
    owners = user_log.column("user_id").combine_chunks().take(pa.array(starts))
    found = pc.index_in(users.combine_chunks(), value_set=owners.cast(users.type))
    found = pc.fill_null(found, -1).to_numpy(zero_copy_only=False)
    return np.where(found >= 0, np.append(starts, -1)[found], -1).astype(np.int64)


def history_begin(rows: pa.Table) -> np.ndarray:
    """Each row's first position in its user's log that it may read, int64 [N]."""
    if "history_begin" in rows.column_names:
        return rows.column("history_begin").to_numpy()
    return np.zeros(rows.num_rows, np.int64)


def _histories(data: TrainingData, rows: pa.Table) -> list[list[Any]]:
    log, length = log_order(data.user_log), data.spec.history_length
    starts = log_starts(log, rows.column("user_id"))
    ends = pc.fill_null(rows.column("history_end"), 0).to_numpy()
    begins = np.maximum(history_begin(rows), ends - length)
    items = log.column("item_id")
    return [
        items.slice(start + begin, end - begin).to_pylist() if start >= 0 else []
        for start, begin, end in zip(starts.tolist(), begins.tolist(), ends.tolist(), strict=True)
    ]


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        table = pa.concat_tables([pq.read_table(file) for file in segments(path)])
    except (OSError, pa.ArrowInvalid, MissingArtifactError) as error:
        raise DataError(f"cannot be read ({error}); run `llm4msr dataset` again", file=path) from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise DataError(
            "the training table lacks this column; run `llm4msr dataset` again", file=path, column=missing[0]
        )
    return table


def _matrix(path: Path, dim: int) -> Rows:
    try:
        matrix = open_matrix(path)
    except (OSError, ValueError, MissingArtifactError) as error:
        raise DataError(f"cannot be read ({error}); run `llm4msr knowledge` again", file=path) from error
    if len(matrix.shape) != 2 or matrix.shape[1] != dim:
        raise DataError(f"holds {matrix.shape}, not rows of {dim} numbers as spec.json says", file=path)
    return matrix
