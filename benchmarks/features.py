"""The feature store against Feast as it comes: bringing values online, the training table, one user's online read.

    python -m benchmarks.features [--quick] [--data FOLDER]

Logs are generated in the shape of MovieLens-1M with 26 vectors per user, or read from FOLDER (ratings.dat, users.dat,
movies.dat). Every piece of work is a process of its own, so that memory is its own; ours and Feast's run in turn.

- Bringing online: from files to a new SQLite store. Feast has the same views over parquet files that already hold the
  values; ours makes them from references and reads every row back. `_tuned`: Feast told to pull the newest rows only
  and to write batches of 1,000.
- Training table: the whole stage at 1,000,000 rows. Feast's own join (DuckDB; its default store, `dask`, loses rows)
  is quadratic and has vectors and histories in it; it is given a twentieth of the log (a fiftieth with --quick). Ours
  joins the same rows and then looks vectors and histories up, so that both end with equal values, which is checked.
- Online reads: all of one user's features, history and vector from the same store. Feast is asked for the user's views
  only, in one `get_online_features(...).to_dict()`. Both answers are compared first. On a Redis started here, and
  (`_sqlite`) on SQLite.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.feature_jobs import measure_job
from benchmarks.feature_world import VERSION, Size, World, declared, make_world, write_stock
from benchmarks.harness import Figure, arguments, figure, finish, in_turn_many, own_redis
from core import configure
from core.errors import UserError

VERSIONS = {"pooled": VERSION, "scenario": VERSION}
CLIENTS = 8


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="folder of MovieLens-1M; generated logs of its shape without it")
    options = parser.parse_args()
    configure(level="WARNING")
    # Ended from outside, Redis ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        full = make_world(Path(folder) / "full", Size(), options.data)
        tenth = make_world(Path(folder) / "tenth", Size().scaled(0.1))
        joined = make_world(Path(folder) / "joined", Size().scaled(0.02 if options.quick else 0.05))
        online = tenth if options.quick else full
        for world in {world.folder: world for world in (online, tenth, joined)}.values():
            write_stock(world)
        figures = [*materialising(online, None if options.quick else tenth), *training_table(full, joined)]
        with own_redis() as address:
            for redis in dict.fromkeys((address, None)):
                figures += online_reads(online, redis, 0.5 if options.quick else 3.0)
    finish("features", figures, options.quick)


def materialising(world: World, tenth: World | None) -> list[Figure]:
    """Rows a second and peak memory of bringing a world online, and our memory at a tenth of the users."""
    measures = {
        "ours": lambda: complete(measure_job("materialise", world)),
        "feast": lambda: complete(measure_job("feast_materialise", world)),
        "feast_tuned": lambda: complete(measure_job("feast_materialise", world, tuned=True)),
    }
    if tenth is not None:
        measures["ours, a tenth"] = lambda: complete(measure_job("materialise", tenth))
    found = in_turn_many(measures)
    mine, feast, tuned, *small = found.values()
    rates = {name: one["rows"] / one["seconds"] for name, one in found.items()}
    figures = [
        figure("materialise_rows_per_s", "rows/s", rates["ours"], rates["feast"]),
        figure("materialise_rows_per_s_tuned", "rows/s", rates["ours"], rates["feast_tuned"]),
        figure("materialise_rows_per_cpu_s", "rows/s", mine["rows"] / mine["cpu"], feast["rows"] / feast["cpu"]),
        figure("materialise_peak_mib", "MiB", mine["peak_mib"], feast["peak_mib"]),
        figure("materialise_peak_mib_tuned", "MiB", mine["peak_mib"], tuned["peak_mib"]),
    ]
    if small:
        figures.append(figure("materialise_peak_mib_against_a_tenth", "MiB", mine["peak_mib"], small[0]["peak_mib"]))
    return figures


def training_table(full: World, part: World) -> list[Figure]:
    """Time and memory of the stage at full size, and of the join against Feast's own on a part."""
    whole = in_turn_many({"ours, full size": lambda: measure_job("table", full)})["ours, full size"]
    found = in_turn_many({"ours": lambda: measure_job("join", part), "feast": lambda: measure_job("feast_join", part)})
    mine, feast = found["ours"], found["feast"]
    for name in ("rows", "items"):
        if mine[name] != feast[name]:
            raise UserError(f"the joins differ: {name} {mine[name]} against {feast[name]}")
    if not np.isclose(mine["sum"], feast["sum"], rtol=1e-6):
        raise UserError(f"the joins differ: the vectors sum to {mine['sum']} against {feast['sum']}")
    return [
        figure("training_table_full_s", "s", whole["seconds"], target=60, bound="at_most", of="ours"),
        figure("training_table_full_peak_mib", "MiB", whole["peak_mib"], target=4096, bound="at_most", of="ours"),
        figure("training_table_full_rows", "rows", whole["rows"]),
        figure(f"join_{mine['rows']:.0f}_rows_s", "s", mine["seconds"], feast["seconds"]),
        figure(f"join_{mine['rows']:.0f}_rows_peak_mib", "MiB", mine["peak_mib"], feast["peak_mib"]),
    ]


def online_reads(world: World, redis: str | None, seconds: float) -> list[Figure]:
    """Reads a second and their latency, one after the other and, where both can, eight at a time."""
    from feature_repo import OnlineReader, materialize, open_store

    store = "redis" if redis else "sqlite"
    with tempfile.TemporaryDirectory() as root:
        settings = world.settings(Path(root), redis)
        materialize(settings, world.clock, **world.paths)
        reader, plain = OnlineReader(settings, world.clock, VERSIONS), _Plain(world, open_store(settings))
        users = _users(world)
        for user in users[:200]:
            plain.check_equal(reader.read_user(user))
        with _without_old_garbage():
            found = in_turn_many(
                {
                    f"ours, {store}": lambda: _one_by_one(reader.read_user, users, seconds),
                    f"feast, {store}": lambda: _one_by_one(plain.read, users, seconds),
                }
            )
            together = _together(reader, plain, users, seconds) if redis else {}
    mine, theirs = found.values()
    place = "" if redis else "_sqlite"
    figures = [
        figure(f"online_reads_per_s{place}", "reads/s", mine["per_s"], theirs["per_s"], target=3),
        figure(f"online_reads_per_cpu_s{place}", "reads/s", mine["per_cpu_s"], theirs["per_cpu_s"]),
        *(figure(f"online_read_{key}{place}", "ms", mine[key], theirs[key]) for key in ("p50_ms", "p99_ms")),
    ]
    if together:
        mine, theirs = together.values()
        name = f"online_reads_per_s_{CLIENTS}_async"
        figures.append(figure(name, "reads/s", mine["per_s"], theirs["per_s"]))
    return figures


def _together(reader: Any, plain: _Plain, users: list[int], seconds: float) -> dict[str, dict[str, float]]:
    # One event loop for all rounds: Feast's connections belong to the one that opened them.
    with asyncio.Runner() as loop:
        return in_turn_many(
            {
                "ours, 8 at a time": lambda: loop.run(_at_a_time(reader.read_user_async, users, seconds)),
                "feast, 8 at a time": lambda: loop.run(_at_a_time(plain.read_async, users, seconds)),
            }
        )


@contextmanager
def _without_old_garbage() -> Iterator[None]:
    """Feast keeps much that Python's collector would look through in the middle of either's reads."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Plain:
    """The documented way: a feature service of one user's views, read into a dictionary."""

    def __init__(self, world: World, store: Any) -> None:
        from feast import FeatureService

        from feature_repo import views

        self.store = store
        self.generation, paths = declared(world)
        values = views.value_views(self.generation, paths)
        self.store.apply(
            [FeatureService(name="one_user", features=[v for name, v in values.items() if name.startswith("user_")])]
        )
        self.service = self.store.get_feature_service("one_user", allow_cache=True)

    def read(self, user: int) -> dict[str, Any]:
        return self.store.get_online_features(self.service, [{"user_id": user}], full_feature_names=True).to_dict()

    async def read_async(self, user: int) -> dict[str, Any]:
        answer = await self.store.get_online_features_async(self.service, [{"user_id": user}], full_feature_names=True)
        return answer.to_dict()

    def check_equal(self, state: Any) -> None:
        """Both ways say the same of a user, as of the same moment.

        Raises:
            UserError: they do not.
        """
        answer = {name: values[0] for name, values in self.read(state.user_id).items()}
        vector = self.generation.vector("user_pooled").name
        same = [
            *(answer[f"user_features__{name}"] == state.values[name] for name in self.generation.user_columns),
            *(answer[f"user_stats__{name}"] == state.values[name] for name in state.values if name[:5] == "user_"),
            (answer["user_history__history"] or []) == state.history,
            answer["user_stats__published"] == state.published.get("user_stats"),
            np.array_equal(np.float32(answer[f"{vector}__vector"]), state.vectors["user_pooled"]),
        ]
        if not all(same):
            raise UserError(f"user {state.user_id} reads differently: {answer} against {state}")


def _users(world: World, count: int = 5000) -> list[int]:
    """Users in random order, the same for everybody."""
    import pyarrow.parquet as pq

    ids = pq.read_table(world.folder / "source" / "users.parquet", columns=["user_id"])["user_id"].to_numpy()
    return np.random.default_rng(0).choice(ids, count).tolist()


def _one_by_one(read: Callable[[int], Any], users: list[int], seconds: float) -> dict[str, float]:
    latencies: list[float] = []
    begin, processor = time.perf_counter(), time.process_time()
    now = begin
    while now - begin < seconds:
        read(users[len(latencies) % len(users)])
        after = time.perf_counter()
        latencies.append(after - now)
        now = after
    return _summary(latencies, now - begin, time.process_time() - processor)


async def _at_a_time(read: Callable[[int], Awaitable[Any]], users: list[int], seconds: float) -> dict[str, float]:
    latencies: list[float] = []
    begin, processor = time.perf_counter(), time.process_time()

    async def client() -> None:
        while (now := time.perf_counter()) - begin < seconds:
            await read(users[len(latencies) % len(users)])
            latencies.append(time.perf_counter() - now)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return _summary(latencies, time.perf_counter() - begin, time.process_time() - processor)


def _summary(latencies: list[float], seconds: float, processor: float) -> dict[str, float]:
    p50, p99 = np.quantile(latencies, (0.5, 0.99)) * 1000
    count = len(latencies)
    return {
        "per_s": count / seconds,
        "per_cpu_s": count / processor,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }


def complete(found: dict[str, float]) -> dict[str, float]:
    """Refuses a rate of a materialisation that left rows behind.

    Raises:
        UserError: it did.
    """
    if found["rows"] != found["expected"]:
        raise UserError(f"only {found['rows']:.0f} of {found['expected']:.0f} rows can be read online")
    return found


if __name__ == "__main__":
    main()
