"""Logs of MovieLens-1M's shape for benchmarks: the real files where a folder is given, else a synthetic likeness."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from core.contracts.dataset_spec import DatasetSpec
from core.errors import DataError
from models import TrainingData

ROWS, USERS, ITEMS = 1_000_209, 6_040, 3_706
AGES = {1: "young", 18: "young", 25: "middle", 35: "older", 45: "older", 50: "older", 56: "older"}
SCENARIOS = ["young", "middle", "older"]
USER_COLUMNS, ITEM_COLUMNS = ["gender", "occupation", "zip"], ["first_genre"]
SMALL = Path(__file__).resolve().parent.parent / "data" / "ml-latest-small"


@dataclass(frozen=True)
class Log:
    """Ratings in order of time, with the columns of their user and item."""

    name: str
    columns: dict[str, np.ndarray]
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


def read_log(folder: Path | None, rows: int) -> Log:
    """The newest `rows` ratings of an ml-1m folder, or as many synthetic ones.

    Raises:
        DataError: the folder is given and does not hold MovieLens-1M.
    """
    if folder is None:
        return synthetic_log(min(rows, ROWS))
    for name in ("ratings.dat", "users.dat", "movies.dat"):
        if not (folder / name).is_file():
            raise DataError("not found; give a folder with the files of MovieLens-1M", file=folder / name)
    ratings = np.array(
        [line.split("::") for line in (folder / "ratings.dat").read_text(encoding="latin-1").splitlines()], np.int64
    )
    ratings = ratings[np.argsort(ratings[:, 3], kind="stable")][-rows:]
    users = {int(u): rest for u, *rest in _lines(folder / "users.dat")}
    genres = {int(m): g.split("|")[0] for m, _, g in _lines(folder / "movies.dat")}
    people = [users[u] for u in ratings[:, 0]]
    return Log(
        "MovieLens-1M",
        {
            "user_id": ratings[:, 0],
            "item_id": ratings[:, 1],
            "gender": np.array([p[0] for p in people]),
            "age": np.array([int(p[1]) for p in people], np.float64),
            "occupation": np.array([p[2] for p in people]),
            "zip": np.array([p[3] for p in people]),
            "first_genre": np.array([genres[m] for m in ratings[:, 1]]),
            "scenario": np.array([AGES[int(p[1])] for p in people]),
        },
        (ratings[:, 2] > 3).astype(np.int8),
    )


def synthetic_log(rows: int, seed: int = 0) -> Log:
    """Ratings with the users, items, columns and skew of MovieLens-1M; ids follow the shipped small sample's skew."""
    rng = np.random.default_rng(seed)
    user = rng.choice(USERS, rows, p=_skew(USERS, 0.6)) + 1
    item = rng.choice(ITEMS, rows, p=_item_skew()) + 1
    gender, occupation = rng.integers(0, 2, USERS + 1), rng.integers(0, 21, USERS + 1)
    age, zips = rng.choice(list(AGES), USERS + 1), rng.integers(0, 3_439, USERS + 1)
    genre = rng.integers(0, 18, ITEMS + 1)
    taste, quality = rng.normal(size=USERS + 1), rng.normal(size=ITEMS + 1)
    chance = 1 / (1 + np.exp(-0.3 - 0.6 * taste[user] - 0.8 * quality[item]))
    return Log(
        "synthetic, in the shape of MovieLens-1M",
        {
            "user_id": user,
            "item_id": item,
            "gender": np.array(["F", "M"])[gender[user]],
            "age": age[user].astype(np.float64),
            "occupation": occupation[user].astype(str),
            "zip": zips[user].astype(str),
            "first_genre": genre[item].astype(str),
            "scenario": np.array([AGES[a] for a in age])[user],
        },
        (rng.random(rows) < chance).astype(np.int8),
    )


def training_data(log: Log, vector_dim: int = 0, seed: int = 0) -> TrainingData:
    """The log as the training table the models room reads: 80 % train, 10 % validation, 10 % test, in order of time.

    Args:
        log: the ratings.
        vector_dim: width of random user and scenario vectors (speed does not depend on what they say); 0: none.
        seed: of the vectors.
    """
    rows, columns = len(log), log.columns
    split = np.repeat(["train", "validation", "test"], [rows - 2 * (rows // 10), rows // 10, rows // 10])
    statistics = _statistics(log, "user") | _statistics(log, "item")
    rng = np.random.default_rng(seed)
    users, user = np.unique(columns["user_id"], return_inverse=True)
    scenario = np.searchsorted(sorted(SCENARIOS), columns["scenario"])
    vectors, references = {}, {}
    if vector_dim:
        vectors = {
            "user_pooled": rng.normal(size=(len(users), vector_dim)).astype(np.float32),
            "scenario": rng.normal(size=(len(SCENARIOS), vector_dim)).astype(np.float32),
        }
        references = {"user_pooled_row": user, "scenario_row": scenario}
    table = pa.table(
        {
            "row_id": np.arange(rows),
            **columns,
            "label": log.label,
            "weight": np.ones(rows, np.float32),
            "split": split,
            **statistics,
            "history_end": np.zeros(rows, np.int64),
            **references,
        }
    )
    nothing = {"user_id": pa.int64(), "position": pa.int64(), "item_id": pa.int64()}
    user_log = pa.schema(list(nothing.items())).empty_table()
    return TrainingData(rows=table, user_log=user_log, vectors=vectors, spec=_spec(vector_dim))


def _spec(vector_dim: int) -> DatasetSpec:
    kinds = ("user_pooled", "scenario") if vector_dim else ()
    return DatasetSpec.model_validate(
        {
            "user_categorical": USER_COLUMNS,
            "user_dense": ["age"],
            "item_categorical": ITEM_COLUMNS,
            "item_dense": [],
            "scenarios": SCENARIOS,
            "history_length": 0,
            "prior_rate": 0.5,
            "prior_weight": 10.0,
            "vectors": {kind: {"dim": vector_dim, "version": "random"} for kind in kinds},
            "views": {},
            "service": "benchmark",
            "id_types": {"user_id": "int64", "item_id": "int64"},
            "train_start": 0,
        }
    )


def _statistics(log: Log, side: str) -> dict[str, np.ndarray]:
    """Rows, positives and smoothed rate of the row's user or item before it."""
    keys = log.columns[f"{side}_id"]
    order = np.argsort(keys, kind="stable")
    new = np.concatenate(([True], np.diff(keys[order]) != 0))
    start = np.flatnonzero(new)[np.cumsum(new) - 1]
    before = np.concatenate(([0], np.cumsum(log.label[order], dtype=np.int64)[:-1]))
    seen, positives = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    seen[order] = np.arange(len(keys)) - start
    positives[order] = before - before[start]
    rate = ((positives + 5.0) / (seen + 10.0)).astype(np.float32)
    return {f"{side}_rows": seen, f"{side}_positives": positives, f"{side}_rate": rate}


def _item_skew() -> np.ndarray:
    """How often items are rated in the shipped sample, stretched to ML-1M's number of items."""
    if not (SMALL / "ratings.csv").is_file():
        return _skew(ITEMS, 0.8)
    with (SMALL / "ratings.csv").open(newline="", encoding="utf-8") as stream:
        items = [int(row["movieId"]) for row in csv.DictReader(stream)]
    counts = np.sort(np.unique(items, return_counts=True)[1])[::-1].astype(np.float64)
    stretched = np.interp(np.linspace(0, 1, ITEMS), np.linspace(0, 1, len(counts)), counts)
    return stretched / stretched.sum()


def _skew(count: int, power: float) -> np.ndarray:
    weight = np.arange(1, count + 1) ** -power
    return weight / weight.sum()


def _lines(path: Path) -> list[Sequence[str]]:
    return [line.split("::") for line in path.read_text(encoding="latin-1").splitlines()]
