"""Training: data in memory, batches by slicing, sharded tables with the optimiser in the backward pass.

Deterministic given the seed: the same data, settings and machine make the same bytes of weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.contracts.bundle_spec import BundleMetrics
from core.contracts.results import Epoch, Quality
from core.errors import DataError, SettingsError
from core.log import logger
from core.pace import progress
from core.settings import ModelSettings, TrainSettings
from models.base import fit_base
from models.bundle import write_bundle
from models.calibration import fit_calibration
from models.data import TrainingData
from models.distributed import (
    Averages,
    World,
    average_buffers,
    process_group,
    restore,
    shard,
    snapshot,
    unwrap,
    whole_tables,
)
from models.embeddings import Tables, keyed_jagged
from models.encoded import EncodedRows
from models.encoder import Encoder
from models.loss import GradedLoss
from models.measures import auc
from models.ranker import Head, RankingNetwork, user_vectors_read

LOG = logger("models")
VALIDATION_BATCH = 16_384
# Log losses this near to each other, as a share, count as equal.
TIE = 1e-3


@dataclass
class TrainReport:
    """What a training did. Speeds are of training steps alone and appear in no file.

    Args:
        name: the system's name.
        path: its bundle.
        epochs: epochs run.
        best_epoch: the one whose weights are kept, from 1.
        validation: auc and logloss of the kept weights.
        curves: per epoch: epoch, loss, validation auc and logloss.
        rows: training rows.
        parameters: numbers in tables and in the rest.
        samples_per_second: of this process.
        samples_per_cpu_second: the same by processor time, which a busy machine changes less.
    """

    name: str
    path: Path
    epochs: int
    best_epoch: int
    validation: Quality
    curves: list[Epoch]
    rows: int
    parameters: dict[str, int]
    samples_per_second: float
    samples_per_cpu_second: float


@dataclass
class Fit:
    """A trained model before it is written."""

    encoder: Encoder
    tables: dict[str, Tensor]
    head: Head
    curves: list[Epoch] = field(default_factory=list)
    best: int = 0
    samples_per_second: float = 0.0
    samples_per_cpu_second: float = 0.0
    rows: int = 0


def train(data: TrainingData, model: ModelSettings, train: TrainSettings, out: Path, *, name: str) -> TrainReport:
    """Train one system and write its bundle.

    Under `torchrun` every process calls this with the same data; the first writes.

    Args:
        data: the dataset; rows of split `train` are fitted, those of `validation` stop the training.
        model: the model.
        train: how to train; `batch_size` is that of all processes together.
        out: folder of the bundle, made here.
        name: the system's name, kept in the bundle.

    Returns:
        The report.

    Raises:
        DataError: no training or validation rows.
        SettingsError: a level without its vectors, a device that is not there, or a loss that is not finite.
    """
    with _threads(train.threads), process_group(train.device) as world:
        fitted = fit(data, model, train, world, name)
        report = _report(fitted, out, name)
        if world.first:
            metrics = BundleMetrics(best_epoch=report.best_epoch, validation=report.validation)
            write_bundle(
                out, data, fitted.encoder, fitted.tables, fitted.head, name=name, metrics=metrics, curves=fitted.curves
            )
        if world.size > 1:
            dist.barrier()
    LOG.info(
        "%s: best epoch %d of %d, validation AUC %s, %s samples/s",
        name,
        report.best_epoch,
        report.epochs,
        report.validation.auc,
        f"{report.samples_per_second:,.0f}",
    )
    return report


def fit(data: TrainingData, model: ModelSettings, train: TrainSettings, world: World, name: str) -> Fit:
    """The training itself; see `train`."""
    encoder = Encoder.fit(data, user_vectors=user_vectors_read(model), scenario_vectors=model.scenario_level != "none")
    rows, held_out = data.indices("train"), data.indices("validation")
    if not len(held_out):
        raise DataError("the training table has no row of split 'validation'; raise split.validation")
    encoded = encoder.encode(data)
    wrapped = build(encoder, model, train, world, len(rows))
    head = unwrap(wrapped).head
    head.begin(*map(torch.from_numpy, fit_base(encoded.dense, encoded.label, encoded.weight, rows)))
    criterion = GradedLoss(train.grade_levels, train.grade_weight, encoded.label[rows], encoded.grade[rows])
    criterion = criterion.to(world.device)
    parameters = [*unwrap(wrapped).head.parameters(), *criterion.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)
    rates = _Rates(train, optimizer, wrapped)
    rule = StoppingRule(train.patience)
    head.trust.fill_(0.0)
    begin = [
        quality(validate(wrapped, encoder, encoded, part, world), encoded.label[part]) for part in (rows, held_out)
    ]
    rule.keeps(0, begin[1].logloss, begin[1].auc)
    kept = snapshot(wrapped)
    head.trust.fill_(1.0)
    run = Fit(encoder, {}, head, rows=len(rows))
    run.curves.append(Epoch(epoch=0, loss=begin[0].logloss, **dict(begin[1])))
    averages, speeds = Averages(wrapped, train.averaging), []
    # Most trainings stop early: the time left is the longest it can be.
    for epoch in progress(range(1, train.epochs + 1), f"training {name}", unit="epochs at most", share=0.95):
        start = np.array([time.perf_counter(), time.process_time()])
        loss = _epoch(wrapped, criterion, rates, encoder, encoded, rows, train, epoch, world)
        spent = np.array([time.perf_counter(), time.process_time()]) - start
        speeds.append(len(rows) / world.size / spent)
        if not np.isfinite(loss):
            raise SettingsError(
                f"{name}: the loss became {loss} in epoch {epoch}; lower train.learning_rate or "
                "train.embedding_learning_rate"
            )
        average_buffers(wrapped, world)
        averages.enter()
        scores = validate(wrapped, encoder, encoded, held_out, world)
        found = quality(scores, encoded.label[held_out])
        run.curves.append(Epoch(epoch=epoch, loss=loss, **dict(found)))
        LOG.info("%s: epoch %d, loss %.5f, validation AUC %s", name, epoch, loss, found.auc)
        if rule.keeps(epoch, found.logloss, found.auc):
            kept = snapshot(wrapped)
        if rule.done:
            break
        averages.leave()
    restore(wrapped, kept)
    run.best = rule.epoch
    scores = validate(wrapped, encoder, encoded, held_out, world)
    lines = fit_calibration(scores, encoded.label[held_out], encoded.scenario[held_out], len(encoder.layout.scenarios))
    run.head.calibrate(*(torch.from_numpy(line).float() for line in lines))
    run.samples_per_second, run.samples_per_cpu_second = np.median(speeds, axis=0).tolist()
    run.tables = whole_tables(wrapped, world)
    return run


def build(encoder: Encoder, model: ModelSettings, train: TrainSettings, world: World, rows: int) -> nn.Module:
    """The sharded model; its starting weights depend on the seed alone, not on the number of processes.

    Args:
        encoder: fitted feature code.
        model: the model.
        train: how it will be trained.
        world: the processes.
        rows: training rows, all processes together.
    """
    torch.manual_seed(train.seed)
    head = Head(model, encoder.layout).to(world.device)
    tables = Tables(encoder.layout, model.embedding_dim, device=torch.device("meta"))
    wrapped = shard(
        RankingNetwork(tables, head),
        world,
        learning_rate=train.embedding_learning_rate,
        # The loss is a sum over rows divided by the size of a batch, and so are its gradients.
        eps=train.embedding_eps / batch_rows(train, world, rows),
        seed=train.seed,
    )
    torch.manual_seed(train.seed * 1009 + world.rank)  # From here on: dropout, different in each process.
    return wrapped


def batches(
    rows: np.ndarray, scenario: np.ndarray, size: int, world: World, seed: tuple[int, int]
) -> Iterator[np.ndarray]:
    """This process's share of each shuffled batch, its rows in order of scenario.

    Args:
        rows: row numbers.
        scenario: int16, of all rows of the table.
        size: rows of a batch, all processes together, a multiple of their number; see `batch_rows`.
        world: the processes; all get the same number of batches of the same sizes.
        seed: of the shuffle: the run's seed and the epoch.
    """
    order = np.random.default_rng(seed).permutation(rows)
    short = -len(order) % world.size
    order = np.concatenate((order, order[:short])) if short else order
    for start in range(0, len(order), size):
        share = order[start : start + size][world.rank :: world.size]
        yield share[np.argsort(scenario[share], kind="stable")]


def batch_rows(train: TrainSettings, world: World, rows: int) -> int:
    """Rows of a batch, all processes together: at most `batch_size`, and so few that an epoch has `min_steps` steps.

    Args:
        train: how to train.
        world: the processes; each gets an equal share.
        rows: training rows.
    """
    size = min(train.batch_size, math.ceil(rows / train.min_steps))
    return max(size // world.size, 1) * world.size


def validate(model: nn.Module, encoder: Encoder, encoded: EncodedRows, rows: np.ndarray, world: World) -> np.ndarray:
    """Logits of some rows, float32 [len(rows)], in every process."""
    model.eval()
    short = -len(rows) % world.size
    share = np.concatenate((rows, rows[:short]))[world.rank :: world.size]
    found = []
    with torch.no_grad():
        for start in range(0, len(share), VALIDATION_BATCH):
            found.append(
                _forward(model, encoder, encoded, share[start : start + VALIDATION_BATCH], world).cpu().numpy()
            )
    scores = np.concatenate(found)
    if world.size > 1:
        parts: list[Any] = [None] * world.size
        dist.all_gather_object(parts, scores)
        scores = np.stack(parts, axis=1).reshape(-1)[: len(rows)]
    return scores


def quality(logits: np.ndarray, label: np.ndarray) -> Quality:
    """AUC and log loss."""
    sign = np.where(label > 0, -1.0, 1.0)
    return Quality(auc=auc(label, logits), logloss=float(np.logaddexp(0, sign * logits).mean()))


def _epoch(
    model: nn.Module,
    criterion: GradedLoss,
    rates: _Rates,
    encoder: Encoder,
    encoded: EncodedRows,
    rows: np.ndarray,
    train: TrainSettings,
    epoch: int,
    world: World,
) -> float:
    """One pass; returns the mean loss of this process's rows, or of all where there are several."""
    model.train()
    total, count = torch.zeros((), dtype=torch.float64, device=world.device), 0
    whole = batch_rows(train, world, len(rows))
    steps = math.ceil(len(rows) / whole)
    shares = batches(rows, encoded.scenario, whole, world, (train.seed, epoch))
    optimizer = rates.optimizer
    for step, index in enumerate(progress(shares, total=steps, unit="steps", share=0.9)):
        rates((epoch - 1 + step / steps) / train.epochs)
        logits = _forward(model, encoder, encoded, index, world)
        outcomes = (encoded.label, encoded.weight, encoded.grade)
        loss = criterion(logits, *(torch.from_numpy(part[index]).to(world.device) for part in outcomes))
        optimizer.zero_grad(set_to_none=True)
        # A last, short batch must not make its few rows count for more than all others.
        (loss * (len(index) * world.size / whole)).backward()
        criterion.average_gradients(world.size)
        optimizer.step()
        total += loss.detach() * len(index)
        count += len(index)
    if world.size > 1:
        both = torch.tensor([float(total), float(count)], dtype=torch.float64, device=world.device)
        dist.all_reduce(both)
        return float(both[0] / both[1])
    return float(total / count)


def _forward(model: nn.Module, encoder: Encoder, encoded: EncodedRows, index: np.ndarray, world: World) -> Tensor:
    bags = keyed_jagged(encoder.layout, encoded.bags(index), world.device)
    return model(bags, encoded.side(index).to(world.device))


class _Rates:
    """Sets the learning rates of a step, where they change at all."""

    def __init__(self, train: TrainSettings, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        self.train, self.optimizer, self.model = train, optimizer, model

    def __call__(self, done: float) -> None:
        """Set what is due after a share `done` of all epochs."""
        if self.train.schedule == "constant":
            return
        tables: Any = self.model.fused_optimizer
        for groups, rate in (
            (self.optimizer.param_groups, self.train.learning_rate),
            (tables.param_groups, self.train.embedding_learning_rate),
        ):
            for group in groups:
                group["lr"] = rate * (1 - done)
        tables.step()  # It has updated its tables in the backward pass; this only hands it the new rate.


class StoppingRule:
    """Which epoch is the best by both measures of the validation rows, and when to stop.

    An epoch is better than the kept one if its log loss is lower by more than a thousandth of it, or as low within that
    and its AUC is higher. Epoch 0, the base, gives way to a lower log loss alone: what was learned beside it must be worth
    something. Training stops after `patience` epochs of which none had the lowest log loss or the highest AUC so far: AUC
    often goes on rising while probabilities become too sure, and the other way round.

    Attributes:
        epoch: the best so far.
        done: whether to stop.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.epoch, self.done = 0, False
        self._kept = self._best = (np.inf, -np.inf)
        self._last = 0

    def keeps(self, epoch: int, loss: float, area: float | None) -> bool:
        """Note an epoch's log loss and AUC (None where it is undefined); whether it is the best so far."""
        area = -np.inf if area is None else area
        if loss < self._best[0] or area > self._best[1]:
            self._last = epoch
        self._best = min(self._best[0], loss), max(self._best[1], area)
        self.done = epoch - self._last >= self.patience
        kept, tie = self._kept[0], TIE * self._kept[0]
        alike = self.epoch > 0 and loss <= kept + tie and area > self._kept[1]
        better = self._kept[0] == np.inf or loss < kept - tie or alike
        if better:
            self.epoch, self._kept = epoch, (loss, area)
        return better


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before: int = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _report(fitted: Fit, out: Path, name: str) -> TrainReport:
    best = next(point for point in fitted.curves if point.epoch == fitted.best)
    counted: Callable[[Any], int] = lambda tensors: sum(tensor.numel() for tensor in tensors)  # noqa: E731
    return TrainReport(
        name=name,
        path=out,
        epochs=fitted.curves[-1].epoch,
        best_epoch=fitted.best,
        validation=Quality(auc=best.auc, logloss=best.logloss),
        curves=fitted.curves,
        rows=fitted.rows,
        parameters={"tables": counted(fitted.tables.values()), "dense": counted(fitted.head.parameters())},
        samples_per_second=fitted.samples_per_second,
        samples_per_cpu_second=fitted.samples_per_cpu_second,
    )
