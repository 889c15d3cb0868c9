"""Packed attention: texts lie one after the other in one row, and each attends to itself and to what all begin with.

There is no padding and no mask to build. On CUDA the kernel for sequences of unequal length is used; elsewhere each text is
computed by itself, which is exact and only there for tests. Shapes: T tokens of a pack, S of the shared beginning, N
texts, Hq query heads, Hk key heads, d their width.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

NAME = "llm4msr_packed"


@dataclass(frozen=True)
class Pack:
    """Where the texts of a row begin and end.

    Attributes:
        bounds: int32 [N + 1], the texts' own tokens.
        longest: of the texts' own tokens.
        ids: int64 [1, T].
        positions: int64 [1, T], counted from each text's beginning.
        causal: whether a token attends only to those before it.
        shared: tokens S that all texts begin with and that are not in `ids`.
        cache: their keys and values, per layer [1, Hk, S, d].
    """

    bounds: torch.Tensor
    longest: int
    ids: torch.Tensor
    positions: torch.Tensor
    causal: bool
    shared: int = 0
    cache: Any = None

    @property
    def lengths(self) -> torch.Tensor:
        """Own tokens of each text, int64 [N]."""
        return torch.diff(self.bounds).long()

    def with_shared(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the shared beginning before each text: [1, Hk, T, d] becomes [1, Hk, T + N S, d]."""
        if not self.shared:
            return keys, values
        kept = self.cache.layers[layer]
        order = self._order()
        return tuple(  # type: ignore[return-value]
            torch.cat([before, own], dim=2).index_select(2, order)
            for before, own in ((kept.keys, keys), (kept.values, values))
        )

    def key_bounds(self) -> torch.Tensor:
        """As `bounds`, of `with_shared`."""
        steps = torch.arange(len(self.bounds), dtype=self.bounds.dtype, device=self.bounds.device)
        return self.bounds + steps * self.shared

    def _order(self) -> torch.Tensor:
        """Positions in (shared, own) of every key."""
        device = self.bounds.device
        owner = torch.repeat_interleave(self.lengths + self.shared)
        place = torch.arange(len(owner), device=device) - self.key_bounds()[:-1].long()[owner]
        own = self.bounds[:-1].long()[owner] + place  # S + its own place, less the S of its place
        return torch.where(place < self.shared, place, own)


def pack(rows: Sequence[Sequence[int]], causal: bool, device: torch.device, shared: int = 0, cache: Any = None) -> Pack:
    """Lay the rows one after the other. Rows hold what comes after the shared beginning."""
    lengths = torch.tensor([len(row) for row in rows])
    bounds = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    ids = torch.tensor([token for row in rows for token in row])
    positions = torch.arange(len(ids)) - torch.repeat_interleave(bounds[:-1], lengths) + shared
    return Pack(
        bounds.to(device, torch.int32),
        int(lengths.max()),
        ids[None].to(device),
        positions[None].to(device),
        causal,
        shared,
        cache,
    )


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """Within it the model's attention reads a `pack` that is given to its forward pass."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: torch.Tensor | None,
    *,
    pack: Pack,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed row, in the form that transformers asks for.

    Args:
        module: the attention layer.
        query: [1, Hq, T, d].
        key: [1, Hk, T, d].
        value: [1, Hk, T, d].
        pack: where the texts are.
        scaling: of the products; None: 1 / sqrt(d).
        sliding_window: must be None or longer than any text.
        softcap: must be None.
        position_bias: must be None.

    Returns:
        [1, T, Hq, d], and no weights.

    Raises:
        ValueError: the model's attention is of another kind.
    """
    if softcap is not None or position_bias is not None or (sliding_window or 2**31) < pack.shared + pack.longest:
        raise ValueError("packed attention knows neither soft caps nor biases nor windows shorter than a text")
    key, value = pack.with_shared(getattr(module, "layer_idx", 0) or 0, key, value)
    run = _kernel if query.is_cuda else _loop
    return run(query[0], key[0], value[0], pack, scaling)[None], None


def _kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pack: Pack, scaling: float | None) -> torch.Tensor:
    """The variable-length kernel; it lines a text's last query up with its last key."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (one.transpose(0, 1).contiguous() for one in (q, k, v))  # [T, H, d]
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0) if pack.causal else (-1, -1)}
    if (groups := q.shape[1] // k.shape[1]) > 1:
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:  # torch 2.11 lacks it
            options["enable_gqa"] = True
        else:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    most = pack.longest, pack.longest + pack.shared
    found = varlen_attn(q, k, v, pack.bounds, pack.key_bounds(), *most, **options)
    assert isinstance(found, torch.Tensor)
    return found


def _loop(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pack: Pack, scaling: float | None) -> torch.Tensor:
    parts = []
    bounds, key_bounds = pack.bounds.tolist(), pack.key_bounds().tolist()
    for i in range(len(bounds) - 1):
        own, all_ = slice(bounds[i], bounds[i + 1]), slice(key_bounds[i], key_bounds[i + 1])
        queries = torch.arange(own.stop - own.start, device=q.device)[:, None] + pack.shared
        mask = queries >= torch.arange(all_.stop - all_.start, device=q.device)[None, :] if pack.causal else None
        one = torch.nn.functional.scaled_dot_product_attention(
            q[None, :, own], k[None, :, all_], v[None, :, all_], attn_mask=mask, scale=scaling, enable_gqa=True
        )
        parts.append(one[0].transpose(0, 1))  # [T_i, Hq, d]
    return torch.cat(parts)
