"""The items and scenarios of all windows, each once, as prompts and vectors are made from them."""

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
from core.segments import TableWriter, read_segments, table_path
from core.settings import DataSettings
from knowledge.storage.earlier import CATALOGUE as TABLE

LOG = logger("knowledge")
Scenarios = Sequence[tuple[str, str, str]]
# Longest sentence of a scenario that is looked at; prompts say what they cut of it.
_SENTENCE = 2_000
# Superseded rows are left where they are until there are as many of them as of others.
_MOST_ROWS = 2


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


def items_schema(ids: pa.DataType) -> pa.Schema:
    """The schema of a catalogue's items: text is the item's own, without its categories."""
    columns = {"item_id": ids, "time": pa.int64(), "text": pa.string(), "categories": pa.list_(pa.string())}
    return pa.schema(columns)


def catalogue_of(items: pa.Table, scenarios: Scenarios) -> Catalogue:
    """As prompts and vectors are made from them; where no item has a text of its own, categories alone are none."""
    own, categories = items["text"].to_pylist(), items["categories"].to_pylist()
    texts = [
        f"{text} ({', '.join(labels)})" if text and labels else text or ", ".join(labels)
        for text, labels in zip(own, categories, strict=True)
    ]
    ids, times = items["item_id"].combine_chunks(), items["time"].to_numpy()
    return Catalogue(ids, times, texts if any(own) else [""] * len(own), categories, list(scenarios))


def read_catalogue(
    sources: Sequence[Path], data: DataSettings, before: tuple[pa.Table, Scenarios] | None = None
) -> tuple[pa.Table, Scenarios]:
    """Items and scenarios of all windows; of an item that comes twice, the later window's row counts, known from the time
    of the first: a new wording must not take the text from the log's earlier rows.

    Args:
        sources: folders of validated tables, in order of their windows.
        data: which columns are an item's text and categories.
        before: the same of the windows before these.

    Returns:
        Items as an artifact keeps them, each once, in order of its id; and the scenarios.

    Raises:
        DataError: an `item_text` column does not exist.
    """
    tables = [pq.read_table(_existing(source / "items.parquet")) for source in sources]
    for source, table in zip(sources, tables, strict=True):
        for column in data.item_text:
            if column not in table.column_names:
                raise DataError("named in data.item_text, but not there", file=source / "items.parquet", column=column)
    items, scenarios = before or (None, ())
    if tables:
        own = _own(tables, data)
        items = own if items is None else _on_top(items, own)
    assert items is not None, "there are windows, or some before them"
    return items, _scenarios(sources, scenarios)


def id_types_of(sources: Sequence[Path]) -> set[pa.DataType]:
    """The types that item ids have in some windows."""
    return {pq.read_schema(_existing(source / "items.parquet")).field("item_id").type for source in sources}


def category_column(sources: Sequence[Path], data: DataSettings) -> str | None:
    """The column of the windows' items that tells their categories."""
    columns = {name for source in sources for name in pq.read_schema(_existing(source / "items.parquet")).names}
    return next((c for c in ("genres", "categories", *data.item_categorical) if c in columns), None)


def _own(tables: Sequence[pa.Table], data: DataSettings) -> pa.Table:
    """Each item of some windows once, in order of its id."""
    items = pa.concat_tables(tables, promote_options="default").combine_chunks()
    ids = items.column("item_id").combine_chunks()
    unique = sorted_unique(ids)
    place, last = positions(ids, unique), np.zeros(len(unique), dtype=np.int64)
    last[place] = np.arange(len(ids))  # repeated positions: the last one stays
    first = np.full(len(unique), np.iinfo(np.int64).max)
    np.minimum.at(first, place, items.column("event_timestamp").cast(pa.int64()).to_numpy())
    items = items.take(pa.array(last))
    columns = [unique, pa.array(first), pa.array(_texts(items, data), pa.string())]
    return pa.table([*columns, pa.array(_categories(items, data), pa.list_(pa.string()))], items_schema(unique.type))


def _on_top(before: pa.Table, items: pa.Table) -> pa.Table:
    """Items over earlier ones; the time of the first stays."""
    ids = items["item_id"].combine_chunks().cast(before.schema.field("item_id").type)
    known = before["item_id"].combine_chunks()
    place = pc.index_in(ids, value_set=known)
    then = pc.fill_null(before["time"].take(place), np.iinfo(np.int64).max)
    items = items.set_column(0, before.schema.field("item_id"), ids)
    items = items.set_column(1, items.schema.field("time"), pc.min_element_wise(items["time"], then))
    stay = before.filter(pc.invert(pc.is_in(known, value_set=ids)))
    return pa.concat_tables([stay, items]).sort_by("item_id").combine_chunks()


def read_items_of(folder: Path) -> pa.Table:
    """The items that an artifact was made with, in order of their ids.

    Raises:
        MissingArtifactError: it does not say.
    """
    return _last(read_segments(table_path(folder, TABLE)))


def write_items_of(items: pa.Table, out: Path, before: Path | None) -> None:
    """Keep the items of a catalogue: in a segment of those that are new or changed.

    Args:
        items: in order of their ids.
        out: the folder of the artifact.
        before: that of the artifact before.
    """
    old = None if before is None else read_segments(table_path(before, TABLE))
    if old is not None and (old.schema != items.schema or len(old) > _MOST_ROWS * len(items)):
        old = None
    with TableWriter(
        out, TABLE, items.schema, None if old is None or before is None else table_path(before, TABLE)
    ) as table:
        if old is None:
            table.write(items)
        else:
            table.take(len(old))
            table.write(items.filter(pc.invert(_among(items, _last(old)))))


def _last(rows: pa.Table) -> pa.Table:
    """Each item's last row."""
    ids = rows["item_id"].combine_chunks()
    unique = sorted_unique(ids)
    last = np.zeros(len(unique), dtype=np.int64)
    last[positions(ids, unique)] = np.arange(len(ids))
    return rows.take(pa.array(last)).combine_chunks()


def _among(items: pa.Table, others: pa.Table) -> pa.Array:
    """Which items are among the others with the same text, categories and time."""
    place = pc.index_in(items["item_id"].combine_chunks(), value_set=others["item_id"].combine_chunks())
    same = pc.is_valid(place)
    for one, other in zip(_told(items), _told(others), strict=True):
        same = pc.and_(same, pc.fill_null(pc.equal(one, other.take(place)), False))
    return same


def same_items(items: pa.Table, others: pa.Table) -> pa.Array:
    """Which items are among the others with the same text and categories."""
    return _among(*(t.set_column(1, "time", pa.array(np.zeros(len(t), np.int64))) for t in (items, others)))


def _told(items: pa.Table) -> list[pa.Array]:
    # Lists have no equality of their own; no category holds a line break.
    columns = [items["time"], items["text"], pc.binary_join(items["categories"], "\n")]
    return [column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for column in columns]


def clean(value: object, limit: int = 200) -> str:
    """A value as one line of quotable data: no line breaks, control characters or double quotes, at most `limit` long."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return " ".join(text.replace('"', "'").split())[:limit].rstrip()


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise MissingArtifactError(f"{path} does not exist; run `llm4msr validate` first")
    return path


def sorted_unique(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Distinct ids, sorted."""
    unique = pc.unique(ids)
    return unique.take(pc.sort_indices(unique))


def positions(values: pa.Array | pa.ChunkedArray, among: pa.Array) -> np.ndarray:
    """Position of each value in `among`, -1 where it is not there."""
    if len(among) and values.type != among.type:
        values = values.cast(among.type)
    return np.asarray(pc.fill_null(pc.index_in(values, value_set=among), -1)).astype(np.int64)


def _categories(items: pa.Table, data: DataSettings) -> list[list[str]]:
    named = [c for c in ("genres", "categories", *data.item_categorical) if c in items.column_names]
    if not named:
        return [[] for _ in range(items.num_rows)]
    values = items.column(named[0]).to_pylist()
    split = (v if isinstance(v, list) else str(v).split("|") if v is not None else [] for v in values)
    return [[clean(part) for part in parts if clean(part)] for parts in split]


def _texts(items: pa.Table, data: DataSettings) -> list[str]:
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
    return [". ".join(p for p in row if p) for row in zip(*parts, strict=True)] if parts else [""] * items.num_rows


def _scenarios(sources: Sequence[Path], before: Scenarios) -> list[tuple[str, str, str]]:
    known = {one[0]: one for one in before}
    for source in sources:
        for row in pq.read_table(_existing(source / "scenarios.parquet")).to_pylist():
            known[row["scenario"]] = (row["scenario"], clean(row["title"]), clean(row["description"], _SENTENCE))
    return list(known.values())
