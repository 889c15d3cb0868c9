"""The feature store's benchmark compares like with like: equal rows, equal vectors, equal histories, all of them."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from benchmarks import features
from benchmarks.feature_jobs import JOBS
from benchmarks.feature_world import Size, make_world, write_stock
from benchmarks.harness import peak_mib
from core.errors import UserError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = make_world(tmp_path_factory.mktemp("world"), Size(rows=900, users=40, items=30, snapshots=3))
    write_stock(made)
    return made


def done(job, world, root, **options):
    work, check = JOBS[job](world, root, **options)
    return check(work())


def test_the_stock_twin_holds_the_items_that_a_history_refers_to(world):
    log = {}
    for row in pq.read_table(world.folder / "features" / "user_log").to_pylist():
        log.setdefault(row["user_id"], []).append(row["item_id"])
    states = pq.read_table(world.folder / "features" / "user_history").to_pylist()
    stock = pq.read_table(world.folder / "stock" / "user_history.parquet").to_pylist()
    assert len(stock) == len(states) > 800
    for state, row in zip(states, stock, strict=True):
        end = state["history_end"]
        assert row["history"] == log.get(row["user_id"], [])[max(0, end - 20) : end]


def test_both_joins_answer_the_same(world, tmp_path):
    mine, feast = done("join", world, tmp_path / "ours"), done("feast_join", world, tmp_path / "feast")
    assert mine["rows"] == feast["rows"] == 900
    assert mine["items"] == feast["items"] > 0
    assert mine["sum"] == pytest.approx(feast["sum"], rel=1e-6)


@pytest.mark.parametrize(
    ("job", "options"),
    [("materialise", {}), ("feast_materialise", {}), ("feast_materialise", {"tuned": True})],
    ids=["ours", "feast", "feast tuned"],
)
def test_each_way_brings_every_row_online(world, tmp_path, job, options):
    found = done(job, world, tmp_path, **options)
    assert found["rows"] == found["expected"] > 100


def test_a_rate_of_rows_that_did_not_arrive_is_refused():
    with pytest.raises(UserError, match="only 9 of 10 rows"):
        features.complete({"rows": 9, "expected": 10})


def test_reads_are_compared_before_they_are_measured(world, tmp_path):
    from feature_repo import OnlineReader, materialize, open_store

    settings = world.settings(tmp_path)
    materialize(settings, world.clock, **world.paths)
    plain = features._Plain(world, open_store(settings))
    state = OnlineReader(settings, world.clock, features.VERSIONS).read_user(7)
    plain.check_equal(state)
    with pytest.raises(UserError, match="user 7 reads differently"):
        plain.check_equal(replace(state, history=state.history[1:]))
    with pytest.raises(UserError, match="user 7 reads differently"):
        plain.check_equal(replace(state, published=state.published | {"user_stats": 0}))


def test_the_figures_have_the_agreed_names(world):
    found = features.online_reads(world, None, 0.02)
    assert [one.name for one in found] == [
        "online_reads_per_s_sqlite",
        "online_reads_per_cpu_s_sqlite",
        "online_read_p50_ms_sqlite",
        "online_read_p99_ms_sqlite",
    ]
    assert found[0].target == 3


def test_the_memory_of_a_process_is_known():
    assert peak_mib() > 10
