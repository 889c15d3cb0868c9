"""Feature code: training and serving turn raw values into numbers by `Encoder` and nowhere else.

Fitted on training rows only. Ids become rows of embedding tables (0: unknown), counts are taken log(1 + x), a missing
count is 0, a missing rate the prior, a missing declared number the training mean; then all are standardised.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from core.contracts.bundle_spec import DenseSpec, EncoderSpec, LayoutSpec
from core.errors import DataError
from core.tables import GRADE
from models.data import (
    ITEM_STATS,
    USER_STATS,
    RequestBatch,
    TrainingData,
    history_begin,
    log_order,
    log_starts,
    row_numbers,
)
from models.dense import DenseFeature, Scales, fit_dense, floats
from models.encoded import EncodedItems, EncodedRows, UserSide, fill_unknown, known_vector
from models.inputs import ITEM_ID, USER_ID, Bags, Layout, Side
from models.vocabulary import Vocabulary


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
        self._user_scales, self._item_scales = Scales(self.user_dense), Scales(self.item_dense)

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
        chosen = pa.array(data.indices("train"))
        if not len(chosen):
            raise DataError("the training table has no row of split 'train'; widen the window or lower split.warmup")
        user = (USER_ID, *spec.user_categorical)
        item = (ITEM_ID, *spec.item_categorical)

        def train(name: str) -> pa.ChunkedArray:
            return data.rows.column(name).take(chosen)

        vocabularies = {name: Vocabulary.fit(train(name)) for name in (*user, *item)}
        user_dense = [fit_dense(train(name), name, spec.prior_rate) for name in (*spec.user_dense, *USER_STATS)]
        item_dense = [fit_dense(train(name), name, spec.prior_rate) for name in (*spec.item_dense, *ITEM_STATS)]
        dims = {kind: found.dim for kind, found in spec.vectors.items()}
        layout = Layout(
            user=user,
            item=item,
            rows={name: vocabulary.size for name, vocabulary in vocabularies.items()},
            history=spec.history_length > 0 and data.user_log.num_rows > 0,
            dense=len(user_dense) + len(item_dense),
            scenarios=spec.scenarios,
            user_vectors={kind: dim for kind, dim in dims.items() if kind in user_vectors},
            scenario_dim=dims.get("scenario", 0) if scenario_vectors else 0,
            item_dim=dims.get("item_text", 0),
        )
        return cls(layout, vocabularies, user_dense, item_dense, spec.history_length)

    def encode(self, data: TrainingData) -> EncodedRows:
        """Encode a whole training table once.

        Raises:
            DataError: a row's scenario is not among those of the dataset.
        """
        rows, layout = data.rows, self.layout
        begin, end, log = self._histories(data)
        user_key, user_rows = _combinations({kind: row_numbers(rows, kind) for kind in layout.user_vectors}, len(begin))
        none = np.full(len(begin), -1, np.int32)
        return EncodedRows(
            user=np.stack([self.vocabularies[name].encode(rows.column(name)) for name in layout.user]),
            item=np.stack([self.vocabularies[name].encode(rows.column(name)) for name in layout.item]),
            scenario=self._scenarios(rows.column("scenario")),
            log=log,
            begin=begin,
            end=end,
            dense=self._dense(rows, [*self.user_dense, *self.item_dense]),
            user_key=_short(user_key),
            user_rows=user_rows,
            scenario_row=_short(row_numbers(rows, "scenario")) if layout.scenario_dim else none,
            item_row=_short(row_numbers(rows, "item_text")) if layout.item_dim else none,
            label=rows.column("label").to_numpy().astype(np.float32),
            weight=pc.fill_null(rows.column("weight"), 1.0).to_numpy().astype(np.float32),
            grade=_grades(rows),
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
        vectors = [
            fill_unknown(batch.user_vectors.get(kind), users, d, kind) for kind, d in layout.user_vectors.items()
        ]
        item_vectors = fill_unknown(batch.item_text if layout.item_dim else None, count, layout.item_dim, "item_text")
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
        vectors, known = fill_unknown(text if layout.item_dim else None, count, layout.item_dim, "item_text")
        return EncodedItems(ids, self._item_scales.encode(item), vectors, known)

    def user_side(self, scenario: str, user: RequestBatch) -> UserSide:
        """What one user's candidates in one scenario have in common: `request_bags` and `request_side` without items.

        Args:
            scenario: of all candidates.
            user: the one user's side of a request; its candidates are not read.

        Raises:
            DataError: a scenario the model does not know.
        """
        layout = self.layout
        if scenario not in self._scenario:
            raise DataError(f"scenario {scenario!r} is unknown; the model has {', '.join(layout.scenarios)}")
        own = user.scenario_vectors.get(scenario) if layout.scenario_dim else None
        if own is not None and own.shape != (layout.scenario_dim,):
            raise DataError(f"scenario vectors are {own.shape}, the model reads {layout.scenario_dim} numbers")
        history, lengths = self._request_history(user)
        return UserSide(
            np.stack([self.vocabularies[name].rows(user.user[name]) for name in layout.user]),
            history,
            lengths,
            torch.from_numpy(self._user_scales.encode(user.user)),
            [known_vector(user.user_vectors.get(kind), d, kind) for kind, d in layout.user_vectors.items()],
            self._scenario[scenario],
            None if own is None or np.isnan(own).any() else own,
        )

    def as_spec(self) -> EncoderSpec:
        """All but the vocabularies' keys."""
        return EncoderSpec(
            layout=LayoutSpec(**self.layout.__dict__),
            user_dense=tuple(DenseSpec(**feature.__dict__) for feature in self.user_dense),
            item_dense=tuple(DenseSpec(**feature.__dict__) for feature in self.item_dense),
            history_length=self.history_length,
        )

    @classmethod
    def from_spec(cls, spec: EncoderSpec, vocabularies: Mapping[str, Vocabulary]) -> Encoder:
        """The inverse of `as_spec`."""
        user, item = ([DenseFeature(**dict(one)) for one in side] for side in (spec.user_dense, spec.item_dense))
        return cls(Layout.from_spec(spec.layout), vocabularies, user, item, spec.history_length)

    def _histories(self, data: TrainingData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not self.layout.history:
            nothing = np.zeros(data.rows.num_rows, np.int32)
            return nothing, nothing, np.zeros(0, np.int32)
        log = log_order(data.user_log)
        starts = log_starts(log, data.rows.column("user_id"))
        ends = np.where(starts >= 0, pc.fill_null(data.rows.column("history_end"), 0).to_numpy(), 0)
        base = np.maximum(starts, 0)
        begin = base + np.maximum(history_begin(data.rows), ends - self.history_length)
        return _short(begin), _short(base + ends), self.vocabularies[ITEM_ID].encode(log.column("item_id"))

    def _scenarios(self, column: pa.ChunkedArray) -> np.ndarray:
        found = pc.index_in(column.combine_chunks(), value_set=pa.array(self.layout.scenarios, pa.string()))
        if found.null_count:
            row = found.is_null().to_pylist().index(True)
            raise DataError(f"scenario {column[row]} is not in spec.json", row=row, column="scenario")
        return found.to_numpy().astype(np.int16)

    def _dense(self, rows: pa.Table, features: Sequence[DenseFeature]) -> np.ndarray:
        found = np.empty((rows.num_rows, len(features)), np.float32)
        for place, feature in enumerate(features):
            found[:, place] = feature.encode(floats(rows.column(feature.name)))
        return found

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
        return index, fill_unknown(vectors, len(place), dim, "scenario")


def _short(numbers: np.ndarray) -> np.ndarray:
    """As int32.

    Raises:
        DataError: they do not fit.
    """
    if len(numbers) and int(numbers.max()) >= 2**31:
        raise DataError(
            f"{int(numbers.max()):,} positives or vectors are more than a training table can number; set split.horizon"
        )
    return numbers.astype(np.int32)


def _grades(rows: pa.Table) -> np.ndarray:
    if GRADE not in rows.column_names:
        return np.full(rows.num_rows, np.nan, np.float32)
    return pc.fill_null(rows.column(GRADE).cast(pa.float32()), np.nan).to_numpy()


def _combinations(rows: Mapping[str, np.ndarray], count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows of several matrices -> one key per row, and per kind the matrix row of each key."""
    keys = np.zeros(count, np.int64)
    for numbers in rows.values():
        mixed = keys * (int(numbers.max(initial=-1)) + 2) + numbers + 1
        _, keys = np.unique(mixed, return_inverse=True)
    first = np.zeros(int(keys.max(initial=-1)) + 1, np.int64)
    first[keys] = np.arange(count)
    return keys, {kind: numbers[first] for kind, numbers in rows.items()}
