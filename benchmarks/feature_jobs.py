"""Work that `benchmarks.features` measures, each in a process of its own, so that its peak memory is its own.

    measure_job("materialise", folder, store="sqlite")  ->  {"seconds", "cpu", "peak_mib", "rows", ...}

Jobs whose name begins with `feast_` are the reference: Feast alone, over the stock twin of a world.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.feature_world import World, declared, values_of_histories
from benchmarks.harness import peak_mib
from core.digest import REPOSITORY
from core.errors import UserError

# The work that counts, and what is found out about its result afterwards.
_Job = tuple[Callable[[], Any], Callable[[Any], dict[str, float]]]
_START = "from benchmarks.feature_jobs import main; main()"


def measure_job(job: str, world: World, **options: Any) -> dict[str, float]:
    """Run a job of this file in a new process.

    Returns:
        `seconds` and processor seconds `cpu` of the work without imports, `peak_mib` of the whole process, and what
        the job returns.

    Raises:
        UserError: the job failed.
    """
    asked = json.dumps({"job": job, "world": str(world.folder), "options": options})
    environment = {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore", **os.environ}
    done = subprocess.run(
        [sys.executable, "-c", _START, asked], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"{job} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """The other side of `measure_job`."""
    from core import configure

    configure(level="WARNING")
    asked = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        work, check = JOBS[asked["job"]](World(Path(asked["world"])), Path(scratch), **asked["options"])
        begin, processor = time.perf_counter(), time.process_time()
        found = work()
        spent = {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - processor}
        spent["peak_mib"] = peak_mib()
        print(json.dumps({**spent, **check(found)}), flush=True)


def _materialise(world: World, root: Path, redis: str | None = None) -> _Job:
    """Our way: from references, with every row read back and counted."""
    from feature_repo import materialize, open_store

    settings = world.settings(root, redis)
    _empty(redis)

    def check(_: Any) -> dict[str, float]:
        return _arrived(world, open_store(settings))

    return lambda: materialize(settings, world.clock, **world.paths), check


def _feast_materialise(world: World, root: Path, redis: str | None = None, tuned: bool = False) -> _Job:
    """Feast's `materialize` over the stock twin; `tuned`: newest rows only, in batches, as its documentation advises."""
    from feast import FeatureStore

    from feature_repo import views

    store = FeatureStore(config=stock_config(world, root, redis, tuned))
    generation, paths = declared(world)
    _empty(redis)

    def run() -> None:
        store.apply([*views.entity_objects(generation).values(), *views.value_views(generation, paths).values()])
        store.materialize(world.clock.now().replace(year=1980), world.clock.now())

    return run, lambda _: _arrived(world, store)


def _table(world: World, root: Path) -> _Job:
    """The whole stage: the log, the join, the checks, the rows."""
    from core import Window
    from feature_repo import build_training_table

    settings, out = world.settings(root), root / "dataset"
    out.mkdir(parents=True)

    def run() -> Any:
        return build_training_table(settings, world.clock, **world.paths, out=out, window=Window(), train_start=0)

    return run, lambda built: {"rows": built.rows["rows"]}


def _join(world: World, root: Path) -> _Job:
    """Our join, then every row's vectors and history looked up: the same answer as Feast's, which has them in it."""
    import numpy as np

    from feature_repo.training_table import point_in_time

    generation, paths = declared(world)
    rows = _rows(world)

    def run() -> dict[str, Any]:
        joined = point_in_time(world.settings(root), generation, paths, rows, root / "registry.db")
        found = {}
        for view in ("user_pooled", "scenario"):
            matrix = np.load(world.folder / "knowledge" / view / "vectors.npy", mmap_mode="r")
            places = joined[f"{view}__row"].fill_null(-1).to_numpy()
            found[view] = np.where((places >= 0)[:, None], matrix[places], np.nan)
        histories = values_of_histories(rows["user_id"], joined["user_history__history_end"].fill_null(0), world)
        return {"rows": joined.num_rows, "sum": _sum(found["user_pooled"]), "items": len(histories.values)}

    return run, lambda found: found


def _feast_join(world: World, root: Path) -> _Job:
    """Feast's `get_historical_features` on its DuckDB store, vectors and histories in the join."""
    import numpy as np
    from feast import FeatureService, FeatureStore

    from feature_repo import views

    store = FeatureStore(config=stock_config(world, root, None))
    generation, paths = declared(world)
    values = views.value_views(generation, paths)
    service = FeatureService(name="all", features=list(values.values()))
    store.apply([*views.entity_objects(generation).values(), *values.values(), service])
    frame = _rows(world).to_pandas()

    def run() -> dict[str, Any]:
        job = store.get_historical_features(
            entity_df=frame, features=service, full_feature_names=True, filter_by_created_timestamp=True
        )
        joined = job.to_arrow()
        vectors = joined[f"{generation.vector('user_pooled').name}__vector"].combine_chunks()
        items = joined["user_history__history"].combine_chunks()
        return {"rows": joined.num_rows, "sum": _sum(np.asarray(vectors.values)), "items": len(items.values)}

    return run, lambda found: found


def _rows(world: World) -> Any:
    """The interactions of a world as rows to join."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["user_id", "item_id", "scenario", "event_timestamp"]
    rows = pq.read_table(world.folder / "source" / "interactions.parquet", columns=columns)
    return rows.add_column(0, "row_id", pa.array(np.arange(rows.num_rows)))


def _sum(numbers: Any) -> float:
    """Shows that two joins found the same vectors, in whatever order."""
    import numpy as np

    return float(np.nansum(numbers, dtype=np.float64))


def _arrived(world: World, store: Any) -> dict[str, float]:
    """`rows`: entities whose newest state can be read online; `expected`: how many there are."""
    import pyarrow.parquet as pq

    from feature_repo import views
    from feature_repo.feast_names import file_source
    from feature_repo.online import OnlineTable

    table, rows, expected = OnlineTable(store), 0, 0
    for view in views.value_views(*declared(world)).values():
        key = view.join_keys[0]
        past = ("published", "<=", world.clock.now_micros())
        states = pq.read_table(file_source(view).path, columns=[key, "published"], filters=[past])
        newest = states.group_by(key).aggregate([("published", "max")])
        ids, times = newest[key].to_pylist(), newest["published_max"].to_pylist()
        for begin in range(0, len(ids), 1000):
            found = table.read(view, ids[begin : begin + 1000])
            pairs = zip(found, times[begin : begin + 1000], strict=True)
            rows += sum(isinstance(row, dict) and row["published"] == time for row, time in pairs)
        expected += len(ids)
    return {"rows": rows, "expected": expected}


def stock_config(world: World, root: Path, redis: str | None, tuned: bool = False) -> Any:
    """Feast's own configuration: every setting at its default but the stores' kind; DuckDB, since `dask` loses rows."""
    from feast.repo_config import RepoConfig

    body: dict[str, Any] = {
        "project": "stock",
        "provider": "local",
        "registry": str(root / "registry.db"),
        "offline_store": {"type": "duckdb"},
        "online_store": {"type": "sqlite", "path": str(root / "online.db")},
        "entity_key_serialization_version": 3,
    }
    if redis:
        body["online_store"] = {"type": "redis", "connection_string": redis}
    if tuned:
        body["materialization"] = {"pull_latest_features": True, "online_write_batch_size": 1000}
    root.mkdir(parents=True, exist_ok=True)
    return RepoConfig(**body, repo_path=root)


def _empty(redis: str | None) -> None:
    if redis:
        from redis import Redis

        host, port = redis.split(",")[0].split(":")
        Redis(host, int(port)).flushall()


JOBS = {
    "materialise": _materialise,
    "feast_materialise": _feast_materialise,
    "table": _table,
    "join": _join,
    "feast_join": _feast_join,
}
