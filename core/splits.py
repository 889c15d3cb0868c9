"""Which rows of the log warm up the statistics, train, validate and test. All by time, nothing at random."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.contracts.dataset_spec import SplitRule

WARMUP, TRAIN, VALIDATION, TEST = "warmup", "train", "validation", "test"
NAMES = np.array([WARMUP, TRAIN, VALIDATION, TEST])
# The column that says whether a row is a drawn negative.
SAMPLED = "sampled"
SLACK = 1e-9  # so that a share of .7 of 10 rows is 7 of them


def assign_splits(rows: pa.Table, rule: SplitRule, train_start: int) -> pa.Array:
    """Name each row's part.

    Rows before `train_start` are `warmup`. Of the rest, by the rule's kind:

    - `per_user_tail`: a user's rows in order of time; the last share `test` is `test`, the share `validation` before it
      `validation`, the others `train`. Rows of one user and time stay together, on the side on which their middle
      falls. Shares are rounded down to whole rows: with the default shares (.1 and .2) a user with up to three rows
      has only `train` rows, and one with four has one `validation` row and no `test` row.
    - `time`: one cut for all. Rows of one time stay together, in the later part.

    Args:
        rows: with user_id and event_timestamp, in any order. Drawn negatives (`sampled`) count for no share; each is in
            the part of its positive, which has its user and time.
        rule: kind and shares.
        train_start: microseconds.

    Returns:
        String array, one name per row, in the rows' order.
    """
    times = rows["event_timestamp"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    users = pc.dictionary_encode(rows["user_id"].combine_chunks()).indices.to_numpy()
    drawn = rows[SAMPLED].to_numpy().astype(bool) if SAMPLED in rows.column_names else np.zeros(len(times), bool)
    code = np.zeros(len(times), np.int64)
    rest = np.flatnonzero((times >= train_start) & ~drawn)
    code[rest] = _by_time(times[rest], rule) if rule.kind == "time" else _by_user(users[rest], times[rest], rule)
    if drawn.any():
        order = np.lexsort((drawn, times, users))
        owner = np.maximum.accumulate(np.where(drawn[order], 0, np.arange(len(order))))
        code[order] = code[order][owner]
    return pa.array(NAMES[code], pa.string())


def _by_user(users: np.ndarray, times: np.ndarray, split: SplitRule) -> np.ndarray:
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


def _by_time(times: np.ndarray, split: SplitRule) -> np.ndarray:
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
    return np.floor(count * share + SLACK).astype(np.int64)
