import datetime as dt
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from postgres_database import own_database
from redis_process import own_redis

from core import Clock, Settings, replay
from core.clock import UNDATED
from core.settings import OnlineSettings, RegistrySettings
from core.tables import (
    SCENARIOS,
    IdTypes,
    interactions_schema,
    items_schema,
    knowledge_schema,
    knowledge_text_schema,
    users_schema,
)

DAY = dt.timedelta(days=1)
BEGIN = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
# Reads that shall succeed may be held up by a busy machine.
PATIENT_MS = 60_000


@dataclass
class World:
    """Small artifacts on disk, and the settings to use them with."""

    settings: Settings
    folder: Path
    users: int
    items: int
    now: dt.datetime
    ids: IdTypes

    @property
    def clock(self) -> Clock:
        return replay(self.now)

    @property
    def paths(self) -> dict[str, Any]:
        return {
            "sources": [self.folder / "validate"],
            "features": self.folder / "features",
            "knowledge": self.folder / "knowledge",
        }

    def with_settings(self, **update: Any) -> Settings:
        return self.settings.model_copy(update=update)


def write_world(
    folder: Path,
    settings: Settings,
    users: int = 40,
    items: int = 30,
    rows: int = 600,
    text_ids: bool = False,
    version: str = "ab12",
    dim: int = 8,
) -> World:
    from feature_repo import build_features

    kind = pa.string() if text_ids else pa.int64()
    ids = IdTypes(kind, kind)
    clean, features, knowledge = (folder / name for name in ("validate", "features", "knowledge"))
    for path in (clean, features, knowledge):
        path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    user_ids = [f"u{n}" if text_ids else n for n in range(1, users + 1)]
    item_ids = [f"i{n}" if text_ids else n for n in range(1, items + 1)]
    times = [BEGIN + dt.timedelta(seconds=int(s)) for s in np.sort(rng.integers(0, 100_000, rows))]
    log = pa.table(
        {
            "user_id": pa.array([user_ids[n] for n in rng.integers(0, users, rows)], kind),
            "item_id": pa.array([item_ids[n] for n in rng.integers(0, items, rows)], kind),
            "scenario": [("red", "blue")[n] for n in rng.integers(0, 2, rows)],
            "event_timestamp": times,
            "label": pa.array(rng.integers(0, 2, rows), pa.int8()),
            "weight": pa.array(np.ones(rows), pa.float32()),
            "created_timestamp": times,
        }
    ).cast(interactions_schema(ids))
    pq.write_table(log, clean / "interactions.parquet")
    undated = {"event_timestamp": [UNDATED] * users, "created_timestamp": [UNDATED] * users}
    ages = pa.array([None if n % 7 == 0 else n for n in range(users)], pa.int64())
    user_columns = {"age": pa.int64(), "zip": pa.string()}
    table = pa.table(
        {"user_id": pa.array(user_ids, kind), **undated, "age": ages, "zip": [f"z{n}" for n in range(users)]}
    )
    pq.write_table(table.cast(users_schema(ids, user_columns)), clean / "users.parquet")
    table = pa.table(
        {
            "item_id": pa.array(item_ids, kind),
            "event_timestamp": [UNDATED] * items,
            "created_timestamp": [UNDATED] * items,
            "title": [f"title {n}" for n in range(items)],
            "scenarios": pa.array([None if n % 2 else ["red"] for n in range(items)], pa.list_(pa.string())),
            "year": pa.array(np.arange(items), pa.float32()),
        }
    )
    pq.write_table(table.cast(items_schema(ids, {"year": pa.float32()})), clean / "items.parquet")
    scenarios = [{"scenario": s, "title": s.title(), "description": f"{s}."} for s in ("red", "blue")]
    pq.write_table(pa.Table.from_pylist(scenarios, schema=SCENARIOS), clean / "scenarios.parquet")
    build_features([clean], features, settings, None)
    # One user in ten, and one item in ten, has no vector.
    known_users = [u for n, u in enumerate(user_ids) if n % 10]
    known_items = [i for n, i in enumerate(item_ids) if n % 10]
    _vectors(knowledge / "user_pooled", "pooled", "user_id", kind, known_users, version, rng, dim, snapshots=2)
    _vectors(knowledge / "item_text", "item_text", "item_id", kind, known_items, version, rng, dim)
    _vectors(knowledge / "scenario", "scenario", "scenario", pa.string(), ["red", "blue"], version, rng, dim)
    (knowledge / "versions.json").write_text(json.dumps(dict.fromkeys(("pooled", "item_text", "scenario"), version)))
    for name, key, key_type, keys in (
        ("user_text", "user_id", kind, user_ids[:3]),
        ("scenario_text", "scenario", pa.string(), ["red"]),
    ):
        text = {
            key: pa.array(keys, key_type),
            **{c: [BEGIN] * len(keys) for c in ("event_timestamp", "watermark", "created_timestamp")},
            "text": [f"about {k}" for k in keys],
            "text_source": ["summary"] * len(keys),
            "version": [version] * len(keys),
        }
        pq.write_table(pa.table(text).cast(knowledge_text_schema(key, key_type)), knowledge / f"{name}.parquet")
    return World(settings, folder, users, items, times[-1] + dt.timedelta(microseconds=1), ids)


def _vectors(
    folder: Path,
    kind: str,
    key: str,
    key_type: pa.DataType,
    keys: Sequence[int | str],
    version: str,
    rng: np.random.Generator,
    dim: int,
    snapshots: int = 1,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    matrix = rng.standard_normal((len(keys) * snapshots, dim)).astype(np.float32)
    np.save(folder / "vectors.npy", matrix)
    every = [k for k in keys for _ in range(snapshots)]
    times = [BEGIN + n % snapshots * dt.timedelta(hours=1) for n in range(len(every))]
    table = {
        key: pa.array(every, key_type),
        **dict.fromkeys(("event_timestamp", "watermark", "created_timestamp"), times),
        "kind": [kind] * len(every),
        "version": [version] * len(every),
        "prompt_sha256": ["0"] * len(every),
        "row": list(range(len(every))),
    }
    pq.write_table(pa.table(table).cast(knowledge_schema(key, key_type)), folder / "index.parquet")


def settings_for(root: Path, **update: Any) -> Settings:
    base = Settings(root=root, project="spec", online=OnlineSettings(timeout_ms=PATIENT_MS, items=True))
    data = base.data.model_copy(update={"user_categorical": ["zip"], "user_dense": ["age"], "item_dense": ["year"]})
    features = base.features.model_copy(update={"history_length": 5})
    return base.model_copy(update={"data": data, "features": features, **update})


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of our own on a free port."""
    with own_redis(tmp_path_factory.mktemp("redis")) as (port, _):
        yield f"127.0.0.1:{port},db=0"


@contextmanager
def overlay_world(kind: str, folder: Path, request: pytest.FixtureRequest, redis_db: int) -> Iterator[World]:
    """Artifacts and settings of one overlay: SQLite and a registry file, or Redis and a registry in PostgreSQL."""
    with ExitStack() as stack:
        overlay: dict[str, Any] = {}
        if kind == "production":
            address = empty_redis(request.getfixturevalue("redis_server"), redis_db)
            overlay = {
                "online": OnlineSettings(store="redis", url=address, timeout_ms=PATIENT_MS, items=True),
                "registry": RegistrySettings(kind="sql", url=stack.enter_context(own_database())),
            }
        yield write_world(folder / "artifacts", settings_for(folder / "root", **overlay))


def empty_redis(address: str, database: int) -> str:
    """The address of another database of our Redis, emptied."""
    import redis

    with redis.Redis(port=int(address.split(":")[1].split(",")[0]), db=database) as client:
        client.flushdb()
    return address.replace("db=0", f"db={database}")


@pytest.fixture
def database() -> Iterator[str]:
    """A PostgreSQL database of our own."""
    with own_database() as address:
        yield address


@pytest.fixture(params=["embedded", "production"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A world of each overlay."""
    with overlay_world(request.param, tmp_path, request, 0) as found:
        yield found


@pytest.fixture(scope="module", params=["embedded", "production"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world of each overlay that is online; a module's tests share it and only read."""
    from feature_repo import materialize

    with overlay_world(request.param, tmp_path_factory.mktemp("filled"), request, 1) as found:
        materialize(found.settings, found.clock, **found.paths)
        yield found


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """Writes an embedded world of a chosen size."""

    def make(name: str = "artifacts", **options: Any) -> World:
        return write_world(tmp_path / name, settings_for(tmp_path / "root"), **options)

    return make
