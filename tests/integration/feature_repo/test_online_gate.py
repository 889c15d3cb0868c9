"""What materialise wrote reads back as it is offline; whatever is lost, old or altered stops the run."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import GateError
from feature_repo import materialize, sample_online
from feature_repo.materialization import apply
from feature_repo.online import OnlineTable
from feature_repo.views import value_views
from validation import validate_online

pytestmark = pytest.mark.integration


@pytest.fixture
def judge(make_world):
    world = make_world()
    materialize(world.settings, world.clock, **world.paths)
    samples = sample_online(world.settings, world.clock, **world.paths)
    return samples, lambda: validate_online(samples, world.settings, world.clock)


def view_of(samples, name):
    return next(rows for view, rows in samples.items() if view.startswith(name))


def test_what_was_written_passes_and_every_view_was_sampled_and_has_a_page(filled, tmp_path):
    samples = sample_online(filled.settings, filled.clock, **filled.paths)
    assert validate_online(samples, filled.settings, filled.clock, tmp_path / "docs")["verdict"] == "passed"
    assert all(len(rows) > 0 for rows in samples.values()) and len(samples) == 9
    assert {page.stem for page in (tmp_path / "docs").glob("*.html")} == {"index", *samples}


def test_a_value_that_the_store_itself_holds_wrong_stops_the_run(world):
    materialize(world.settings, world.clock, **world.paths)
    store, generation, paths = apply(world.settings, **world.paths)
    view = value_views(generation, paths)["item_stats"]
    row = next(pq.ParquetFile(view.batch_source.path).iter_batches(1))
    altered = row.set_column(row.schema.names.index("item_rows"), "item_rows", pa.array([10_000], pa.int64()))
    assert OnlineTable(store).write(view, altered) == 1
    samples = sample_online(world.settings, world.clock, **world.paths)
    with pytest.raises(
        GateError, match=r"(?s)item_stats.*wrong_values is 1 of the sampled keys, e\.g\. \d+ \(item_rows\)"
    ):
        validate_online(samples, world.settings, world.clock)


@pytest.mark.parametrize(
    ("rule", "plant"),
    [
        ("missing_keys", lambda row: row.update(online=None)),
        ("stale_keys", lambda row: row["online"].update(published=row["offline"]["published"] - 1)),
        ("early_keys", lambda row: row["online"].update(published=2**60)),
        ("wrong_values", lambda row: row["online"].update(user_rows=row["offline"]["user_rows"] + 1)),
    ],
)
def test_one_bad_key_stops_the_run(judge, rule, plant):
    samples, run = judge
    plant(view_of(samples, "user_stats")[3])
    with pytest.raises(GateError, match=f"(?s)user_stats.*{rule} is 1 of the sampled keys"):
        run()


def test_a_swapped_vector_is_named(judge):
    samples, run = judge
    rows = view_of(samples, "user_pooled")
    rows[0]["online"]["vector"], rows[1]["online"]["vector"] = rows[1]["online"]["vector"], rows[0]["online"]["vector"]
    with pytest.raises(GateError, match=r"2 of the sampled keys, e\.g\. \d+ \(vector\)"):
        run()


def test_a_row_pushed_since_is_no_fault(judge):
    samples, run = judge
    for row in view_of(samples, "user_stats"):
        row["online"]["published"] = max(r["online"]["published"] for r in view_of(samples, "user_stats"))
    assert run()["tables"]["user_stats"]["facts"]["pushed_since"] > 0
