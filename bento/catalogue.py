"""The item catalogue in process memory: features, text vectors and scenario membership."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from core.digest import sha256_file
from core.errors import CorruptArtifactError

_NOT_FEATURES = ("title", "scenarios", "event_timestamp", "created_timestamp")


@dataclass(frozen=True)
class Catalogue:
    """A published catalogue.

    Attributes:
        columns: item feature columns, each [N], `item_id` among them.
        titles: titles, [N], None where unknown.
        text: compressed text vectors, float32 [N, d]; NaN rows have no text.
        rows: item id to row.
        members: scenario to the rows it can show, int64 ascending.
        scenarios: name, title and description of each scenario.
        as_of: the clock's now when it was made, microseconds.
        digest: content digest of the artifact.
    """

    columns: dict[str, np.ndarray]
    titles: list[str | None]
    text: np.ndarray
    rows: dict[Any, int]
    members: dict[str, np.ndarray]
    scenarios: list[dict[str, str]]
    as_of: int
    digest: str

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The feature columns of some rows, each [len(rows)]."""
        return {name: values[rows] for name, values in self.columns.items()}

    def find(self, ids: Sequence[Any]) -> tuple[np.ndarray, list[Any]]:
        """Rows of known ids in the order asked (each once), and the ids that are unknown."""
        asked = dict.fromkeys(ids)
        known = np.array([self.rows[i] for i in asked if i in self.rows], dtype=np.int64)
        return known, [i for i in asked if i not in self.rows]


def load_catalogue(folder: Path) -> Catalogue:
    """Read a catalogue artifact and check its bytes against its manifest.

    Raises:
        CorruptArtifactError: a file is missing or altered.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, digest in manifest["files"].items():
            if sha256_file(folder / name) != digest:
                raise CorruptArtifactError(f"{folder / name}: not the bytes that were published")
    except (OSError, ValueError) as error:
        raise CorruptArtifactError(f"{folder}: not a readable catalogue ({error})") from error
    items = pq.read_table(folder / "items.parquet")
    ids = items["item_id"].to_pylist()
    scenarios = pq.read_table(folder / "scenarios.parquet").to_pylist()
    shown = items["scenarios"].to_pylist()
    members = {
        s["scenario"]: np.array(
            [row for row, names in enumerate(shown) if names is None or s["scenario"] in names], dtype=np.int64
        )
        for s in scenarios
    }
    columns = {name: _column(items[name].to_pylist()) for name in items.column_names if name not in _NOT_FEATURES}
    spec = json.loads((folder / "spec.json").read_text())
    return Catalogue(
        columns=columns,
        titles=items["title"].to_pylist(),
        text=np.load(folder / "item_text.npy"),
        rows={item: row for row, item in enumerate(ids)},
        members=members,
        scenarios=scenarios,
        as_of=int(spec["as_of"]),
        digest=manifest["digest"],
    )


def _column(values: list[Any]) -> np.ndarray:
    """A numeric array where all values are numbers, else an array of objects with None for missing."""
    if any(v is None or isinstance(v, str) for v in values):
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return column
    return np.asarray(values)
