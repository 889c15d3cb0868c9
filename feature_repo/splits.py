"""Which rows of the log warm up the statistics, train, validate and test. All by time, nothing at random."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from core import Settings
from core.errors import DataError
from core.settings import SplitSettings
from feature_repo.log import id_types, open_log

WARMUP, TRAIN, VALIDATION, TEST = "warmup", "train", "validation", "test"
NAMES = np.array([WARMUP, TRAIN, VALIDATION, TEST])
_SLACK = 1e-9  # so that a share of .7 of 10 rows is 7 of them


def compute_train_start(sources: Sequence[Path], settings: Settings) -> int:
    """The time at which training starts: the share `split.warmup` of the log lies before it.

    It is the time of a row; rows of that very time are no warm-up, so ties make the warm-up smaller, never larger.

    Args:
        sources: folders of validated tables; rows found in two count once.
        settings: `split.warmup` counts.

    Returns:
        Microseconds since 1970-01-01 UTC.

    Raises:
        DataError: there are no rows.
    """
    id_types(sources)
    with tempfile.TemporaryDirectory(prefix="llm4msr-") as folder, open_log(sources, Path(folder) / "spill") as log:
        count = log.execute("SELECT count(*) FROM log").fetchall()[0][0]
        if not count:
            raise DataError("no interactions; nothing can be trained", file=sources[0] / "interactions.parquet")
        before = int(count * settings.split.warmup + _SLACK)
        return int(log.execute(f"SELECT t FROM log ORDER BY t LIMIT 1 OFFSET {before}").fetchall()[0][0])


def assign_splits(rows: pa.Table, settings: Settings, train_start: int) -> pa.Array:
    """Name each row's part.

    Rows before `train_start` are `warmup`. Of the rest, by `split.kind`:

    - `per_user_tail`: a user's rows in order of time; the last share `test` is `test`, the share `validation` before it
      `validation`, the others `train`. Rows of one user and time stay together, on the side on which their middle
      falls. Shares are rounded down to whole rows: with the default shares (.1 and .2) a user with up to three rows
      has only `train` rows, and one with four has one `validation` row and no `test` row.
    - `time`: one cut for all. Rows of one time stay together, in the later part.

    Args:
        rows: with user_id and event_timestamp, in any order.
        settings: `split` counts.
        train_start: as `compute_train_start` returns it.

    Returns:
        String array, one name per row, in the rows' order.
    """
    times = rows["event_timestamp"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    code = np.zeros(len(times), np.int64)
    rest = np.flatnonzero(times >= train_start)
    if settings.split.kind == "time":
        code[rest] = _by_time(times[rest], settings.split)
    else:
        users = rows["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        code[rest] = _by_user(users[rest], times[rest], settings.split)
    return pa.array(NAMES[code], pa.string())


def _by_user(users: np.ndarray, times: np.ndarray, split: SplitSettings) -> np.ndarray:
    """1, 2 or 3 (an index into NAMES) for each row."""
    if not len(users):
        return np.empty(0, np.int64)
    order = np.lexsort((times, users))
    user, time = users[order], times[order]
    first, count = _runs(np.diff(user) != 0)
    place = np.arange(len(order)) - first
    tie, ties = _runs((np.diff(user) != 0) | (np.diff(time) != 0))
    middle = place[tie] + (ties - 1) / 2
    code = np.empty(len(order), np.int64)
    code[order] = 1 + (middle >= count - _whole(count, split.test + split.validation)).astype(np.int64)
    code[order] += middle >= count - _whole(count, split.test)
    return code


def _by_time(times: np.ndarray, split: SplitSettings) -> np.ndarray:
    ordered, count = np.sort(times), len(times)
    code = np.ones(count, np.int64)
    for share in (split.test + split.validation, split.test):
        rows = int(_whole(np.array(count), share))
        if rows:
            code += times >= ordered[count - rows]
    return code


def _runs(changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each element of a sorted sequence: where its run of equal values starts, and how long that run is.

    Args:
        changes: bool [n-1], True where an element differs from the one before it.
    """
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff(np.append(starts, len(changes) + 1))
    return np.repeat(starts, lengths), np.repeat(lengths, lengths)


def _whole(count: np.ndarray, share: float) -> np.ndarray:
    return np.floor(count * share + _SLACK).astype(np.int64)
