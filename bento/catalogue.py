"""The item catalogue in process memory: features, text vectors and scenario membership."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.contracts.catalogue_spec import CatalogueSpec
from core.errors import CorruptArtifactError
from core.manifest import read_manifest
from core.matrix import open_matrix

_NOT_FEATURES = ("title", "scenarios", "event_timestamp", "created_timestamp")
_AT_A_TIME = 4096


@dataclass(frozen=True)
class Catalogue:
    """A published catalogue.

    Attributes:
        columns: item feature columns, each [N], `item_id` among them.
        titles: titles, [N], None where unknown.
        text: compressed text vectors, float32 [N, d]; NaN rows have no text. Not a map of the file: one that is cut short
            under a running process would kill it.
        rows: item id to row.
        members: scenario to the rows it can show, int64, most positives first.
        ascending: the same rows in their own order.
        scenarios: name, title and description of each scenario.
        as_of: the clock's now when it was made, microseconds.
        digest: content digest of the artifact.
        withdrawn: ids of items that were in the catalogue once and cannot be ranked any more.
        text_version: version of `text`.
    """

    columns: dict[str, np.ndarray]
    titles: list[str | None]
    text: np.ndarray
    rows: dict[Any, int]
    members: dict[str, np.ndarray]
    ascending: dict[str, np.ndarray]
    scenarios: list[dict[str, str]]
    as_of: int
    digest: str
    text_version: str | None = None
    withdrawn: frozenset[Any] = frozenset()
    _codes: dict[str, tuple[dict[Any, int], np.ndarray]] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.titles)

    def find(self, ids: Iterable[Any]) -> tuple[np.ndarray, list[Any]]:
        """Rows of known ids in the order asked (each once), and the ids that are unknown."""
        rows = {item: self.rows.get(item, -1) for item in ids}
        unknown = [item for item, row in rows.items() if row < 0]
        return np.fromiter((row for row in rows.values() if row >= 0), np.int64, len(rows) - len(unknown)), unknown

    def is_among(self, column: str, values: Iterable[Any], rows: np.ndarray) -> np.ndarray:
        """Which of some rows have one of these values in a column, boolean [n]."""
        if (held := self._codes.get(column)) is None:
            number: dict[Any, int] = {}
            codes = [number.setdefault(value, len(number)) for value in self.columns[column].tolist()]
            held = self._codes[column] = (number, np.array(codes, dtype=np.int32))
        number, coded = held
        wanted = np.zeros(len(number), dtype=bool)
        wanted[[number[value] for value in values if value in number]] = True
        return wanted[coded[rows]]

    def with_text_of(self, other: Catalogue) -> Catalogue:
        """These items with the text vectors that an older catalogue has of them, in memory; newer items have none."""
        there = np.array([other.rows.get(item, -1) for item in self.rows], dtype=np.int64)
        text = np.full((len(self), other.text.shape[1]), np.nan, dtype=np.float32)
        text[there >= 0] = other.text[there[there >= 0]]
        return replace(self, text=text, text_version=other.text_version, _codes={})


def load_catalogue(folder: Path, digest: str | None = None) -> Catalogue:
    """Read a catalogue artifact and check its bytes against its manifest.

    Args:
        folder: the artifact.
        digest: the content digest it must have; none: any.

    Raises:
        CorruptArtifactError: a file is missing or altered, or it is another catalogue.
    """
    manifest = read_manifest(folder)
    if digest is not None and manifest.digest != digest:
        raise CorruptArtifactError(f"{folder}: not the catalogue that was published")
    manifest.check()
    items = pq.read_table(folder / "items.parquet")
    scenarios = pq.read_table(folder / "scenarios.parquet").to_pylist()
    ascending = _shown(items["scenarios"], [s["scenario"] for s in scenarios])
    positives = items["item_positives"].fill_null(0).to_numpy()
    columns = {name: _column(items[name]) for name in items.column_names if name not in _NOT_FEATURES}
    spec = CatalogueSpec.read(folder)
    gone = folder / "withdrawn.parquet"  # a catalogue of an earlier version has none
    return Catalogue(
        columns=columns,
        titles=list(_values(items["title"])),
        text=np.array(open_matrix(folder / "item_text.npy")),
        rows={item: row for row, item in enumerate(_values(items["item_id"]))},
        members={s: rows[np.argsort(-positives[rows], kind="stable")] for s, rows in ascending.items()},
        ascending=ascending,
        scenarios=scenarios,
        as_of=spec.as_of,
        digest=manifest.digest,
        text_version=spec.versions.get("item_text"),
        withdrawn=frozenset(pq.read_table(gone)["item_id"].to_pylist() if gone.is_file() else ()),
    )


def _shown(lists: pa.ChunkedArray, scenarios: list[str]) -> dict[str, np.ndarray]:
    """Scenario to the rows that it can show: those that name it, and those that name none."""
    everywhere = lists.is_null().to_numpy()
    flat = lists.combine_chunks()
    parents, named = pc.list_parent_indices(flat).to_numpy(), flat.flatten()
    found = {}
    for scenario in scenarios:
        mask = everywhere.copy()
        mask[parents[pc.equal(named, scenario).to_numpy(zero_copy_only=False)]] = True
        found[scenario] = np.flatnonzero(mask)
    return found


def _values(column: pa.ChunkedArray) -> Iterator[Any]:
    """As Python's own, some at a time: one call for all of a large catalogue would hold up the requests beside it."""
    for start in range(0, len(column), _AT_A_TIME):
        yield from column.slice(start, _AT_A_TIME).to_pylist()


def _column(values: pa.ChunkedArray) -> np.ndarray:
    """A numeric array where all values are numbers, else an array of objects with None for missing."""
    if values.null_count or not _is_number(values.type):
        column = np.empty(len(values), dtype=object)
        for place, value in enumerate(_values(values)):
            column[place] = value
        return column
    return values.to_numpy()


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
