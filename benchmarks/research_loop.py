"""The reference of the training benchmark: a training loop as research code for multi-scenario ranking has it.

A `Dataset` returns one row, a `DataLoader` collates rows, each field has its own `nn.Embedding`, and Adam updates all
weights densely. Fields, layer widths and batch size are those of our own model. Rows come out of the columns of a data
frame one by one, as in the trainer of Scenario-Wise-Rec; a leaner form of the same loop reads them from arrays.

It runs in a process of its own: a `DataLoader` forks its workers, and a process in which our training has started
threads must not be forked.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

_COMMAND = "from benchmarks.research_loop import measure_here; measure_here()"


class RowDataset(Dataset):
    """One row at a time.

    Args:
        fields: name -> ids [N] of a one-hot field: a data frame, as published, or a dict of arrays.
        dense: [N, D].
        label: [N].
    """

    def __init__(self, fields: pd.DataFrame | dict[str, np.ndarray], dense: np.ndarray, label: np.ndarray) -> None:
        self.fields, self.dense, self.label = fields, dense, label

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        row = {name: ids[index] for name, ids in self.fields.items()}
        row["dense"] = self.dense[index]
        return row, self.label[index]


class ResearchSharedBottom(nn.Module):
    """Shared Bottom as published: embeddings, a shared layer, one tower per scenario, all towers run on all rows."""

    def __init__(self, sizes: dict[str, int], dense: int, scenarios: int, dim: int, hidden: int, tower: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({name: nn.Embedding(size, dim) for name, size in sizes.items()})
        self.bottom = _block(len(sizes) * dim + dense, hidden)
        self.towers = nn.ModuleList(
            [nn.Sequential(_block(hidden, tower), nn.Linear(tower, 1)) for _ in range(scenarios)]
        )

    def forward(self, rows: dict[str, Tensor]) -> Tensor:
        embedded = [table(rows[name]) for name, table in self.embeddings.items()]
        shared = self.bottom(torch.cat([*embedded, rows["dense"]], dim=1))
        result = torch.zeros(len(shared), 1)
        for scenario, tower in enumerate(self.towers):
            mask = (rows["field_scenario"] == scenario).unsqueeze(1)
            result = torch.where(mask, torch.sigmoid(tower(shared)), result)
        return result.squeeze(1)


def measure(
    rows: Path, workers: int, threads: int, batches: int, batch_size: int, *, lean: bool = False
) -> dict[str, float]:
    """Samples per second of the loop, measured in a fresh process: `wall`, and `cpu` by its and its workers' processors.

    Args:
        rows: what `save_rows` wrote.
        workers: of the DataLoader.
        threads: of torch.
        batches: measured steps, after two to warm up.
        batch_size: rows per step.
        lean: read from arrays, not from a data frame.
    """
    order = json.dumps([str(rows), workers, threads, batches, batch_size, lean])
    command = [sys.executable, "-W", "ignore", "-c", _COMMAND, order]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def save_rows(
    folder: Path, fields: dict[str, np.ndarray], sizes: dict[str, int], dense: np.ndarray, label: np.ndarray
) -> Path:
    """Write the rows of a run; `fields` has ids [N] of every one-hot field, `scenario` among them."""
    ids = {f"ids_{name}": column for name, column in fields.items()}
    np.savez(folder / "rows.npz", allow_pickle=False, dense=dense, label=label, **ids)
    (folder / "sizes.json").write_text(json.dumps(sizes))
    return folder


def measure_here() -> None:
    """What the fresh process runs: print the samples per second of the order in its first argument."""
    folder, *rest = json.loads(sys.argv[1])
    print(json.dumps(_measure_here(Path(folder), *rest)))


def _measure_here(
    folder: Path, workers: int, threads: int, batches: int, batch_size: int, lean: bool
) -> dict[str, float]:
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    sizes = json.loads((folder / "sizes.json").read_text())
    stored = np.load(folder / "rows.npz")
    fields = {f"field_{name}": stored[f"ids_{name}"] for name in sizes}
    label = stored["label"].astype(np.float32)
    data = RowDataset(fields if lean else pd.DataFrame(fields), stored["dense"], label)
    tables = {f"field_{name}": size for name, size in sizes.items()}
    model = ResearchSharedBottom(tables, stored["dense"].shape[1], sizes["scenario"], dim=16, hidden=128, tower=32)
    return samples_per_second(data, model, batch_size=batch_size, workers=workers, batches=batches)


def samples_per_second(
    data: RowDataset,
    model: ResearchSharedBottom,
    *,
    batch_size: int,
    workers: int,
    batches: int,
    warm_up: int = 2,
) -> dict[str, float]:
    """Train for `batches` steps after the warm-up and say how many rows a second went through: `wall` and `cpu`."""
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, num_workers=workers, drop_last=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
    model.train()
    stream = itertools.chain.from_iterable(itertools.repeat(loader))
    for _ in range(warm_up):
        _step(model, optimiser, *next(stream))
    start = np.array([time.perf_counter(), _cpu_seconds()])
    for rows, label in itertools.islice(stream, batches):
        _step(model, optimiser, rows, label)
    wall, cpu = batches * batch_size / (np.array([time.perf_counter(), _cpu_seconds()]) - start)
    return {"wall": float(wall), "cpu": float(cpu)}


def encode(columns: dict[str, np.ndarray], names: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Ids from 0 for each field, and the sizes of their tables."""
    fields, sizes = {}, {}
    for name in names:
        values, fields[name] = np.unique(columns[name], return_inverse=True)
        sizes[name] = len(values)
    return fields, sizes


def _cpu_seconds() -> float:
    """Processor time of this process and of the workers it has started, as far as they run."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (own, *own.children(recursive=True)))


def _step(model: nn.Module, optimiser: torch.optim.Optimizer, rows: dict[str, Tensor], label: Tensor) -> None:
    loss = functional.binary_cross_entropy(model(rows), label)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    loss.item()


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(0.1))
