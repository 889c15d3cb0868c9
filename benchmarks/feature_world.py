"""Artifacts as the stages leave them, in the shape of MovieLens-1M, for measuring the feature store; and the stock twin.

The stock twin is what a user of Feast alone would keep: the full history of every view with its values in it (item ids of
a history, numbers of a vector), in parquet files that Feast's own stores read.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.evidence.source import read_ratings
from core import Clock, Settings, from_micros, replay
from core.settings import DataSettings, FeatureSettings, OnlineSettings
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

ROWS, USERS, ITEMS, SNAPSHOTS = 1_000_000, 6_040, 3_706, 26
DIMS = {"user_pooled": 128, "scenario": 384, "item_text": 64}
NAMES = ["young", "middle", "older"]
VERSION = "measured"
IDS = IdTypes(pa.int64(), pa.int64())
SECOND = 1_000_000
_KINDS = {"user_pooled": "pooled", "scenario": "scenario", "item_text": "item_text"}


@dataclass(frozen=True)
class Size:
    """How many interactions, users, items, and vectors a user has in the course of time."""

    rows: int = ROWS
    users: int = USERS
    items: int = ITEMS
    snapshots: int = SNAPSHOTS

    def scaled(self, share: float) -> Size:
        """A share of the interactions, users and items: as many rows an entity as before."""
        rows, users, items = (max(2, round(n * share)) for n in (self.rows, self.users, self.items))
        return Size(rows, users, items, self.snapshots)

    def __str__(self) -> str:
        return f"{self.rows:,} interactions x {self.users:,} users x {self.snapshots} snapshots"


@dataclass(frozen=True)
class World:
    """A folder of artifacts: source/, features/, knowledge/, and stock/, which `write_stock` fills."""

    folder: Path

    @property
    def paths(self) -> dict[str, Any]:
        """The keyword arguments that `materialize` and `build_training_table` share."""
        return {
            "sources": [self.folder / "source"],
            "features": self.folder / "features",
            "knowledge": self.folder / "knowledge",
        }

    @property
    def clock(self) -> Clock:
        """Just after the newest interaction."""
        return replay(from_micros(json.loads((self.folder / "end.json").read_text()) + 1))

    def settings(self, root: Path, redis: str | None = None) -> Settings:
        """Settings of a new root, on SQLite or on a Redis."""
        online = (
            OnlineSettings(store="redis", url=redis, timeout_ms=2000, items=True)
            if redis
            else OnlineSettings(items=True)
        )
        return Settings(
            root=root,
            project="measured",
            data=DataSettings(
                user_categorical=["gender", "occupation", "zip"],
                user_dense=["age"],
                item_categorical=["genre"],
                item_dense=["year"],
            ),
            features=FeatureSettings(history_length=20),
            online=online,
        )


def make_world(folder: Path, size: Size, data: Path | None = None, seed: int = 0) -> World:
    """Write source, features and knowledge.

    Args:
        folder: made when missing.
        size: of the generated log; of a real one only `snapshots` counts.
        data: a folder of MovieLens-1M, whose log is taken then.
        seed: of everything that is made up.
    """
    from feature_repo import build_features

    rng = np.random.default_rng(seed)
    world = World(folder)
    user, item, label, seconds = _log(size, data, rng)
    for name in ("source", "features", "knowledge"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    users, items = np.unique(user), np.unique(item)
    age = rng.choice([1, 18, 25, 35, 45, 50, 56], users.max() + 1)
    scenario = np.array(NAMES)[np.digitize(age, (20, 30))]
    times = pa.array(seconds * SECOND).cast(TIMESTAMP)
    log = [user, item, scenario[user], times, label, np.ones(len(user), np.float32), times]
    _write(folder / "source" / "interactions.parquet", log, interactions_schema(IDS))
    old = pa.array(np.full(len(users), UNDATED_MICROS)).cast(TIMESTAMP)
    columns = {"gender": pa.string(), "occupation": pa.string(), "zip": pa.string(), "age": pa.int64()}
    values: list[Any] = [
        rng.choice(["F", "M"], len(users)),
        *(rng.integers(0, n, len(users)).astype(str) for n in (21, 3439)),
    ]
    _write(folder / "source" / "users.parquet", [users, old, old, *values, age[users]], users_schema(IDS, columns))
    old = pa.array(np.full(len(items), UNDATED_MICROS)).cast(TIMESTAMP)
    titles = [f"item {number}" for number in items.tolist()]
    values = [titles, pa.nulls(len(items), pa.list_(pa.string())), rng.integers(0, 18, len(items)).astype(str)]
    schema = items_schema(IDS, {"genre": pa.string(), "year": pa.float32()})
    years = rng.integers(1920, 2001, len(items)).astype(np.float32)
    _write(folder / "source" / "items.parquet", [items, old, old, *values, years], schema)
    _write(folder / "source" / "scenarios.parquet", [NAMES, NAMES, NAMES], SCENARIOS)
    begin, end = int(seconds[0]) * SECOND, int(seconds[-1]) * SECOND
    (folder / "end.json").write_text(json.dumps(end))
    build_features([folder / "source"], folder / "features", world.settings(folder / "unused"), None)
    ticks = np.linspace(begin, end, size.snapshots, endpoint=False).astype(np.int64)
    _vectors(folder, "user_pooled", "user_id", np.repeat(users, len(ticks)), np.tile(ticks, len(users)), rng)
    _vectors(folder, "item_text", "item_id", items, np.full(len(items), UNDATED_MICROS), rng)
    _vectors(folder, "scenario", "scenario", np.repeat(NAMES, len(ticks)), np.tile(ticks, len(NAMES)), rng)
    versions = dict.fromkeys(_KINDS.values(), VERSION)
    (folder / "knowledge" / "versions.json").write_text(json.dumps(versions))
    return world


def write_stock(world: World) -> None:
    """Write stock/VIEW.parquet: every state of every view, vectors and histories as values."""
    from feature_repo import views
    from feature_repo.feast_names import file_source
    from feature_repo.online_source import schema_of

    generation, paths = declared(world)
    paths.online.mkdir(exist_ok=True)
    for view, feast_view in views.value_views(generation, paths).items():
        schema = schema_of(generation, view, feast_view)
        table = pq.read_table(paths.ref(view))
        event = table["event_timestamp"].cast(pa.int64())
        known = {"published": event, "watermark": table["watermark"].cast(pa.int64())} if _dated(table) else {}
        made = {"published": event, "watermark": event, **known}
        if view == "user_history":
            made["history"] = values_of_histories(table["user_id"], table["history_end"], world)
        if (vectors := paths.ref(view).with_name("vectors.npy")).is_file():
            made["vector"] = _lists(np.load(vectors)[table["row"].to_numpy()])
        columns = [
            made.get(field.name, table[field.name] if field.name in table.column_names else None) for field in schema
        ]
        _write(Path(file_source(feast_view).path), columns, schema)


def values_of_histories(users: pa.Array, ends: pa.Array, world: World) -> pa.Array:
    """The item ids of histories, [rows] lists, from their users and end offsets."""
    log = pq.read_table(world.folder / "features" / "user_log", columns=["user_id", "item_id"])
    length = world.settings(world.folder).features.history_length
    known, begins = np.unique(log["user_id"].to_numpy(), return_index=True)
    place = np.minimum(np.searchsorted(known, users.to_numpy()), len(known) - 1)
    last = np.where(known[place] == users.to_numpy(), ends.to_numpy(), 0)
    counts = np.minimum(last, length)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    places = np.arange(offsets[-1]) + np.repeat(begins[place] + last - counts - offsets[:-1], counts)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(log["item_id"].to_numpy()[places]))


def declared(world: World) -> tuple[Any, Any]:
    """The generation of a world, and its paths with stock/ in place of our own source files."""
    from feature_repo import views

    users, items = (world.folder / "source" / f"{name}.parquet" for name in ("users", "items"))
    settings, features, knowledge = (
        world.settings(world.folder / "unused"),
        world.folder / "features",
        world.folder / "knowledge",
    )
    generation = views.generation_of(settings, users=users, items=items, knowledge=knowledge)
    return generation, views.SourcePaths(users, items, features, knowledge, world.folder / "stock")


def _log(size: Size, data: Path | None, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """user, item, label, seconds; in order of time."""
    if data is not None:
        ratings = read_ratings(data)
        return ratings.user_ids[ratings.user], ratings.item_ids[ratings.item], ratings.label, ratings.seconds
    begin, span = int(dt.datetime(2020, 1, 1, tzinfo=dt.UTC).timestamp()), 365 * 86_400
    user = rng.choice(size.users, size.rows, p=_skew(size.users, 0.6)) + 1
    item = rng.choice(size.items, size.rows, p=_skew(size.items, 0.8)) + 1
    # Half a minute apart or at once: many rows share a user and a time, as in real logs.
    seconds = begin + np.sort(rng.integers(0, span // 30, size.rows)) * 30
    return user, item, rng.integers(0, 2, size.rows).astype(np.int8), seconds


def _skew(count: int, power: float) -> np.ndarray:
    weight = np.arange(1, count + 1) ** -power
    return weight / weight.sum()


def _vectors(folder: Path, view: str, key: str, keys: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> None:
    target = folder / "knowledge" / view
    target.mkdir(parents=True, exist_ok=True)
    count = len(keys)
    np.save(target / "vectors.npy", rng.standard_normal((count, DIMS[view]), dtype=np.float32))
    stamps = pa.array(times).cast(TIMESTAMP)
    text = [pa.array([value] * count) for value in (_KINDS[view], VERSION, "0" * 64)]
    columns = [pa.array(keys.tolist()), stamps, stamps, stamps, *text, np.arange(count)]
    _write(target / "index.parquet", columns, knowledge_schema(key, pa.string() if key == "scenario" else pa.int64()))


def _dated(table: pa.Table) -> bool:
    return "watermark" in table.column_names


def _lists(matrix: np.ndarray) -> pa.Array:
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.reshape(-1)))


def _write(file: Path, columns: list[Any], schema: pa.Schema) -> None:
    arrays = []
    for column, field in zip(columns, schema, strict=True):
        array = column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column)
        arrays.append(array.cast(field.type))
    pq.write_table(pa.table(arrays, schema=schema), file, compression="zstd")
