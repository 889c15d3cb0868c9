from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from unit.knowledge.knowledge_worlds import TITLES, log_rows, micros, write_source

from core.settings import DataSettings
from knowledge.log.catalogue import catalogue_of, read_catalogue
from knowledge.log.store import open_log


def test_a_new_wording_of_an_item_is_known_from_when_the_item_first_appeared(tmp_path: Path) -> None:
    sources = [write_source(tmp_path / name, log_rows(users=2, rows=3)) for name in ("first", "second")]
    later = pq.read_table(sources[1] / "items.parquet")
    place = later.column_names.index("event_timestamp")
    moved = pc.add(later["event_timestamp"], pa.scalar(dt.timedelta(days=9)))
    later = later.set_column(place, "event_timestamp", moved)
    title = later.column_names.index("title")
    later = later.set_column(title, "title", pa.array([f"new {n}" for n in range(later.num_rows)]))
    pq.write_table(later, sources[1] / "items.parquet")
    alone, both = (catalogue_of(*read_catalogue(some, DataSettings())) for some in (sources[:1], sources))
    assert both.texts[0].startswith("new ")
    assert both.item_times.tolist() == alone.item_times.tolist()


def test_long_texts_of_items_lose_their_end_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_source(tmp_path / "source", log_rows(users=2, rows=3), ["word " * 60, *TITLES[1:]])
    with caplog.at_level("WARNING"):
        short, long = (catalogue_of(*read_catalogue([source], DataSettings(text_length=n))) for n in (200, 400))
    assert len(short.texts[0]) < 220 < 290 < len(long.texts[0])
    assert [r.getMessage() for r in caplog.records] == [
        "1 texts of items (title) are longer than data.text_length (200 characters) and lose their end"
    ]


def test_the_cap_keeps_the_most_active_users(tmp_path: Path) -> None:
    rows = [(u, k, "home", k, 1) for u, n in ((1, 2), (2, 5), (3, 5), (4, 1)) for k in range(n)]
    source = write_source(tmp_path / "source", rows)
    with open_log([source], tmp_path, catalogue_of(*read_catalogue([source], DataSettings())), micros(100)) as log:
        assert log.most_active(1).to_pylist() == [2]
        assert log.most_active(3).to_pylist() == [2, 3, 1]
