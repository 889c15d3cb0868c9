"""Controls: a training table from which one thing is taken, so that training on it says what that thing is worth.

    without text      the plain model without item text vectors: what the texts bring without any knowledge of users
    shuffled titles   the same model with knowledge made from the titles of other items of the same scenario: what the texts *say*
    other user        the same model with each user's vectors taken from another user of similar activity: what a user's *own*
                      vectors say

Labels, rows, features and the number of parameters stay as they are, so both placebos keep whatever a model gains from being larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.data import TrainingData, row_numbers

ITEM_TEXT = "item_text"


def has_text(data: TrainingData) -> bool:
    """Whether any row's item has a text vector."""
    return ITEM_TEXT in data.spec.vectors and data.rows[f"{ITEM_TEXT}_row"].null_count < data.rows.num_rows


def without_text(data: TrainingData) -> TrainingData:
    """The table without item text vectors."""
    spec = data.spec.without_vectors(ITEM_TEXT)
    return replace(data, spec=spec, vectors={kind: v for kind, v in data.vectors.items() if kind != ITEM_TEXT})


def with_vectors(data: TrainingData, vectors: Mapping[str, np.ndarray]) -> TrainingData:
    """The table with other matrices of some kinds, each of the shape it had."""
    return replace(data, vectors={**data.vectors, **vectors})


def of_other_users(data: TrainingData, kinds: list[str], seed: int) -> TrainingData | None:
    """The table in which each user has the vectors of the user who comes next in order of rows.

    A user's first vector becomes the other's first, the second the second, and so on; where the other has fewer, the newest.
    Rows whose user is unknown stay so.

    Args:
        data: the table; rows in order of time.
        kinds: of user vectors, e.g. `user_pooled`.
        seed: of the order among users with as many rows.

    Returns:
        The table; None where no kind has two users with vectors.
    """
    rows, changed = data.rows, False
    _, users = np.unique(_codes(rows["user_id"]), return_inverse=True)
    activity = np.bincount(users)
    order = np.lexsort((np.random.default_rng((9, seed)).permutation(len(activity)), activity))
    for kind in kinds:
        swapped = _swapped(users, row_numbers(rows, kind), order)
        if swapped is not None:
            place = rows.column_names.index(f"{kind}_row")
            known = pa.array(swapped, mask=swapped < 0)
            rows, changed = rows.set_column(place, f"{kind}_row", known), True
    return replace(data, rows=rows) if changed else None


def common_scenario(data: TrainingData) -> pa.Table:
    """The scenario that each item has most rows in: item_id, scenario; ties go to the first name."""
    counts = data.rows.group_by(["item_id", "scenario"]).aggregate([("label", "count")])
    ordered = counts.sort_by([("item_id", "ascending"), ("label_count", "descending"), ("scenario", "ascending")])
    return (
        ordered.group_by("item_id", use_threads=False)
        .aggregate([("scenario", "first")])
        .rename_columns(["item_id", "scenario"])
    )


def _swapped(users: np.ndarray, reference: np.ndarray, order: np.ndarray) -> np.ndarray | None:
    """Rows of the matrix that the other user's vectors are, -1 where the user's own are unknown.

    Args:
        users: code of each row's user, [N].
        reference: row of the matrix that each row reads, -1: none, [N].
        order: codes of all users in order of activity.
    """
    known = np.flatnonzero(reference >= 0)
    pairs = users[known] * (int(reference.max(initial=0)) + 1) + reference[known]
    _, first, vector = np.unique(pairs, return_index=True, return_inverse=True)
    # Each distinct vector of each user, in order of the first row that reads it.
    owner, value = users[known][first], reference[known][first]
    by_time = np.lexsort((first, owner))
    number = np.empty(len(first), np.int64)  # of a vector among its user's
    counts = np.bincount(owner, minlength=len(order))
    begins = np.concatenate(([0], np.cumsum(counts)[:-1]))
    number[by_time] = np.arange(len(first)) - begins[owner[by_time]]
    with_vectors = order[counts[order] > 0]
    if len(with_vectors) < 2:
        return None
    partner = np.full(len(order), -1)
    partner[with_vectors] = np.roll(with_vectors, -1)
    other = partner[owner]
    taken = value[by_time][begins[other] + np.minimum(number, counts[other] - 1)]
    swapped = np.full(len(reference), -1, np.int64)
    swapped[known] = taken[vector]
    return swapped


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    return pc.dictionary_encode(column.combine_chunks()).indices.to_numpy()
