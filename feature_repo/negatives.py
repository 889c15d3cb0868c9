"""Negatives for a log that holds positives only: drawn rows of the training table, never of the log.

Each draw is a hash of its positive's content (user, item, scenario, time), the seed and its number, so it is the same in every
run and however the log is cut into windows. What it can hit is what had happened strictly before: a row of the scenario
(`popularity`: an item as often as it was positive there), or an item seen there (`uniform`; with dated catalogues also
one that had appeared by then). An item that the user is known to like by then is no negative of the user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.duck import arrow_of, database
from core.log import logger
from core.negatives import NegativeSampling
from core.splits import SAMPLED
from core.tables import UNDATED_MICROS
from feature_repo.interaction_log import open_log

LOG = logger("feature_repo")
# Draws per negative, until one is free; someone who likes all there is gets fewer.
_TRIES = 20
_LOG = "SELECT user_id, item_id, scenario, t, label FROM log ORDER BY t, user_id, item_id, scenario"
_SEEDS = """
SELECT md5_number_lower(concat_ws('|', user_id, item_id, scenario, epoch_us(event_timestamp))) AS seed
FROM positives ORDER BY place
"""


class Negatives:
    """Draws negatives for rows of a log.

    Args:
        sources: folders of validated tables: what had happened before each row.
        how: `data.negatives`.
        end: rows of the log before this time count, in microseconds.
        scratch: a folder to spill to.
    """

    def __init__(self, sources: Sequence[Path], how: NegativeSampling, *, end: int, scratch: Path) -> None:
        self._how, self._scratch = how, scratch
        with open_log(sources, scratch, end=end) as log:
            self._past = _Past(arrow_of(log, _LOG), sources)

    def added_to(self, rows: pa.Table) -> pa.Table:
        """Rows of the log and the negatives drawn for their positives, in order of (time, user, item, scenario).

        Args:
            rows: row_id, user_id, item_id, scenario, event_timestamp, label, weight and context columns: all of the log
                at their times.

        Returns:
            The rows with `sampled` (bool), numbered anew. A negative has its positive's user, scenario, time and weight,
            label 0 and no other context.
        """
        wanted = rows.filter(pc.equal(rows["label"], 1)).combine_chunks()
        drawn = self._past.draw(wanted, self._seeds(wanted), self._how)  # [p, n], positions in past.items or -1
        owner, _ = np.nonzero(drawn >= 0)
        missing = drawn.size - len(owner)
        if missing:
            LOG.warning(
                "data.negatives: %s of %s negatives could not be drawn: too few items were seen in the scenario by then "
                "that the user was not known to like",
                f"{missing:,}",
                f"{drawn.size:,}",
            )
        sampled = wanted.take(pa.array(owner))
        replaced = {"item_id": self._past.items.take(pa.array(drawn[drawn >= 0])), "label": pa.repeat(0, len(owner))}
        for name in sampled.column_names:
            field = sampled.schema.field(name)
            if name in replaced:
                value = replaced[name].cast(field.type)
            elif name in ("row_id", "user_id", "scenario", "event_timestamp", "weight"):
                continue
            else:
                value = pa.nulls(len(owner), field.type)
            sampled = sampled.set_column(sampled.schema.get_field_index(name), field, value)
        return _together(rows, sampled)

    def _seeds(self, rows: pa.Table) -> np.ndarray:
        """A hash of each row's content, uint64 [n]."""
        with database(self._scratch) as connection:
            keys = rows.select(["user_id", "item_id", "scenario", "event_timestamp"])
            connection.register("positives", keys.append_column("place", pa.array(np.arange(len(rows)))))
            return arrow_of(connection, _SEEDS)["seed"].to_numpy().astype(np.uint64)


def _together(rows: pa.Table, sampled: pa.Table) -> pa.Table:
    """Both, each key once: a row of the log before a drawn one."""
    parts = [t.append_column(SAMPLED, pa.repeat(flag, len(t))) for t, flag in ((rows, False), (sampled, True))]
    keys = ("event_timestamp", "user_id", "item_id", "scenario", SAMPLED)
    table = pa.concat_tables(parts).sort_by([(key, "ascending") for key in keys]).combine_chunks()
    repeats = np.ones(max(len(table) - 1, 0), dtype=bool)
    for key in keys[:-1]:
        column = table[key].combine_chunks()
        repeats &= pc.equal(column.slice(1), column.slice(0, max(len(column) - 1, 0))).to_numpy(zero_copy_only=False)
    table = table.filter(pa.array(np.append(True, ~repeats)[: len(table)]))
    return table.set_column(0, "row_id", pa.array(np.arange(len(table))))


class _Past:
    """What can be drawn at a time: a scenario's positives, and items seen, each in order of time."""

    def __init__(self, log: pa.Table, sources: Sequence[Path]) -> None:
        ids = pc.unique(log["item_id"])
        dated = _dated(sources, log.schema.field("item_id").type)
        if dated.num_rows:
            ids = pc.unique(pa.chunked_array([ids, dated["item_id"].combine_chunks()]))
        self.items = ids.take(pc.sort_indices(ids))
        self._users = pc.unique(log["user_id"])
        user, item, times = self._codes(log["user_id"], log["item_id"]) + (log["t"].to_numpy(),)
        positive = log["label"].to_numpy() == 1
        pair, order = user * len(self.items) + item, np.lexsort((times, user * len(self.items) + item))
        order = order[positive[order]]
        first = np.append(True, pair[order][1:] != pair[order][:-1])[: len(order)]
        # When each user was first known to like an item.
        self._pairs, self._since = pair[order][first], times[order][first]
        names = np.asarray(log["scenario"].to_pylist(), dtype=object)
        self._positives, self._seen = {}, {}
        for name in dict.fromkeys(names.tolist()):
            here = names == name
            liked = here & positive
            self._positives[name] = (times[liked], item[liked])
            self._seen[name] = _first_seen(item[here], times[here], self._catalogue(dated, name))

    def draw(self, rows: pa.Table, seeds: np.ndarray, how: NegativeSampling) -> np.ndarray:
        """Positions in `items`, int64 [p, per_positive]; -1 where there was none."""
        user, own = self._codes(rows["user_id"], rows["item_id"])
        times = rows["event_timestamp"].cast(pa.int64()).to_numpy()
        names = np.asarray(rows["scenario"].to_pylist(), dtype=object)
        found = np.full((len(own), how.per_positive), -1, dtype=np.int64)
        pools = self._positives if how.strategy == "popularity" else self._seen
        for name, (when, what) in pools.items():
            here = np.flatnonzero(names == name)
            many = np.searchsorted(when, times[here], side="left")  # strictly before
            for number in range(how.per_positive):
                for attempt in range(_TRIES):
                    open_ = (found[here, number] < 0) & (many > 0)
                    at = here[open_]
                    if not len(at):
                        break
                    picked = what[
                        (_mixed(seeds[at], how.seed, number, attempt) % many[open_].astype(np.uint64)).astype(int)
                    ]
                    free = (picked != own[at]) & ~self._liked(user[at], picked, times[at])
                    free &= (found[at, :number] != picked[:, None]).all(axis=1)
                    found[at[free], number] = picked[free]
        return found

    def _codes(self, users: pa.ChunkedArray, items: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        pairs = ((users, self._users), (items, self.items))
        user, item = (pc.index_in(column, value_set=known).to_numpy().astype(np.int64) for column, known in pairs)
        return user, item

    def _liked(self, users: np.ndarray, items: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Whether each user was known to like the item at that time or before, bool [n]."""
        wanted = users * len(self.items) + items
        at = np.minimum(np.searchsorted(self._pairs, wanted), len(self._pairs) - 1)
        return (self._pairs[at] == wanted) & (self._since[at] <= times)

    def _catalogue(self, dated: pa.Table, scenario: str) -> tuple[np.ndarray, np.ndarray]:
        """Positions and times of the dated items that belong to a scenario."""
        member = [names is None or scenario in names for names in dated["scenarios"].to_pylist()]
        own = dated.filter(pa.array(member, pa.bool_()))
        places = pc.index_in(own["item_id"], value_set=self.items).to_numpy().astype(np.int64)
        return places, own["t"].to_numpy()


def _first_seen(
    items: np.ndarray, times: np.ndarray, dated: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Times and items, in order of (when first seen, item)."""
    items, times = np.concatenate([items, dated[0]]), np.concatenate([times, dated[1]])
    order = np.lexsort((times, items))
    first = np.append(True, items[order][1:] != items[order][:-1])[: len(order)]
    items, times = items[order][first], times[order][first]
    order = np.lexsort((items, times))
    return times[order], items[order]


def _dated(sources: Sequence[Path], kind: pa.DataType) -> pa.Table:
    """item_id, t and scenarios of the catalogues' items that say since when there are."""
    tables = [
        pa.table(
            {
                "item_id": pa.array([], kind),
                "t": pa.array([], pa.int64()),
                "scenarios": pa.array([], pa.list_(pa.string())),
            }
        )
    ]
    for source in sources:
        file = source / "items.parquet"
        if not file.is_file():
            continue
        table = pq.read_table(file, columns=["item_id", "event_timestamp", "scenarios"])
        t = table["event_timestamp"].cast(pa.int64())
        table = pa.table({"item_id": table["item_id"].cast(kind), "t": t, "scenarios": table["scenarios"]})
        tables.append(table.filter(pc.greater(t, UNDATED_MICROS)))
    return pa.concat_tables(tables).combine_chunks()


def _mixed(values: np.ndarray, *numbers: int) -> np.ndarray:
    """Values mixed with numbers, uint64 [n]: the finaliser of SplitMix64 after each."""
    mixed = values.copy()
    for number in numbers:
        mixed += np.uint64((number * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    return mixed
