"""One process or many: process groups, sharding of the tables, and their way back into one piece.

Only what TorchRec 1.6.1 and 1.8.0 share is used. With one process the collectives are no-ops over a group that never
leaves the machine; under `torchrun` the same code runs over gloo (CPU) or nccl (GPU).
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torchrec
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import ShardingType
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from core.errors import SettingsError
from core.log import logger
from models.embeddings import initial_rows, local_shards

LOG = logger("models")
HBM_BYTES = 130 * 1024**3
_GROUPS = itertools.count()


@dataclass(frozen=True)
class World:
    """This process among all that train one model."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


class TableSharder(EmbeddingBagCollectionSharder):
    """Offers whole tables and row shards only: both can be resharded, and keep one optimiser state per row.

    In one process only whole tables: row shards cost bucketing there, and a second pass for mean pooling.
    """

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """The kinds of sharding offered; the planner would hide row shards on CPU, where they work too."""
        one = [ShardingType.TABLE_WISE.value]
        return one if dist.get_world_size() == 1 else [*one, ShardingType.ROW_WISE.value]


@contextmanager
def process_group(device: str) -> Iterator[World]:
    """Join the group that `torchrun` describes, or one of a single process; leave it in the end.

    A group that the caller made is used and left alone.

    Raises:
        SettingsError: `train.device` is a GPU that is not there.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(f"train.device is {device}, but PyTorch sees no GPU here; set it to cpu")
    if dist.is_initialized():
        yield _world(device)
        return
    backend = "nccl" if device.startswith("cuda") else "gloo"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _join(backend)
    else:
        _single(backend)
    try:
        yield _world(device)
    finally:
        dist.destroy_process_group()


def shard(model: nn.Module, world: World, *, learning_rate: float, eps: float, seed: int) -> DistributedModelParallel:
    """Shard the tables and fuse their optimiser into the backward pass.

    Row-wise Adagrad, since FBGEMM has no fused Adam on CPU.

    Args:
        model: its `EmbeddingBagCollection` on device `meta`, the rest on the world's device and equal in all processes.
        world: the processes.
        learning_rate: of the tables.
        eps: added to the root of a row's summed squared gradients, in the units of the loss that is differentiated.
        seed: of the tables' starting weights.
    """
    tables = [module for module in model.modules() if isinstance(module, torchrec.EmbeddingBagCollection)]
    options = {"lr": learning_rate, "eps": eps}
    apply_optimizer_in_backward(torchrec.optim.RowWiseAdagrad, tables[0].parameters(), options)
    sharders: list[Any] = [TableSharder()]
    kind = world.device.type
    constraints = {
        config.name: ParameterConstraints(compute_kernels=["fused"]) for config in tables[0].embedding_bag_configs()
    }
    memory: dict[str, Any] = {"hbm_cap": HBM_BYTES} if kind == "cuda" else {}
    with _quiet("torchrec.distributed.planner"):
        planner = EmbeddingShardingPlanner(
            topology=Topology(world_size=world.size, compute_device=kind, **memory), constraints=constraints
        )
        # Not `collective_plan`: where that fails on the first process, the others wait for it until they time out.
        plan = planner.plan(model, sharders)
    wrapped = DistributedModelParallel(
        model,
        device=world.device,
        plan=plan,
        sharders=sharders,
        init_data_parallel=False,
        data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False),
    )
    if world.size > 1:
        wrapped.init_data_parallel()
    for table, row, column, tensor in local_shards(wrapped.state_dict()):
        start = initial_rows(table, row, row + tensor.shape[0], column + tensor.shape[1], seed)
        tensor.data.copy_(start[:, column:])
    return wrapped


def load_tables(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set the tables, sharded or not, from whole ones, table -> [rows, d]."""
    for table, row, column, tensor in local_shards(model.state_dict()):
        tensor.data.copy_(weights[table][row : row + tensor.shape[0], column : column + tensor.shape[1]])


def snapshot(model: nn.Module) -> list[Tensor]:
    """A copy of what this process holds of the model, for `restore`."""
    return [tensor.detach().clone() for tensor in _own(model)]


def restore(model: nn.Module, copies: list[Tensor]) -> None:
    """Bring back a `snapshot`."""
    with torch.no_grad():
        for tensor, copy in zip(_own(model), copies, strict=True):
            tensor.copy_(copy)


class Averages:
    """Running averages of a model's weights over epochs; between `enter` and `leave` the model has them.

    Args:
        model: sharded; what this process holds of it is averaged.
        share: that the average so far keeps at each `enter`; 0: no averages, and nothing is copied.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        self._model, self._share = model, share
        self._mean: list[Tensor] = []
        self._now: list[Tensor] = []

    def enter(self) -> None:
        """Take the weights into the average, and put the average in their place."""
        if not self._share:
            return
        self._now = snapshot(self._model)
        if not self._mean:
            self._mean = [tensor.clone() for tensor in self._now]
        for mean, now in zip(self._mean, self._now, strict=True):
            if now.is_floating_point():
                mean.lerp_(now, 1 - self._share)
            else:
                mean.copy_(now)
        restore(self._model, self._mean)

    def leave(self) -> None:
        """Put the weights back, to be trained on."""
        if self._share:
            restore(self._model, self._now)


def whole_tables(model: nn.Module, world: World) -> dict[str, Tensor]:
    """The tables in one piece, table -> float32 [rows, d] on the CPU of the first process; empty elsewhere."""
    own = [(t, r, c, tensor.detach().cpu().numpy()) for t, r, c, tensor in local_shards(model.state_dict())]
    parts: list[Any] = [own]
    if world.size > 1:
        parts = [None] * world.size
        dist.gather_object(own, parts if world.first else None, dst=0)
    if not world.first:
        return {}
    found = [piece for part in parts for piece in part]
    sizes: dict[str, tuple[int, int]] = {}
    for table, row, column, values in found:
        rows, columns = sizes.get(table, (0, 0))
        sizes[table] = max(rows, row + values.shape[0]), max(columns, column + values.shape[1])
    tables = {table: torch.empty(size) for table, size in sizes.items()}
    for table, row, column, values in found:
        tables[table][row : row + values.shape[0], column : column + values.shape[1]] = torch.from_numpy(values)
    return tables


def average_buffers(model: nn.Module, world: World) -> None:
    """Make the running statistics of all processes their mean."""
    if world.size == 1:
        return
    for name, buffer in model.named_buffers():
        if ".head." in f".{name}" and buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer.div_(world.size)


def _own(model: nn.Module) -> list[Tensor]:
    tables = [tensor for _, _, _, tensor in local_shards(model.state_dict())]
    head = unwrap(model).head
    return [*tables, *(parameter.data for parameter in head.parameters()), *head.buffers()]


def unwrap(model: nn.Module) -> Any:
    """The module inside the data-parallel and model-parallel wrappers."""
    inner: Any = model
    while hasattr(inner, "module"):
        inner = inner.module
    return inner


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Errors only: the planner warns of dry runs and of hardware that it is told about here."""
    log = logging.getLogger(name)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _world(device: str) -> World:
    rank = dist.get_rank()
    if device.startswith("cuda"):
        found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.device(device).index or 0)))
        torch.cuda.set_device(found)
    else:
        found = torch.device("cpu")
    return World(rank, dist.get_world_size(), found)


def _join(backend: str) -> None:
    """The group of `torchrun`, under keys of its own: those of an earlier group still lie in the launcher's store."""
    store, rank, size = next(rendezvous("env://"))
    own = dist.PrefixStore(f"llm4msr/{next(_GROUPS)}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=own, rank=rank, world_size=size)


def _single(backend: str) -> None:
    """A group of one, met through a file: no port, no name resolution."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("GLOO_SOCKET_IFNAME")
        os.environ["GLOO_SOCKET_IFNAME"] = before or _loopback()
        try:
            meeting = f"file://{Path(folder) / 'store'}"
            dist.init_process_group(backend, init_method=meeting, rank=0, world_size=1)
        finally:
            if before is None:
                del os.environ["GLOO_SOCKET_IFNAME"]


def _loopback() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name.startswith("lo")), names[0])
