"""A catalogue as a ranker reads it: what depends on the items alone is computed once, and a request computes the rest.

x of a candidate = what it shares with all candidates of the request, and the item's own columns (embeddings, numbers, text).
N items, B candidates, D wide x of which m columns are the items'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from models.affine import AffineRows, Frame
from models.data import RequestBatch
from models.encoded import EncodedItems
from models.encoder import Encoder
from models.fused import FusedTables
from models.meta import Generated, Neutral
from models.ranker import Head, Parts

# Rows that are scored at a time: what a layer makes of them stays in the processor's cache.
BLOCK = 4096


@dataclass(frozen=True)
class PreparedItems:
    """Float32, N rows.

    Attributes:
        own: the items' own columns of x, [N, m].
        base: the items' share of what the numbers say alone, [N]; None: the model has no numbers.
        sums: of the second order's fields that are the items': the sum and the sum of squares, [N, 2 d]; None: it has none.
    """

    own: Tensor
    base: Tensor | None
    sums: Tensor | None

    def __len__(self) -> int:
        return len(self.own)


@dataclass(frozen=True)
class _Scenario:
    """What a scenario decides alone: its embedding [1, d], its level and its calibration."""

    vector: np.ndarray | None
    embedded: Tensor
    level: Generated | None
    slope: Tensor
    shift: Tensor


class Request:
    """One user in one scenario: all that its candidates have in common.

    Args:
        scorer: of the model.
        scenario: of all candidates.
        user: the one user's side of a request; its candidates are not read.

    Raises:
        DataError: a scenario the model does not know.
    """

    def __init__(self, scorer: ItemScorer, scenario: str, user: RequestBatch) -> None:
        head, tables = scorer.head, scorer.tables
        side = scorer.encoder.user_side(scenario, user)
        self._head, self._number = head, side.scenario
        self._scenario = scorer.scenario(side.scenario, side.scenario_vector)
        embedded = tables.users(side.ids, side.history, side.lengths)
        neutral = [cast(Neutral, one).vector[None] for one in head.user_neutral]
        users = [own if v is None else v for own, v in zip(neutral, side.vectors, strict=True)]
        vectors = users[0] if len(users) == 1 else torch.cat(users, dim=1) if users else None
        parts = [embedded, scorer.gaps[0], self._scenario.embedded, side.dense, scorer.gaps[1]]
        if head.user_features is not None:
            parts.append(head.user_features(vectors))
        layer = head.user_layer if head.user_code is not None else None
        generated = () if layer is None else layer.generate(cast(torch.nn.Module, head.user_code)(users))
        self._frame = Frame(torch.cat(parts, dim=1), scorer.columns, layer, generated)
        self._base = None if scorer.user_base is None else torch.addmv(scorer.bias, side.dense, scorer.user_base)
        self._sums: tuple[Tensor, Tensor] | None = None
        if (pairs := head.second_order) is not None:
            fields = [] if vectors is None else [pairs.project[-1](vectors)]
            self._sums = pairs.sums(torch.cat((embedded, self._scenario.embedded), dim=1), *fields)

    def score(self, own: Tensor, base: Tensor | None, sums: Tensor | None) -> Parts:
        """Score at most BLOCK items by their rows of `PreparedItems`."""
        pairs = None
        if self._sums is not None and sums is not None and self._head.second_order is not None:
            total, squares = sums.chunk(2, dim=1)
            pairs = self._head.second_order.read(total + self._sums[0], squares + self._sums[1])
        whole = None if base is None or self._base is None else base + self._base
        rows, all_same = cast(Tensor, AffineRows(self._frame, own)), torch.full((len(own),), self._number)
        # There is one scenario, so that nobody asks which row reads which.
        parts = self._head.logits(rows, all_same, pairs, whole, self._scenario.level, all_same)
        return Parts(
            torch.addcmul(self._scenario.shift, parts.backbone, self._scenario.slope),
            parts.scenario * self._scenario.slope,
        )


class ItemScorer:
    """Scores items for one user in one scenario. Safe to call from several threads.

    Args:
        encoder: the feature code.
        tables: the embedding tables.
        head: the rest, in evaluation mode.
    """

    def __init__(self, encoder: Encoder, tables: FusedTables, head: Head) -> None:
        self.encoder, self.tables, self.head = encoder, tables, head
        layout, dim = encoder.layout, tables.dim
        users, items = len(layout.user) + layout.history, len(layout.item)
        dense, numbers = len(layout.features) * dim, len(encoder.user_dense)
        after = dense + layout.dense + (2 * dim if layout.item_dim else 0)
        self.own = (slice(users * dim, (users + items) * dim), slice(dense + numbers, after))
        self.gaps = [torch.zeros(1, part.stop - part.start) for part in self.own]
        self.columns = torch.cat([torch.arange(part.start, part.stop) for part in self.own])
        base, self.user_base, self.item_base = head.base, None, None
        if base is not None:
            self.bias, self.user_base, self.item_base = base.bias, base.weight[0, :numbers], base.weight[0, numbers:]
        self._scenarios: dict[int, _Scenario] = {}

    def prepare(self, items: EncodedItems) -> PreparedItems:
        """Compute what depends on the items alone."""
        head, count = self.head, items.ids.shape[1]
        own = torch.empty(count, sum(gap.shape[1] for gap in self.gaps))
        base = None if head.base is None else torch.empty(count)
        sums = None if head.second_order is None else torch.empty(count, 2 * self.tables.dim)
        with torch.inference_mode():
            for block in _blocks(count):
                embedded, dense = self.tables.items(items.ids[:, block]), torch.from_numpy(items.dense[block])
                parts = [embedded, dense]
                vectors, known = items.vectors[block], items.known[block]
                if head.item_text is not None:
                    parts.append(head.text(vectors, known))
                torch.cat(parts, dim=1, out=own[block])
                if base is not None and self.item_base is not None:
                    base[block] = dense @ self.item_base
                if sums is not None and (pairs := head.second_order) is not None:
                    neutral = head.item_neutral
                    texts = [] if neutral is None else [pairs.project[0](neutral(vectors, known))]
                    torch.cat(pairs.sums(embedded, *texts), dim=1, out=sums[block])
        return PreparedItems(own, base, sums)

    def scenario(self, number: int, vector: np.ndarray | None) -> _Scenario:
        """What a scenario decides alone; made again where its vector is another one."""
        held = self._scenarios.get(number)
        if held is None or held.vector is not vector:
            head, level = self.head, None
            if head.scenario_code is not None:
                known = head.scenario_neutral.vector if vector is None else torch.from_numpy(vector)
                level = head.scenario_level(known[None])
            embedded = self.tables.scenario(number)
            held = _Scenario(vector, embedded, level, head.slope[number].clone(), head.shift[number].clone())
            self._scenarios[number] = held
        return held

    def score(self, items: PreparedItems, rows: np.ndarray, scenario: str, user: RequestBatch) -> Parts:
        """Score some items.

        Args:
            items: of `prepare`.
            rows: which of them, int64 [B].
            scenario: of all rows.
            user: the one user's side of a request; its candidates are not read.

        Raises:
            DataError: a scenario the model does not know.
        """
        with torch.inference_mode():
            request, chosen = Request(self, scenario, user), torch.from_numpy(rows)
            straight = len(rows) == len(items) and bool((np.diff(rows) == 1).all())
            found = []
            for block in _blocks(len(rows)):
                place = block if straight else chosen[block]
                own, base, sums = (_rows(part, place) for part in (items.own, items.base, items.sums))
                found.append(request.score(cast(Tensor, own), base, sums))
            if not found:
                return Parts(torch.zeros(0), torch.zeros(0))
            return found[0] if len(found) == 1 else Parts(*map(torch.cat, zip(*found, strict=True)))


def _rows(part: Tensor | None, place: slice | Tensor) -> Tensor | None:
    if part is None or isinstance(place, slice):
        return None if part is None else part[place]
    return part.index_select(0, place)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))
