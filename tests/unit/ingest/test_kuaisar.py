import pytest

from core import from_micros
from core.errors import DataError, SettingsError

REC = (
    "user_id,item_id,playing_time,duration_ms,time,timestamp,click,forward,like,follow,search,search_item_related\n"
    "1,100,2300.0,9000.0,2023-05-22 00:00:50,1684684850417.0,1,0,0,0,0,0\n"
    "1,101,0.0,9000.0,2023-05-22 00:00:50,1684684850417.0,0,0,0,0,0,0\n"
)
SEARCH = (
    "user_id,search_session_id,search_session_time,search_session_timestamp,keyword,search_source,item_id,click_cnt,"
    "item_type\n"
    '2,7,2023-05-23 11:00:00,1684810800000,"[20, 34, 3]",USER_INPUT,100,3,VIDEO\n'
    '2,7,2023-05-23 11:00:00,1684810800000,"[20, 34, 3]",USER_INPUT,900,0,LIVE\n'
)
USERS = "user_id,search_active_level,rec_active_level,onehot_feat1,onehot_feat2\n1,3,7,0,5\n2,1,7,2,0\n"
LEVELS = ("first", "second", "third", "fourth")
ITEMS = (
    "item_id,caption,author_id,item_type,upload_time,upload_type,"
    + ",".join(f"{x}_level_category_id,{x}_level_category_name,{x}_level_category_name_en" for x in LEVELS)
    + '\n100,"[1, 2]",55,NORMAL,2023-01-01,LongImport,1,搞笑,Funny,2,段子,Funny joke,0,empty,empty,0,empty,empty\n'
    + "101,[],0,NORMAL,1970-01-01,UNKNOWN,0,empty,empty,0,empty,empty,0,empty,empty,0,empty,empty\n"
)
FILES = {"rec_inter.csv": REC, "src_inter.csv": SEARCH, "user_features.csv": USERS, "item_features.csv": ITEMS}


@pytest.fixture
def folder(raw):
    return [raw(name, text) for name, text in FILES.items()][0]


def test_recommendation_and_search_are_two_scenarios_with_clicks_as_labels(folder, ingest):
    got = ingest(source="kuaisar", path=folder)
    rows = got.interactions.select(["user_id", "item_id", "scenario", "label"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (1, 100, "rec", 1),
        (1, 101, "rec", 0),
        (2, 100, "search", 1),
        (2, 900, "search", 0),
    ]
    assert got.column("scenarios", "scenario") == ["rec", "search"]


def test_times_are_the_unix_milliseconds_not_the_beijing_columns(folder, ingest):
    times = ingest(source="kuaisar", path=folder).column("interactions", "event_timestamp")
    assert times[0] == from_micros(1_684_684_850_417_000)
    assert times[2] == from_micros(1_684_810_800_000_000)


def test_english_category_names_are_the_items_text(folder, ingest):
    got = ingest(source="kuaisar", path=folder)
    assert got.column("items", "title") == ["Funny > Funny joke", None]
    assert got.column("items", "author_id") == ["55", "0"]
    assert got.column("items", "scenarios") == [None, None]


def test_activity_levels_are_read_only_where_they_are_declared(folder, ingest):
    assert "rec_active_level" not in ingest(source="kuaisar", path=folder).users.column_names
    asked = ingest(source="kuaisar", path=folder, user_dense=["rec_active_level"], user_categorical=["onehot_feat1"])
    assert asked.column("users", "rec_active_level") == [7.0, 7.0]
    assert asked.column("users", "onehot_feat1") == ["0", "2"]


def test_outcomes_of_a_row_are_not_read(folder, ingest):
    names = ingest(source="kuaisar", path=folder).interactions.column_names
    assert not {"playing_time", "like", "follow", "forward", "keyword"} & set(names)


@pytest.mark.parametrize("name", list(FILES))
def test_each_missing_file_is_named(folder, ingest, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: this file does not exist"):
        ingest(source="kuaisar", path=folder)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("rec_inter.csv", ",click,", ",clicked,", r"rec_inter\.csv, column 'click': no such column"),
        ("src_inter.csv", ",3,VIDEO", ",many,VIDEO", r"src_inter\.csv, row 2, column 'click_cnt': .*'many'"),
        ("src_inter.csv", "1684810800000", "1684810800000000", r"src_inter\.csv, row 2, column 'search_session_time"),
        ("user_features.csv", "\n2,", "\nb,", r"user_features\.csv, row 3, column 'user_id': .*'b'"),
    ],
)
def test_bad_cells_are_named(raw, folder, ingest, name, old, new, message):
    raw(name, FILES[name].replace(old, new))
    with pytest.raises(DataError, match=message):
        ingest(source="kuaisar", path=folder)


def test_other_scenario_rules_are_refused(folder, ingest):
    with pytest.raises(SettingsError, match="it can follow: source"):
        ingest(source="kuaisar", path=folder, scenario={"rule": "first_genre"})
