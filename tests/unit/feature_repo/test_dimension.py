import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.catalogues import Catalogues
from core.tables import TIMESTAMP, UNDATED_MICROS
from feature_repo.dimension import extend_dimension, listed

DAY = 86_400_000_000
BEGIN = 1_000 * DAY


def dimension(sources, table, out):
    """All windows at once; the same, put on top of one another night by night, must be the same bytes."""
    before = None
    for number, source in enumerate(sources):
        night = out / f"night{number}_{len(sources)}"
        night.mkdir(parents=True)
        extend_dimension([source], table, night, before)
        before = night
    once = out / f"once{len(sources)}"
    once.mkdir()
    extend_dimension(sources, table, once)
    for file in sorted(once.iterdir()):
        assert file.read_bytes() == (before / file.name).read_bytes(), file.name
    return once / f"{table}.parquet"


@pytest.fixture
def windows(tmp_path):
    """Two windows of users; the later one knows user 2 better."""
    moment = pa.array([0, 0], pa.timestamp("us", "UTC"))
    for name, users, zips in (("one", [1, 2], ["a", "b"]), ("two", [2, 3], ["c", "d"])):
        (tmp_path / name).mkdir()
        table = pa.table({"user_id": users, "event_timestamp": moment, "created_timestamp": moment, "zip": zips})
        pq.write_table(table, tmp_path / name / "users.parquet")
    return [tmp_path / "one", tmp_path / "two"]


def test_the_users_of_several_windows_count_once(windows, tmp_path):
    rows = pq.read_table(dimension(windows, "users", tmp_path / "out")).to_pylist()
    assert [(row["user_id"], row["zip"]) for row in rows] == [(1, "a"), (2, "c"), (3, "d")]


class Shop:
    """Windows of items, one a day, each with the file of that day."""

    def __init__(self, folder):
        self.folder, self.sources = folder, []

    def day(self, prices, kind="snapshot", table="items", rejected=()):
        """A window whose file holds these; a price is a number, or (time, number)."""
        source = self.folder / f"day{len(self.sources)}"
        source.mkdir()
        dated = [price if isinstance(price, tuple) else (UNDATED_MICROS, price) for price in prices.values()]
        times = pa.array([t for t, _ in dated], pa.int64()).cast(TIMESTAMP)
        key = f"{table[:-1]}_id"
        rows = {key: pa.array(list(prices), pa.string()), "event_timestamp": times, "created_timestamp": times}
        pq.write_table(
            pa.table({**rows, "price": pa.array([p for _, p in dated], pa.float64())}), source / f"{table}.parquet"
        )
        pq.write_table(pa.table({key: pa.array(rejected, pa.string())}), source / f"quarantine_{table}.parquet")
        Catalogues(**{table: kind, "as_of": BEGIN + DAY * len(self.sources)}).write(source)
        self.sources.append(source)
        return self

    def read(self, table="items"):
        """Each id's newest price and, of the withdrawn, since which day."""
        file = dimension(self.sources, table, self.folder / f"out_{len(self.sources)}_{table}")
        rows = sorted(pq.read_table(file).to_pylist(), key=lambda row: row["event_timestamp"])
        gone = pq.read_table(listed(file))
        gone = gone.filter(gone["since"].is_valid())
        since = gone.cast(pa.schema([(f"{table[:-1]}_id", pa.string()), ("since", pa.int64())]))
        days = {row[f"{table[:-1]}_id"]: (row["since"] - BEGIN) // DAY for row in since.to_pylist()}
        return {row[f"{table[:-1]}_id"]: row["price"] for row in rows}, days


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


def test_what_a_new_snapshot_lacks_is_withdrawn_from_that_day_on(shop):
    shop.day({"a": 1, "b": 2, "c": 3}).day({"a": 1, "c": 3}).day({"a": 1})
    assert shop.read() == ({"a": 1, "b": 2, "c": 3}, {"b": 1, "c": 2})


def test_what_comes_back_is_not_withdrawn_any_more(shop):
    shop.day({"a": 1, "b": 2}).day({"a": 1}).day({"a": 1, "b": 5})
    assert shop.read() == ({"a": 1, "b": 5}, {})


def test_a_delta_withdraws_nothing(shop):
    shop.day({"a": 1, "b": 2}).day({"b": 9}, kind="delta")
    assert shop.read() == ({"a": 1, "b": 9}, {})


def test_what_a_delta_adds_after_a_snapshot_stays_until_the_next_one(shop):
    shop.day({"a": 1}).day({"b": 2}, kind="delta")
    assert shop.read()[1] == {}
    assert shop.day({"a": 1}).read()[1] == {"b": 2}


def test_items_that_only_the_log_knows_are_not_withdrawn(shop):
    shop.day({"a": 1, "b": 2}, kind="log").day({"a": 1, "c": 3})
    assert shop.read()[1] == {}
    assert shop.day({"c": 3}).read()[1] == {"a": 2}


def test_a_rejected_row_is_no_withdrawal(shop):
    shop.day({"a": 1, "b": 2}).day({"a": 1}, rejected=["b"])
    assert shop.read() == ({"a": 1, "b": 2}, {})


def test_a_date_that_the_newest_snapshot_does_not_have_was_a_mistake(shop):
    shop.day({"a": (BEGIN + 90 * DAY, 7)}).day({"a": (BEGIN + DAY, 8)})
    assert shop.read()[0] == {"a": 8}
    assert shop.day({"a": 9}).read()[0] == {"a": 9}


def test_a_user_is_unknown_from_the_withdrawal_on_and_was_known_before(shop):
    shop.day({"u": 1, "v": 2}, table="users").day({"v": 2}, table="users")
    file = dimension(shop.sources, "users", shop.folder / "out")
    rows = [row for row in pq.read_table(file).to_pylist() if row["user_id"] == "u"]
    since = {row["price"]: row["event_timestamp"].timestamp() * 1e6 for row in rows}
    assert since == {1: UNDATED_MICROS, None: BEGIN + DAY}


def test_who_comes_back_is_known_again_and_the_gap_is_gone(shop):
    shop.day({"u": 1, "v": 2}, table="users").day({"v": 2}, table="users").day({"u": 3, "v": 2}, table="users")
    rows = pq.read_table(dimension(shop.sources, "users", shop.folder / "out")).to_pylist()
    assert [(row["user_id"], row["price"]) for row in rows] == [("u", 3), ("v", 2)]


def test_a_column_that_later_windows_have_is_null_before(windows, tmp_path):
    moment = pa.array([0], pa.timestamp("us", "UTC"))
    (tmp_path / "three").mkdir()
    table = pa.table({"user_id": [4], "event_timestamp": moment, "created_timestamp": moment, "age": [7]})
    pq.write_table(table, tmp_path / "three" / "users.parquet")
    rows = pq.read_table(dimension([*windows, tmp_path / "three"], "users", tmp_path / "out")).to_pylist()
    assert [(row["user_id"], row["zip"], row["age"]) for row in rows] == [
        (1, "a", None),
        (2, "c", None),
        (3, "d", None),
        (4, None, 7),
    ]
