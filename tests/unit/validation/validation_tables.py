"""Small sound tables; a test plants its fault into a copy."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.clock import UNDATED
from core.tables import SCENARIOS, IdTypes, interactions_schema, items_schema, users_schema

NOW = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
IDS = IdTypes(pa.int64(), pa.int64())
ROWS, USERS, ITEMS = 240, 12, 20


def lenient(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])


def write(folder: Path, name: str, rows: dict[str, list], schema: pa.Schema) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows, schema=lenient(schema)), folder / f"{name}.parquet")


class Source:
    """Columns of the four tables as lists, and how to write them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        times = [NOW - dt.timedelta(days=30) + dt.timedelta(seconds=60 * i) for i in range(ROWS)]
        self.interactions: dict[str, list[Any]] = {
            "user_id": [int(v) for v in rng.integers(0, USERS, ROWS)],
            "item_id": [int(v) for v in rng.integers(0, ITEMS, ROWS)],
            "scenario": [("home", "search")[i % 2] for i in range(ROWS)],
            "event_timestamp": times,
            "label": [int(v) for v in rng.integers(0, 2, ROWS)],
            "weight": [1.0] * ROWS,
            "created_timestamp": list(times),
        }
        self.users: dict[str, list[Any]] = {
            "user_id": list(range(USERS)),
            "event_timestamp": [UNDATED] * USERS,
            "created_timestamp": [UNDATED] * USERS,
            "age": ["25"] * USERS,
        }
        self.items: dict[str, list[Any]] = {
            "item_id": list(range(ITEMS)),
            "event_timestamp": [UNDATED] * ITEMS,
            "created_timestamp": [UNDATED] * ITEMS,
            "title": [f"Title {i}" for i in range(ITEMS)],
            "scenarios": [["home", "search"] if i % 2 else None for i in range(ITEMS)],
            "year": [1990.0 + i for i in range(ITEMS)],
        }
        self.scenarios: dict[str, list[Any]] = {
            "scenario": ["home", "search"],
            "title": ["Home", "Search"],
            "description": ["The feed people see first.", "Results of a query."],
        }
        self.schemas = {
            "interactions": interactions_schema(IDS),
            "users": users_schema(IDS, {"age": pa.string()}),
            "items": items_schema(IDS, {"year": pa.float64()}),
            "scenarios": SCENARIOS,
        }

    def write(self, folder: Path) -> Path:
        for name, schema in self.schemas.items():
            write(folder, name, getattr(self, name), schema)
        return folder


def knowledge_rows(key: str, ids: list[Any], kind: str, version: str = "v1") -> dict[str, list[Any]]:
    times = [NOW - dt.timedelta(days=10) + dt.timedelta(seconds=i) for i in range(len(ids))]
    return {
        key: ids,
        "event_timestamp": list(times),
        "watermark": list(times),
        "created_timestamp": list(times),
        "kind": [kind] * len(ids),
        "version": [version] * len(ids),
        "prompt_sha256": [f"{i:064x}" for i in range(len(ids))],
        "row": list(range(len(ids))),
    }
