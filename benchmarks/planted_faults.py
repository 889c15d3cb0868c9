"""Forty ways in which data goes wrong, planted into files. Knows file formats only, not a single check."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.digest import vector_digests
from core.matrix import open_matrix

HOUR = 3_600_000_000
Rng = np.random.Generator


@dataclass(frozen=True)
class Place:
    """Where a fault is planted.

    Args:
        folder: the files; they may be altered.
        before: those of the window or artifact before.
        start, end: the window in microseconds.
    """

    folder: Path
    before: Path
    start: int
    end: int


@dataclass(frozen=True)
class Fault:
    """One way in which data goes wrong.

    Args:
        name: what happened.
        gate: source, knowledge, dataset or online: who owns it.
        sizes: three sizes, smallest first.
        plant: plants it, and returns how many rows are at fault if those could be set aside, else 0.
    """

    name: str
    gate: str
    sizes: tuple[float, float, float]
    plant: Callable[[Place, float, Rng], int]


SHARES = (0.1, 0.5, 1.0)


# The rows of a training table of one window.
_ROWS = "rows/0000"


def table(place: Place, name: str) -> pa.Table:
    """A parquet file of the place."""
    return pq.read_table(place.folder / f"{name}.parquet")


def put(place: Place, name: str, rows: pa.Table) -> None:
    """Write it back."""
    pq.write_table(rows, place.folder / f"{name}.parquet")


def change(place: Place, name: str, column: str, mask: np.ndarray, values: object) -> int:
    """Replace a column's values where `mask` holds; the column may get nulls."""
    rows = table(place, name)
    at = rows.schema.get_field_index(column)
    old, field = rows.column(at), rows.schema.field(at).with_nullable(True)
    new = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array([values] * rows.num_rows, old.type)
    put(place, name, rows.set_column(at, field, pc.if_else(pa.array(mask), new.cast(old.type), old)))
    return int(mask.sum())


def some(rng: Rng, rows: int, share: float, among: np.ndarray | None = None) -> np.ndarray:
    """A mask of `share` of the rows (of those in `among`), at least one."""
    candidates = np.arange(rows) if among is None else np.flatnonzero(among)
    mask = np.zeros(rows, dtype=bool)
    mask[rng.choice(candidates, max(1, round(share * len(candidates))), replace=False)] = True
    return mask


def picked(place: Place, name: str, rng: Rng, share: float) -> np.ndarray:
    """A mask of a share of a table's rows."""
    return some(rng, table(place, name).num_rows, share)


def micros(rows: pa.Table) -> np.ndarray:
    """Event times, int64 [n]."""
    return rows["event_timestamp"].cast(pa.int64()).to_numpy()


def timed(rows: pa.Table, times: np.ndarray) -> pa.Table:
    """The rows with other event and publication times."""
    stamps = pa.array(times).cast(pa.timestamp("us", tz="UTC"))
    for name in ("event_timestamp", "created_timestamp"):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), stamps)
    return rows


def keep(place: Place, name: str, mask: np.ndarray) -> int:
    """Lose the other rows."""
    put(place, name, table(place, name).filter(pa.array(mask)))
    return 0


def column_dropped(place: Place, size: float, rng: Rng) -> int:
    put(place, "interactions", table(place, "interactions").drop_columns(["weight", "label", "user_id"][: int(size)]))
    return 0


def unit_too_small(place: Place, size: float, rng: Rng) -> int:
    rows, mask = table(place, "interactions"), picked(place, "interactions", rng, size)
    put(place, "interactions", timed(rows, np.where(mask, micros(rows) // 1000, micros(rows))))
    return int(mask.sum())


def unit_too_large(place: Place, size: float, rng: Rng) -> int:
    rows, mask = table(place, "interactions"), picked(place, "interactions", rng, size)
    put(place, "interactions", timed(rows, np.where(mask, micros(rows) * 1000, micros(rows))))
    return int(mask.sum())


def shifted(sign: int) -> Callable[[Place, float, Rng], int]:
    def plant(place: Place, size: float, rng: Rng) -> int:
        rows = table(place, "interactions")
        times = micros(rows) + sign * int(size * HOUR)
        # Who reads a window gets the rows inside it.
        put(place, "interactions", timed(rows, times).filter(pa.array((times >= place.start) & (times < place.end))))
        return 0

    return plant


def partition_duplicated(place: Place, size: float, rng: Rng) -> int:
    rows = table(place, "interactions")
    again = rows.slice(0, round(size * rows.num_rows))
    put(place, "interactions", pa.concat_tables([rows, again]))
    return again.num_rows


def partition_resent(place: Place, size: float, rng: Rng) -> int:
    old, now = pq.read_table(place.before / "interactions.parquet"), table(place, "interactions")
    length = place.end - place.start
    old = timed(old, micros(old) + length).filter(pa.array(some(rng, old.num_rows, size)))
    fresh = now.filter(pa.array(some(rng, now.num_rows, 1 - size))) if size < 1 else now.slice(0, 0)
    put(place, "interactions", pa.concat_tables([fresh, old]).sort_by("event_timestamp"))
    return 0


def part_missing(place: Place, size: float, rng: Rng) -> int:
    times = micros(table(place, "interactions"))
    first = place.start + int(rng.random() * (1 - size) * (place.end - place.start))
    return keep(place, "interactions", (times < first) | (times >= first + int(size * (place.end - place.start))))


def rows_thinned(place: Place, size: float, rng: Rng) -> int:
    return keep(place, "interactions", ~picked(place, "interactions", rng, size))


def user_and_item_swapped(place: Place, size: float, rng: Rng) -> int:
    rows, mask = table(place, "interactions"), picked(place, "interactions", rng, size)
    change(place, "interactions", "user_id", mask, rows["item_id"])
    change(place, "interactions", "item_id", mask, rows["user_id"])
    return 0


def ids_reformatted(place: Place, size: float, rng: Rng) -> int:
    other = pc.add(table(place, "interactions")["item_id"], 1_000_000)
    change(place, "interactions", "item_id", picked(place, "interactions", rng, size), other)
    return 0


def scenario_of(place: Place, name: str) -> np.ndarray:
    return pc.equal(table(place, "interactions")["scenario"], name).to_numpy()


def scenario_renamed(place: Place, size: float, rng: Rng) -> int:
    home = scenario_of(place, "home")
    return change(place, "interactions", "scenario", some(rng, len(home), size, home), "Home page")


def scenario_renamed_everywhere(place: Place, size: float, rng: Rng) -> int:
    for name in ("home", "search", "detail")[: int(size)]:
        change(place, "interactions", "scenario", scenario_of(place, name), f"{name}_v2")
        here = pc.equal(table(place, "scenarios")["scenario"], name).to_numpy()
        change(place, "scenarios", "scenario", here, f"{name}_v2")
    return 0


def scenario_lost(place: Place, size: float, rng: Rng) -> int:
    search = scenario_of(place, "search")
    return keep(place, "interactions", ~some(rng, len(search), size, search))


def scenarios_mixed_up(place: Place, size: float, rng: Rng) -> int:
    home = scenario_of(place, "home")
    change(place, "interactions", "scenario", some(rng, len(home), size, home), "search")
    return 0


def labels_flipped(place: Place, size: float, rng: Rng) -> int:
    other = pc.subtract(pa.scalar(1, pa.int8()), table(place, "interactions")["label"])
    change(place, "interactions", "label", picked(place, "interactions", rng, size), other)
    return 0


def labels_not_binary(place: Place, size: float, rng: Rng) -> int:
    return change(place, "interactions", "label", picked(place, "interactions", rng, size), 5)


def rows_from_the_future(place: Place, size: float, rng: Rng) -> int:
    rows, mask = table(place, "interactions"), picked(place, "interactions", rng, size)
    put(place, "interactions", timed(rows, np.where(mask, micros(rows) + 400 * 24 * HOUR, micros(rows))))
    return int(mask.sum())


def weights_broken(place: Place, size: float, rng: Rng) -> int:
    return change(place, "interactions", "weight", picked(place, "interactions", rng, size), float("inf"))


def catalogue_truncated(place: Place, size: float, rng: Rng) -> int:
    return keep(place, "items", ~picked(place, "items", rng, size))


def price_in_cents(place: Place, size: float, rng: Rng) -> int:
    cents = pc.multiply(table(place, "items")["price"], 100.0)
    change(place, "items", "price", picked(place, "items", rng, size), cents)
    return 0


def categories_recoded(place: Place, size: float, rng: Rng) -> int:
    other = pc.utf8_upper(table(place, "users")["country"])
    change(place, "users", "country", picked(place, "users", rng, size), other)
    return 0


def column_emptied(place: Place, size: float, rng: Rng) -> int:
    change(place, "users", "country", picked(place, "users", rng, size), None)
    return 0


def robot(place: Place, size: float, rng: Rng) -> int:
    change(place, "interactions", "user_id", picked(place, "interactions", rng, size), 17)
    return 0


def vectors_of(place: Place, kind: str = "user_pooled") -> np.ndarray:
    return np.array(open_matrix(place.folder / kind / "vectors.npy"))


def put_vectors(place: Place, vectors: np.ndarray, kind: str = "user_pooled", sign: bool = True) -> int:
    """Write vectors; `sign`: by whoever made the faulty ones, so that their digests are right."""
    folder = place.folder / kind
    np.save(folder / "vectors.npy", vectors.astype(np.float32))
    if sign:
        index = pq.read_table(folder / "index" / "0000.parquet")
        ids, prompts = index[index.column_names[0]].to_pylist(), index["prompt_sha256"].to_pylist()
        np.save(folder / "digests.npy", vector_digests(ids, index["version"][0].as_py(), prompts, vectors))
    return 0


def vectors_zero(place: Place, size: float, rng: Rng) -> int:
    vectors = vectors_of(place)
    vectors[some(rng, len(vectors), size)] = 0
    return put_vectors(place, vectors)


def vectors_nan(place: Place, size: float, rng: Rng) -> int:
    vectors = vectors_of(place)
    vectors[some(rng, len(vectors), size), 0] = np.nan
    return put_vectors(place, vectors)


def vectors_scaled(place: Place, size: float, rng: Rng) -> int:
    vectors = vectors_of(place)
    vectors[some(rng, len(vectors), size)] *= 100
    return put_vectors(place, vectors)


def vectors_of_another_model(place: Place, size: float, rng: Rng) -> int:
    vectors = vectors_of(place)
    mask = some(rng, len(vectors), size)
    vectors[mask] = rng.standard_normal((int(mask.sum()), vectors.shape[1]))
    return put_vectors(place, vectors)


def vectors_shuffled(place: Place, size: float, rng: Rng) -> int:
    vectors = vectors_of(place)
    at = rng.permutation(len(vectors))[: max(2, round(size * len(vectors)))]
    vectors[at] = vectors[np.roll(at, 1)]
    return put_vectors(place, vectors, sign=False)


def one_vector_for_many(place: Place, size: float, rng: Rng) -> int:
    vectors = vectors_of(place, "item_text")
    vectors[some(rng, len(vectors), size)] = vectors[0]
    return put_vectors(place, vectors, "item_text")


def users_forgotten(place: Place, size: float, rng: Rng) -> int:
    folder = place.folder / "user_pooled"
    index = pq.read_table(folder / "index" / "0000.parquet")
    users = np.unique(index["user_id"].to_numpy())
    lost = users[some(rng, len(users), size)] if size < 1 else users[1:]
    stay = ~np.isin(index["user_id"].to_numpy(), lost)
    rows = index.filter(pa.array(stay))
    at = rows.schema.get_field_index("row")
    vectors = vectors_of(place)[stay]
    pq.write_table(
        rows.set_column(at, rows.schema.field(at), pa.array(np.arange(len(vectors)))), folder / "index" / "0000.parquet"
    )
    return put_vectors(place, vectors)


def knowledge_from_the_future(place: Place, size: float, rng: Rng) -> int:
    name = "user_pooled/index/0000"
    later = pc.add(table(place, name)["watermark"].cast(pa.int64()), 900 * 24 * HOUR).cast(pa.timestamp("us", "UTC"))
    mask = picked(place, name, rng, size)
    for column in ("watermark", "event_timestamp", "created_timestamp"):
        change(place, name, column, mask, later)
    return 0


def text_refused(place: Place, size: float, rng: Rng) -> int:
    mask = picked(place, "user_text", rng, size)
    change(place, "user_text", "text", mask, "I'm sorry, but as an AI language model I cannot describe this user.")
    return 0


def knowledge_leaked(place: Place, size: float, rng: Rng) -> int:
    """Rows point to a later snapshot of their own user."""
    rows, index = table(place, _ROWS), pq.read_table(place.before / "user_pooled" / "index" / "0000.parquet")
    times = index["watermark"].cast(pa.int64()).to_numpy()
    last = {user: row for row, user in sorted(enumerate(index["user_id"].to_pylist()), key=lambda e: times[e[0]])}
    newest = np.array([last[user] for user in rows["user_id"].to_pylist()])
    early = micros(rows) < times[newest]
    mask = some(rng, rows.num_rows, size, early)
    change(place, _ROWS, "user_pooled_row", mask, pa.array(newest))
    stamps = pa.array(times[newest]).cast(pa.timestamp("us", "UTC"))
    for column in ("user_pooled_watermark", "user_pooled_published"):
        change(place, _ROWS, column, mask, stamps)
    return 0


def label_leaked(place: Place, size: float, rng: Rng) -> int:
    """A user's counters already hold the row itself."""
    rows = table(place, _ROWS)
    users = np.unique(rows["user_id"].to_numpy())
    mask = np.isin(rows["user_id"].to_numpy(), users[some(rng, len(users), size)])
    for column, more in (("user_rows", pa.scalar(1)), ("user_positives", rows["label"].cast(pa.int64()))):
        change(place, _ROWS, column, mask, pc.add(pc.fill_null(rows[column], 0), more))
    return 0


def references_shuffled(place: Place, size: float, rng: Rng) -> int:
    rows = table(place, _ROWS)
    known = rows["user_pooled_row"].is_valid().to_numpy()
    at = np.flatnonzero(some(rng, rows.num_rows, size, known))
    at = at if len(at) > 1 else np.flatnonzero(known)[[0, -1]]
    order = np.arange(rows.num_rows)
    order[at] = np.roll(at, 1)
    for column in ("user_pooled_row", "user_pooled_watermark", "user_pooled_published"):
        change(place, _ROWS, column, np.ones(len(order), bool), rows[column].take(pa.array(order)))
    return 0


def join_lost(place: Place, size: float, rng: Rng) -> int:
    rows = table(place, _ROWS)
    mask = some(rng, rows.num_rows, size, rows["item_rows"].is_valid().to_numpy())
    for column in ("item_rows", "item_positives", "item_rate", "item_stats_watermark", "item_stats_published"):
        change(place, _ROWS, column, mask, None)
    return 0


def _online(place: Place, view: str, size: float, rng: Rng) -> tuple[sqlite3.Connection, str, list[bytes]]:
    connection = sqlite3.connect(place.folder / "online.db")
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = next(name for name in names if view in name)
    keys = sorted(row[0] for row in connection.execute(f'SELECT DISTINCT entity_key FROM "{found}"'))
    return connection, found, [keys[i] for i in np.flatnonzero(some(rng, len(keys), size))]


def online_stale(place: Place, size: float, rng: Rng) -> int:
    from feast.protos.feast.types.Value_pb2 import Value

    connection, name, keys = _online(place, "user_stats", size, rng)
    with connection:
        old = Value(int64_val=place.start - 1000 * HOUR).SerializeToString()
        query = f"UPDATE \"{name}\" SET value = ? WHERE feature_name = 'published' AND entity_key = ?"
        connection.executemany(query, [(old, key) for key in keys])
    connection.close()
    return 0


def online_lost(place: Place, size: float, rng: Rng) -> int:
    connection, name, keys = _online(place, "user_history", size, rng)
    with connection:
        connection.executemany(f'DELETE FROM "{name}" WHERE entity_key = ?', [(key,) for key in keys])
    connection.close()
    return 0


def online_swapped(place: Place, size: float, rng: Rng) -> int:
    connection, name, keys = _online(place, "user_pooled", size, rng)
    with connection:
        query = f"SELECT value FROM \"{name}\" WHERE feature_name = 'vector' AND entity_key = ?"
        values = [connection.execute(query, (key,)).fetchone()[0] for key in keys]
        query = f"UPDATE \"{name}\" SET value = ? WHERE feature_name = 'vector' AND entity_key = ?"
        connection.executemany(query, list(zip(values[1:] + values[:1], keys, strict=True)))
    connection.close()
    return 0


FAULTS = (
    Fault("a column is dropped", "source", (1, 2, 3), column_dropped),
    Fault("times in seconds read as milliseconds", "source", SHARES, unit_too_small),
    Fault("times in milliseconds read as seconds", "source", SHARES, unit_too_large),
    Fault("time zone ahead (hours)", "source", (1, 5, 9), shifted(1)),
    Fault("time zone behind (hours)", "source", (1, 5, 9), shifted(-1)),
    Fault("partition twice", "source", SHARES, partition_duplicated),
    Fault("yesterday's partition under today's date", "source", (0.3, 0.6, 1.0), partition_resent),
    Fault("part of the partition missing", "source", (0.1, 0.25, 0.5), part_missing),
    Fault("rows lost at random", "source", (0.3, 0.6, 0.9), rows_thinned),
    Fault("user and item ids swapped", "source", SHARES, user_and_item_swapped),
    Fault("item ids in another format", "source", SHARES, ids_reformatted),
    Fault("scenario renamed in the log", "source", SHARES, scenario_renamed),
    Fault("scenarios renamed everywhere", "source", (1, 2, 3), scenario_renamed_everywhere),
    Fault("rows of a scenario lost", "source", (0.3, 0.6, 1.0), scenario_lost),
    Fault("rows of one scenario named as another", "source", (0.3, 0.6, 1.0), scenarios_mixed_up),
    Fault("labels flipped", "source", (0.2, 0.5, 1.0), labels_flipped),
    Fault("labels other than 0 and 1", "source", (0.01, 0.1, 0.5), labels_not_binary),
    Fault("rows from the future", "source", (0.01, 0.1, 0.5), rows_from_the_future),
    Fault("infinite weights", "source", (0.01, 0.1, 0.5), weights_broken),
    Fault("catalogue cut short", "source", (0.1, 0.5, 0.9), catalogue_truncated),
    Fault("prices in cents", "source", SHARES, price_in_cents),
    Fault("categories recoded", "source", SHARES, categories_recoded),
    Fault("column emptied", "source", SHARES, column_emptied),
    Fault("a robot's rows", "source", (0.1, 0.3, 0.6), robot),
    Fault("all-zero vectors", "knowledge", SHARES, vectors_zero),
    Fault("NaN in vectors", "knowledge", (0.001, 0.1, 1.0), vectors_nan),
    Fault("vectors on another scale", "knowledge", (0.01, 0.3, 1.0), vectors_scaled),
    Fault("vectors of another model, same version", "knowledge", (0.01, 0.3, 1.0), vectors_of_another_model),
    Fault("vectors shuffled among users", "knowledge", (0.001, 0.2, 1.0), vectors_shuffled),
    Fault("one vector for many items", "knowledge", (0.3, 0.6, 1.0), one_vector_for_many),
    Fault("users without their knowledge", "knowledge", (0.1, 0.5, 0.9), users_forgotten),
    Fault("knowledge dated in the future", "knowledge", (0.001, 0.1, 1.0), knowledge_from_the_future),
    Fault("texts that are refusals", "knowledge", (0.001, 0.1, 1.0), text_refused),
    Fault("leaked future knowledge", "dataset", (0.001, 0.1, 1.0), knowledge_leaked),
    Fault("own label in the statistics", "dataset", (0.01, 0.3, 1.0), label_leaked),
    Fault("references shuffled among users", "dataset", (0.001, 0.1, 1.0), references_shuffled),
    Fault("join without its statistics", "dataset", (0.001, 0.1, 1.0), join_lost),
    Fault("stale online rows", "online", SHARES, online_stale),
    Fault("online rows evicted", "online", SHARES, online_lost),
    Fault("online vectors swapped", "online", SHARES, online_swapped),
)
