"""Statistics over a log cut into windows at random are those of the whole log."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from unit.feature_repo.feature_worlds import Row, at, interactions, write_source

from core import Settings
from feature_repo.features import build_features
from feature_repo.statistics import entity_state

TABLES = ("user_stats", "item_stats", "user_history", "user_log")
SETTINGS = Settings(features={"history_length": 3, "prior_rate": 1 / 3, "prior_weight": 7.0})

row = st.builds(
    Row,
    user=st.integers(0, 3),
    item=st.integers(100, 102),
    second=st.integers(0, 4),
    label=st.integers(0, 1),
    scenario=st.sampled_from(["home", "search"]),
)


@st.composite
def windows(draw: st.DrawFn) -> list[list[Row]]:
    """A log in order of its arrival, cut anywhere; some windows repeat or correct rows of the one before them."""
    log = draw(st.lists(row, max_size=3) | st.lists(row, min_size=10, max_size=40))
    cuts = sorted(draw(st.lists(st.integers(0, len(log)), max_size=4)))
    parts: list[list[Row]] = []
    for start, end in itertools.pairwise([0, *cuts, len(log)]):
        again = (parts[-1] if parts else [])[-3:] if draw(st.booleans()) else []
        parts.append([*(replace(r, label=draw(st.integers(0, 1))) for r in again), *log[start:end]])
    return parts


def built(folder: Path, parts: list[list[Row]], end: int | None = None) -> dict[str, list[dict]]:
    sources = [write_source(folder / str(number), part) for number, part in enumerate(parts)]
    out = folder / "out"
    out.mkdir()
    made = build_features(sources, out, SETTINGS, end)
    return tables(out) | {"rows": [{"interactions": made.rows["interactions"]}]}


def tables(out: Path) -> dict[str, list[dict]]:
    """Each table's rows in order of entity and time."""
    found = {name: pq.read_table(out / name).to_pylist() for name in TABLES}
    return {name: sorted(rows, key=lambda row: tuple(row.values())[:2]) for name, rows in found.items()}


def built_nightly(folder: Path, parts: list[list[Row]]) -> dict[str, list[dict]]:
    """The same, window after window, each going on from the artifacts of those before it."""
    sources = [write_source(folder / str(number), part) for number, part in enumerate(parts)]
    nights: list[Path] = []
    for number in range(len(sources)):
        nights.append(folder / f"out{number}")
        nights[-1].mkdir()
        made = build_features(sources[: number + 1], nights[-1], SETTINGS, None, earlier=nights[-2::-1])
    return tables(nights[-1]) | {"rows": [{"interactions": made.rows["interactions"]}]}


def last_labels(parts: list[list[Row]]) -> list[Row]:
    """Each row once, with the label that it had last."""
    found = {(r.user, r.item, r.scenario, r.second): r for part in parts for r in part}
    return list(found.values())


@given(parts=windows())
@examples(30)
def test_any_cut_gives_value_for_value_what_one_window_gives(tmp_path_factory, parts):
    cut = built(tmp_path_factory.mktemp("cut"), parts)
    assert cut == built(tmp_path_factory.mktemp("whole"), [[r for part in parts for r in part]])
    assert cut["rows"][0]["interactions"] == len(last_labels(parts))


@given(parts=windows())
@examples(8)
def test_night_by_night_any_cut_gives_what_all_at_once_gives(tmp_path_factory, parts):
    """Also where windows repeat, correct or come before rows of earlier ones."""
    nightly = built_nightly(tmp_path_factory.mktemp("nights"), parts)
    assert nightly == built(tmp_path_factory.mktemp("once"), parts)


@given(parts=windows(), end=st.integers(0, 7))
@examples(15)
def test_a_window_that_ends_gives_what_a_log_without_later_rows_gives(tmp_path_factory, parts, end):
    earlier = [[r for r in part if r.second < end] for part in parts]
    found = built(tmp_path_factory.mktemp("ends"), parts, end=at(end))
    assert found == built(tmp_path_factory.mktemp("earlier"), earlier)


@given(parts=windows())
@examples(20)
def test_a_pushed_users_state_is_the_last_row_of_the_batch(tmp_path_factory, parts):
    tables = built(tmp_path_factory.mktemp("batch"), parts)
    stats = {found["user_id"]: found for found in tables["user_stats"]}
    ends = {found["user_id"]: found["history_end"] for found in tables["user_history"]}
    log = [r for part in parts for r in part]
    assert set(stats) == {r.user for r in log}
    for user, last in stats.items():
        state = entity_state(interactions([r for r in log if r.user == user]), SETTINGS)
        assert {f"user_{name}": value for name, value in state.statistics.items()} == {
            name: last[name] for name in ("user_rows", "user_positives", "user_rate")
        }
        assert last["watermark"].timestamp() * 1e6 == state.watermark
        liked = [found["item_id"] for found in tables["user_log"] if found["user_id"] == user]
        assert state.history == liked[: ends[user]][-SETTINGS.features.history_length :]
