"""Memory of a build at two sizes, each in a process of its own. Only the language model is left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import datetime as dt, sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
import knowledge.build
from knowledge_worlds import IDS, Letters, START, write_source, micros
from core import ArtifactStore, Settings, replay
from core.tables import TIMESTAMP, interactions_schema
users, place = int(sys.argv[1]), Path(sys.argv[2])
rows = 6 * users
source = write_source(place / "source", [(0, 0, "home", 0.0, 1)])
keys = np.arange(rows)
times = pa.array(micros(0) + keys * 1000).cast(TIMESTAMP)
columns = [keys % users, keys * 7 % 8, pa.array(["home", "search"]).take(pa.array(keys % 2)), times, keys % 3 > 0,
           np.ones(rows), times]
schema = interactions_schema(IDS)
arrays = [c if isinstance(c, pa.Array) else pa.array(c).cast(f.type) for c, f in zip(columns, schema)]
pq.write_table(pa.Table.from_arrays(arrays, schema=schema), source / "interactions.parquet")
del columns, arrays, keys, times
knowledge.build.make_reasoner = lambda _: Letters()
settings = Settings(knowledge={"thresholds": [3, 6], "user_dim": 8, "item_dim": 4})
out = place / "out"
out.mkdir()
knowledge.build.build_knowledge([source], out, settings, replay(START + dt.timedelta(days=400)),
    train_start=micros(rows / 2000), cache=place / "cache", compressors=ArtifactStore(place))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(users: int, place: Path) -> int:
    """Peak bytes of a process that builds knowledge of so many users with six rows each."""
    place.mkdir()
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parents[2]), str(here)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(users), str(place)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return 1024 * int(done.stdout.split()[-1])


def test_a_user_more_costs_little_memory(tmp_path: Path) -> None:
    small, large = 5_000, 50_000
    grown = peak(large, tmp_path / "large") - peak(small, tmp_path / "small")
    assert grown / (large - small) < 3 * 1024
