"""The two protocols: who is in which split, and what a row may know.

`scenario-wise-rec` (Scenario-Wise-Rec's MovieLens-1M): scenarios by age group, rows split 8:1:1 at random, anew for
each seed. Features and knowledge of a training row come from the other four of five folds of the training rows, those
of validation and test rows from all training rows. `time`: scenarios by first genre, one cut in time for all at 80 %
and 90 %; features and knowledge come from rows strictly before the row's time, less a lag.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from benchmarks.evidence.source import AGE_GROUPS, AGE_SCENARIOS, GENRE_SCENARIOS, Ratings
from core.contracts.dataset_spec import DatasetSpec
from core.settings import FeatureSettings, KnowledgeSettings
from core.tables import GRADE
from feature_repo.statistics import smoothed_rate
from knowledge.log.snapshots import due_snapshots
from knowledge.log.sources import Log
from knowledge.pooling.means import on_grid, pool
from knowledge.storage.compressor import fit
from models import TrainingData

Name = Literal["scenario-wise-rec", "time"]
FOLDS = 5
HISTORY = 50  # positives in a row's history
FEATURES, KNOWLEDGE = FeatureSettings(), KnowledgeSettings()
KNOWN_FROM = 0.1  # time: user vectors start here, since their compressor is fitted on the rows before
NAMES = np.array(["train", "validation", "test"])


@dataclass
class Prepared:
    """Everything a system may read; `systems.view` takes away what a system does not.

    Args:
        data: the training table with all columns and vectors.
        rows_before: rows of the row's user that its features were made from, int64 [N]; who is new.
        rows_trained: training rows of the row's user, int64 [N]; who is cold.
        slots: where each user's vectors begin in the matrix `user_pooled`, int64 [U + 1].
        item_counts: of items at the time of rows that are not theirs.
    """

    data: TrainingData
    rows_before: np.ndarray
    rows_trained: np.ndarray
    slots: np.ndarray
    item_counts: ItemCounts
    extra: dict[str, list[str]] = field(default_factory=dict)

    def item_statistics(self, rows: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
        """What a row's features would be if its item were another: item_rows, item_positives, item_rate, float64 [n].

        Args:
            rows: at whose time, [n]; rows of validation or test.
            items: position of the item in the order of the item codes of the log, [n].
        """
        seen, positives = self.item_counts.before(rows, items)
        rate = smoothed_rate(positives, seen, FEATURES)
        return {"item_rows": seen.astype(np.float64), "item_positives": positives.astype(np.float64), "item_rate": rate}


@dataclass
class ItemCounts:
    """Rows and positives of each item before a moment: strictly before it, less the lag; or all training rows.

    Args:
        codes: item of each row that may be counted, [M].
        times: of the same rows, seconds; all 0 where time does not count.
        labels: of the same rows.
        moments: of every row of the table, seconds less the lag; all 1 where time does not count.
    """

    codes: np.ndarray
    times: np.ndarray
    labels: np.ndarray
    moments: np.ndarray

    def __post_init__(self) -> None:
        order = np.lexsort((self.times, self.codes))
        self._keys = ((self.codes.astype(np.int64) << 32) + self.times)[order]
        self._sums = np.concatenate(([0], np.cumsum(self.labels[order], dtype=np.int64)))

    def before(self, rows: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and positives of the items before the rows' moments, int64 [n] each."""
        begin = np.searchsorted(self._keys, items.astype(np.int64) << 32, side="left")
        asked = (items.astype(np.int64) << 32) + self.moments[rows]
        stop = np.maximum(np.searchsorted(self._keys, asked, side="left"), begin)
        return stop - begin, self._sums[stop] - self._sums[begin]


def prepare(name: Name, ratings: Ratings, texts: np.ndarray, sentences: np.ndarray, seed: int, lag: int) -> Prepared:
    """Split, features and knowledge.

    Args:
        name: the protocol.
        ratings: the log.
        texts: raw item vectors, float16 [I, D].
        sentences: raw vectors of the scenarios' sentences, in order of the protocol's scenarios, [S, D].
        seed: of the random split and folds; not read by `time`.
        lag: `time` only: seconds until a row shows in features and knowledge.
    """
    if name == "scenario-wise-rec":
        return _random(ratings, texts, sentences, seed)
    return _time(ratings, texts, sentences, lag)


def scenarios_of(name: Name) -> list[str]:
    """The protocol's scenarios, in order."""
    return AGE_SCENARIOS if name == "scenario-wise-rec" else GENRE_SCENARIOS


def random_split(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split (0 train, 1 validation, 2 test) and group of each row: the training fold, or FOLDS for the others."""
    rng = np.random.default_rng((2020, seed))
    split = np.zeros(count, np.int64)
    order = rng.permutation(count)
    split[order[: count // 10]] = 2
    split[order[count // 10 : 2 * (count // 10)]] = 1
    return split, np.where(split == 0, rng.integers(0, FOLDS, count), FOLDS)


def _random(ratings: Ratings, texts: np.ndarray, sentences: np.ndarray, seed: int) -> Prepared:
    split, group = random_split(len(ratings), seed)
    scenario = np.array([AGE_GROUPS[int(age)] for age in ratings.users["age"]])[ratings.user]
    columns: dict[str, Any] = {}
    for side, code in (("user", ratings.user), ("item", ratings.item)):
        rows, positives = _others(code, ratings.label, split, group)
        columns |= {f"{side}_rate": smoothed_rate(positives, rows, FEATURES)}
        # Four folds stand for five, so that a count means the same in every split.
        scale = np.where(group < FOLDS, FOLDS / (FOLDS - 1), 1.0)
        columns |= {f"{side}_rows": rows * scale, f"{side}_positives": positives * scale}
    matrix, known = _cross_fitted(ratings, texts, split, group)
    reference = ratings.user * (FOLDS + 1) + group
    columns["user_pooled_row"] = np.where(known[reference], reference, -1)
    slots = np.arange(len(ratings.user_ids) + 1) * (FOLDS + 1)
    dense = {"user_dense": ["age"], "user_categorical": ["gender", "occupation", "zip"]}
    columns["history_begin"], columns["history_end"], log = _fold_histories(ratings, split, group)
    data = _table(ratings, scenario, NAMES[split], columns, log, AGE_SCENARIOS, dense, matrix, texts, sentences)
    train = split == 0
    counts = ItemCounts(
        ratings.item[train], np.zeros(train.sum(), np.int64), ratings.label[train], np.ones(len(ratings), np.int64)
    )
    return Prepared(data, columns["user_rows"].astype(np.int64), _trained(ratings, split), slots, counts)


def _trained(ratings: Ratings, split: np.ndarray) -> np.ndarray:
    """Training rows of each row's user, [N]."""
    return np.bincount(ratings.user, split == 0, len(ratings.user_ids)).astype(np.int64)[ratings.user]


def _fold_histories(
    ratings: Ratings, split: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The positives a row may read, as a stretch of its user's list: begin [N], end [N], and the lists (users, items).

    A user's list holds the training positives fold after fold, 0 to 4 and then 0 to 3 again: any four folds that leave
    out one, and all five, are a stretch of it.
    """
    users, laps = len(ratings.user_ids), 2 * FOLDS - 1
    chosen = np.flatnonzero((split == 0) & (ratings.label > 0))
    chosen = np.concatenate((chosen, chosen[group[chosen] < FOLDS - 1]))
    lap = group[chosen].copy()
    lap[np.count_nonzero((split == 0) & (ratings.label > 0)) :] += FOLDS
    order = np.lexsort((lap, ratings.user[chosen]))
    sizes = np.bincount(ratings.user[chosen] * laps + lap, minlength=users * laps).reshape(users, laps)
    bounds = np.concatenate((np.zeros((users, 1), np.int64), np.cumsum(sizes, axis=1)), axis=1)  # [U, laps + 1]
    first = np.where(group < FOLDS, group + 1, 0)
    last = np.where(group < FOLDS, group + FOLDS, FOLDS)
    log = ratings.user[chosen][order], ratings.item[chosen][order]
    return bounds[ratings.user, first], bounds[ratings.user, last], log


def _others(code: np.ndarray, label: np.ndarray, split: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training rows and positives of each row's entity outside the row's own fold, [N] each."""
    train, found = split == 0, []
    place, size = code * (FOLDS + 1) + group, (int(code.max()) + 1) * (FOLDS + 1)
    for weight in (train.astype(np.float64), train * (label > 0)):
        own = np.bincount(place, weight, size).reshape(-1, FOLDS + 1)
        found.append((own.sum(axis=1, keepdims=True) - own).reshape(-1)[place])
    return found[0], found[1]


def _cross_fitted(
    ratings: Ratings, texts: np.ndarray, split: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled vectors of each user and group, [U * (FOLDS + 1), d], and which are known."""
    import scipy.sparse

    users, train, vectors = len(ratings.user_ids), split == 0, on_grid(texts)
    place, size = ratings.user * (FOLDS + 1) + group, users * (FOLDS + 1)
    halves, counts = [], np.zeros(size)
    for wanted in (1, 0):
        chosen = train & (ratings.label == wanted)
        own = scipy.sparse.csr_matrix(
            (np.ones(chosen.sum()), (place[chosen], ratings.item[chosen])), shape=(size, len(vectors))
        )
        sums = np.asarray(own @ vectors).reshape(users, FOLDS + 1, -1)
        number = np.bincount(place[chosen], minlength=size).reshape(users, FOLDS + 1).astype(np.float64)
        sums, number = sums.sum(1, keepdims=True) - sums, number.sum(1, keepdims=True) - number
        halves.append((sums / np.maximum(number, 1.0)[:, :, None]).reshape(size, -1))
        counts += number.reshape(-1)
    raw, known = np.concatenate(halves, axis=1), counts > 0
    everything = np.arange(FOLDS, size, FOLDS + 1)
    compressor = fit(raw[everything[known[everything]]], KNOWLEDGE.user_dim)
    return compressor.apply(raw), known


def _time(ratings: Ratings, texts: np.ndarray, sentences: np.ndarray, lag: int) -> Prepared:
    count, seconds = len(ratings), ratings.seconds
    cuts = [seconds[int(count * share)] for share in (0.8, 0.9)]
    split = (seconds >= cuts[0]).astype(np.int64) + (seconds >= cuts[1])
    genre = np.where(np.isin(ratings.first_genre, GENRE_SCENARIOS), ratings.first_genre, "other")
    number = np.array([GENRE_SCENARIOS.index(name) for name in genre.tolist()])[ratings.item]
    columns: dict[str, Any] = {}
    both = ratings.user * len(GENRE_SCENARIOS) + number
    for side, code in (("user", ratings.user), ("item", ratings.item), ("user_scenario", both)):
        rows, positives = states_before(code, seconds, ratings.label, lag)
        columns |= {f"{side}_rows": rows, f"{side}_positives": positives}
        columns |= {f"{side}_rate": smoothed_rate(positives, rows, FEATURES)}
    columns["user_scenario_rows"] = np.log1p(columns["user_scenario_rows"])
    del columns["user_scenario_positives"]
    matrix, slots, reference = _snapshots(ratings, number, texts, lag)
    columns["user_pooled_row"] = reference
    dense = {"user_dense": [], "user_categorical": ["gender", "age", "occupation", "zip"]}
    names = np.array(GENRE_SCENARIOS)[number]
    columns["history_end"] = columns["user_positives"].astype(np.int64)
    positive = np.flatnonzero(ratings.label > 0)
    positive = positive[np.lexsort((ratings.seconds[positive], ratings.user[positive]))]
    log = ratings.user[positive], ratings.item[positive]
    data = _table(ratings, names, NAMES[split], columns, log, GENRE_SCENARIOS, dense, matrix, texts, sentences)
    extra = {"user_dense": ["user_scenario_rows", "user_scenario_rate"]}
    counts = ItemCounts(ratings.item, seconds, ratings.label, seconds - lag)
    return Prepared(data, columns["user_rows"].astype(np.int64), _trained(ratings, split), slots, counts, extra)


def states_before(code: np.ndarray, seconds: np.ndarray, label: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and positives of each row's entity strictly before its time less the lag, int64 [N] each."""
    order = np.lexsort((seconds, code))
    keys = (code.astype(np.int64) << 32) + seconds  # [N] seconds fit into 32 bits
    ranked = keys[order]
    stop = np.searchsorted(ranked, keys - lag, side="left")
    begin = np.searchsorted(ranked, code.astype(np.int64) << 32, side="left")
    stop = np.maximum(stop, begin)
    positives = np.concatenate(([0], np.cumsum(label[order], dtype=np.int64)))
    return stop - begin, positives[stop] - positives[begin]


def _snapshots(
    ratings: Ratings, scenario: np.ndarray, texts: np.ndarray, lag: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pooled vectors at activity thresholds [n, d], where each user's begin [U + 1], and each row's newest, -1: none."""
    micros = ratings.seconds * 1_000_000
    order = np.lexsort((ratings.item, micros, ratings.user))
    users = ratings.user[order].astype(np.int32)
    counts = np.bincount(users, minlength=len(ratings.user_ids))
    log = Log(
        pa.array(ratings.user_ids),
        users,
        ratings.item[order].astype(np.int32),
        scenario[order].astype(np.int16),
        micros[order],
        ratings.label[order] > 0,
        np.concatenate(([0], np.cumsum(counts))),
    )
    due = due_snapshots(log, KNOWLEDGE.thresholds)
    raw = np.zeros((len(due), 2 * texts.shape[1]))
    for part, vectors in pool(log, due, texts, np.ones(len(texts), bool)):
        raw[part] = vectors
    start = micros[int(len(ratings) * KNOWN_FROM)]
    matrix = fit(raw[due.watermarks <= start], KNOWLEDGE.user_dim).apply(raw)
    keys = (due.users.astype(np.int64) << 50) + due.watermarks
    asked = (ratings.user.astype(np.int64) << 50) + micros - lag * 1_000_000
    slots = np.searchsorted(due.users, np.arange(len(ratings.user_ids) + 1))
    newest = np.searchsorted(keys, asked, side="right") - 1
    own = (newest >= slots[ratings.user]) & (micros >= start)
    return matrix, slots, np.where(own, newest, -1)


def _table(
    ratings: Ratings,
    scenario: np.ndarray,
    split: np.ndarray,
    columns: dict[str, Any],
    positives: tuple[np.ndarray, np.ndarray],
    scenarios: list[str],
    declared: dict[str, list[str]],
    pooled: np.ndarray,
    texts: np.ndarray,
    sentences: np.ndarray,
) -> TrainingData:
    people = {name: values[ratings.user] for name, values in ratings.users.items()}
    people["age"] = people["age"].astype(np.float64) if "age" in declared["user_dense"] else people["age"]
    vectors = {
        "user_pooled": pooled,
        "item_text": fit(texts, KNOWLEDGE.item_dim).apply(texts),
        "scenario": fit(sentences, None).apply(sentences),
    }
    names, place = np.unique(scenario, return_inverse=True)
    table = pa.table(
        {
            "row_id": np.arange(len(ratings)),
            "user_id": ratings.user_ids[ratings.user],
            "item_id": ratings.item_ids[ratings.item],
            "scenario": scenario,
            "event_timestamp": pa.array(ratings.seconds * 1_000_000).cast(pa.timestamp("us", "UTC")),
            "label": ratings.label,
            GRADE: ratings.stars.astype(np.float32),
            "weight": np.ones(len(ratings), np.float32),
            "split": split,
            **people,
            "first_genre": ratings.first_genre[ratings.item],
            **columns,
            "item_text_row": ratings.item,
            "scenario_row": np.array([scenarios.index(name) for name in names.tolist()])[place],
        }
    )
    spec = DatasetSpec.model_validate(
        {
            **declared,
            "item_categorical": ["first_genre"],
            "item_dense": [],
            "scenarios": scenarios,
            "history_length": HISTORY,
            "prior_rate": FEATURES.prior_rate,
            "prior_weight": FEATURES.prior_weight,
            "vectors": {kind: {"dim": int(v.shape[1]), "version": "bench"} for kind, v in vectors.items()},
            "views": {},
            "service": "benchmark",
            "id_types": {"user_id": "int64", "item_id": "int64"},
            "train_start": 0,
        }
    )
    user, item = positives
    position = np.arange(len(user)) - np.searchsorted(user, user)
    ids = {"user_id": ratings.user_ids[user], "position": position, "item_id": ratings.item_ids[item]}
    return TrainingData(table, pa.table(ids), vectors, spec)
