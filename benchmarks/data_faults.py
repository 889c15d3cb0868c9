"""Forty planted faults, each at three sizes: does the gate that owns it stop it before training or serving sees it?

    python -m benchmarks.data_faults [--quick]

A small synthetic world is taken through the real stages (statistics, point-in-time join, materialise into SQLite); each
fault alters a copy of the files its gate judges. Caught means that the gate stops, or puts every faulty row into
quarantine; a gate that crashes has caught nothing. Figures: `caught` faults (at one size or more), `caught_plants` of
all faults and sizes, and `false_alarms` of clean runs. The smallest size caught of each fault goes to stderr.

`--quick` plants the largest size only and looks at fewer clean windows.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import arguments, figure, finish
from benchmarks.planted_faults import FAULTS, Fault, Place
from core import Settings, Window, from_micros, replay
from core.contracts.gates import GateResults
from core.contracts.knowledge_versions import KnowledgeVersions
from core.errors import UserError
from core.tables import (
    SCENARIOS,
    TIMESTAMP,
    UNDATED_MICROS,
    IdTypes,
    interactions_schema,
    items_schema,
    knowledge_text_schema,
    users_schema,
)

DAY = 86_400_000_000
BEGIN = 19_700 * DAY
USERS, ITEMS, ROWS = 400, 300, 4000
HISTORY, CLEAN = 7, 20
IDS = IdTypes(pa.int64(), pa.int64())
NAMES = ("home", "search", "detail", "mail")
SHARE, RATE = (0.4, 0.3, 0.2, 0.1), dict(zip(NAMES, (0.15, 0.3, 0.4, 0.55), strict=True))
DIM, ITEM_DIM = 16, 8


@dataclass
class World:
    """Clean files of every gate, below one folder."""

    root: Path
    settings: Settings
    results: list[GateResults] = field(default_factory=list)

    def day(self, number: int) -> Path:
        """The ingested files of a day; made when first asked for."""
        folder = self.root / "days" / str(number)
        if not folder.is_dir():
            _write_day(folder, number)
        return folder

    def window(self, number: int) -> Window:
        """The day's stretch of time."""
        return Window(from_micros(BEGIN + number * DAY), from_micros(BEGIN + (number + 1) * DAY))


def main() -> None:
    """Plant, judge, count."""
    quick = arguments(__doc__).parse_args().quick
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="llm4msr-faults-") as folder:
        world = make_world(Path(folder))
        alarms, runs = _clean_windows(world, 5 if quick else CLEAN)
        gates = _gates(world)
        for name, gate in gates.items():
            alarms += _alarm(f"clean {name}", gate.judge, gate.clean)
            runs += 1
        smallest = {fault.name: _smallest(fault, gates[fault.gate], Path(folder), quick) for fault in FAULTS}
    plants = len(FAULTS) * (1 if quick else 3)
    caught = sum(found[0] is not None for found in smallest.values())
    finish(
        "data_faults",
        [
            figure("caught", f"of {len(FAULTS)} faults", caught, target=len(FAULTS), of="ours"),
            figure("caught_plants", f"of {plants} plants", sum(found[1] for found in smallest.values())),
            figure("false_alarms", f"of {runs} clean runs", alarms, target=0, bound="at_most", of="ours"),
        ],
        quick,
    )


@dataclass(frozen=True)
class Gate:
    """A gate, the clean files it judges and those before them.

    Args:
        judge: raises UserError, or returns how many rows it set aside.
    """

    clean: Path
    before: Path
    judge: Callable[[Path], int]


def _smallest(fault: Fault, gate: Gate, folder: Path, quick: bool) -> tuple[float | None, int]:
    """The smallest size caught, and how many sizes were."""
    caught = []
    for size in fault.sizes[-1:] if quick else fault.sizes:
        copy = folder / "planted"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(gate.clean, copy)
        place = Place(copy, gate.before, BEGIN + HISTORY * DAY, BEGIN + (HISTORY + 1) * DAY)
        faulty = fault.plant(place, size, np.random.default_rng(int(size * 1000)))
        said = _judge(gate.judge, copy, faulty)
        if said:
            caught.append(size)
        else:
            print(f"  SLIPPED THROUGH: {fault.name} at {size:g}", file=sys.stderr, flush=True)
    first = f"from {caught[0]:g}" if caught else "never"
    print(f"  {fault.gate}: {fault.name}: caught {first} ({said.strip()[:150]})", file=sys.stderr, flush=True)
    return (caught[0] if caught else None), len(caught)


def _judge(judge: Callable[[Path], int], folder: Path, faulty: int) -> str:
    """Why the fault was caught; empty if it was not."""
    try:
        aside = judge(folder)
    except UserError as error:
        lines = str(error).splitlines()
        return lines[1] if len(lines) > 1 else lines[0]
    except Exception:  # a gate that crashes has caught nothing: say so and count on
        traceback.print_exc()
        return ""
    return f"{aside} rows set aside" if faulty and aside >= faulty else ""


def _alarm(what: str, judge: Callable[[Path], int], folder: Path) -> int:
    try:
        if not (aside := judge(folder)):
            return 0
        reason = f"{aside} rows set aside"
    except UserError as error:
        reason = str(error)
    print(f"  FALSE ALARM: {what}: {reason}", file=sys.stderr, flush=True)
    return 1


def _clean_windows(world: World, count: int) -> tuple[int, int]:
    """False alarms of the source gate on clean days, each judged against those before it."""
    alarms = 0
    for number in range(count):
        judge = _source_judge(world, number, world.results[:number], keep=True)
        alarms += _alarm(f"day {number}", judge, world.day(number))
    return alarms, count


def _source_judge(world: World, number: int, earlier: list[GateResults], keep: bool = False) -> Callable[[Path], int]:
    from validation import validate_source

    window = world.window(number)

    def judge(folder: Path) -> int:
        with tempfile.TemporaryDirectory(dir=world.root) as scratch:
            out, clock = Path(scratch), replay(from_micros(BEGIN + (number + 1) * DAY))
            built = validate_source(
                folder, out, world.settings, clock, "run", window=window, earlier=earlier, docs=False
            )
            if keep:
                world.results.append(GateResults.read(out))
            return int(built.rows["quarantined"])

    return judge


def _gates(world: World) -> dict[str, Gate]:
    from feature_repo import sample_online
    from validation import validate_knowledge, validate_online, validate_training_table

    for number in range(len(world.results), HISTORY):
        _source_judge(world, number, world.results[:number], keep=True)(world.day(number))
    paths = _artifacts(world)
    clock = replay(from_micros(BEGIN + HISTORY * DAY))
    knowledge, online = paths["knowledge"], world.settings.root / "feast"
    before = world.root / "knowledge_before"
    shutil.copytree(knowledge, before)
    log = paths["source"] / "interactions.parquet"
    gate = validate_knowledge(before, world.settings, clock, log)
    (before / "gate.json").write_text(json.dumps(gate))

    def judge_knowledge(folder: Path) -> int:
        validate_knowledge(folder, world.settings, clock, log, before)
        return 0

    def judge_dataset(folder: Path) -> int:
        validate_training_table(folder, world.settings, clock, knowledge)
        return 0

    def judge_online(folder: Path) -> int:
        settings = world.settings
        if folder != online:
            settings = settings.model_copy(update={"root": folder.parent / "planted_root"})
            shutil.rmtree(settings.root, ignore_errors=True)
            shutil.copytree(folder, settings.root / "feast")
        sources, features = [paths["source"]], paths["features"]
        samples = sample_online(settings, clock, sources=sources, features=features, knowledge=knowledge)
        validate_online(samples, settings, clock)
        return 0

    return {
        "source": Gate(
            world.day(HISTORY), world.day(HISTORY - 1), _source_judge(world, HISTORY, world.results[:HISTORY])
        ),
        "knowledge": Gate(knowledge, before, judge_knowledge),
        "dataset": Gate(paths["dataset"], knowledge, judge_dataset),
        "online": Gate(online, knowledge, judge_online),
    }


def _artifacts(world: World) -> dict[str, Path]:
    """What the stages make of the first days' log."""
    from feature_repo import build_features, build_training_table, materialize

    paths = {name: world.root / name for name in ("source", "features", "knowledge", "dataset")}
    shutil.copytree(world.day(0), paths["source"])
    logs = [pq.read_table(world.day(n) / "interactions.parquet").slice(0, ROWS // HISTORY) for n in range(HISTORY)]
    log = pa.concat_tables(logs)
    pq.write_table(log.cast(interactions_schema(IDS)), paths["source"] / "interactions.parquet")
    for name in ("features", "dataset"):
        paths[name].mkdir()
    build_features([paths["source"]], paths["features"], world.settings, None)
    _write_knowledge(paths["knowledge"], log)
    clock = replay(from_micros(BEGIN + HISTORY * DAY))
    inputs: dict[str, Any] = {name: paths[name] for name in ("features", "knowledge")}
    build_training_table(
        world.settings,
        clock,
        sources=[paths["source"]],
        out=paths["dataset"],
        window=Window(),
        train_start=BEGIN + DAY,
        **inputs,
    )
    materialize(world.settings, clock, sources=[paths["source"]], **inputs)
    return paths


def make_world(folder: Path) -> World:
    root = folder / "world"
    settings = Settings(
        root=root / "root",
        data={
            "user_categorical": ["country"],
            "user_dense": ["age"],
            "item_categorical": ["category"],
            "item_dense": ["price"],
        },
        knowledge={"user_dim": DIM, "item_dim": ITEM_DIM, "lag": {"pooled": "PT0S"}},
    )
    return World(root, settings)


def _write_day(folder: Path, number: int) -> None:
    """A day's log with a daily rhythm, a weekly one in its size, and the catalogues."""
    rng, fixed = np.random.default_rng(1000 + number), np.random.default_rng(1)
    folder.mkdir(parents=True)
    rows = int(ROWS * (1 + 0.1 * np.sin(number * 2 * np.pi / 7)) + rng.normal(0, 60))
    weight = 1 / (20 + np.arange(USERS))
    hours = rng.choice(24, rows, p=_rhythm())
    times = np.sort(BEGIN + number * DAY + (hours * 3600 * 1000 + rng.integers(0, 3_600_000, rows)) * 1000)
    scenarios = rng.choice(NAMES, rows, p=SHARE)
    stamps = pa.array(times).cast(TIMESTAMP)
    log = {
        "user_id": pa.array(1 + rng.choice(fixed.permutation(USERS), rows, p=weight / weight.sum())),
        "item_id": pa.array(1 + rng.choice(ITEMS, rows)),
        "scenario": pa.array(scenarios),
        "event_timestamp": stamps,
        "label": pa.array((rng.random(rows) < [RATE[s] for s in scenarios]).astype(np.int8)),
        "weight": pa.array(np.ones(rows, np.float32)),
        "created_timestamp": stamps,
    }
    schema = pa.schema([field.with_nullable(True) for field in interactions_schema(IDS)])
    pq.write_table(pa.table(log, schema=schema), folder / "interactions.parquet")
    users = {"country": fixed.choice(["de", "fr", "it"], USERS), "age": fixed.normal(40, 10, USERS).round()}
    schema = users_schema(IDS, {"country": pa.string(), "age": pa.float64()})
    pq.write_table(_entities(1 + np.arange(USERS), users, schema), folder / "users.parquet")
    items = {
        "title": [f"Thing number {n}" for n in range(ITEMS)],
        "scenarios": pa.nulls(ITEMS, pa.list_(pa.string())),
        "category": fixed.choice(["book", "film", "game"], ITEMS),
        "price": fixed.lognormal(3, 0.8, ITEMS).round(2),
    }
    schema = items_schema(IDS, {"category": pa.string(), "price": pa.float64()})
    pq.write_table(_entities(1 + np.arange(ITEMS), items, schema), folder / "items.parquet")
    texts = [{"scenario": name, "title": name.title(), "description": f"The {name} page."} for name in NAMES]
    pq.write_table(pa.Table.from_pylist(texts, schema=SCENARIOS), folder / "scenarios.parquet")


def _rhythm() -> np.ndarray:
    share = 1.2 + np.sin((np.arange(24) - 10) * 2 * np.pi / 24)
    return share / share.sum()


def _entities(ids: np.ndarray, columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    undated = pa.array([UNDATED_MICROS] * len(ids)).cast(TIMESTAMP)
    columns = {schema.names[0]: ids, "event_timestamp": undated, "created_timestamp": undated, **columns}
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _write_knowledge(folder: Path, log: pa.Table) -> None:
    """Vectors at each user's first row of two days, of each item and scenario, and texts."""
    from knowledge.storage.matrix import Rows

    rng = np.random.default_rng(5)
    users, times = log["user_id"].to_numpy(), log["event_timestamp"].cast(pa.int64()).to_numpy()
    first = {(user, (t - BEGIN) // (3 * DAY)): t + 1 for user, t in zip(users[::-1], times[::-1], strict=True)}
    ordered = sorted((t, int(user)) for (user, _), t in first.items())
    snapshots = Rows("user_id", pa.array([u for _, u in ordered]), np.array([t for t, _ in ordered]))
    items = Rows("item_id", pa.array(1 + np.arange(ITEMS)), np.full(ITEMS, UNDATED_MICROS))
    scenarios = Rows("scenario", pa.array(sorted(NAMES)), np.full(len(NAMES), BEGIN))
    for name, kind, rows, dim in (
        ("user_pooled", "pooled", snapshots, DIM),
        ("item_text", "item_text", items, ITEM_DIM),
        ("scenario", "scenario", scenarios, 32),
    ):
        _write_kind(folder / name, kind, rows, dim, rng)
    versions = dict.fromkeys(("pooled", "item_text", "scenario"), "v1")
    KnowledgeVersions(**versions).write(folder)
    newest = {user: t for t, user in ordered}
    _write_texts(folder / "user_text.parquet", "user_id", pa.array(list(newest)), list(newest.values()))
    _write_texts(folder / "scenario_text.parquet", "scenario", pa.array(NAMES), [BEGIN] * len(NAMES))


def _write_kind(folder: Path, kind: str, rows: Any, dim: int, rng: np.random.Generator) -> None:
    from knowledge.storage.compressor import FILE, fit
    from knowledge.storage.matrix import IndexedMatrix

    count = len(rows.watermarks)
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    hashes = pa.array([f"{kind}{n:060x}" for n in range(count)], pa.string())
    with IndexedMatrix(folder, (rows.key, rows.ids.type), kind, "v1", rows.lag, dim) as matrix:
        matrix.write(rows, hashes, vectors)
    fit(vectors, dim).save(folder / FILE)


def _write_texts(file: Path, key: str, ids: pa.Array, times: list[int]) -> None:
    stamps = pa.array(times).cast(TIMESTAMP)
    columns = {
        key: ids,
        **dict.fromkeys(("event_timestamp", "watermark", "created_timestamp"), stamps),
        "text": [f"Number {n} likes quiet films and long books." for n in range(len(ids))],
        "text_source": ["generated"] * len(ids),
        "version": ["v1"] * len(ids),
    }
    pq.write_table(pa.table(columns, schema=knowledge_text_schema(key, ids.type)), file)


if __name__ == "__main__":
    main()
