"""Feature code, the one module of it: training and serving turn raw values into numbers here and nowhere else.

Fitted on training rows only. Ids become rows of embedding tables (0: unknown), counts are taken log(1 + x), a missing
count is 0, a missing rate the prior, a missing declared number the training mean; then all are standardised.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from core.errors import DataError
from models.data import ITEM_STATS, USER_STATS, RequestBatch, TrainingData, log_order, log_starts, row_numbers
from models.inputs import ITEM_ID, USER_ID, Bags, Layout, Side
from models.vocabulary import Vocabulary


@dataclass(frozen=True)
class DenseFeature:
    """How one number is filled in and scaled: (f(x or fill) - mean) / scale, f = log1p for counts."""

    name: str
    log: bool
    fill: float
    mean: float
    scale: float

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Float64 [N], NaN where missing -> float64 [N]."""
        filled = np.where(np.isnan(values), self.fill, values)
        return ((np.log1p(np.maximum(filled, 0.0)) if self.log else filled) - self.mean) / self.scale


@dataclass
class EncodedRows:
    """A whole training table as arrays: a batch is an index away. N rows, K distinct user-vector combinations."""

    user: np.ndarray  # int64 [Fu, N]
    item: np.ndarray  # int64 [Fi, N]
    scenario: np.ndarray  # int16 [N]: small, so that a batch is sorted by radix
    log: np.ndarray  # int64 [M] item rows of all users' positives
    begin: np.ndarray  # int64 [N] into log
    end: np.ndarray  # int64 [N]
    dense: np.ndarray  # float32 [N, D]
    user_key: np.ndarray  # int64 [N] into the K combinations
    user_rows: dict[str, np.ndarray]  # kind -> int64 [K], -1: unknown
    scenario_row: np.ndarray  # int64 [N], -1: unknown
    item_row: np.ndarray  # int64 [N], -1: unknown
    label: np.ndarray  # float32 [N]
    weight: np.ndarray  # float32 [N]
    vectors: Mapping[str, np.ndarray]

    def bags(self, index: np.ndarray) -> Bags:
        """Embedding ids of some rows."""
        begin = self.begin[index]
        lengths = self.end[index] - begin
        total = np.cumsum(lengths)
        place = np.repeat(begin - total + lengths, lengths) + np.arange(total[-1] if len(total) else 0)
        scenario = self.scenario[index].astype(np.int64)
        return Bags(
            np.take(self.user, index, axis=1), np.take(self.item, index, axis=1), scenario, self.log[place], lengths
        )

    def side(self, index: np.ndarray) -> Side:
        """Everything else of some rows; each distinct user vector and scenario vector once."""
        keys, user_index = distinct(self.user_key[index])
        users = [gather(self.vectors[kind], rows[keys]) for kind, rows in self.user_rows.items()]
        scenario_rows, scenario_index = distinct(self.scenario_row[index])
        scenarios = gather(self.vectors.get("scenario"), scenario_rows)
        items = gather(self.vectors.get("item_text"), self.item_row[index])
        return Side(
            torch.from_numpy(np.take(self.dense, index, axis=0)),
            torch.from_numpy(self.scenario[index].astype(np.int64)),
            torch.from_numpy(user_index),
            tuple(vectors for vectors, _ in users),
            tuple(known for _, known in users),
            torch.from_numpy(scenario_index),
            *scenarios,
            *items,
        )


@dataclass(frozen=True)
class EncodedItems:
    """A catalogue encoded once, of which each request scores some rows. N items."""

    ids: np.ndarray  # int64 [Fi, N]
    dense: np.ndarray  # float32 [N, Di]
    vectors: torch.Tensor  # [N, d], 0 where unknown
    known: torch.Tensor  # [N, 1], 1 or 0


class Encoder:
    """Raw values to numbers.

    Args:
        layout: the features and their order.
        vocabularies: one-hot feature -> its keys.
        user_dense: the user's numbers, in order.
        item_dense: the item's numbers, in order.
        history_length: newest positives in the history bag.
    """

    def __init__(
        self,
        layout: Layout,
        vocabularies: Mapping[str, Vocabulary],
        user_dense: Sequence[DenseFeature],
        item_dense: Sequence[DenseFeature],
        history_length: int,
    ) -> None:
        self.layout, self.vocabularies = layout, dict(vocabularies)
        self.user_dense, self.item_dense = list(user_dense), list(item_dense)
        self.history_length = history_length
        self._scenario = {name: number for number, name in enumerate(layout.scenarios)}
        self._user_scales, self._item_scales = _Scales(self.user_dense), _Scales(self.item_dense)

    @classmethod
    def fit(cls, data: TrainingData, *, user_vectors: Collection[str], scenario_vectors: bool) -> Encoder:
        """Fit on the rows of split `train`.

        Args:
            data: the dataset.
            user_vectors: kinds of user vectors the model reads, e.g. `user_pooled`.
            scenario_vectors: whether it reads the scenarios'.

        Raises:
            DataError: there is no training row.
        """
        spec = data.spec
        train = data.rows.take(pa.array(data.indices("train")))
        if not train.num_rows:
            raise DataError("the training table has no row of split 'train'; widen the window or lower split.warmup")
        user = (USER_ID, *spec["user_categorical"])
        item = (ITEM_ID, *spec["item_categorical"])
        vocabularies = {name: Vocabulary.fit(train.column(name)) for name in (*user, *item)}
        user_dense = [_fit_dense(train, name, spec) for name in (*spec["user_dense"], *USER_STATS)]
        item_dense = [_fit_dense(train, name, spec) for name in (*spec["item_dense"], *ITEM_STATS)]
        dims = {kind: int(body["dim"]) for kind, body in spec["vectors"].items()}
        layout = Layout(
            user=user,
            item=item,
            rows={name: vocabulary.size for name, vocabulary in vocabularies.items()},
            history=spec["history_length"] > 0 and data.user_log.num_rows > 0,
            dense=len(user_dense) + len(item_dense),
            scenarios=tuple(spec["scenarios"]),
            user_vectors={kind: dim for kind, dim in dims.items() if kind in user_vectors},
            scenario_dim=dims.get("scenario", 0) if scenario_vectors else 0,
            item_dim=dims.get("item_text", 0),
        )
        return cls(layout, vocabularies, user_dense, item_dense, int(spec["history_length"]))

    def encode(self, data: TrainingData) -> EncodedRows:
        """Encode a whole training table once.

        Raises:
            DataError: a row's scenario is not among those of the dataset.
        """
        rows, layout = data.rows, self.layout
        begin, end, log = self._histories(data)
        user_key, user_rows = _combinations({kind: row_numbers(rows, kind) for kind in layout.user_vectors}, len(begin))
        none = np.full(len(begin), -1, np.int64)
        return EncodedRows(
            user=np.stack([self.vocabularies[name].encode(rows.column(name)) for name in layout.user]),
            item=np.stack([self.vocabularies[name].encode(rows.column(name)) for name in layout.item]),
            scenario=self._scenarios(rows.column("scenario")),
            log=log,
            begin=begin,
            end=end,
            dense=self._dense(rows, [*self.user_dense, *self.item_dense]),
            user_key=user_key,
            user_rows=user_rows,
            scenario_row=row_numbers(rows, "scenario") if layout.scenario_dim else none,
            item_row=row_numbers(rows, "item_text") if layout.item_dim else none,
            label=rows.column("label").to_numpy().astype(np.float32),
            weight=pc.fill_null(rows.column("weight"), 1.0).to_numpy().astype(np.float32),
            vectors=data.vectors,
        )

    def request_bags(self, batch: RequestBatch) -> tuple[Bags, np.ndarray]:
        """Embedding ids of a request, and its scenarios [B]; the user's ids and history are [U], not [B].

        Raises:
            DataError: a scenario the model does not know.
        """
        layout = self.layout
        try:
            scenario = np.fromiter(map(self._scenario.__getitem__, batch.scenario), np.int64, len(batch.scenario))
        except KeyError as error:
            raise DataError(f"scenario {error} is unknown; the model has {', '.join(layout.scenarios)}") from error
        user = np.stack([self.vocabularies[name].rows(batch.user[name]) for name in layout.user])
        item = np.stack([self.vocabularies[name].rows(batch.item[name]) for name in layout.item])
        return Bags(user, item, scenario, *self._request_history(batch)), scenario

    def request_side(self, batch: RequestBatch, scenario: np.ndarray) -> Side:
        """Everything beside the ids of a request."""
        layout = self.layout
        user_dense, item_dense = self._user_scales.encode(batch.user), self._item_scales.encode(batch.item)
        dense = np.concatenate((user_dense[batch.user_index], item_dense), axis=1)
        count, users = len(scenario), len(batch.user[USER_ID])
        vectors = [_known(batch.user_vectors.get(kind), users, d, kind) for kind, d in layout.user_vectors.items()]
        item_vectors = _known(batch.item_text if layout.item_dim else None, count, layout.item_dim, "item_text")
        scenario_index, scenarios = self._request_scenarios(batch)
        return Side(
            torch.from_numpy(dense),
            torch.from_numpy(scenario),
            torch.from_numpy(np.ascontiguousarray(batch.user_index, np.int64)),
            tuple(v for v, _ in vectors),
            tuple(k for _, k in vectors),
            torch.from_numpy(scenario_index),
            *scenarios,
            *item_vectors,
        )

    def encode_items(self, item: Mapping[str, Any], text: np.ndarray | None) -> EncodedItems:
        """Encode candidates ahead of the requests that rank them.

        Args:
            item: as `RequestBatch.item`, each [N].
            text: as `RequestBatch.item_text`; None where all are unknown.

        Raises:
            DataError: the vectors have not the width the model reads.
        """
        layout = self.layout
        ids = np.stack([self.vocabularies[name].rows(item[name]) for name in layout.item])
        count = ids.shape[1]
        vectors, known = _known(text if layout.item_dim else None, count, layout.item_dim, "item_text")
        return EncodedItems(ids, self._item_scales.encode(item), vectors, known)

    def encode_request(
        self, items: EncodedItems, rows: np.ndarray, scenario: str, user: RequestBatch
    ) -> tuple[Bags, Side]:
        """Some encoded items, all for one user in one scenario: `request_bags` and `request_side` in one.

        Args:
            items: of `encode_items`.
            rows: which of them, int64 [B].
            scenario: of all rows.
            user: the one user's side of a request; its candidates are not read.

        Raises:
            DataError: a scenario the model does not know.
        """
        layout, count = self.layout, len(rows)
        if scenario not in self._scenario:
            raise DataError(f"scenario {scenario!r} is unknown; the model has {', '.join(layout.scenarios)}")
        number = self._scenario[scenario]
        bags = Bags(
            np.stack([self.vocabularies[name].rows(user.user[name]) for name in layout.user]),
            np.take(items.ids, rows, axis=1),
            np.full(count, number, np.int64),
            *self._request_history(user),
        )
        dense = np.empty((count, layout.dense), np.float32)
        width = len(self.user_dense)
        dense[:, :width] = self._user_scales.encode(user.user)
        np.take(items.dense, rows, axis=0, out=dense[:, width:])
        vectors = [_known(user.user_vectors.get(kind), 1, d, kind) for kind, d in layout.user_vectors.items()]
        known = user.scenario_vectors.get(scenario) if layout.scenario_dim else None
        chosen, same = torch.from_numpy(rows), torch.zeros(count, dtype=torch.int64)
        side = Side(
            torch.from_numpy(dense),
            torch.from_numpy(bags.scenario),
            same,
            tuple(v for v, _ in vectors),
            tuple(k for _, k in vectors),
            same,
            *_known(None if known is None else known[None], 1, layout.scenario_dim, "scenario"),
            items.vectors.index_select(0, chosen),
            items.known.index_select(0, chosen),
        )
        return bags, side

    def as_json(self) -> dict[str, Any]:
        """All but the vocabularies' keys."""
        return {
            "layout": self.layout.as_json(),
            "user_dense": [feature.__dict__ for feature in self.user_dense],
            "item_dense": [feature.__dict__ for feature in self.item_dense],
            "history_length": self.history_length,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any], vocabularies: Mapping[str, Vocabulary]) -> Encoder:
        """The inverse of `as_json`."""
        dense = {side: [DenseFeature(**feature) for feature in body[side]] for side in ("user_dense", "item_dense")}
        layout = Layout.from_json(body["layout"])
        return cls(layout, vocabularies, dense["user_dense"], dense["item_dense"], body["history_length"])

    def _histories(self, data: TrainingData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not self.layout.history:
            nothing = np.zeros(data.rows.num_rows, np.int64)
            return nothing, nothing, np.zeros(0, np.int64)
        log = log_order(data.user_log)
        starts = log_starts(log, data.rows.column("user_id"))
        ends = np.where(starts >= 0, pc.fill_null(data.rows.column("history_end"), 0).to_numpy(), 0)
        base = np.maximum(starts, 0)
        begin = base + np.maximum(0, ends - self.history_length)
        return begin, base + ends, self.vocabularies[ITEM_ID].encode(log.column("item_id"))

    def _scenarios(self, column: pa.ChunkedArray) -> np.ndarray:
        found = pc.index_in(column.combine_chunks(), value_set=pa.array(self.layout.scenarios, pa.string()))
        if found.null_count:
            row = found.is_null().to_pylist().index(True)
            raise DataError(f"scenario {column[row]} is not in spec.json", row=row, column="scenario")
        return found.to_numpy().astype(np.int16)

    def _dense(self, rows: pa.Table, features: Sequence[DenseFeature]) -> np.ndarray:
        columns = [feature.encode(_floats(rows.column(feature.name))) for feature in features]
        return np.stack(columns, axis=1).astype(np.float32)

    def _request_history(self, batch: RequestBatch) -> tuple[np.ndarray, np.ndarray]:
        """Item rows of all users' histories, and how many are each user's [U]."""
        bags = [items[-self.history_length :] for items in batch.history] if self.layout.history else []
        flat = [item for items in bags for item in items]
        lengths = np.fromiter((len(items) for items in bags), np.int64, len(bags))
        return self.vocabularies[ITEM_ID].rows(flat), lengths

    def _request_scenarios(self, batch: RequestBatch) -> tuple[np.ndarray, tuple[torch.Tensor, torch.Tensor]]:
        names = batch.scenario_key if batch.scenario_key is not None else batch.scenario
        place = {name: number for number, name in enumerate(dict.fromkeys(names))}
        index = np.fromiter(map(place.__getitem__, names), np.int64, len(names))
        dim = self.layout.scenario_dim
        vectors = np.full((len(place), dim), np.nan, np.float32)
        for name, number in place.items() if dim else ():
            if (vector := batch.scenario_vectors.get(name)) is not None:
                vectors[number] = vector
        return index, _known(vectors, len(place), dim, "scenario")


def distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values in ascending order and where each key is among them, like `np.unique`, in linear time.

    Args:
        keys: int64 [B], each -1 or more, and small enough to address an array.
    """
    size = int(keys.max(initial=-1)) + 2
    if size > 64 * len(keys):
        return np.unique(keys, return_inverse=True)
    seen = np.zeros(size, bool)
    seen[keys + 1] = True
    found = np.flatnonzero(seen)
    place = np.empty(size, np.int64)
    place[found] = np.arange(len(found))
    return found - 1, place[keys + 1]


def gather(matrix: np.ndarray | None, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a (memory-mapped) matrix, float32 [n, d], and which are known, 1 or 0 [n, 1]; row -1 is unknown."""
    known = torch.from_numpy((rows >= 0).astype(np.float32)[:, None])
    if matrix is None or not len(matrix):
        return torch.zeros(len(rows), 0 if matrix is None else matrix.shape[1]), known
    return torch.from_numpy(np.take(matrix, np.maximum(rows, 0), axis=0)), known


def _known(vectors: np.ndarray | None, count: int, dim: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors with NaN rows -> vectors without NaN, and which are known."""
    if vectors is None or dim == 0:
        return torch.zeros(count, dim), torch.zeros(count, 1)
    if vectors.shape != (count, dim):
        raise DataError(f"{kind} vectors are {vectors.shape}, the model reads {(count, dim)}; take its own version")
    found = torch.from_numpy(np.require(vectors, np.float32, ["C", "W"]))
    known = ~found.isnan().any(dim=1, keepdim=True)
    if not bool(known.any()):
        return torch.zeros(count, dim), torch.zeros(count, 1)
    return torch.where(known, found, 0.0), known.float()


def _combinations(rows: Mapping[str, np.ndarray], count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows of several matrices -> one key per row, and per kind the matrix row of each key."""
    keys = np.zeros(count, np.int64)
    for numbers in rows.values():
        mixed = keys * (int(numbers.max(initial=-1)) + 2) + numbers + 1
        _, keys = np.unique(mixed, return_inverse=True)
    first = np.zeros(int(keys.max(initial=-1)) + 1, np.int64)
    first[keys] = np.arange(count)
    return keys.astype(np.int64), {kind: numbers[first] for kind, numbers in rows.items()}


def _fit_dense(rows: pa.Table, name: str, spec: Mapping[str, Any]) -> DenseFeature:
    values = _floats(rows.column(name))
    seen = values[~np.isnan(values)]
    log = name.endswith(("_rows", "_positives")) and name in (*USER_STATS, *ITEM_STATS)
    if log:
        fill = 0.0
    elif name in (*USER_STATS, *ITEM_STATS):
        fill = float(spec["prior_rate"])
    else:
        fill = float(seen.mean()) if len(seen) else 0.0
    plain = DenseFeature(name, log, fill, 0.0, 1.0).encode(values)
    scale = float(plain.std())
    return DenseFeature(name, log, fill, float(plain.mean()), scale if scale > 1e-9 else 1.0)


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return pc.cast(column, pa.float64()).to_numpy().astype(np.float64)


class _Scales:
    """`DenseFeature.encode` of several features at once: the same operations on each number."""

    def __init__(self, features: Sequence[DenseFeature]) -> None:
        self.names = [feature.name for feature in features]
        self.log = np.array([feature.log for feature in features], bool)
        self.fill, self.mean, self.scale = (
            np.array([getattr(feature, part) for feature in features], np.float64) for part in ("fill", "mean", "scale")
        )

    def encode(self, values: Mapping[str, Any]) -> np.ndarray:
        """Per feature [N], None or NaN where missing -> float32 [N, features]."""
        raw = np.stack([np.asarray(values[name], np.float64) for name in self.names], axis=1)
        filled = np.where(np.isnan(raw), self.fill, raw)
        logged = np.where(self.log, np.log1p(np.maximum(filled, 0.0)), filled)
        return ((logged - self.mean) / self.scale).astype(np.float32)
