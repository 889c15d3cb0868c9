"""Ids to embedding rows: row 0 is everything unknown, row i the i-th key of the sorted vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.ids import read_ids

UNKNOWN = 0


class Vocabulary:
    """The keys seen in training, sorted, all int64 or all string.

    Args:
        keys: Arrow array of int64 or string, without nulls, sorted, distinct.

    Example:
        >>> vocabulary = Vocabulary.fit(pa.array(["b", "a", None, "b"]))
        >>> vocabulary.rows(["a", "b", "c", None]).tolist()
        [1, 2, 0, 0]
    """

    def __init__(self, keys: pa.Array) -> None:
        self.keys = keys

    @classmethod
    def fit(cls, column: pa.Array | pa.ChunkedArray) -> Vocabulary:
        """The distinct keys of a column; integers stay int64, everything else becomes text."""
        keys = pc.unique(_typed(column, pa.types.is_integer(_plain_type(column)))).drop_null()
        return cls(keys.take(pc.sort_indices(keys)))

    @property
    def size(self) -> int:
        """Rows of the embedding table: one for each key, and row 0."""
        return len(self.keys) + 1

    @property
    def is_integer(self) -> bool:
        return pa.types.is_integer(self.keys.type)

    def encode(self, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Embedding rows of a whole Arrow column, int32 [N]."""
        found = pc.index_in(_typed(column, self.is_integer), value_set=self.keys)
        return pc.add(pc.fill_null(found, -1), 1).cast(pa.int32()).to_numpy(zero_copy_only=False)

    def rows(self, values: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Embedding rows of a few Python values, or of an integer array, int64 [N]."""
        if isinstance(values, np.ndarray):
            if self.is_integer and values.dtype.kind in "iu":
                return self._search(values)
            values = values.tolist()
        found = np.fromiter(map(self._index.get, values, repeat(UNKNOWN)), np.int64, len(values))
        for place in np.flatnonzero(found == UNKNOWN).tolist():
            found[place] = self.row(values[place])
        return found

    def row(self, value: Any) -> int:
        """The embedding row of one value."""
        found = self._index.get(value)
        if found is not None:
            return found
        if value is None:
            return UNKNOWN
        try:  # A number where the training data had text, or the other way round.
            return self._index.get(int(value) if self.is_integer else str(value), UNKNOWN)
        except (TypeError, ValueError):
            return UNKNOWN

    def _search(self, values: np.ndarray) -> np.ndarray:
        keys = self._sorted
        if not len(keys):
            return np.zeros(len(values), np.int64)
        place = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
        return np.where(keys[place] == values, place + 1, UNKNOWN).astype(np.int64)

    @cached_property
    def _sorted(self) -> np.ndarray:
        return self.keys.to_numpy(zero_copy_only=False)

    @cached_property
    def _index(self) -> dict[Any, int]:
        return {key: row for row, key in enumerate(self.keys.to_pylist(), start=1)}


def _plain_type(column: pa.Array | pa.ChunkedArray) -> pa.DataType:
    return column.type.value_type if pa.types.is_dictionary(column.type) else column.type


def _typed(column: pa.Array | pa.ChunkedArray, integer: bool) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    wanted = pa.int64() if integer else pa.string()
    if array.type == wanted:
        return array
    if integer and pa.types.is_string(array.type):
        return read_ids(array, wanted, ())[0]  # a champion whose ids were integers, after they became text
    return array.cast(wanted, safe=False)
