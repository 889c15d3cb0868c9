"""Small logs and catalogues for the tests of knowledge, and a reasoner that needs no model."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core import ArtifactStore, Built, Settings, replay
from core.clock import UNDATED
from core.settings import DataSettings
from core.tables import SCENARIOS, TIMESTAMP, IdTypes, interactions_schema
from knowledge import Run
from knowledge.log.catalogue import Catalogue, catalogue_of, read_catalogue
from knowledge.log.sources import Log
from knowledge.log.store import open_log
from knowledge.storage.buckets import Bucket

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
TITLES = [
    "Red River",
    "Blue Moon",
    "Green Fields",
    "Black Rain",
    "White Noise",
    "Golden Eye",
    "Silver Lake",
    "Iron Sky",
]
GENRES = ["Western", "Romance|Drama", "Drama", "Crime", "Drama|Horror", "Action", "Drama", "Comedy|Action"]
CORPUS = [*TITLES, *GENRES, "You study what people like on a platform with these scenarios", "interactions users items"]
IDS = IdTypes(pa.int64(), pa.int64())
# user, item, scenario, second, label
Row = tuple[int, int, str, float, int]


Build = Callable[..., tuple[Path, Built]]


def micros(second: float) -> int:
    return int((START.timestamp() + second) * 1e6)


def write_source(folder: Path, rows: Sequence[Row], titles: Sequence[str | None] = TITLES) -> Path:
    """Validated tables: items 0.. with the titles, scenarios home and search."""
    folder.mkdir(parents=True, exist_ok=True)
    users, items, scenarios, seconds, labels = zip(*rows, strict=True)
    times = pa.array([micros(s) for s in seconds]).cast(TIMESTAMP)
    columns = [users, items, scenarios, times, labels, [1.0] * len(rows), times]
    schema = interactions_schema(IDS)
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), folder / "interactions.parquet")
    undated = pa.array([UNDATED] * len(titles), TIMESTAMP)
    catalogue = {"item_id": list(range(len(titles))), "event_timestamp": undated, "created_timestamp": undated}
    catalogue |= {"title": list(titles), "scenarios": pa.nulls(len(titles), pa.list_(pa.string()))}
    pq.write_table(
        pa.table({**catalogue, "genres": [GENRES[i % 8] if t else None for i, t in enumerate(titles)]}),
        folder / "items.parquet",
    )
    described = {"scenario": ["home", "search"], "title": ["Home", "Search"], "description": ["The feed.", "A query."]}
    pq.write_table(pa.table(described, schema=SCENARIOS), folder / "scenarios.parquet")
    return folder


def log_rows(users: int = 6, rows: int = 12, spacing: float = 10.0) -> list[Row]:
    """A regular log: every user has `rows` rows, `spacing` seconds apart."""
    return [
        (
            u,
            (u * 3 + k * (u + 1)) % 8,
            "home" if (u + k) % 3 else "search",
            k * spacing + u / 10,
            int((u * 7 + k * 5) % 3 > 0),
        )
        for u in range(users)
        for k in range(rows)
    ]


def read_source(source: Path) -> tuple[Log, Catalogue]:
    """A source's whole log, as a run reads it."""
    catalogue = catalogue_of(*read_catalogue([source], DataSettings()))
    with open_log([source], source.parent / "cache", catalogue, micros(1e6)) as log:
        return log.log(Bucket(1, 0)), catalogue


def run_of(
    settings: Settings, sources: Sequence[Path], cache: Path, store: Path, now: float = 10_000.0, start: float = 45.0
) -> Run:
    """A run as of second `now`, whose training starts at second `start`."""
    clock = replay(START + dt.timedelta(seconds=now))
    return Run(sources, settings.knowledge, settings.data, clock, micros(start), cache, ArtifactStore(store))


class Letters:
    """A reasoner whose vector counts letters; remembers what it was asked to encode."""

    identity, dim = "letters", 26

    def __init__(self) -> None:
        self.asked: list[str] = []

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([len(text) for text in texts])

    def encode(self, texts: Sequence[str], progress: Any = iter) -> np.ndarray:
        self.asked += texts
        return np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], dtype=np.float16)
