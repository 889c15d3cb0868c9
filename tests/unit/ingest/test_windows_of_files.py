"""A window reads the parts of files that can hold its rows, and gives what reading all of them gives."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import Settings, Window, file_digests
from core.clock import wall
from core.digest import sha256_file
from core.errors import DataError
from core.file_digests import FileDigests
from ingest import source_digest
from ingest.raw import RawFile

DAY = 86_400
BEGIN = 1_704_067_200  # 2024-01-01
ROWS, GROUP = 400, 25
BERLIN = {"timezone": "Europe/Berlin"}

Ingest = Callable[..., Any]


def log(times: pa.Array) -> pa.Table:
    count = len(times)
    labels = [n % 2 for n in range(count)]
    return pa.table({"user_id": range(count), "item_id": [n % 7 for n in range(count)], "scenario": ["feed"] * count,
                     "event_timestamp": times, "label": labels})  # fmt: skip


def seconds() -> np.ndarray:
    """Ten days, not quite in order."""
    rng = np.random.default_rng(2)
    return BEGIN + np.sort(rng.integers(0, 10 * DAY, ROWS)) + rng.integers(-3600, 3600, ROWS)


def stamps(kind: pa.DataType, factor: int) -> pa.Array:
    return pa.array(seconds() * factor, pa.int64()).cast(kind)


def with_nulls(times: pa.Array) -> pa.Array:
    return pa.array([None if n % 90 == 5 else value for n, value in enumerate(times.to_pylist())], times.type)


CASES: dict[str, tuple[Callable[[], pa.Array], dict[str, Any], bool]] = {
    "seconds": (lambda: pa.array(seconds()), {}, True),
    "milliseconds": (lambda: pa.array(seconds() * 1000), {"timestamp_unit": "ms"}, True),
    "unsigned": (lambda: pa.array(seconds().astype(np.uint32)), {}, True),
    "zoned": (lambda: stamps(pa.timestamp("us", "UTC"), 10**6), {}, True),
    "nanoseconds": (lambda: stamps(pa.timestamp("ns", "Asia/Tokyo"), 10**9), {}, True),
    "local": (lambda: stamps(pa.timestamp("ms"), 1000), BERLIN, True),
    "days": (lambda: pa.array(seconds() // DAY, pa.int32()).cast(pa.date32()), BERLIN, True),
    "texts": (lambda: pa.array([str(one) for one in seconds()]), {}, False),
    "floats": (lambda: pa.array([float("nan") if n % 90 == 5 else float(v) for n, v in enumerate(seconds())]), {}, False),
    "gaps": (lambda: with_nulls(pa.array(seconds())), {}, True),
}  # fmt: skip
WINDOWS = [
    ("2024-01-03", "2024-01-04"),
    (None, "2024-01-02T12:00"),
    ("2024-01-09T23:30", None),
    ("2024-02-01", "2024-02-02"),
]


def settings_of(folder: Path, files: str = "log", **data: Any) -> dict[str, Any]:
    rule = {"column": "label", "op": "is"}
    return {"path": folder, "source": "table", "files": {"interactions": files}, "label": rule, **data}


@pytest.fixture
def groups_read(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Which groups were read."""
    found: list[int | None] = []
    read = RawFile.read

    def noted(self: RawFile, names: Any, rows: int, group: int | None = None) -> Any:
        found.append(group)
        return read(self, names, rows, group)

    monkeypatch.setattr(RawFile, "read", noted)
    return found


@pytest.mark.parametrize("edges", WINDOWS, ids=["a day", "the first", "the last", "none"])
@pytest.mark.parametrize("case", CASES)
def test_a_window_has_the_rows_that_reading_everything_gives(
    tmp_path: Path, ingest: Ingest, case: str, edges: tuple[str | None, str | None],
    groups_read: list[int | None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    times, data, prunes = CASES[case]
    table = log(times())
    (tmp_path / "log").mkdir()
    for number, start in enumerate(range(0, ROWS, ROWS // 4)):
        part = table.slice(start, ROWS // 4)
        pq.write_table(part, tmp_path / "log" / f"{number}.parquet", row_group_size=GROUP)
    window = Window.parse(*edges)
    found = ingest(window, **settings_of(tmp_path, **data))
    some = len(groups_read)
    groups_read.clear()
    monkeypatch.setattr(RawFile, "edges", lambda *_: None)
    whole = ingest(window, **settings_of(tmp_path, **data))
    assert found.interactions.equals(whole.interactions)
    assert found.meta == whole.meta
    assert len(groups_read) == ROWS // GROUP
    assert some < len(groups_read) / 2 if prunes and case != "gaps" else some <= len(groups_read)
    if case in ("gaps", "floats"):
        undated = [at for at, value in enumerate(times()) if not value.is_valid or value.as_py() != value.as_py()]
        assert set(undated) <= set(found.column("interactions", "user_id")), "rows without a time lie in every window"


def test_a_folders_name_that_is_the_time_decides_too(
    tmp_path: Path, ingest: Ingest, groups_read: list[int | None]
) -> None:
    for day in range(1, 8):
        folder = tmp_path / "log" / f"date=2024-01-{day:02d}"
        folder.mkdir(parents=True)
        pq.write_table(log(pa.nulls(5, pa.int64())).drop_columns(["event_timestamp"]), folder / "part.parquet")
    data = settings_of(tmp_path, columns={"event_timestamp": "date"}, timestamp_unit="iso")
    found = ingest(Window.parse("2024-01-03", "2024-01-05"), **data)
    assert found.rows["interactions"] == 10 and len(groups_read) == 2
    assert {time.day for time in found.column("interactions", "event_timestamp")} == {3, 4}


def test_a_fault_is_named_by_its_row_of_the_whole_file(tmp_path: Path, ingest: Ingest) -> None:
    table = log(pa.array(BEGIN + np.arange(100) * 3600))
    labels = pa.array(["maybe" if n == 90 else str(n % 2) for n in range(100)])
    table = table.set_column(4, "label", labels)
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=10)
    with pytest.raises(DataError) as first:
        ingest(**settings_of(tmp_path, "log.parquet", label={"column": "label", "op": ">", "value": 0}))
    with pytest.raises(DataError) as later:
        ingest(
            Window.parse("2024-01-04", None),
            **settings_of(tmp_path, "log.parquet", label={"column": "label", "op": ">", "value": 0}),
        )
    assert str(later.value) == str(first.value) and "row 91" in str(first.value)


def test_a_log_that_lies_elsewhere_is_no_empty_log(tmp_path: Path, ingest: Ingest) -> None:
    pq.write_table(log(pa.array(BEGIN + np.arange(50))), tmp_path / "log.parquet")
    assert ingest(Window.parse("2024-03-01", "2024-03-02"), **settings_of(tmp_path, "log.parquet")).meta["empty"]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose bytes were read for their digest."""
    found: list[str] = []

    def noted(path: Path) -> str:
        found.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(file_digests, "sha256_file", noted)
    return found


def long_ago(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files be written long enough ago that their times tell a change."""
    monkeypatch.setattr(file_digests, "wall", lambda: _Later())


class _Later:
    def now_micros(self) -> int:
        return wall().now_micros() + 3_600_000_000


def test_only_what_changed_is_read_for_its_digest(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").mkdir()
    for name in ("a", "b"):
        (tmp_path / "log" / f"{name}.csv").write_text("user_id,item_id,scenario,event_timestamp,label\n1,2,feed,3,1\n")
    settings = Settings(root=tmp_path / "root", data=settings_of(tmp_path))
    first = source_digest(settings)
    assert hashed == ["a.csv", "b.csv"]
    assert source_digest(settings) == first
    assert hashed == ["a.csv", "b.csv"] * 2, "they were written a moment ago: the next write may have the same times"
    long_ago(tmp_path, monkeypatch)
    source_digest(settings)
    hashed.clear()
    assert source_digest(settings) == first and hashed == []
    (tmp_path / "log" / "c.csv").write_text("user_id,item_id,scenario,event_timestamp,label\n1,2,feed,3,1\n")
    second = source_digest(settings)
    assert second != first and hashed == ["c.csv"]


def test_an_edit_that_keeps_size_and_time_is_seen(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, kept = tmp_path / "log.csv", tmp_path / "kept.json"
    long_ago(tmp_path, monkeypatch)

    def digest() -> str:
        known = FileDigests(kept)
        found = known.of(file)
        known.keep()
        return found

    file.write_text("one")
    before, about = digest(), file.stat()
    assert digest() == before and hashed == ["log.csv"]
    file.write_text("two")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert file.stat().st_size == about.st_size and file.stat().st_mtime_ns == about.st_mtime_ns
    assert digest() != before


@pytest.mark.parametrize("damaged", ["", "[]", '{"x": 1}', "{"])
def test_damaged_notes_of_digests_are_made_again(tmp_path: Path, damaged: str, monkeypatch: pytest.MonkeyPatch) -> None:
    long_ago(tmp_path, monkeypatch)
    file, kept = tmp_path / "log.csv", tmp_path / "kept.json"
    file.write_text("one")
    kept.write_text(damaged)
    known = FileDigests(kept)
    found = known.of(file)
    known.keep()
    assert json.loads(kept.read_text())[str(file)][-1] == found


def test_dates_of_one_window_do_not_depend_on_how_a_file_is_grouped(tmp_path: Path, ingest: Ingest) -> None:
    """Rows at the very edges of a window."""
    moment = dt.datetime(2024, 1, 3, tzinfo=dt.UTC)
    times = [moment + dt.timedelta(microseconds=n) for n in (-1, 0, 1, 86_400_000_000 - 1, 86_400_000_000)]
    table = log(pa.array(times, pa.timestamp("us", "UTC")))
    for size in (1, 5):
        pq.write_table(table, tmp_path / "log.parquet", row_group_size=size)
        found = ingest(Window.parse("2024-01-03", "2024-01-04"), **settings_of(tmp_path, "log.parquet"))
        assert found.column("interactions", "user_id") == [1, 2, 3]
