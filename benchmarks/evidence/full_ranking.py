"""Full ranking: each test positive against every item of its scenario that its user never rated, exact.

A list is one user in one scenario, ranked once, as at the user's first test row there; its positives are the user's test
positives in the scenario. Each is ranked alone against the items of the scenario without any rating by the user in the whole
log, so positives of a list do not push each other down. Ties count by halves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.evidence.protocol import Prepared
from models import Bundle, TrainingData
from models.data import ITEM_STATS
from models.encoded import EncodedRows

CUT = 10
_ROWS = 16_384


@dataclass(frozen=True)
class Lists:
    """What is ranked. L lists, I items.

    Attributes:
        context: row of the table at which each list is ranked, int64 [L].
        candidates: items that each list's positives are held against, positions in `items`.
        positives: each list's test positives, positions in `items`.
        items: row of the table that shows each item, int64 [I].
    """

    context: np.ndarray
    candidates: list[np.ndarray]
    positives: list[np.ndarray]
    items: np.ndarray


def lists_of(data: TrainingData, split: str = "test") -> Lists:
    """The lists of a split.

    An item belongs to every scenario that any row of it was logged in.
    """
    rows = data.rows
    user, item, scenario = (_codes(rows[name]) for name in ("user_id", "item_id", "scenario"))
    chosen = pc.equal(rows["split"], split).to_numpy(zero_copy_only=False).astype(bool)
    positive = np.flatnonzero(chosen & (rows["label"].to_numpy() > 0))
    items = np.zeros(int(item.max()) + 1, np.int64)
    items[item] = np.arange(len(item))
    count = len(items)
    member = [np.unique(item[scenario == code]) for code in range(int(scenario.max()) + 1)]
    by_user = np.argsort(user, kind="stable")
    bounds = np.searchsorted(user[by_user], np.arange(int(user.max()) + 2))
    key = user * len(member) + scenario
    first = {}
    for row in np.flatnonzero(chosen)[::-1].tolist():  # the earliest row of a list comes last, and stays
        first[int(key[row])] = row
    order = positive[np.argsort(key[positive], kind="stable")]
    found: dict[str, list[Any]] = {"context": [], "candidates": [], "positives": []}
    for own in np.split(order, np.flatnonzero(np.diff(key[order])) + 1) if len(order) else []:
        who, where = int(user[own[0]]), int(scenario[own[0]])
        rated = np.zeros(count, bool)
        rated[item[by_user[bounds[who] : bounds[who + 1]]]] = True
        found["context"].append(first[int(key[own[0]])])
        found["candidates"].append(member[where][~rated[member[where]]])
        found["positives"].append(np.unique(item[own]))
    return Lists(np.array(found["context"], np.int64), found["candidates"], found["positives"], items)


def full_ranking(bundle: Bundle, data: TrainingData, prepared: Prepared, lists: Lists) -> dict[str, Any]:
    """Recall and NDCG at ten over all test positives.

    Returns:
        `recall_at_10` and `ndcg_at_10` (means over positives), `positives`, `lists`, `scores` (pairs that were scored) and
        `seconds`.
    """
    begin, scored = time.perf_counter(), 0
    rank = []
    for number, scores in scores_of_lists(bundle, data, prepared, lists):
        scored += len(scores)
        own = len(lists.positives[number])
        mine, others = scores[:own], np.sort(scores[own:])
        above = len(others) - np.searchsorted(others, mine, side="right")
        tied = np.searchsorted(others, mine, side="right") - np.searchsorted(others, mine, side="left")
        rank.append(1 + above + tied / 2)
    place = np.concatenate(rank) if rank else np.zeros(0)
    gain = np.where(place <= CUT, 1 / np.log2(1 + place), 0.0)
    return {
        "recall_at_10": float((place <= CUT).mean()) if len(place) else None,
        "ndcg_at_10": float(gain.mean()) if len(place) else None,
        "positives": len(place),
        "lists": len(rank),
        "scores": scored,
        "seconds": round(time.perf_counter() - begin, 1),
    }


def scores_of_lists(
    bundle: Bundle, data: TrainingData, prepared: Prepared, lists: Lists
) -> Iterator[tuple[int, np.ndarray]]:
    """Number of a list and the scores of its positives, then of its candidates; many lists are scored at once."""
    contexts = _encoded(bundle, data, lists.context)
    items = _encoded(bundle, data, lists.items)
    wanted = [np.concatenate(both) for both in zip(lists.positives, lists.candidates, strict=True)]
    sizes = np.array([len(one) for one in wanted])
    start = 0
    while start < len(wanted):
        stop = max(start + 1, int(np.searchsorted(np.cumsum(sizes[start:]), _ROWS, side="right")) + start)
        owner = np.repeat(np.arange(start, stop), sizes[start:stop])
        pairs = _paired(bundle, data, prepared, contexts, items, lists, owner, np.concatenate(wanted[start:stop]))
        found = bundle.score_rows(pairs, np.arange(len(owner))).probability
        yield from enumerate(np.split(found, np.cumsum(sizes[start:stop])[:-1]), start=start)
        start = stop


def _encoded(bundle: Bundle, data: TrainingData, rows: np.ndarray) -> EncodedRows:
    part = TrainingData(data.rows.take(pa.array(rows)), data.user_log, data.vectors, data.spec)
    return bundle.encoder.encode(part)


def _paired(
    bundle: Bundle,
    data: TrainingData,
    prepared: Prepared,
    contexts: EncodedRows,
    items: EncodedRows,
    lists: Lists,
    owner: np.ndarray,
    item: np.ndarray,
) -> EncodedRows:
    """Rows of which the user's side is that of a list's context, the item's that of an item, at the context's time."""
    encoder = bundle.encoder
    dense, width = contexts.dense[owner], len(encoder.user_dense)
    statistics = prepared.item_statistics(lists.context[owner], item) if _reads_statistics(data) else {}
    for place, feature in enumerate(encoder.item_dense, start=width):
        if feature.name in ITEM_STATS:
            values = statistics.get(feature.name, np.full(len(item), np.nan))
            dense[:, place] = feature.encode(values)
        else:
            dense[:, place] = items.dense[item, place]
    return EncodedRows(
        user=contexts.user[:, owner],
        item=items.item[:, item],
        scenario=contexts.scenario[owner],
        log=contexts.log,
        begin=contexts.begin[owner],
        end=contexts.end[owner],
        dense=dense,
        user_key=contexts.user_key[owner],
        user_rows=contexts.user_rows,
        scenario_row=contexts.scenario_row[owner],
        item_row=items.item_row[item],
        label=contexts.label[owner],
        weight=contexts.weight[owner],
        grade=contexts.grade[owner],
        vectors=contexts.vectors,
    )


def _reads_statistics(data: TrainingData) -> bool:
    return bool(data.rows["item_rate"].null_count < data.rows.num_rows)


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Each value's place among the distinct values in ascending order, int64 [n]."""
    coded = pc.dictionary_encode(column.combine_chunks())
    rank = np.empty(len(coded.dictionary), np.int64)
    rank[pc.sort_indices(coded.dictionary).to_numpy()] = np.arange(len(rank))
    return rank[coded.indices.to_numpy()]
