"""The validated log and catalogue as arrays: what prompts, snapshots and pooled vectors are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import logger
from core.errors import DataError, MissingArtifactError
from core.settings import DataSettings

LOG = logger("knowledge")
# Longest sentence of a scenario that is looked at; prompts say what they cut of it.
_SENTENCE = 2_000


@dataclass(frozen=True)
class Log:
    """Interactions sorted by (user, time, item, scenario), ids as positions in the sorted id arrays.

    Attributes:
        user_ids: Arrow array of distinct users, sorted.
        users: int32 [n], position in `user_ids`.
        items: int32 [n], row in the catalogue's distinct items; -1 where the catalogue lacks the item.
        scenarios: int16 [n], position in the scenario table.
        times: int64 [n], microseconds.
        labels: bool [n].
        starts: int64 [users + 1], where each user's rows begin.
    """

    user_ids: pa.Array
    users: np.ndarray
    items: np.ndarray
    scenarios: np.ndarray
    times: np.ndarray
    labels: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class Catalogue:
    """Items and scenarios.

    Attributes:
        item_ids: Arrow array of distinct items, sorted.
        item_times: int64 [items], when the item first appeared, in microseconds.
        texts: one per item, "" where nothing is known.
        categories: list of categories per item.
        scenarios: (name, title, description) in the order of the scenario table.
    """

    item_ids: pa.Array
    item_times: np.ndarray
    texts: list[str]
    categories: list[list[str]]
    scenarios: list[tuple[str, str, str]]


def read_catalogue(sources: Sequence[Path], data: DataSettings) -> Catalogue:
    """Items and scenarios of all windows; of an item that comes twice, the later window's row counts, known from the time
    of the first: a new wording must not take the text from the log's earlier rows.

    Raises:
        DataError: an `item_text` column does not exist.
    """
    tables = [pq.read_table(_existing(source / "items.parquet")) for source in sources]
    for source, table in zip(sources, tables, strict=True):
        for column in data.item_text:
            if column not in table.column_names:
                raise DataError("named in data.item_text, but not there", file=source / "items.parquet", column=column)
    items = pa.concat_tables(tables, promote_options="default").combine_chunks()
    ids = items.column("item_id").combine_chunks()
    unique = _sorted_unique(ids)
    place, last = _positions(ids, unique), np.zeros(len(unique), dtype=np.int64)
    last[place] = np.arange(len(ids))  # repeated positions: the last one stays
    first = np.full(len(unique), np.iinfo(np.int64).max)
    np.minimum.at(first, place, items.column("event_timestamp").cast(pa.int64()).to_numpy())
    items = items.take(pa.array(last))
    categories = _categories(items, data)
    return Catalogue(
        item_ids=unique,
        item_times=first,
        texts=_texts(items, data, categories),
        categories=categories,
        scenarios=_scenarios(sources),
    )


def make_log(rows: pa.Table, catalogue: Catalogue) -> Log:
    """Rows as a log; of rows that come twice, the one of the latest source counts.

    Args:
        rows: user_id, item_id, scenario, t (microseconds), label (bool), place (of its source).
        catalogue: knows items and scenarios.

    Raises:
        DataError: a row's scenario is not in the scenario table.
    """
    user_ids = _sorted_unique(rows.column("user_id"))
    users = _positions(rows.column("user_id"), user_ids).astype(np.int32)
    all_items = _sorted_unique(rows.column("item_id"))
    items = _positions(rows.column("item_id"), all_items)
    scenarios = positions_of(rows.column("scenario"), catalogue)
    times, places = rows.column("t").to_numpy(), rows.column("place").to_numpy()
    order = np.lexsort((places, scenarios, items, times, users))
    order = order[_last_of_equal(users[order], times[order], items[order], scenarios[order])]
    known = _positions(all_items, catalogue.item_ids).astype(np.int32)
    users = users[order]
    return Log(
        user_ids=user_ids,
        users=users,
        items=known[items[order]] if len(order) else np.zeros(0, np.int32),
        scenarios=scenarios[order].astype(np.int16),
        times=times[order],
        labels=rows.column("label").to_numpy()[order],
        starts=np.searchsorted(users, np.arange(len(user_ids) + 1)),
    )


def positions_of(scenarios: pa.ChunkedArray, catalogue: Catalogue) -> np.ndarray:
    """Positions in the scenario table, int64 [n].

    Raises:
        DataError: one is not in the table.
    """
    found = _positions(scenarios, pa.array([name for name, _, _ in catalogue.scenarios], pa.string()))
    if (found < 0).any():
        unknown = scenarios[int(np.argmax(found < 0))].as_py()
        raise DataError(f"scenario {unknown!r} is not in scenarios.parquet", column="scenario")
    return found


def item_positions(items: pa.ChunkedArray, catalogue: Catalogue) -> np.ndarray:
    """Positions in the catalogue, int64 [n]; -1 where it lacks the item."""
    return _positions(items, catalogue.item_ids)


def clean(value: object, limit: int = 200) -> str:
    """A value as one line of quotable data: no line breaks, control characters or double quotes, at most `limit` long."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return " ".join(text.replace('"', "'").split())[:limit].rstrip()


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise MissingArtifactError(f"{path} does not exist; run `llm4msr validate` first")
    return path


def _sorted_unique(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    unique = pc.unique(ids)
    return unique.take(pc.sort_indices(unique))


def _positions(values: pa.Array | pa.ChunkedArray, among: pa.Array) -> np.ndarray:
    """Position of each value in `among`, -1 where it is not there."""
    if len(among) and values.type != among.type:
        values = values.cast(among.type)
    return np.asarray(pc.fill_null(pc.index_in(values, value_set=among), -1)).astype(np.int64)


def _last_of_equal(*columns: np.ndarray) -> np.ndarray:
    keep = np.ones(len(columns[0]), dtype=bool)
    if len(keep) > 1:
        keep[:-1] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return keep


def _categories(items: pa.Table, data: DataSettings) -> list[list[str]]:
    named = [c for c in ("genres", "categories", *data.item_categorical) if c in items.column_names]
    if not named:
        return [[] for _ in range(items.num_rows)]
    values = items.column(named[0]).to_pylist()
    split = (v if isinstance(v, list) else str(v).split("|") if v is not None else [] for v in values)
    return [[clean(part) for part in parts if clean(part)] for parts in split]


def _texts(items: pa.Table, data: DataSettings, categories: list[list[str]]) -> list[str]:
    """The items' texts with their categories; where no item has a text of its own, categories alone are none either."""
    most, columns = data.text_length, data.item_text
    parts = [[clean(v, most + 1) if v is not None else "" for v in items.column(c).to_pylist()] for c in columns]
    if long := sum(len(value) > most for values in parts for value in values):
        LOG.warning(
            "%s texts of items (%s) are longer than data.text_length (%s characters) and lose their end",
            f"{long:,}",
            ", ".join(columns),
            f"{most:,}",
        )
    parts = [[value[:most].rstrip() for value in values] for values in parts]
    joined = [". ".join(p for p in row if p) for row in zip(*parts, strict=True)]
    if not any(joined):
        return [""] * items.num_rows
    return [
        f"{text} ({', '.join(labels)})" if text and labels else text or ", ".join(labels)
        for text, labels in zip(joined, categories, strict=True)
    ]


def _scenarios(sources: Sequence[Path]) -> list[tuple[str, str, str]]:
    known: dict[str, tuple[str, str, str]] = {}
    for source in sources:
        for row in pq.read_table(_existing(source / "scenarios.parquet")).to_pylist():
            known[row["scenario"]] = (row["scenario"], clean(row["title"]), clean(row["description"], _SENTENCE))
    return list(known.values())
