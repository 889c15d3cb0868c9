import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from core import Settings, Window, from_micros
from core.clock import UNDATED, wall
from core.digest import REPOSITORY, sha256_path
from core.errors import DataError, SettingsError
from core.tables import conform, interactions_schema, items_schema, users_schema
from ingest import open_source, source_digest

SMALL = REPOSITORY / "data" / "ml-latest-small"
OLD = Path(os.environ.get("LLM4MSR_ML1M", REPOSITORY.parent / "shared" / "data" / "ml-1m"))
needs_ml1m = pytest.mark.skipif(
    not (OLD / "ratings.dat").is_file(),
    reason="MovieLens 1M may not be redistributed: name its folder in LLM4MSR_ML1M to run this",
)
GROUPS = {"comedy": ["Comedy"], "action": ["Action", "Adventure"], "drama": ["drama"]}

RATINGS = "userId,movieId,rating,timestamp\n1,10,4.0,1000000000\n1,20,3.0,1000000000\n2,30,0.5,1000000060\n"
MOVIES = 'movieId,title,genres\n10,A (1999),Comedy|Drama\n20,"B, The (2001)",Sci-Fi\n30,C,(no genres listed)\n'


@pytest.fixture
def tiny(raw):
    raw("ratings.csv", RATINGS)
    return raw("movies.csv", MOVIES)


@pytest.fixture
def tiny_old(raw):
    raw("ratings.dat", "1::10::5::1000000000\n2::20::3::1000000001\n")
    raw("users.dat", "1::F::1::10::48067\n2::M::56::16::55117-1\n")
    return raw("movies.dat", "10::Star Wars: Café (1977)::Action|Drama\n20::B (2001)::Children's\n".encode("latin-1"))


def test_latest_small_is_read_whole(ingest):
    got = ingest(path=SMALL)
    assert got.rows == {"interactions": 100_836, "users": 610, "items": 9_742, "scenarios": 18}
    assert round(pc.mean(got.interactions["label"]).as_py(), 3) == 0.612
    assert got.items["genres"].null_count == got.items["first_genre"].null_count == 34
    first, last = from_micros(got.meta["first"]).date(), from_micros(got.meta["last"]).date()
    assert (str(first), str(last), got.meta["rows"]) == ("1996-03-29", "2018-09-24", 100_836)


@pytest.mark.parametrize("batch_rows", [1, 1000])
def test_a_row_of_the_far_future_does_not_carry_the_end_of_the_log_along(ingest, tiny, raw, batch_rows):
    raw("ratings.csv", RATINGS + "2,10,4.0,99999999999\n1,30,4.0,1000000030\n")
    got = ingest(path=tiny, batch_rows=batch_rows)
    assert (got.meta["last"], got.meta["rows"]) == (1_000_000_060_000_000, 5)


def test_a_log_of_the_future_ends_now(ingest, tiny, raw):
    raw("ratings.csv", "userId,movieId,rating,timestamp\n2,10,4.0,99999999999\n")
    before = wall().now_micros()
    assert before <= ingest(path=tiny).meta["last"] <= wall().now_micros()


def test_latest_small_conforms_once_rows_without_scenario_are_gone(ingest):
    got = ingest(path=SMALL)
    source = open_source(Settings(data={"path": SMALL}))
    clean = got.interactions.filter(pc.is_valid(got.interactions["scenario"]))
    assert got.rows["interactions"] - clean.num_rows == 47
    conform(clean, interactions_schema(source.ids), "interactions")
    conform(got.users, users_schema(source.ids, source.user_columns), "users")
    conform(got.items, items_schema(source.ids, source.item_columns), "items")


def test_latest_small_ships_with_its_terms():
    text = (SMALL / "README.md").read_text()
    for part in (
        "Harper",
        "Konstan",
        "10.1145/2827872",
        "commercial",
        "redistribute",
        "endorsement",
        "development set",
    ):
        assert part in text


def test_films_become_items(tiny, ingest):
    names = ["item_id", "title", "genres", "first_genre", "year", "scenarios"]
    items = ingest(path=tiny).items.select(names).to_pylist()
    assert [tuple(item.values()) for item in items] == [
        (10, "A (1999)", "Comedy|Drama", "Comedy", 1999.0, ["comedy"]),
        (20, "B, The (2001)", "Sci-Fi", "Sci-Fi", 2001.0, ["sci_fi"]),
        (30, "C", None, None, None, []),
    ]


def test_ratings_become_interactions_in_the_files_order(tiny, ingest):
    got = ingest(path=tiny)
    assert got.column("interactions", "item_id") == [10, 20, 30]
    assert got.column("interactions", "label") == [1, 0, 0]
    assert got.column("interactions", "scenario") == ["comedy", "sci_fi", None]
    assert got.interactions["event_timestamp"] == got.interactions["created_timestamp"]
    assert got.meta["first"] == 1_000_000_000_000_000
    assert got.column("users", "user_id") == [1, 2]
    assert set(got.column("users", "event_timestamp") + got.column("items", "created_timestamp")) == {UNDATED}


def test_groups_and_other_make_the_scenarios(ingest):
    got = ingest(path=SMALL, scenario={"groups": GROUPS, "other": "other"})
    assert got.column("scenarios", "scenario") == ["comedy", "action", "drama", "other"]
    assert Counter(got.column("interactions", "scenario"))["action"] == 30_635 + 10_344
    assert got.interactions["scenario"].null_count == 0


def test_a_value_in_no_group_has_no_scenario(tiny, ingest):
    got = ingest(path=tiny, scenario={"groups": GROUPS})
    assert got.column("interactions", "scenario") == ["comedy", None, None]
    assert got.column("items", "scenarios") == [["comedy"], [], []]


def test_a_value_in_two_groups_is_refused(tiny, ingest):
    with pytest.raises(SettingsError, match="'comedy' is in 'a' and in 'b'"):
        ingest(path=tiny, scenario={"groups": {"a": ["Comedy"], "b": ["comedy"]}})


def test_scenarios_are_described_by_the_settings_or_by_default(tiny, ingest):
    told = {"comedy": {"title": "Fun", "description": "Films to laugh at."}}
    got = ingest(path=tiny, scenarios=told, scenario={"groups": GROUPS, "other": "rest"})
    assert [tuple(row.values()) for row in got.scenarios.to_pylist()] == [
        ("comedy", "Fun", "Films to laugh at."),
        ("action", "Action", "Films that are first of all Action or Adventure."),
        ("drama", "Drama", "Films that are first of all drama."),
        ("rest", "Rest", "Films of all other genres."),
    ]


def test_rows_outside_the_window_are_left_out(tiny, ingest):
    at = from_micros(1_000_000_060_000_000)
    assert ingest(Window(None, at), path=tiny).column("interactions", "item_id") == [10, 20]
    assert ingest(Window(at, None), path=tiny).column("interactions", "item_id") == [30]


def test_a_window_without_rows_is_no_error(tiny, ingest):
    got = ingest(Window.parse("2020-01-01", "2020-01-02"), path=tiny)
    assert (got.rows["interactions"], got.rows["items"], got.meta["first"]) == (0, 3, None)


def test_the_windows_of_a_log_hold_each_row_once(ingest):
    cut = Window.parse(None, "2010-01-01").end
    parts = [ingest(window, path=SMALL).rows["interactions"] for window in (Window(None, cut), Window(cut, None))]
    assert sum(parts) == 100_836


def test_the_same_source_gives_the_same_bytes(ingest):
    one, two = ingest(path=SMALL), ingest(path=SMALL)
    assert sha256_path(one.folder) == sha256_path(two.folder)


def test_batches_are_of_the_size_asked_for(ingest):
    got = ingest(path=SMALL, batch_rows=30_000)
    file = pq.ParquetFile(got.folder / "interactions.parquet")
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sizes == [30_000, 30_000, 30_000, 10_836]


def test_the_source_digest_follows_the_bytes(tiny):
    settings = Settings(data={"path": tiny})
    before = source_digest(settings)
    assert source_digest(settings) == before
    (tiny / "ratings.csv").write_text(RATINGS.replace("4.0", "4.5"))
    assert source_digest(settings) != before


def test_the_old_layout_is_told_by_its_files(tiny_old, ingest):
    got = ingest(path=tiny_old)
    assert got.column("items", "title") == ["Star Wars: Café (1977)", "B (2001)"]
    assert got.column("interactions", "scenario") == ["action", "childrens"]
    users = got.users.drop_columns(["event_timestamp", "created_timestamp"]).to_pylist()
    assert users[1] == {"user_id": 2, "gender": "M", "age": "56", "occupation": "16", "zip": "55117-1"}


def test_the_age_rule_makes_scenarios_of_users(tiny_old, ingest):
    got = ingest(path=tiny_old, scenario={"rule": "age", "groups": {"young": ["1", "18"], "old": ["50", "56"]}})
    assert got.column("interactions", "scenario") == ["young", "old"]
    assert got.column("items", "scenarios") == [None, None]
    assert got.column("scenarios", "description")[0] == "Viewers aged under 18 or 18 to 24."


@needs_ml1m
def test_ml_1m_is_read_whole(ingest):
    bands = {"young": ["1", "18"], "middle": ["25"], "older": ["35", "45", "50", "56"]}
    got = ingest(path=OLD, scenario={"rule": "age", "groups": bands})
    assert got.rows == {"interactions": 1_000_209, "users": 6_040, "items": 3_883, "scenarios": 3}
    assert pc.sum(got.interactions["label"]).as_py() == 575_281
    counts = Counter(got.column("interactions", "scenario"))
    assert counts == {"young": 210_747, "middle": 395_556, "older": 393_906}


@pytest.mark.parametrize("name", ["ratings.csv", "movies.csv"])
def test_a_missing_file_is_named(tiny, ingest, name):
    (tiny / name).unlink()
    with pytest.raises(DataError, match=f"{name}: this file does not exist; data.path must be"):
        ingest(path=tiny)


def test_a_missing_folder_is_named(tmp_path, ingest):
    with pytest.raises(DataError, match="nowhere: data.path is not a folder"):
        ingest(path=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ratings.csv", RATINGS.replace("rating", "stars"), r"ratings\.csv, column 'rating': no such column; .*stars"),
        (
            "ratings.csv",
            RATINGS.replace("20,3.0", "x,3.0"),
            r"ratings\.csv, row 3, column 'movieId': 'x' is no id",
        ),
        ("ratings.csv", RATINGS.replace("20,3.0", "20"), r"ratings\.csv, row 3: .*3 fields where the header has 4"),
        ("ratings.csv", RATINGS.split("\n")[0] + "\n", r"ratings\.csv: the log is empty"),
        ("ratings.csv", "", r"ratings\.csv: the file is empty"),
        (
            "ratings.csv",
            RATINGS.replace("1000000060", "1000000060000"),
            r"row 4, column 'timestamp': 1000000060000 is no",
        ),
        ("ratings.csv", RATINGS.encode("utf-16-le"), r"ratings\.csv, row 1: a NUL byte.*data\.encoding"),
        (
            "movies.csv",
            MOVIES.replace("C,", "Café,").encode("latin-1"),
            r"movies\.csv, row 4: byte 78 is not UTF-8 text",
        ),
    ],
)
def test_bad_input_names_file_row_and_column(raw, tiny, ingest, name, content, message):
    raw(name, content)
    with pytest.raises(DataError, match=message):
        ingest(path=tiny)


def test_the_byte_named_is_the_bad_one(raw, tiny, ingest):
    content = MOVIES.replace("C,", "Café,").encode("latin-1")
    raw("movies.csv", content)
    assert content[78] == 0xE9
    assert ingest(path=tiny, encoding="latin-1").column("items", "title")[2] == "Café"


def test_an_unknown_encoding_is_named(tiny, ingest):
    with pytest.raises(DataError, match=r"data\.encoding: unknown encoding: klingon"):
        ingest(path=tiny, encoding="klingon")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("10::A (1999)\n", r"movies\.dat, row 1: expected 3 fields"),
        ("10::A::B\nx::A::B\n", r"movies\.dat, row 2, column 'movieId': 'x' is no id"),
    ],
)
def test_bad_lines_of_the_old_layout_are_named(raw, tiny_old, ingest, content, message):
    raw("movies.dat", content)
    with pytest.raises(DataError, match=message):
        ingest(path=tiny_old)


def test_a_log_whose_times_are_in_another_unit_is_told(raw, tiny, ingest):
    raw("ratings.csv", RATINGS.replace("10000000", "10000"))
    with pytest.raises(DataError, match=r"newest row is of 1970-01-12, before 1990; set data\.timestamp_unit"):
        ingest(path=tiny)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"scenario": {"rule": "source"}}, "'source' does not fit source 'movielens'"),
        ({"user_categorical": ["gender"]}, "data.user_categorical names 'gender', which source 'movielens' lacks"),
        ({"item_text": ["title", "plot"]}, "data.item_text names 'plot'.*it has: title, genres, first_genre, year"),
    ],
)
def test_settings_that_do_not_fit_the_source_are_refused(tiny, ingest, data, message):
    with pytest.raises(SettingsError, match=message):
        ingest(path=tiny, **data)


def test_the_age_rule_needs_the_old_layout(tiny, ingest):
    with pytest.raises(DataError, match="rule age needs MovieLens 1M"):
        ingest(path=tiny, scenario={"rule": "age"})


def test_the_label_rules_column_must_be_in_the_log(tiny, ingest):
    with pytest.raises(DataError, match=r"column 'stars': data\.label\.column is not in the log"):
        ingest(path=tiny, label={"column": "stars"})


def test_a_grade_is_kept_beside_the_label(ingest, tiny):
    got = ingest(path=tiny, grade="rating")
    assert got.column("interactions", "grade") == [4.0, 3.0, 0.5]
    assert got.column("interactions", "label") == [1, 0, 0]
    source = open_source(Settings(data={"path": tiny, "grade": "rating"}))
    conform(
        got.interactions.drop_columns("scenario").append_column("scenario", [["a"] * 3]),
        interactions_schema(source.ids, {"grade": pa.float32()}),
        "interactions",
    )


def test_a_grade_that_is_not_in_the_log_names_those_that_are(ingest, tiny):
    with pytest.raises(DataError, match=r"data.grade .*movielens.*rating can be.*stars|stars.*rating can be"):
        ingest(path=tiny, grade="stars")


@pytest.mark.parametrize(
    ("start", "end", "empty"),
    [
        ("2030-01-01", "2030-01-02", True),
        ("1995-01-01", "1995-02-01", True),
        (None, "1995-01-01", True),
        (None, None, False),
    ],
)
def test_a_window_without_rows_is_told_with_the_span_of_the_log(tiny, ingest, caplog, start, end, empty):
    got = ingest(Window.parse(start, end), path=tiny)
    assert got.meta["empty"] is empty
    assert ("its rows are of 20" in caplog.text) is empty


@pytest.mark.parametrize(
    ("factor", "message"), [("170000000", "every row lies in the future"), ("10000", "before 1990")]
)
def test_a_wrong_unit_of_time_is_not_taken_for_a_window_without_rows(raw, tiny, ingest, factor, message):
    raw("ratings.csv", RATINGS.replace("10000000", factor))
    with pytest.raises(DataError, match=message):
        ingest(Window.parse("2001-01-01", "2001-01-02"), path=tiny)
