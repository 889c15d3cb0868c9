"""Memory of a build at two sizes, each in a process of its own. Only the language model is left out.

Everything of bounded size (a bucket, the database's 48 MB, a sample) is made small, so that it is full soon.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from unit.knowledge.knowledge_worlds import IDS, micros, write_source

from core.tables import TIMESTAMP, interactions_schema

ALLOWED = 48 << 20
SCRIPT = """
import sys
from pathlib import Path
import knowledge.kinds.fitting, knowledge.log.store, knowledge.storage.buckets, knowledge.storage.compressor, knowledge.storage.queries
import knowledge.run
from unit.knowledge.knowledge_worlds import Letters, run_of
from core import Settings
users, place = int(sys.argv[1]), Path(sys.argv[2])
knowledge.run.make_reasoner = lambda _: Letters()
knowledge.storage.buckets.BUCKET_ROWS = knowledge.log.store.SLICE_ROWS = 8192
knowledge.storage.queries.MEMORY_LIMIT = "48MB"
knowledge.kinds.fitting.MAX_FIT_ROWS = knowledge.storage.compressor.MAX_FIT_ROWS = 1000
settings = Settings(knowledge={"thresholds": [3, 6], "user_dim": 8, "item_dim": 4,
                               "user_vectors": ["pooled", "prompt"], "max_tokens": 2000})
out = place / "out"
out.mkdir()
run_of(settings, [place / "source"], place / "cache", place, now=400 * 86400.0, start=6 * users / 2000).build(out)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def write_log(place: Path, users: int) -> None:
    """Six rows a user."""
    source = write_source(place / "source", [(0, 0, "home", 0.0, 1)])
    keys = np.arange(6 * users)
    times = pa.array(micros(0) + keys * 1000).cast(TIMESTAMP)
    scenarios = pa.array(["home", "search"]).take(pa.array(keys % 2))
    columns = [keys % users, keys * 7 % 8, scenarios, times, keys % 3 > 0, np.ones(len(keys)), times]
    schema = interactions_schema(IDS)
    arrays = [c if isinstance(c, pa.Array) else pa.array(c).cast(f.type) for c, f in zip(columns, schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), source / "interactions.parquet")


def peak(users: int, place: Path) -> int:
    """Peak bytes of a process that builds knowledge of so many users."""
    write_log(place, users)
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parents[2]), str(here.parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(users), str(place)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return 1024 * int(done.stdout.split()[-1])


def test_memory_does_not_grow_with_users_beyond_what_the_database_may_hold(tmp_path: Path) -> None:
    small, large = peak(8_000, tmp_path / "small"), peak(40_000, tmp_path / "large")
    if large - small >= ALLOWED:
        # Threads that were late may have held more at once; what grows with users does so every time.
        large = min(large, peak(40_000, tmp_path / "again"))
    assert large - small < ALLOWED
