"""A log cut into windows gives, night by night, the training rows that one run over all of it gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feature_worlds import INTS, Row, Snapshot, at, random_rows, write_knowledge, write_source
from test_segments import cut, nightly

import core.segments
from core import Settings, Window, from_micros, replay
from core.contracts.chain import RowsChain
from core.contracts.dataset_spec import DatasetSpec
from core.matrix import open_matrix
from core.resources import memory_limit
from core.segments import segments
from core.tables import UNDATED_MICROS
from core.training_table import read_rows
from feature_repo import training_table
from feature_repo.training_table import build_training_table

CATALOGUE = {"user_categorical": ["gender"], "item_categorical": ["genre"], "item_dense": ["year"]}
SNAPSHOTS = Callable[[list[Row]], list[Snapshot]]


def due(rows: list[Row]) -> list[Snapshot]:
    """A user's vector after every third of the user's rows, in order of (watermark, user)."""
    found = []
    for user in sorted({row.user for row in rows}):
        own = sorted(row.micros for row in rows if row.user == user)
        found += [Snapshot(user, time + 1) for time in own[2::3]]
    return sorted(set(found), key=lambda one: (one.watermark, one.key))


class Shop:
    """Windows of a log whose catalogue is one for all, and each night's artifacts."""

    def __init__(
        self, root: Path, rows: list[Row], bounds: list[float], snapshots: SNAPSHOTS = due, **changes: Any
    ) -> None:
        self.root, self.rows, self.bounds, self.snapshots = root, rows, bounds, snapshots
        split = {"kind": "time", **changes.pop("split", {})}
        self.settings = Settings(root=root / "state", data=CATALOGUE | changes.pop("data", {}), split=split, **changes)
        self.sources = cut(root, rows, bounds)
        whole = write_source(root / "catalogue", rows, INTS)
        for source in self.sources:
            for name in ("users.parquet", "items.parquet"):
                (source / name).write_bytes((whole / name).read_bytes())
        self.features = nightly(self.sources, root / "features", self.settings)
        self.made: list[Path] = []

    def night(self, number: int, name: str = "nights", alone: bool = False, **changes: Any) -> Path:
        """The training table of all windows up to this one."""
        out = self.root / name / str(number)
        out.mkdir(parents=True)
        start = changes.get("start")
        build_training_table(
            self.settings,
            replay(from_micros(changes.get("now", at(self.bounds[number + 1])) - 1)),
            sources=self.sources[: number + 1],
            features=self.features[number],
            knowledge=self.knowledge(number),
            out=out,
            window=Window(start and from_micros(start), None),
            train_start=at(5),
            earlier=() if alone else self.made[::-1],
        )
        if not alone:
            self.made.append(out)
        return out

    def knowledge(self, number: int) -> Path:
        folder = self.root / "knowledge" / str(number)
        if not folder.exists():
            known = [row for row in self.rows if row.second < self.bounds[number + 1]]
            items = sorted({row.item for row in known}, key=lambda item: -item)  # a new one is put before the others
            moments = [at(bound) for bound in self.bounds[1 : number + 2]]
            scenarios = [Snapshot(name, moment) for moment in moments for name in ("home", "search")]
            write_knowledge(folder, "pooled", self.snapshots(known), pa.int64())
            write_knowledge(folder, "scenario", scenarios, pa.string())
            write_knowledge(folder, "item_text", [Snapshot(i, UNDATED_MICROS) for i in items], pa.int64())
            vectors = np.repeat(np.array(items, np.float32)[:, None], 4, axis=1)
            np.save(folder / "item_text" / "vectors.npy", vectors)
            (folder / "versions.json").write_text(json.dumps({"pooled": "p1", "scenario": "s1", "item_text": "t1"}))
        return folder


def same(one: Path, other: Path) -> bool:
    """Whether two tables have the same rows, references included, and the items' own vectors."""
    tables = [read_rows(folder) for folder in (one, other)]
    for folder, rows in zip((one, other), tables, strict=True):
        vectors = open_matrix(folder / "vectors" / "item_text.npy")[rows["item_text_row"].to_numpy()]
        assert (vectors[:, 0] == rows["item_id"].to_numpy()).all()
    first, second = (rows.drop_columns(["item_text_row"]) for rows in tables)
    return first.combine_chunks().equals(second.combine_chunks())


def sizes(folder: Path) -> tuple[int, ...]:
    return RowsChain.read(folder).segments


@pytest.mark.parametrize(
    ("kind", "data"),
    [("time", {}), ("per_user_tail", {}), ("per_user_tail", {"negatives": {"per_positive": 2}})],
    ids=["time", "tail", "drawn"],
)
def test_night_by_night_gives_what_one_run_gives(
    tmp_path: Path, kind: str, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.segments, "FANOUT", 3)
    rows = random_rows(3)
    if data:
        rows = [replace(row, label=1) for row in rows]
    shop = Shop(tmp_path, rows, [0, 11, 12, 25, 33, 40], split={"kind": kind}, data=data)
    for number in range(5):
        made = shop.night(number)
        if number in (1, 4):
            assert same(made, shop.night(number, "once", alone=True)), number
    parts = read_rows(shop.made[-1], ["split"])["split"].to_pylist()
    assert set(parts) == {"warmup", "train", "validation", "test"}
    assert [len(sizes(folder)) for folder in shop.made] == [1, 2, 1, 2, 1], "small segments are put together"


def test_a_planted_row_number_of_another_night_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail: with an index in another order that nobody looks at, it does."""

    def newest_first(rows: list[Row]) -> list[Snapshot]:
        return due(rows)[::-1]

    shop = Shop(tmp_path, random_rows(3), [0, 20, 40], newest_first)
    shop.night(0)
    once = shop.night(1, "once", alone=True)
    assert same(shop.night(1), once) and len(sizes(shop.made[-1])) == 1, "made anew"
    monkeypatch.setattr(training_table, "_goes_on", lambda *_: True)
    shop.made = shop.made[:1]
    shop.root = tmp_path / "blind"
    shop.root.mkdir()
    assert not same(shop.night(1), once)


def test_a_night_joins_its_own_rows_and_links_the_others(tmp_path: Path) -> None:
    shop = Shop(tmp_path, random_rows(1), [0, 20, 30, 40])
    first, second, third = (shop.night(number) for number in range(3))
    assert [len(segments(folder / "rows")) for folder in (first, second, third)] == [1, 2, 3]
    assert segments(third / "rows")[0].samefile(segments(first / "rows")[0])
    assert [RowsChain.read(folder).taken for folder in (first, second, third)] == [0, 1, 2]
    times = pq.read_table(segments(third / "rows")[2])["event_timestamp"].cast(pa.int64()).to_pylist()
    assert min(times) >= at(30)


def late_vector(rows: list[Row]) -> list[Snapshot]:
    """With the second window, users come to have vectors of the first."""
    found = due(rows)
    return found if max(row.second for row in rows) > 30 else [one for one in found if one.watermark < at(10)]


def test_vectors_that_earlier_rows_could_have_read_make_them_anew(tmp_path: Path) -> None:
    shop = Shop(tmp_path, random_rows(1), [0, 20, 40], late_vector)
    shop.night(0)
    assert same(shop.night(1), shop.night(1, "once", alone=True))
    assert len(sizes(shop.made[1])) == 1


def test_other_columns_or_versions_make_everything_anew(tmp_path: Path) -> None:
    shop = Shop(tmp_path, random_rows(1), [0, 20, 40])
    shop.night(0)
    (shop.knowledge(1) / "versions.json").write_text(json.dumps({"pooled": "p2", "scenario": "s1", "item_text": "t1"}))
    shop.night(1)
    assert len(sizes(shop.made[1])) == 1
    assert DatasetSpec.read(shop.made[1]).vectors["user_pooled"].version == "p2"


def test_rows_ahead_of_the_clock_are_taken_in_by_the_next_night(tmp_path: Path) -> None:
    rows = [Row(1, 3, 10), Row(1, 4, 19), Row(2, 3, 30)]
    shop = Shop(tmp_path, rows, [0, 20, 40])
    assert read_rows(shop.night(0, now=at(15))).num_rows == 1
    assert same(shop.night(1), shop.night(1, "once", alone=True))
    assert read_rows(shop.made[1]).num_rows == 3


def test_a_horizon_that_moves_on_leaves_old_rows_out(tmp_path: Path) -> None:
    shop = Shop(tmp_path, random_rows(2), [0, 20, 30, 40])
    starts = [at(4), at(11), at(22)]
    for number, start in enumerate(starts):
        made, once = shop.night(number, start=start), shop.night(number, "once", alone=True, start=start)
        assert same(made, once)
        assert min(read_rows(made)["event_timestamp"].cast(pa.int64()).to_pylist()) >= start
    assert len(sizes(shop.made[1])) == 2 and len(sizes(shop.made[2])) == 2, "the first window is before the horizon"
    shop.night(2, "wider", start=at(1))
    assert len(sizes(shop.made[-1])) == 1


def test_many_blocks_are_one(tmp_path: Path) -> None:
    """What is joined at a time is bounded by memory and changes nothing."""
    shop = Shop(tmp_path, [replace(row, label=1) for row in random_rows(4)], [0, 40], data={"negatives": {}})
    once = shop.night(0, "once", alone=True)
    with memory_limit(64_000_000), pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_table, "_ROW_BYTES", 64_000_000 // 7)
        many = shop.night(0, "blocks", alone=True)
    assert segments(many / "rows")[0].read_bytes() == segments(once / "rows")[0].read_bytes()


@pytest.mark.parametrize("empty", [True, False])
def test_a_window_without_rows_adds_no_segment(tmp_path: Path, empty: bool) -> None:
    rows = [row for row in random_rows(2) if not empty or row.second < 30]
    shop = Shop(tmp_path, rows, [0, 30, 40])
    shop.night(0)
    assert len(sizes(shop.night(1))) == (1 if empty else 2)
    assert same(shop.made[1], shop.night(1, "once", alone=True))
