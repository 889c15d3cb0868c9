"""Runs: one JSON row each, under an id that says what was run; a run that is in the file is not run again."""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.evidence import systems
from benchmarks.evidence.full_ranking import full_ranking, lists_of
from benchmarks.evidence.protocol import Name, Prepared
from core.contracts.results import Measures
from core.digest import sha256_json
from core.errors import DataError
from core.settings import ModelSettings, TrainSettings
from models import TrainReport, evaluate, load_bundle, predict, train

# Part of every id: raise it when the protocols or systems change what they measure.
EDITION = 3
COLD_ROWS = 10
TUNING_SEED = 100  # from here on a run is for choosing settings, and says nothing about test rows
MODEL: dict[str, Any] = {
    "embedding_dim": 16,
    "hidden": None,  # the backbone's published sizes
    "tower": None,
    "dropout": 0.1,
    "bottleneck": 32,
    "rank": 16,
    "knowledge_dropout": 0.1,
}
TRAIN: dict[str, Any] = {
    "batch_size": 4096,
    "epochs": 25,
    "patience": 3,
    "learning_rate": 3e-3,
    "embedding_learning_rate": 0.5,
    # The product's default is 100: as good on validation rows (within .0003), in twice as many epochs.
    "embedding_eps": 4.0,
    "averaging": 0.5,
    "weight_decay": 1e-6,
}
CHOICES: dict[str, Any] = {"embedding_dropout": 0.3, "user_form": "gate", "scenario_form": "gate"}
# With second-order interactions training rows are fitted much sooner, so more is dropped and both rates fall to nothing.
SECOND_ORDER: dict[str, Any] = {
    "learning_rate": 1e-3,
    "embedding_dropout": 0.5,
    "schedule": "linear",
    "epochs": 12,
    "patience": 12,
}
# Random splits go on gaining for longer than splits in time, and gain from a second generated layer.
LONGER: dict[str, Any] = {"epochs": 24, "patience": 24, "meta_depth": 2}
STARS: dict[str, Any] = {"grade_levels": [1.0, 2.0, 4.0], "grade_weight": 0.5}  # the label is: more than three
# Not in the identity of a run unless set.
OTHERS = (
    *STARS,
    "schedule",
    "meta_depth",
    "meta_width",
    "maps",
    "cross_layers",
    "history_length",
    "known_after",
)
SETTINGS = (*MODEL, *TRAIN, *CHOICES, *OTHERS)


@dataclass(frozen=True)
class Run:
    """One training, fully named.

    Args:
        protocol: scenario-wise-rec or time.
        system: a name in `systems.SYSTEMS`.
        backbone: the backbone's name.
        seed: of the split (scenario-wise-rec), the starting weights, shuffles and controls.
        lag: seconds, protocol time only.
        changes: settings other than the chosen ones, e.g. {"rank": 8}.
    """

    protocol: Name
    system: str
    backbone: str
    seed: int
    lag: int = 0
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that is set, in one flat mapping."""
        chosen = {**MODEL, **TRAIN, **CHOICES}
        if systems.find(self.system).second_order != "none":
            chosen |= SECOND_ORDER | (LONGER if self.protocol == "scenario-wise-rec" else {})
        chosen |= STARS if systems.find(self.system).graded else {}
        return chosen | self.changes

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that name the run."""
        named = {key: value for key, value in asdict(self).items() if key != "changes"}
        return sha256_json({**named, "settings": self.settings, "edition": EDITION})[:12]

    def model(self) -> ModelSettings:
        """The model's settings."""
        every, system = self.settings, systems.find(self.system)
        choice = systems.model_changes(system, *(every[name] for name in CHOICES))
        set_too = {name: every[name] for name in OTHERS if name in every and name in ModelSettings.model_fields}
        return ModelSettings(backbone=self.backbone, **{name: every[name] for name in MODEL}, **choice, **set_too)

    def training(self) -> TrainSettings:
        """How it is trained."""
        every = self.settings
        named = [name for name in (*TRAIN, *OTHERS) if name in every and name in TrainSettings.model_fields]
        return TrainSettings(seed=self.seed, **{name: every[name] for name in named})


def finished(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a results file by run id; empty where there is none.

    Raises:
        DataError: a line is not JSON.
    """
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError("is not JSON; delete the line, its run is repeated", file=path, row=number) from error
        rows[row["run"]] = row
    return rows


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row in one write, so that several processes can share the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


def execute(run: Run, prepared: Prepared) -> dict[str, Any]:
    """Train the product's own model and measure it.

    Returns:
        The row: run, protocol, system, backbone, knowledge, seed, val_auc, val_logloss, test_auc, test_logloss,
        scenarios, cold and new users and calibration; from the tuning seeds on nothing of test rows, but scenarios and
        users of validation rows.
    """
    system = systems.find(run.system)
    data = systems.view(prepared, system, run.seed, run.settings.get("known_after", 0))
    if system.history and "history_length" in run.settings:
        data.spec = data.spec.changed(history_length=run.settings["history_length"])
    begin, used = time.perf_counter(), _cpu()
    with tempfile.TemporaryDirectory(prefix="llm4msr-") as folder:
        report = train(data, run.model(), run.training(), Path(folder) / "bundle", name=run.system)
        row = _row(run, system, report)
        split, name = ("test", "test") if run.seed < TUNING_SEED else ("validation", "val")
        bundle = load_bundle(report.path)
        row |= measure(predict(bundle, data, split), prepared, name)
        if name == "test":
            row["full_ranking"] = full_ranking(bundle, data, prepared, lists_of(data))
    return {**row, "seconds": round(time.perf_counter() - begin, 1), "cpu_seconds": round(_cpu() - used, 1)}


def measure(predictions: pa.Table, prepared: Prepared, name: str = "test") -> dict[str, Any]:
    """Measures overall and per scenario; for cold users (ten training rows or fewer), rows of which are also
    told apart by whether the user had ten rows or fewer (`start`) or none (`new`) before.

    Args:
        predictions: of the rows to measure.
        prepared: says who is cold.
        name: of the split, begins the names of the overall measures.
    """
    row = predictions.column("row_id").to_numpy()
    before, trained = prepared.rows_before[row], prepared.rows_trained[row]
    found = evaluate(predictions)
    parts = {"cold": trained <= COLD_ROWS, "start": before <= COLD_ROWS, "new": before == 0}
    some = {part: _few(evaluate(predictions.filter(pa.array(m))).overall) for part, m in parts.items() if m.any()}
    scenarios = {place: {**_few(body), "calibration": _bins(body)} for place, body in found.scenarios.items()}
    return {
        f"{name}_auc": found.overall.auc,
        f"{name}_logloss": found.overall.logloss,
        f"{name}_gauc": found.overall.gauc,
        **{f"{name}_{measure}": getattr(found.overall, measure) for measure in ("ndcg_at_10", "recall_at_10", "lists")},
        "scenarios": scenarios,
        **{part: some.get(part) for part in parts},
    }


def _row(run: Run, system: systems.System, report: TrainReport) -> dict[str, Any]:
    return {
        "run": run.id,
        "protocol": run.protocol,
        "system": run.system,
        "backbone": run.backbone,
        "knowledge": system.vectors,
        "seed": run.seed,
        "lag": run.lag,
        "val_auc": report.validation.auc,
        "val_logloss": report.validation.logloss,
        "epochs": report.epochs,
        "best_epoch": report.best_epoch,
        "parameters": report.parameters,
        "settings": run.settings,
    }


def _few(body: Measures) -> dict[str, Any]:
    return {name: getattr(body, name) for name in ("rows", "users", "auc", "logloss")}


def _bins(body: Measures) -> list[list[float]]:
    return [[b.rows, round(b.predicted, 4), round(b.actual, 4)] for b in body.calibration.bins]


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def seeds(first: int, count: int) -> Iterator[int]:
    """Seeds first, first + 1, ..."""
    yield from np.arange(first, first + count).tolist()
