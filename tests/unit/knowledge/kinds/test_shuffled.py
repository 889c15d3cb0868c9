"""Shuffled titles: the vectors that a log would have whose items carry each other's titles."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit.knowledge.knowledge_worlds import TITLES, log_rows, run_of, write_source

from core import Settings
from core.matrix import open_matrix
from knowledge.kinds.shuffled import _exchange

GROUPS = pa.table({"item_id": list(range(8)), "scenario": ["home"] * 5 + ["search"] * 3})


def made(place: Path, source: Path, settings: Settings) -> Path:
    (place / "out").mkdir(parents=True)
    run_of(settings, [source], place / "cache", place / "store").build(place / "out")
    return place / "out"


def shuffled(place: Path, source: Path, settings: Settings, groups: pa.Table = GROUPS) -> dict[str, np.ndarray]:
    run = run_of(settings, [source], place / "cache", place / "store")
    return run.shuffled_titles(place / "out", groups, seed=3)


@pytest.mark.parametrize("half_life", [None, dt.timedelta(seconds=30)])
def test_vectors_are_those_of_a_log_whose_titles_were_exchanged(
    tmp_path: Path, settings: Settings, half_life: dt.timedelta | None
) -> None:
    knowledge = settings.knowledge.model_copy(update={"user_vectors": ["pooled"], "pooled_half_life": half_life})
    settings = settings.model_copy(update={"knowledge": knowledge})
    source = write_source(tmp_path / "true", log_rows())
    other = write_source(tmp_path / "other", log_rows())
    order = _exchange(pa.array(range(8)), GROUPS, 3)
    items = pq.read_table(other / "items.parquet")
    for name in ("title", "genres"):
        items = items.set_column(items.column_names.index(name), name, items[name].take(pa.array(order)))
    pq.write_table(items, other / "items.parquet")

    true = made(tmp_path / "a", source, settings)
    found = shuffled(tmp_path / "a", source, settings)
    expected = made(tmp_path / "b", other, settings)
    assert set(found) == {"item_text", "user_pooled"}
    assert np.array_equal(found["user_pooled"], np.array(open_matrix(expected / "user_pooled" / "vectors.npy")))
    assert not np.array_equal(found["user_pooled"], np.array(open_matrix(true / "user_pooled" / "vectors.npy")))
    before = np.array(open_matrix(true / "item_text" / "vectors.npy"))
    ids = pq.read_table(true / "item_text" / "index")["item_id"].to_numpy()
    place = np.argsort(ids)
    assert np.array_equal(found["item_text"], before[place[order[ids]]])


def test_nobody_keeps_the_own_title_and_titles_stay_within_their_scenario() -> None:
    ids = pa.array([f"item {n}" for n in range(100)])
    groups = pa.table(
        {"item_id": ids[:90], "scenario": [("home", "search", "one")[n % 3] if n else "alone" for n in range(90)]}
    )
    order = _exchange(ids, groups, 1)
    kind = np.array([*groups["scenario"].to_pylist(), *[""] * 10])
    assert sorted(order) == list(range(100))
    assert (kind[order] == kind).all()
    assert np.flatnonzero(order == np.arange(100)).tolist() == [0]
    assert not np.array_equal(order, _exchange(ids, groups, 2))


def test_items_without_text_and_users_gone_from_the_log_are_left_alone(
    tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    titles = [title if number != 2 else None for number, title in enumerate(TITLES)]
    source = write_source(tmp_path / "true", log_rows(), titles)
    out = made(tmp_path / "a", source, settings)
    before = np.array(open_matrix(out / "user_pooled" / "vectors.npy"))
    users = pq.read_table(out / "user_pooled" / "index")["user_id"].to_numpy()
    less = write_source(tmp_path / "less", [row for row in log_rows() if row[0] != 4], titles)
    found = shuffled(tmp_path / "a", less, settings)
    assert np.array_equal(found["user_pooled"][users == 4], before[users == 4])
    assert not (found["user_pooled"][users != 4] == before[users != 4]).all(axis=1).any()
    assert "have no rows in the log any more" in caplog.text
    assert len(found["item_text"]) == 7
