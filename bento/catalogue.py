"""The item catalogue in process memory: features, text vectors and scenario membership."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from core.contracts.catalogue_spec import CatalogueSpec
from core.errors import CorruptArtifactError
from core.manifest import read_manifest

_NOT_FEATURES = ("title", "scenarios", "event_timestamp", "created_timestamp")


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
    scenarios: list[dict[str, str]]
    as_of: int
    digest: str
    text_version: str | None = None
    withdrawn: frozenset[Any] = frozenset()

    def __len__(self) -> int:
        return len(self.titles)

    def find(self, ids: Iterable[Any]) -> tuple[np.ndarray, list[Any]]:
        """Rows of known ids in the order asked (each once), and the ids that are unknown."""
        rows = {item: self.rows.get(item, -1) for item in ids}
        unknown = [item for item, row in rows.items() if row < 0]
        return np.fromiter((row for row in rows.values() if row >= 0), np.int64, len(rows) - len(unknown)), unknown

    def with_text_of(self, other: Catalogue) -> Catalogue:
        """These items with the text vectors that an older catalogue has of them, in memory; newer items have none."""
        there = np.array([other.rows.get(item, -1) for item in self.rows], dtype=np.int64)
        text = np.full((len(self), other.text.shape[1]), np.nan, dtype=np.float32)
        text[there >= 0] = other.text[there[there >= 0]]
        return replace(self, text=text, text_version=other.text_version)


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
    ids = items["item_id"].to_pylist()
    scenarios = pq.read_table(folder / "scenarios.parquet").to_pylist()
    shown = items["scenarios"].to_pylist()
    positives = np.asarray(items["item_positives"].fill_null(0))
    order = np.argsort(-positives, kind="stable").tolist()
    members = {
        s["scenario"]: np.array(
            [row for row in order if shown[row] is None or s["scenario"] in shown[row]], dtype=np.int64
        )
        for s in scenarios
    }
    columns = {name: _column(items[name].to_pylist()) for name in items.column_names if name not in _NOT_FEATURES}
    spec = CatalogueSpec.read(folder)
    gone = folder / "withdrawn.parquet"  # a catalogue of an earlier version has none
    return Catalogue(
        columns=columns,
        titles=items["title"].to_pylist(),
        text=np.load(folder / "item_text.npy"),
        rows={item: row for row, item in enumerate(ids)},
        members=members,
        scenarios=scenarios,
        as_of=spec.as_of,
        digest=manifest.digest,
        text_version=spec.versions.get("item_text"),
        withdrawn=frozenset(pq.read_table(gone)["item_id"].to_pylist() if gone.is_file() else ()),
    )


def _column(values: list[Any]) -> np.ndarray:
    """A numeric array where all values are numbers, else an array of objects with None for missing."""
    if any(v is None or isinstance(v, str) for v in values):
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return column
    return np.asarray(values)
