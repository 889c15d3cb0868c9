"""Training speed: our loop against a research-style loop, and what the meta levels add to a step.

    python -m benchmarks.training [--quick] [--data FOLDER]

FOLDER holds MovieLens-1M (ratings.dat, users.dat, movies.dat); without it, synthetic rows of the same shape are used.
Both loops train Shared Bottom on the same rows, fields, widths, batch size (4,096) and epochs of shuffled rows on the
CPU. The reference runs with 0, 2 and 8 DataLoader workers, each with one thread and with all cores, and ours with one
thread and with all cores; short probes pick the best settings, which are then measured in turn. The reference reads
its rows from a data frame, as published; figures named `_lean` are against the same loop over arrays. Reading and
encoding the log is not counted. Figures named `_cpu` are by processor time, ours with one thread and the reference's
with its workers', which other work on the machine changes less; targets are for time on the clock.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import research_loop
from benchmarks.harness import Figure, arguments, figure, finish, in_turn_many
from benchmarks.movielens import ITEM_COLUMNS, ROWS, USER_COLUMNS, Log, read_log, training_data
from core import configure
from core.settings import ModelSettings, TrainSettings
from models import TrainingData, train
from models.data import ITEM_STATS, USER_STATS

BATCH = 4096
VECTOR_DIM = 128
TARGETS = {"gate": 1.9, "low_rank": 2.3, "full": 3.5}
PLAIN = ModelSettings(
    backbone="shared_bottom", tower=[32], user_level="none", scenario_level="none", knowledge_features=False
)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="folder of MovieLens-1M; synthetic rows of its shape without it")
    options = parser.parse_args()
    configure(level="WARNING")
    log = read_log(options.data, 150_000 if options.quick else ROWS)
    batches = 8 if options.quick else 25
    print(f"{len(log):,} rows, {log.name}; batch {BATCH}", flush=True)
    figures = [*speed(log, batches), *levels(log, epochs=1 if options.quick else 2)]
    finish("training", figures, options.quick)


def speed(log: Log, batches: int) -> list[Figure]:
    """Samples per second of both loops on the same rows."""
    data, settings = training_data(log), TrainSettings(batch_size=BATCH, epochs=2)
    many = settings.model_copy(update={"threads": best_threads(data, settings)})
    with tempfile.TemporaryDirectory() as folder:
        rows = save_reference(Path(folder), log, data)
        best = {lean: best_setting(rows, max(4, batches // 4), lean=lean) for lean in (False, True)}
        print(f"best (workers, threads) of the reference: {best[False]}, of its leaner form: {best[True]}", flush=True)
        found = in_turn_many(
            {
                "ours": lambda: ours(data, PLAIN, many),
                **({"one thread": lambda: ours(data, PLAIN, settings)} if many != settings else {}),
                "reference": lambda: research_loop.measure(rows, *best[False], batches, BATCH),
                "lean": lambda: research_loop.measure(rows, *best[True], batches, BATCH, lean=True),
            }
        )
    name, unit = "shared_bottom_samples_per_s", "samples/s"
    mine, theirs, lean = found["ours"], found["reference"], found["lean"]
    one = found.get("one thread", mine)
    return [
        figure(name, unit, mine["wall"], theirs["wall"], target=10),
        figure(f"{name}_absolute", unit, mine["wall"], target=300_000, of="ours"),
        figure(f"{name}_one_thread", unit, one["wall"]),
        figure(f"{name}_cpu", unit, one["cpu"], theirs["cpu"]),
        figure(f"{name}_lean", unit, mine["wall"], lean["wall"]),
        figure(f"{name}_lean_cpu", unit, one["cpu"], lean["cpu"]),
    ]


def levels(log: Log, epochs: int) -> list[Figure]:
    """Milliseconds per step with both meta levels, against the plain backbone."""
    data, settings = training_data(log, VECTOR_DIM), TrainSettings(batch_size=BATCH, epochs=epochs)
    models = {"plain": PLAIN}
    for form in TARGETS:
        models[form] = PLAIN.model_copy(update={"user_level": form, "scenario_level": form})

    def step(model: ModelSettings) -> Callable[[], dict[str, float]]:
        return lambda: {clock: 1000 * BATCH / rate for clock, rate in ours(data, model, settings).items()}

    found = in_turn_many({name: step(model) for name, model in models.items()})
    figures = []
    for form, target in TARGETS.items():
        name, mine, plain = f"step_ms_both_levels_{form}", found[form], found["plain"]
        figures.append(figure(name, "ms", mine["wall"], plain["wall"], target=target, bound="at_most"))
        figures.append(figure(f"{name}_cpu", "ms", mine["cpu"], plain["cpu"]))
    return figures


def ours(data: TrainingData, model: ModelSettings, settings: TrainSettings) -> dict[str, float]:
    """Samples per second of the product's own training, by the clock and by processor time."""
    with tempfile.TemporaryDirectory() as folder:
        report = train(data, model, settings, Path(folder) / "bundle", name="benchmark")
    return {"wall": report.samples_per_second, "cpu": report.samples_per_cpu_second}


def best_threads(data: TrainingData, settings: TrainSettings) -> int:
    """Threads with which ours is fastest here."""
    probe = {n: settings.model_copy(update={"threads": n, "epochs": 1}) for n in thread_counts()}
    return max(probe, key=lambda threads: ours(data, PLAIN, probe[threads])["wall"])


def thread_counts() -> list[int]:
    """One thread, and one for each core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({1, cores})


def best_setting(rows: Path, batches: int, *, lean: bool) -> tuple[int, int]:
    """Workers and threads with which the reference is fastest here."""
    settings = list(itertools.product((0, 2, 8), thread_counts()))

    def rate(setting: tuple[int, int]) -> float:
        workers, threads = setting
        return research_loop.measure(rows, workers, threads, batches, BATCH, lean=lean)["wall"]

    return max(settings, key=rate)


def save_reference(folder: Path, log: Log, data: TrainingData) -> Path:
    """The training rows as the research loop reads them: the same fields and numbers."""
    names = ["user_id", *USER_COLUMNS, "item_id", *ITEM_COLUMNS, "scenario"]
    fields, sizes = research_loop.encode(log.columns, names)
    dense = np.stack([np.log1p(data.rows[name].to_numpy().astype(np.float32)) for name in _dense(data)], axis=1)
    train_rows = data.indices("train")
    fields = {name: ids[train_rows] for name, ids in fields.items()}
    return research_loop.save_rows(folder, fields, sizes, dense[train_rows], log.label[train_rows])


def _dense(data: TrainingData) -> list[str]:
    return [*data.spec.user_dense, *USER_STATS, *data.spec.item_dense, *ITEM_STATS]


if __name__ == "__main__":
    main()
