"""Knowledge of many users: memory and time of a full run and of a refresh, from 10,000 users upwards.

    python -m benchmarks.knowledge_scale [--quick] [--users N ...] [--pooled]

A made log of 20 rows a user over 1,000 items in two scenarios; two snapshots a user, with pooled and prompt vectors. The
language model is replaced by counts of letters, so that what is measured is everything else: sorting the log, pooling,
prompts, texts, matrices. Each run is a process of its own (its start is in the CPU time) and gives its peak memory. The refresh sees a second window in which 1 % of
the users have one more row each. `memory_flat` and `time_linear` compare the largest run with the smallest: in memory as
a whole, in time per user. Up to some 20,000 users the buffers of bounded size are not full yet, so the first grows a little.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import arguments, figure, finish, peak_mib

ROWS, ITEMS, DAY = 20, 1_000, 86_400
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--users", type=int, nargs="+", help="sizes to run [default: 10000 and 100000; quick: a tenth]")
    parser.add_argument("--pooled", action="store_true", help="pooled vectors only, no prompts")
    parser.add_argument("--child", nargs=3, help="used by itself: folder, run, vectors")
    options = parser.parse_args()
    if options.child:
        run(Path(options.child[0]), options.child[1], options.child[2] == "pooled")
        return
    sizes = options.users or ([1_000, 10_000] if options.quick else [10_000, 100_000])
    found = {}
    for users in sizes:
        with tempfile.TemporaryDirectory() as folder:
            make_log(Path(folder), users)
            for what in ("full", "refresh"):
                found[users, what] = child(Path(folder), what, options.pooled)
                print(f"{users:,} users, {what}: {found[users, what]}", file=sys.stderr, flush=True)
    least, most = min(sizes), max(sizes)
    figures = []
    for users in sizes:
        full, again = found[users, "full"], found[users, "refresh"]
        figures += [
            figure(f"full_{users}", "s of CPU", full["cpu"]),
            figure(f"full_wall_{users}", "s", full["seconds"]),
            figure(f"users_per_s_{users}", "users/s of CPU", users / full["cpu"]),
            figure(f"refresh_1pct_{users}", "s of CPU", again["cpu"], full["cpu"]),
            figure(f"peak_memory_{users}", "MiB", full["peak"]),
            figure(f"peak_memory_refresh_{users}", "MiB", again["peak"]),
        ]
    small, large = found[least, "full"], found[most, "full"]
    figures += [
        figure("memory_flat", "MiB", large["peak"], small["peak"], target=1.5, bound="at_most"),
        figure(
            "time_linear", "us of CPU/user", 1e6 * large["cpu"] / most, 1e6 * small["cpu"] / least,
            target=1.25, bound="at_most",
        ),
    ]  # fmt: skip
    finish("knowledge_scale", figures, options.quick)


def make_log(folder: Path, users: int) -> None:
    """Two windows of validated tables: `first` with all rows, `second` with one more of every hundredth user."""
    import duckdb

    from core.clock import UNDATED
    from core.tables import SCENARIOS

    begin = int(START.timestamp()) * 1_000_000
    rows = {
        "first": (users * ROWS, f"i % {users}", f"{begin} + i // {users} * {DAY}000000 + i % {users} * 1000"),
        "second": (users // 100, "i * 100", f"{begin} + {ROWS * DAY}000000 + i * 1000"),
    }
    for window, (count, user, micros) in rows.items():
        (folder / window).mkdir(parents=True)
        duckdb.sql(
            f"""COPY (SELECT {user} AS user_id, (i * 2654435761 // 7) % {ITEMS} AS item_id,
                CASE WHEN i * 40503 % 3 = 0 THEN 'search' ELSE 'home' END AS scenario,
                make_timestamp({micros})::TIMESTAMPTZ AS event_timestamp, ((i * 7919) % 5 > 1)::TINYINT AS label
            FROM (SELECT range AS i FROM range({count}))) TO '{folder / window / "interactions.parquet"}'"""
        )
        undated = pa.array([UNDATED] * ITEMS, pa.timestamp("us", "UTC"))
        words = ["red", "river", "blue", "moon", "iron", "sky", "green", "field", "night", "train"]
        titles = [" ".join(words[(i // 10**k) % 10] for k in range(3)) for i in range(ITEMS)]
        pq.write_table(
            pa.table({"item_id": list(range(ITEMS)), "event_timestamp": undated, "title": titles}),
            folder / window / "items.parquet",
        )
        told = {"scenario": ["home", "search"], "title": ["Home", "Search"], "description": ["A feed.", "A query."]}
        pq.write_table(pa.table(told, schema=SCENARIOS), folder / window / "scenarios.parquet")


def child(folder: Path, what: str, pooled: bool) -> dict[str, float]:
    """A run in a process of its own: seconds and peak memory in MiB."""
    command = [sys.executable, "-m", "benchmarks.knowledge_scale", "--child", str(folder), what]
    done = subprocess.run(
        [*command, "pooled" if pooled else "both"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(folder: Path, what: str, pooled: bool) -> None:
    """Build knowledge of one window, or of both with what the first run left."""
    import knowledge.run
    from core import ArtifactStore, Settings, configure, replay
    from core.settings import KnowledgeSettings

    configure(level="WARNING")
    vectors: list[Literal["pooled", "prompt"]] = ["pooled"] if pooled else ["pooled", "prompt"]
    settings = Settings(knowledge=KnowledgeSettings(user_vectors=vectors, thresholds=[10, 20], max_tokens=2000))
    out = folder / f"out-{what}"
    out.mkdir()
    sources = [folder / "first"] if what == "full" else [folder / "first", folder / "second"]
    now = START + dt.timedelta(days=ROWS + len(sources) - 1)
    begin = time.perf_counter()
    work = knowledge.run.Run(
        sources, settings.knowledge, settings.data, replay(now), int((START.timestamp() + 15 * DAY) * 1e6),
        folder / "cache", ArtifactStore(folder), window_ends=[int(now.timestamp() * 1e6)],
        earlier=None if what == "full" else folder / "out-full",
    )  # fmt: skip
    with mock.patch("knowledge.run.make_reasoner", lambda _: Letters()):
        work.build(out)
    peak = peak_mib()
    spent = {"seconds": time.perf_counter() - begin, "cpu": time.process_time(), "peak": peak}
    print(json.dumps({name: round(value, 2) for name, value in spent.items()}))


class Letters:
    """Counts of letters in place of a language model."""

    identity, dim = "letters", 64

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """One token a character."""
        return np.array([len(text) for text in texts])

    def encode(self, texts: Sequence[str], progress: Any = iter) -> np.ndarray:
        """Counts of the first 64 ASCII characters from the blank on, scaled."""
        found = np.zeros((len(texts), self.dim), dtype=np.float16)
        for row, text in enumerate(texts):
            codes = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8)
            found[row] = np.bincount(codes % 64, minlength=64) / 16
        return found


if __name__ == "__main__":
    main()
