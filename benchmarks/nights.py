"""What a night costs: CPU, memory and disk of each stage, night after night, and of one log cut into many windows.

    python -m benchmarks.nights [--quick] [--nights 20] [--windows 365]

A made shop: 30 days of 20,000 rows a day by 18,000 users on 4,500 items in three scenarios (in the quick form a tenth), then nights of a day each,
every one with all users and items exported anew, 60 users and 20 items more than the night before. Each night is a process of its own that runs all
stages up to the training table. The language model is replaced by counts of letters, and nothing is trained: neither
depends on how the log is cut. `night_growth` compares the last night's CPU with the first's; `windows_over_1` the night
after a history in many windows with the night after the same history in one. `bytes_per_row` is what a stage's peak memory
grows by, each row, from one history to one of four times its rows; `night_disk` is without what is merged that night.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import arguments, figure, finish, peak_mib

DAY = 86_400_000_000
BEGIN = 1_704_067_200_000_000
HISTORY = 30
STAGES = ("ingest", "validate", "features", "knowledge", "materialize", "dataset")
WORDS = ("red", "river", "blue", "moon", "iron", "sky", "green", "field", "night", "train")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--nights", type=int, default=20, help="after the history [default: 20]")
    parser.add_argument("--windows", type=int, help="the history cut into so many [default: 365; quick: 30]")
    parser.add_argument("--child", nargs=4, help="used by itself: folder, start and end in days, windows")
    options = parser.parse_args()
    if options.child:
        start, end, cuts = map(float, options.child[1:])
        bounds = np.linspace(start, end, int(cuts) + 1)
        for begin, stop in zip(bounds, bounds[1:], strict=False):
            run(Path(options.child[0]), begin, stop)
        return
    rows = 2_000 if options.quick else 20_000
    windows = options.windows or (30 if options.quick else 365)
    with tempfile.TemporaryDirectory() as folder:
        history, *nights = daily(Path(folder), rows, options.nights)
    with tempfile.TemporaryDirectory() as folder:
        one, many = (after_history(Path(folder) / name, rows, cut) for name, cut in (("one", 1), ("many", windows)))
    first, last = nights[0], nights[-1]
    figures = [
        figure("night_growth", "s of CPU", cpu(last), cpu(first), target=1.1, bound="at_most"),
        figure("night_seconds", "s of CPU", cpu(last), target=30.0, bound="at_most", of="ours"),
        figure(
            "night_disk_mib", "MiB", min(one["disk"] for one in nights[-3:]), target=8.0, bound="at_most", of="ours"
        ),
        figure("night_peak_mib", "MiB", last["peak"], first["peak"]),
        figure(
            "first_fill_written",
            "MiB",
            history["written"]["materialize"],
            history["store"],
            target=3.0,
            bound="at_most",
        ),
        figure(f"windows_{windows}_over_1", "s of CPU", cpu(many), cpu(one), target=1.2, bound="at_most"),
        *(figure(f"{stage}_growth", "s of CPU", last["cpu"][stage], first["cpu"][stage]) for stage in STAGES),
    ]
    if not options.quick:
        peaks = large()
        figures.append(
            figure("rows_20m_peak_gib", "GiB", max(peaks.values()) / 1024, target=6.0, bound="at_most", of="ours")
        )
    held = bytes_per_row((10_000, 40_000) if options.quick else (20_000, 80_000))
    figures += [figure(f"bytes_per_row_{stage}", "B", found, of="ours") for stage, found in held.items()]
    finish("nights", figures, options.quick)


def large(rows: int = 20_000_000, users: int = 400_000, items: int = 100_000) -> dict[str, float]:
    """The peak memory of each stage, in MiB, each in a process of its own, over one window of so many rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for day in range(HISTORY):
            write_day(folder, day, rows // HISTORY, (users, items))
        return {stage: child(folder, 0, HISTORY, (stage,))["peak"] for stage in (*STAGES, "train", "evaluate")}


def bytes_per_row(days: tuple[int, int]) -> dict[str, float]:
    """What the peak memory of the stages that hold rows grows by, each row, between histories of so many rows a day."""
    peaks: dict[str, list[float]] = {"dataset": [], "train": []}
    for rows in days:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for day in range(HISTORY):
                write_day(folder, day, rows)
            child(folder, 0, HISTORY, STAGES[:4])
            for stage, found in peaks.items():
                found.append(child(folder, 0, HISTORY, (stage,))["peak"])
    more = (days[1] - days[0]) * HISTORY
    return {stage: (found[1] - found[0]) * 2**20 / more for stage, found in peaks.items()}


def daily(folder: Path, rows: int, nights: int) -> list[dict[str, Any]]:
    """What a history in one window cost, and each night after it."""
    for day in range(HISTORY):
        write_day(folder, day, rows)
    found = [child(folder, 0, HISTORY)]
    found[0]["store"] = (folder / "root" / "feast" / "online.db").stat().st_size / 2**20
    for day in range(HISTORY, HISTORY + nights):
        write_day(folder, day, rows)
        found.append(child(folder, day, day + 1))
    return found


def after_history(folder: Path, rows: int, windows: int) -> dict[str, Any]:
    """What the night after a history in so many windows cost."""
    for day in range(HISTORY + 1):
        write_day(folder, day, rows)
    bounds = np.linspace(0, HISTORY, windows + 1)
    if windows > 1:
        child(folder, 0, bounds[-2], STAGES[:3], windows - 1)
    child(folder, bounds[-2], HISTORY)
    return child(folder, HISTORY, HISTORY + 1)


def cpu(night: dict[str, Any]) -> float:
    return float(sum(night["cpu"].values()))


def write_day(folder: Path, day: int, rows: int, there: tuple[int, int] | None = None) -> None:
    """The log of a day, and users and items as they are on it: so many, or in proportion to the rows and growing."""
    grown = rows * 9 // 10 + day * 60 * rows // 20_000, rows * 225 // 1000 + day * 20 * rows // 20_000
    users, items = there or grown
    rng = np.random.default_rng(day)
    (folder / "log").mkdir(parents=True, exist_ok=True)
    user = (users * rng.random(rows) ** 2).astype(np.int64)
    item = (items * rng.random(rows) ** 3).astype(np.int64)
    times = BEGIN + day * DAY + np.sort(rng.integers(0, DAY, rows))
    liked = rng.random(rows) < 0.15 + 0.5 * ((user * 7 + item * 3) % 10 < 3)
    log = {
        "user_id": user,
        "item_id": item,
        "scenario": np.array(["feed", "search", "detail"])[(user + item) % 3],
        "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        "label": liked.astype(np.int8),
    }
    pq.write_table(pa.table(log), folder / "log" / f"{day:04d}.parquet")
    known = np.arange(users)
    pq.write_table(
        pa.table({"user_id": known, "city": [f"c{n % 50}" for n in known], "age": (known % 60 + 18).astype(float)}),
        folder / "users.parquet",
    )
    listed = np.arange(items)
    titles = [" ".join(WORDS[n // 10**k % 10] for k in range(3)) for n in listed]
    pq.write_table(
        pa.table(
            {"item_id": listed, "title": titles, "brand": [f"b{n % 90}" for n in listed], "price": listed % 97 / 7}
        ),
        folder / "items.parquet",
    )


def child(folder: Path, start: float, end: float, stages: tuple[str, ...] = STAGES, windows: int = 1) -> dict[str, Any]:
    """Run a time, cut into windows, in a process of its own: CPU seconds by stage, peak memory and what it added to the disk, in MiB."""
    before = used(folder / "root")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.nights", "--child", *map(str, (folder, start, end, windows))],
        env={**os.environ, "OMP_NUM_THREADS": "1", "NIGHTS_STAGES": ",".join(stages)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found = dict(json.loads(done.stdout.splitlines()[-1])) | {"disk": used(folder / "root") - before}
    spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found["cpu"].items())
    told = f"days {start:g} to {end:g}: {spent} s of CPU; peak {found['peak']:.0f} MiB, disk {found['disk']:.1f} MiB"
    print(told, file=sys.stderr, flush=True)
    return found


def used(root: Path) -> float:
    """MiB below a folder; a file with several names counts once."""
    sizes = {(about.st_dev, about.st_ino): about.st_blocks * 512 for about in (f.lstat() for f in root.rglob("*"))}
    return sum(sizes.values()) / 2**20


def run(folder: Path, start: float, end: float) -> None:
    """The stages of a window, and what each took."""
    from benchmarks.knowledge_scale import Letters
    from core import Settings, Window, configure, from_micros
    from pipeline import learning, stages

    configure(level="WARNING")
    settings = Settings(
        root=folder / "root",
        clock={"mode": "replay", "at": "window_end"},
        data={
            "source": "table",
            "path": folder,
            "files": {"interactions": "log/*.parquet", "users": "users.parquet", "items": "items.parquet"},
            "label": {"column": "label", "op": "is"},
            "user_categorical": ["city"],
            "user_dense": ["age"],
            "item_categorical": ["brand"],
            "item_dense": ["price"],
        },
        features={"lag": {"user_stats": "PT28H", "user_history": "PT28H", "item_stats": "PT28H"}},
        knowledge={"lag": {"pooled": "PT28H", "scenario": "PT28H", "item_text": "PT28H"}},
        split={"kind": "time"},
        train={"epochs": 1},
        controls={"without_text": False},
    )
    moments = [from_micros(BEGIN + int(day * DAY)) for day in (start, end)]
    window = Window(moments[0] if start else None, moments[1])
    spent, wrote = {}, {}
    with mock.patch("knowledge.run.make_reasoner", lambda _: Letters()):
        for name in os.environ["NIGHTS_STAGES"].split(","):
            before, held = _cpu(), _written()
            getattr(learning if name in ("train", "evaluate") else stages, name)(settings, window)
            spent[name], wrote[name] = round(_cpu() - before, 2), round((_written() - held) / 2**20, 1)
    print(json.dumps({"cpu": spent, "written": wrote, "peak": round(peak_mib(), 1), "at": time.time()}))


def _written() -> int:
    """Bytes that this process has sent to the disk; 0 where the system does not tell."""
    told = Path("/proc/self/io")
    lines = told.read_text().splitlines() if told.is_file() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes")), 0)


def _cpu() -> float:
    """Processor time of this process and of those it started, in seconds."""
    return sum(
        getattr(resource.getrusage(who), name)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        for name in ("ru_utime", "ru_stime")
    )


if __name__ == "__main__":
    main()
