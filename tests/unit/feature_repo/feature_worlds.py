"""Small worlds: an interaction log, its statistics, and knowledge whose publication times a test can choose."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core import Settings, Window, from_micros, replay
from core.tables import (
    SCENARIOS,
    TIMESTAMP,
    UNDATED_MICROS,
    IdTypes,
    interactions_schema,
    items_schema,
    knowledge_schema,
    users_schema,
)

SECOND = 1_000_000
START = 1_000_000_000 * SECOND
DIM = 4
FOLDERS = {"pooled": "user_pooled", "scenario": "scenario", "item_text": "item_text"}
INTS = IdTypes(pa.int64(), pa.int64())
KEYS = {"pooled": "user_id", "scenario": "scenario", "item_text": "item_id"}


def at(seconds: float) -> int:
    """Microseconds of a moment of the test's log."""
    return START + round(seconds * SECOND)


@dataclass(frozen=True)
class Row:
    user: Any
    item: Any
    second: float
    label: int = 1
    scenario: str = "home"

    @property
    def micros(self) -> int:
        return at(self.second)


@dataclass(frozen=True)
class Snapshot:
    """One row of knowledge; by default published at its watermark."""

    key: Any
    watermark: int
    event: int | None = None
    created: int | None = None
    value: float = 0.0

    @property
    def times(self) -> tuple[int, int, int]:
        event = self.watermark if self.event is None else self.event
        return event, self.watermark, event if self.created is None else self.created


@dataclass
class World:
    """A folder tree as the stages leave it."""

    root: Path
    rows: list[Row]
    ids: IdTypes = INTS
    overrides: dict[str, Any] = field(default_factory=dict)
    pooled: list[Snapshot] | None = None
    extra: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        data = {"user_categorical": ["gender"], "item_categorical": ["genre"], "item_dense": ["year"]}
        self.settings = Settings(**{"root": self.root / "state", "data": data, **self.overrides})
        self.clock = replay(from_micros(max((r.micros for r in self.rows), default=START) + 1))
        self.source = write_source(self.root / "source", self.rows, self.ids)
        self.features, self.knowledge = self.root / "features", self.root / "knowledge"
        self.build_features()
        self.build_knowledge()

    def build_features(self) -> None:
        from feature_repo.features import build_features

        self.features.mkdir()
        build_features([self.source], self.features, self.settings, None)

    def build_knowledge(self) -> None:
        users, items = sorted({r.user for r in self.rows}), sorted({r.item for r in self.rows})
        pooled = self.pooled
        if pooled is None:
            pooled = [Snapshot(u, max(r.micros for r in self.rows if r.user == u) + 1) for u in users]
        scenarios = [Snapshot(s, at(0)) for s in ("home", "search")]
        write_knowledge(self.knowledge, "pooled", pooled, self.ids.user)
        write_knowledge(self.knowledge, "scenario", scenarios, pa.string())
        write_knowledge(self.knowledge, "item_text", [Snapshot(i, UNDATED_MICROS) for i in items], self.ids.item)
        versions = {"pooled": "p1", "scenario": "s1", "item_text": "t1"}
        (self.knowledge / "versions.json").write_text(json.dumps(versions))

    def train_table(self, name: str = "dataset", window: Window | None = None, train_start: int = 0) -> pa.Table:
        """Build the training table; its rows, `row_id` and `split` first."""
        from core.training_table import read_rows
        from feature_repo.training_table import build_training_table

        out = self.root / name
        out.mkdir()
        build_training_table(
            self.settings,
            self.clock,
            sources=[self.source, *self.extra],
            features=self.features,
            knowledge=self.knowledge,
            out=out,
            window=window or Window(),
            train_start=train_start,
        )
        return read_rows(out)


def stamps(micros: list[int]) -> pa.Array:
    return pa.array(micros, pa.int64()).cast(TIMESTAMP)


def interactions(rows: list[Row], ids: IdTypes = INTS) -> pa.Table:
    times = stamps([r.micros for r in rows])
    columns = [
        pa.array([r.user for r in rows], ids.user),
        pa.array([r.item for r in rows], ids.item),
        pa.array([r.scenario for r in rows], pa.string()),
        times,
        pa.array([r.label for r in rows], pa.int8()),
        pa.array([1.0] * len(rows), pa.float32()),
        times,
    ]
    return pa.table(columns, schema=interactions_schema(ids))


def write_source(folder: Path, rows: list[Row], ids: IdTypes = INTS) -> Path:
    folder.mkdir(parents=True)
    pq.write_table(interactions(rows, ids), folder / "interactions.parquet")
    users, items = sorted({r.user for r in rows}), sorted({r.item for r in rows})
    old = stamps([UNDATED_MICROS] * len(users))
    columns = [pa.array(users, ids.user), old, old, pa.array([f"g{k % 2}" for k in range(len(users))])]
    pq.write_table(pa.table(columns, schema=users_schema(ids, {"gender": pa.string()})), folder / "users.parquet")
    old = stamps([UNDATED_MICROS] * len(items))
    columns = [
        pa.array(items, ids.item),
        old,
        old,
        pa.array([f"title {item}" for item in items]),
        pa.nulls(len(items), pa.list_(pa.string())),
        pa.array([f"c{k % 3}" for k in range(len(items))]),
        pa.array([1990.0 + k for k in range(len(items))]),
    ]
    schema = items_schema(ids, {"genre": pa.string(), "year": pa.float64()})
    pq.write_table(pa.table(columns, schema=schema), folder / "items.parquet")
    names = pa.array(["home", "search"])
    pq.write_table(pa.table([names, names, names], schema=SCENARIOS), folder / "scenarios.parquet")
    return folder


def write_knowledge(knowledge: Path, kind: str, snapshots: list[Snapshot], key_type: pa.DataType) -> None:
    """A matrix whose row k is filled with k, and its index."""
    folder = knowledge / FOLDERS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    count = len(snapshots)
    event, watermark, created = (stamps([s.times[k] for s in snapshots]) for k in range(3))
    texts = [pa.array([text] * count, pa.string()) for text in (kind, kind[0] + "1", "0" * 64)]
    columns = [
        pa.array([s.key for s in snapshots], key_type),
        event,
        watermark,
        created,
        *texts,
        pa.array(range(count)),
    ]
    schema = knowledge_schema(KEYS[kind], key_type)
    pq.write_table(
        pa.table([c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema),
        folder / "index.parquet",
    )
    vectors = np.repeat(np.arange(count, dtype=np.float32)[:, None], DIM, axis=1)
    np.save(folder / "vectors.npy", vectors.reshape(count, DIM))


def random_rows(seed: int, count: int = 120, users: int = 6, items: int = 8, seconds: int = 40) -> list[Row]:
    """Rows with many equal times, no two of one user, item, scenario and time."""
    rng = np.random.default_rng(seed)
    rows: dict[tuple, Row] = {}
    for _ in range(count):
        row = Row(
            int(rng.integers(users)),
            int(rng.integers(items)) + 100,
            int(rng.integers(seconds)),
            int(rng.integers(2)),
            str(rng.choice(["home", "search"])),
        )
        rows[row.user, row.item, row.second, row.scenario] = row
    return list(rows.values())
