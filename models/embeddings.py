"""Embedding tables in training: a TorchRec `EmbeddingBagCollection`, which `DistributedModelParallel` may replace by its
sharded twin. Serving has the same tables in `models.fused`, with the same output, [B, F * d] in the order of `Layout.features`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType

from models.fused import table_rows
from models.inputs import HISTORY, ITEM_ID, Bags, Layout, part_name

INIT_BLOCK = 65_536


def table_configs(layout: Layout, dim: int) -> list[EmbeddingBagConfig]:
    """One mean-pooled table per one-hot feature; the history bag reads the item table."""
    features = {part_name(name): [name] for name in layout.features}
    features[ITEM_ID] = [HISTORY, ITEM_ID] if layout.history else [ITEM_ID]
    return [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=rows,
            embedding_dim=dim,
            feature_names=features[name],
            pooling=PoolingType.MEAN,
        )
        for name, rows in table_rows(layout).items()
    ]


def initial_rows(table: str, start: int, stop: int, dim: int, seed: int) -> Tensor:
    """Starting weights of rows [start, stop) of a table: the same whatever the sharding.

    Returns:
        Normal with standard deviation .01 from a generator per table and block of rows, float32 [stop - start, dim].
    """
    blocks = []
    for block in range(start // INIT_BLOCK, (max(stop, start + 1) - 1) // INIT_BLOCK + 1):
        digest = hashlib.sha256(f"{seed}/{table}/{block}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        blocks.append(torch.randn(INIT_BLOCK, dim, generator=generator).mul_(0.01))
    offset = start // INIT_BLOCK * INIT_BLOCK
    return torch.cat(blocks)[start - offset : stop - offset]


class Tables(nn.Module):
    """TorchRec backend.

    Args:
        layout: the features.
        dim: embedding width, a multiple of 4.
        device: `meta` for a module that is about to be sharded.
    """

    def __init__(self, layout: Layout, dim: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.features = layout.features
        self.ebc: nn.Module = EmbeddingBagCollection(tables=table_configs(layout, dim), device=device)

    def forward(self, bags: KeyedJaggedTensor) -> Tensor:
        """Look up a batch.

        Args:
            bags: keys as `Layout.features`.

        Returns:
            [B, F * d].
        """
        found = self.ebc(bags)
        if found.keys() == self.features:
            return found.values()
        pieces = found.to_dict()  # A sharded collection groups its features by shard.
        return torch.cat([pieces[name] for name in self.features], dim=1)


def keyed_jagged(layout: Layout, bags: Bags, device: torch.device) -> KeyedJaggedTensor:
    """The TorchRec form of a batch; lengths of one-hot features are ones, nothing is recomputed from them."""
    count = bags.user.shape[1]
    users, items = len(layout.user), len(layout.item)
    if layout.history:
        values = np.concatenate((bags.user.reshape(-1), bags.history, bags.item.reshape(-1), bags.scenario))
        lengths = np.ones(len(layout.features) * count, np.int64)
        lengths[users * count : (users + 1) * count] = bags.lengths
        per_key = [*[count] * users, len(bags.history), *[count] * (items + 1)]
    else:
        values = np.concatenate((bags.user.reshape(-1), bags.item.reshape(-1), bags.scenario))
        lengths = np.ones(len(layout.features) * count, np.int64)
        per_key = [count] * (users + items + 1)
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return KeyedJaggedTensor(
        keys=layout.features,
        values=torch.from_numpy(values).to(device, non_blocking=True),
        lengths=torch.from_numpy(lengths).to(device, non_blocking=True),
        offsets=torch.from_numpy(offsets).to(device, non_blocking=True),
        stride=count,
        length_per_key=per_key,
        offset_per_key=[0, *np.cumsum(per_key).tolist()],
    )


def local_shards(state: Mapping[str, Any]) -> Iterator[tuple[str, int, int, Tensor]]:
    """The parts of embedding tables that this process holds.

    Args:
        state: a state dict with plain, sharded (`ShardedTensor`) or distributed (`DTensor`) tables.

    Yields:
        (table, first row, first column, the shard's own memory [rows, columns]).
    """
    for name, value in state.items():
        if not name.endswith(".weight") or ".embedding_bags." not in name:
            continue
        table = name.split(".embedding_bags.")[1].removesuffix(".weight")
        if hasattr(value, "local_shards"):
            shards = value.local_shards()
            if shards and isinstance(shards[0], Tensor):  # DTensor's own wrapper
                offsets = value._local_tensor.local_offsets()
                yield from ((table, o[0], o[1], s) for s, o in zip(shards, offsets, strict=True))
            else:
                yield from ((table, *shard.metadata.shard_offsets, shard.tensor) for shard in shards)
        elif isinstance(value, Tensor):
            yield table, 0, 0, value
