"""Negatives drawn for a log of positives: repeatable, of the past only, never something known to be liked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.clock import to_micros
from core.negatives import NegativeSampling
from core.tables import TIMESTAMP, UNDATED_MICROS, IdTypes, interactions_schema
from feature_repo.negatives import Negatives

IDS = IdTypes(pa.string(), pa.string())
USERS, ITEMS, ROWS = 30, 40, 1200
BEGIN, STEP = 1_700_000_000_000_000, 1_000_000
LATE = 600  # from this row on the item `hit` is what everybody clicks


def at(k: int) -> int:
    """The time of row k, microseconds."""
    return BEGIN + k * STEP


def log_rows(seed: int = 0, users: int = USERS) -> list[tuple[str, str, str, int]]:
    """user, item, scenario and time of positives; `hit` appears late and is then the most popular by far."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(ROWS):
        hit = k >= LATE and rng.random() < 0.5
        item = "hit" if hit else f"i{int(ITEMS * rng.random() ** 2):02d}"
        rows.append((f"u{rng.integers(users):03d}", item, ("feed", "search")[k % 2], at(k)))
    return list(dict.fromkeys(rows))


def write(folder: Path, rows: list[tuple[str, str, str, int]], dated: dict[str, int] | None = None) -> Path:
    folder.mkdir(parents=True)
    users, items, scenarios, times = zip(*rows, strict=True)
    t = pa.array(times, pa.int64()).cast(TIMESTAMP)
    columns = [users, items, scenarios, t, [1] * len(rows), [2.0] * len(rows), t]
    schema = interactions_schema(IDS)
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), folder / "interactions.parquet")
    since = dict.fromkeys(items, UNDATED_MICROS) | (dated or {})
    catalogue = {
        "item_id": pa.array(list(since), pa.string()),
        "event_timestamp": pa.array(list(since.values()), pa.int64()).cast(TIMESTAMP),
        "scenarios": pa.array([["feed"] if item in (dated or {}) else None for item in since], pa.list_(pa.string())),
    }
    pq.write_table(pa.table(catalogue), folder / "items.parquet")
    return folder


def table(rows: list[tuple[str, str, str, int]]) -> pa.Table:
    ordered = sorted(rows, key=lambda r: (r[3], r[0], r[1], r[2]))
    users, items, scenarios, times = zip(*ordered, strict=True)
    return pa.table(
        {
            "row_id": np.arange(len(ordered)),
            "user_id": users,
            "item_id": items,
            "scenario": scenarios,
            "event_timestamp": pa.array(times, pa.int64()).cast(TIMESTAMP),
            "label": pa.array([1] * len(ordered), pa.int8()),
            "weight": pa.array([2.0] * len(ordered), pa.float32()),
            "grade": pa.array([5.0] * len(ordered), pa.float32()),
        }
    )


def drawn(tmp_path: Path, rows, sources=None, name="work", end=10**17, **how) -> pa.Table:
    sources = sources or [write(tmp_path / f"{name}-log", rows)]
    sampling = NegativeSampling(**how)
    return Negatives(sources, sampling, end=end, scratch=tmp_path / f"{name}-spill").added_to(table(rows))


def keys(found: pa.Table, sampled: bool = True) -> set[tuple]:
    rows = found.filter(pa.compute.equal(found["sampled"], sampled)).to_pylist()
    return {(r["user_id"], r["item_id"], r["scenario"], to_micros(r["event_timestamp"])) for r in rows}


@pytest.fixture(params=["popularity", "uniform"])
def strategy(request) -> str:
    return request.param


def test_rows_of_the_log_stay_and_negatives_say_what_they_are(tmp_path, strategy):
    rows = log_rows()
    found = drawn(tmp_path, rows, strategy=strategy, per_positive=3)
    assert keys(found, sampled=False) == set(rows)
    assert found["row_id"].to_pylist() == list(range(len(found)))
    order = [(r["event_timestamp"], r["user_id"], r["item_id"], r["scenario"]) for r in found.to_pylist()]
    assert order == sorted(set(order))
    negatives = found.filter(found["sampled"]).to_pylist()
    assert 2.7 * ROWS < len(negatives) <= 3 * ROWS
    assert {(r["label"], r["weight"], r["grade"]) for r in negatives} == {(0, 2.0, None)}


def test_the_same_log_draws_the_same_however_it_is_cut_and_ordered(tmp_path, strategy):
    rows = log_rows()
    whole = drawn(tmp_path, rows, strategy=strategy)
    windows = [write(tmp_path / f"w{k}", part) for k, part in enumerate((rows[:333][::-1], rows[333:900], rows[900:]))]
    assert drawn(tmp_path, rows, sources=windows, name="cut", strategy=strategy).equals(whole)
    other = drawn(tmp_path, rows, name="seed", strategy=strategy, seed=2)
    assert len(keys(other) & keys(whole)) < len(keys(whole)) / 2


def test_what_comes_later_changes_no_earlier_negative(tmp_path, strategy):
    rows, cut = log_rows(), at(LATE)
    early = [row for row in rows if row[3] < cut]
    whole, half = drawn(tmp_path, rows, strategy=strategy), drawn(tmp_path, early, name="half", strategy=strategy)
    assert {key for key in keys(whole) if key[3] < cut} == keys(half)


def test_an_item_is_no_negative_before_its_first_row_there_nor_of_one_who_liked_it(tmp_path, strategy):
    rows = log_rows()
    first: dict[tuple[str, str], int] = {}
    liked: dict[tuple[str, str], int] = {}
    for user, item, scenario, t in rows:
        first[item, scenario] = min(t, first.get((item, scenario), t))
        liked[user, item] = min(t, liked.get((user, item), t))
    found = keys(drawn(tmp_path, rows, strategy=strategy))
    assert min(t for _, item, _, t in found if item == "hit") > min(t for _, item, _, t in rows if item == "hit")
    assert [key for key in found if first.get((key[1], key[2]), 10**18) >= key[3]] == []
    assert [key for key in found if liked.get((key[0], key[1]), 10**18) <= key[3]] == []
    # Liked later, and so not known then: such an item may be drawn, as it may be shown.
    assert [key for key in found if (key[0], key[1]) in liked]


def test_popularity_draws_what_is_popular_and_uniform_all_alike(tmp_path):
    rows = log_rows(users=900)
    late = at(LATE + 300)
    shares = {}
    for strategy in ("popularity", "uniform"):
        found = [key for key in keys(drawn(tmp_path, rows, name=strategy, strategy=strategy)) if key[3] > late]
        shares[strategy] = sum(key[1] == "i00" for key in found) / len(found)
    assert shares["popularity"] > 0.08 and shares["uniform"] < 0.05


def test_a_dated_item_can_be_drawn_from_its_date_on_and_in_its_scenarios_only(tmp_path):
    rows, since = log_rows(), at(400)
    source = write(tmp_path / "dated", rows, {"new": since})
    found = keys(drawn(tmp_path, rows, sources=[source], strategy="uniform"))
    times = [t for _, item, scenario, t in found if item == "new" and scenario == "feed"]
    assert times and min(times) > since
    assert not [key for key in found if key[1] == "new" and key[2] == "search"]


def test_a_user_who_likes_everything_gets_none(tmp_path):
    few = [("u", f"i{k}", "feed", at(k)) for k in range(20)]
    assert keys(drawn(tmp_path, few, name="few")) == set()
