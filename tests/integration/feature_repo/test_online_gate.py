"""What materialise wrote reads back as it is offline; whatever is lost, old or altered stops the run."""

import pytest

from core.errors import GateError
from feature_repo import materialize, sample_online
from validation import validate_online


@pytest.fixture
def judge(make_world):
    world = make_world()
    materialize(world.settings, world.clock, **world.paths)
    samples = sample_online(world.settings, world.clock, **world.paths)
    return samples, lambda: validate_online(samples, world.settings, world.clock)


def view_of(samples, name):
    return next(rows for view, rows in samples.items() if view.startswith(name))


def test_what_was_written_passes_and_every_view_was_sampled(judge):
    samples, run = judge
    assert run()["verdict"] == "passed"
    assert all(len(rows) > 0 for rows in samples.values()) and len(samples) >= 8


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
