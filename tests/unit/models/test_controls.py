"""Controls take one thing out of the training table and leave all else."""

import numpy as np
import pyarrow as pa
import pytest
from specs import dataset_spec

from models.controls import common_scenario, has_text, of_other_users, with_vectors, without_text
from models.data import TrainingData, row_numbers


def table(users, rows, scenario=None, items=None):
    """Each row reads matrix row `rows[i]` of its user's vectors; None: unknown."""
    count = len(users)
    columns = {
        "user_id": users,
        "item_id": items or list(range(count)),
        "scenario": scenario or ["feed"] * count,
        "label": [0] * count,
        "user_pooled_row": pa.array(rows, pa.int64()),
        "item_text_row": pa.array([0] * count, pa.int64()),
    }
    vectors = {"user_pooled": np.arange(20, dtype=np.float32)[:, None], "item_text": np.ones((1, 2), np.float32)}
    spec = dataset_spec(vectors={kind: {"dim": v.shape[1], "version": "1"} for kind, v in vectors.items()})
    return TrainingData(pa.table(columns), pa.table({}), vectors, spec)


# Users by number of rows: c (1), a (2), b (4). Vectors of a: 10, 11; of b: 3, 4, 5; of c: 7.
USERS = ["a", "b", "b", "c", "a", "b", "b"]
ROWS = [10, None, 3, 7, 11, 4, 5]


def test_each_user_reads_the_next_ones_vectors_in_their_order():
    swapped = of_other_users(table(USERS, ROWS), ["user_pooled"], seed=1)
    # c -> a, a -> b, b -> c; b has more vectors than c: the newest again.
    assert row_numbers(swapped.rows, "user_pooled").tolist() == [3, -1, 7, 10, 4, 7, 7]
    assert swapped.rows.drop(["user_pooled_row"]).equals(table(USERS, ROWS).rows.drop(["user_pooled_row"]))


def test_nobody_keeps_the_own_vectors_and_the_unknown_stay_unknown():
    rng = np.random.default_rng(3)
    users = rng.integers(0, 40, 2_000)
    rows = np.where(rng.random(2_000) < 0.2, -1, users * 50 + np.arange(2_000) // 40)
    data = table(users.tolist(), [None if r < 0 else int(r) for r in rows])
    swapped = row_numbers(of_other_users(data, ["user_pooled"], seed=2).rows, "user_pooled")
    assert ((swapped < 0) == (rows < 0)).all()
    known = rows >= 0
    assert (swapped[known] // 50 != users[known]).all()
    # One partner a user, and everybody is somebody's.
    partners = {int(u): set((swapped[known & (users == u)] // 50).tolist()) for u in range(40)}
    assert all(len(p) == 1 for p in partners.values())
    assert sorted(v for p in partners.values() for v in p) == list(range(40))


def test_partners_are_alike_in_activity():
    users = [u for u in range(30) for _ in range(u + 1)]
    rows = list(users)
    swapped = row_numbers(of_other_users(table(users, rows), ["user_pooled"], seed=1).rows, "user_pooled")
    gaps = {u: int(s) - u for u, s in zip(users, swapped, strict=True)}
    assert set(list(gaps.values())[:-1]) == {1} and gaps[29] == -29


@pytest.mark.parametrize("rows", [[None] * 3, [1, None, 2]])
def test_without_two_users_there_is_nothing_to_exchange(rows):
    assert of_other_users(table(["a", "b", "a"], rows), ["user_pooled"], seed=1) is None
    assert of_other_users(table(["a", "b", "a"], rows), [], seed=1) is None


def test_without_text_the_rest_is_as_it_was():
    data = table(USERS, ROWS)
    bare = without_text(data)
    assert has_text(data) and not has_text(bare)
    assert set(bare.vectors) == set(bare.spec.vectors) == {"user_pooled"} and bare.rows is data.rows
    assert set(data.vectors) == {"user_pooled", "item_text"}
    other = with_vectors(data, {"item_text": np.zeros((1, 2), np.float32)})
    assert not other.vectors["item_text"].any() and data.vectors["item_text"].all()


def test_an_items_scenario_is_the_one_it_has_most_rows_in():
    data = table(list("abcdef"), [None] * 6, ["toys", "feed", "feed", "toys", "b", "a"], [1, 1, 1, 2, 3, 3])
    assert common_scenario(data).sort_by("item_id").to_pylist() == [
        {"item_id": 1, "scenario": "feed"},
        {"item_id": 2, "scenario": "toys"},
        {"item_id": 3, "scenario": "a"},
    ]
