"""A log cut into windows gives, night by night, what one run over all of it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from feature_worlds import Row, random_rows, write_source

from core import Settings, segments
from core.contracts.chain import Chain
from core.tables import IdTypes
from feature_repo import features
from feature_repo.features import build_features

TABLES = {
    "user_stats": ("user_id", "watermark"),
    "item_stats": ("item_id", "watermark"),
    "user_history": ("user_id", "watermark"),
    "user_log": ("user_id", "position"),
}
INTS = IdTypes(pa.int64(), pa.int64())


def rows_of(folder: Path, name: str) -> pa.Table:
    return pq.read_table(folder / name).sort_by([(key, "ascending") for key in TABLES[name]]).combine_chunks()


def cut(tmp_path: Path, rows: list[Row], bounds: list[float]) -> list[Path]:
    """Sources of the rows between consecutive bounds (seconds)."""
    parts = [[r for r in rows if low <= r.second < high] for low, high in zip(bounds, bounds[1:], strict=False)]
    assert sum(map(len, parts)) == len(rows)
    return [write_source(tmp_path / f"window_{n}", part, INTS) for n, part in enumerate(parts)]


def nightly(sources: list[Path], out: Path, settings: Settings) -> list[Path]:
    """Each window's artifact, gone on from the one before."""
    made: list[Path] = []
    for number in range(len(sources)):
        folder = out / str(number)
        folder.mkdir(parents=True)
        build_features(sources[: number + 1], folder, settings, None, earlier=made[::-1])
        made.append(folder)
    return made


def whole(sources: list[Path], out: Path, settings: Settings) -> Path:
    out.mkdir()
    build_features(sources, out, settings, None)
    return out


def test_night_by_night_gives_what_one_run_gives(tmp_path: Path) -> None:
    rows, settings = random_rows(3), Settings()
    times = sorted({row.second for row in rows})
    bounds = [0, *times[2::4], times[-1] + 1]
    sources = cut(tmp_path, rows, bounds)
    made = nightly(sources, tmp_path / "nights", settings)
    for number in range(len(sources)):
        once = whole(sources[: number + 1], tmp_path / f"once_{number}", settings)
        for name in TABLES:
            assert rows_of(made[number], name).equals(rows_of(once, name)), (number, name)
        assert Chain.read(made[number]).until == Chain.read(once).until
    assert len(Chain.read(made[-1]).segments) < len(sources)


def test_a_planted_lost_carry_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail: without the counts of the windows before, it does."""
    rows, settings = random_rows(0), Settings()
    times = sorted({row.second for row in rows})
    sources = cut(tmp_path, rows, [0, times[len(times) // 2], times[-1] + 1])
    monkeypatch.setattr(
        features, "_carried", lambda _before, key, _kind: features._NOBODY.format(key=key, kind="BIGINT")
    )
    made = nightly(sources, tmp_path / "nights", settings)
    once = whole(sources, tmp_path / "once", settings)
    assert not rows_of(made[-1], "user_stats").equals(rows_of(once, "user_stats"))


def test_a_night_writes_what_it_brought_and_links_the_rest(tmp_path: Path) -> None:
    rows = random_rows(1)
    times = sorted({row.second for row in rows})
    sources = cut(tmp_path, rows, [0, times[9], times[14], times[-1] + 1])
    first, second, third = nightly(sources, tmp_path / "nights", Settings())
    for name in TABLES:
        assert segments.segment_file(second, name, 0).samefile(segments.segment_file(first, name, 0))
        assert len(segments.segments(third / name)) == 3
    old = segments.segments(third / "user_stats")[0].read_bytes()
    for folder in (first, second):
        for file in folder.rglob("*.parquet"):
            file.unlink()
    assert segments.segments(third / "user_stats")[0].read_bytes() == old, (
        "an artifact is whole without those before it"
    )


def test_many_windows_are_few_files_that_hold_the_same(tmp_path: Path) -> None:
    rows = [Row(1 + n % 5, n % 7, n, label=n // 2 % 2) for n in range(40)]
    sources = cut(tmp_path, rows, list(range(0, 41, 2)))
    made = nightly(sources, tmp_path / "nights", Settings())
    once = whole(sources, tmp_path / "once", Settings())
    assert len(sources) == 20
    assert max(len(segments.segments(folder / "user_stats")) for folder in made) < segments.FANOUT
    for name in TABLES:
        assert rows_of(made[-1], name).equals(rows_of(once, name))


def test_a_window_whose_rows_lie_before_what_is_there_is_made_from_where_they_belong(tmp_path: Path) -> None:
    early, late = [Row(1, 3, 10), Row(2, 3, 20)], [Row(1, 4, 30), Row(1, 4, 40)]
    between = [Row(1, 9, 25), Row(2, 9, 35)]
    sources = [write_source(tmp_path / name, rows, INTS) for name, rows in (("a", early), ("b", late), ("c", between))]
    made = nightly(sources, tmp_path / "nights", Settings())
    once = whole(sources, tmp_path / "once", Settings())
    for name in TABLES:
        assert rows_of(made[-1], name).equals(rows_of(once, name))
    assert Chain.read(made[-1]).segments == (2, 4), "the first window's segment is still good"


def test_a_window_without_rows_adds_no_segment(tmp_path: Path) -> None:
    sources = [write_source(tmp_path / "a", random_rows(2), INTS), write_source(tmp_path / "b", [], INTS)]
    made = nightly(sources, tmp_path / "nights", Settings())
    assert Chain.read(made[1]).segments == Chain.read(made[0]).segments
    assert Chain.read(made[1]).sources == 2
    assert rows_of(made[1], "user_stats").equals(rows_of(made[0], "user_stats"))


def test_what_is_made_of_one_window_does_not_depend_on_the_cut_of_those_before(tmp_path: Path) -> None:
    """A merged segment has the bytes of one that was made at once."""
    rows = [Row(1 + n % 5, n % 7, n, label=n // 2 % 2) for n in range(16)]
    sources = cut(tmp_path, rows, list(range(0, 17, 2)))
    merged = nightly(sources, tmp_path / "nights", Settings())[-1]
    once = whole(sources, tmp_path / "once", Settings())
    for name in TABLES:
        [one], [other] = segments.segments(merged / name), segments.segments(once / name)
        assert one.read_bytes() == other.read_bytes(), name


def sizes(rows: list[int]) -> dict[str, Any]:
    start = segments.merged_from(rows)
    return {"start": start, "after": [*rows[:start], *([sum(rows[start:])] if start < len(rows) else [])]}


def test_segments_stay_few_for_years_and_are_seldom_written_again() -> None:
    rows, written, most = [600_000], 0, 0
    for _night in range(1000):
        rows = sizes([*rows, 20_000])["after"]
        most = max(most, len(rows))
        written += rows[-1]
    assert sum(rows) == 600_000 + 1000 * 20_000
    assert most <= 24
    assert written < 5 * 1000 * 20_000


def test_a_large_segment_is_left_where_it_is() -> None:
    assert sizes([1_000_000, *[10] * 6])["start"] == 7
    assert sizes([1_000_000, *[10] * 8])["after"] == [1_000_000, 80]
    assert sizes([])["after"] == []


def test_counts_of_a_night_name_who_was_active(tmp_path: Path) -> None:
    sources = cut(tmp_path, [Row(1, 1, 10), Row(2, 1, 20), Row(2, 3, 110)], [0, 100, 200])
    last = nightly(sources, tmp_path / "nights", Settings())[-1]
    newest = pq.read_table(segments.segments(last / "user_counts")[-1]).to_pylist()
    assert newest == [{"user_id": 2, "rows": 2, "positives": 2}]
    everybody = pq.read_table(last / "user_counts")
    assert sorted(pc.unique(everybody["user_id"]).to_pylist()) == [1, 2]
