import numpy as np
import pyarrow as pa
import pytest
from unit.feature_repo.feature_worlds import Row, at, interactions, random_rows, write_source

from core import Settings
from core.contracts.dataset_spec import SplitRule
from core.errors import DataError
from core.splits import assign_splits
from feature_repo.train_start import compute_train_start


def split(rows, train_start=0, **options):
    return assign_splits(interactions(rows), rule(**options), train_start).to_pylist()


def rule(**options):
    return SplitRule(**Settings(split=options).split.model_dump(include={"kind", "validation", "test"}))


def test_tail_of_each_user_is_validation_then_test():
    rows = [Row(user, 100 + k, k) for user in (1, 2) for k in range(10)]
    parts = ["train"] * 7 + ["validation"] + ["test"] * 2
    assert split(rows, validation=0.1, test=0.2) == parts * 2


def test_parts_follow_the_rows_when_they_come_in_another_order():
    rows = random_rows(3)
    order = np.random.default_rng(1).permutation(len(rows))
    whole, shuffled = split(rows), split([rows[k] for k in order])
    assert shuffled == [whole[k] for k in order]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["per_user_tail", "time"])
def test_no_user_has_one_time_in_two_parts_and_parts_follow_time(seed, kind):
    rows = random_rows(seed, count=400, users=5, seconds=25)
    parts = split(rows, kind=kind)
    rank = {"warmup": 0, "train": 1, "validation": 2, "test": 3}
    for user in {r.user for r in rows}:
        own = sorted((r.micros, rank[p]) for r, p in zip(rows, parts, strict=True) if r.user == user)
        assert [code for _, code in own] == sorted(code for _, code in own)
        assert len({time for time, _ in own}) == len(set(own))
    assert set(parts) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["train"]),
        (3, ["train"] * 3),
        (4, ["train"] * 3 + ["validation"]),
        (5, ["train"] * 4 + ["test"]),
    ],
)
def test_users_with_few_rows_keep_them_for_training(count, expected):
    assert split([Row(1, 100 + k, k) for k in range(count)], validation=0.1, test=0.2) == expected


def test_user_whose_rows_share_one_time_only_trains():
    assert split([Row(1, 100 + k, 5) for k in range(20)]) == ["train"] * 20


def test_ties_at_the_border_fall_where_their_middle_falls():
    mostly_before = [Row(1, 100 + k, second) for k, second in enumerate([0, 1, 2, 3, 4, 5, 6, 6, 6, 7])]
    mostly_after = [Row(1, 100 + k, second) for k, second in enumerate([0, 1, 2, 3, 4, 5, 6, 8, 8, 8])]
    assert split(mostly_before, validation=0.1, test=0.2).count("test") == 1
    assert split(mostly_after, validation=0.1, test=0.2).count("test") == 3


def test_rows_before_the_start_of_training_warm_up_and_do_not_count_for_shares():
    rows = [Row(1, 100 + k, k) for k in range(15)]
    parts = split(rows, train_start=at(5), validation=0.1, test=0.2)
    assert parts == ["warmup"] * 5 + ["train"] * 7 + ["validation"] + ["test"] * 2


def test_time_split_cuts_all_users_at_one_moment():
    rows = [Row(k % 3, 100 + k, k) for k in range(20)]
    parts = split(rows, kind="time", validation=0.1, test=0.2)
    assert parts == ["train"] * 14 + ["validation"] * 2 + ["test"] * 4


def test_no_rows_make_no_parts():
    assert split([]) == []
    assert split([Row(1, 1, 1)], train_start=at(2)) == ["warmup"]


def test_split_of_string_ids_is_the_same():
    rows = random_rows(2)
    table = interactions(rows)
    text = table.set_column(0, "user_id", table["user_id"].cast(pa.string()))
    assert assign_splits(text, rule(), 0).equals(assign_splits(table, rule(), 0))


def test_training_starts_where_the_share_of_the_log_is_reached(tmp_path):
    source = write_source(tmp_path / "s", [Row(k, 100, k) for k in range(20)])
    assert compute_train_start([source], Settings(split={"warmup": 0.25})) == at(5)
    assert compute_train_start([source], Settings(split={"warmup": 0.0})) == at(0)


def test_rows_of_the_first_training_moment_are_no_warmup(tmp_path):
    rows = [Row(k, 100, second) for k, second in enumerate([0, 1, 1, 1, 2])]
    source = write_source(tmp_path / "s", rows)
    start = compute_train_start([source], Settings(split={"warmup": 0.4}))
    assert start == at(1)
    assert split(rows, train_start=start).count("warmup") == 1


def test_training_start_counts_rows_of_two_windows_once(tmp_path):
    rows = [Row(k, 100, k) for k in range(10)]
    sources = [write_source(tmp_path / name, part) for name, part in (("a", rows[:8]), ("b", rows[4:]))]
    assert compute_train_start(sources, Settings(split={"warmup": 0.5})) == at(5)


def test_empty_log_has_no_training_start(tmp_path):
    with pytest.raises(DataError, match="no interactions"):
        compute_train_start([write_source(tmp_path / "s", [])], Settings())
