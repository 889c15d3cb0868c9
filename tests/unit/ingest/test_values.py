"""What cells of any file mean: ids, nothing, labels in words, times with and without a zone."""

import datetime as dt
import logging
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import as_utc, to_micros
from core.errors import DataError
from core.settings import DataSettings

HEADER = "user_id,item_id,scenario,event_timestamp,label"
FILES = {"interactions": "log.csv", "items": "items.csv"}
NOON = to_micros(as_utc("2026-10-01T12:00:00Z"))


@pytest.fixture
def read(raw, ingest):
    """Ingest a log (lines below the usual header, or an Arrow table) and perhaps a catalogue."""

    def run(log, items=None, **data):
        files = {}
        for table, content in (("interactions", log), ("items", items)):
            if content is None:
                continue
            files[table] = f"{table}.parquet" if isinstance(content, pa.Table) else f"{table}.csv"
            if isinstance(content, pa.Table):
                pq.write_table(content, raw("x", "") / files[table])
            elif table == "interactions":
                raw(files[table], "\n".join([HEADER, *content]) + "\n")
            else:
                raw(files[table], content)
        section = {"source": "table", "files": files, "label": {"column": "label", "op": "is"}, **data}
        return ingest(path=raw("x", ""), **section)

    return run


def log_table(users, items=None, times=None, labels=None, scenarios=None):
    count = len(users)
    columns = {
        "user_id": users,
        "item_id": items if items is not None else pa.array(["a"] * count),
        "scenario": scenarios if scenarios is not None else pa.array(["feed"] * count),
        "event_timestamp": times if times is not None else pa.array([1_700_000_000] * count),
        "label": labels if labels is not None else pa.array([1] * count),
    }
    return pa.table(columns)


# ids


def test_ids_in_a_float_column_are_integers(read):
    got = read(log_table(pa.array([4_005_002_501_632_002.0, None, float("nan")])))
    assert got.meta["user_id"] == "int64"
    assert got.column("interactions", "user_id") == [4_005_002_501_632_002, None, None]


def test_a_float_id_that_lost_digits_names_file_row_and_column(read):
    with pytest.raises(DataError, match=r"interactions\.parquet, row 2, column 'user_id': .*last digits are lost"):
        read(log_table(pa.array([1.0, 2.0**53])))


def test_csv_ids_that_went_through_a_float_are_integers(read):
    got = read(["102.0,a,feed,1700000000,1", "4.005002501632002e+15,a,feed,1700000000,1", ",a,feed,1700000000,1"])
    assert got.column("interactions", "user_id") == [102, 4_005_002_501_632_002, None]


@pytest.mark.parametrize(
    "items",
    [
        pa.array([102, 7]),
        pa.array([102.0, 7.0]),
        pa.array([102.0, 7.0], pa.float32()),
        pa.array([Decimal("102.00"), Decimal("7.00")]),
        pa.array(["102", "7"]),
        pa.array([" 102", "7 "]),
    ],
)
@pytest.mark.parametrize("catalogue", ["item_id,title\n102,A\n7,B\n", "item_id,title\n102.0,A\n7.0,B\n"])
def test_the_log_and_the_catalogue_join_however_ids_are_written(read, items, catalogue):
    got = read(log_table(pa.array([1, 2]), items), catalogue)
    assert got.column("interactions", "item_id") == got.column("items", "item_id")


def test_leading_zeros_keep_ids_apart(read):
    got = read(["007,a,feed,1700000000,1", "7,a,feed,1700000000,1"])
    assert got.column("interactions", "user_id") == ["007", "7"]


def test_booleans_are_no_ids(read):
    with pytest.raises(DataError, match=r"column 'user_id': holds bool, which is no id"):
        read(log_table(pa.array([True, False])))


def test_the_settings_can_say_what_ids_are(read):
    lines = ["1,a,feed,1700000000,1", "2,b,feed,1700000000,1"]
    assert read(lines, ids="string").column("interactions", "user_id") == ["1", "2"]
    assert read(lines, ids={"user": "string"}).meta["user_id"] == "string"
    with pytest.raises(DataError, match=r"row 2, column 'item_id': 'a' is no id: .*set data\.ids: string"):
        read(lines, ids="integer")
    hexadecimal = ["1e3,a,feed,1700000000,1", "2e5,a,feed,1700000000,1"]
    assert read(hexadecimal, ids="string").column("interactions", "user_id") == ["1e3", "2e5"]


def test_other_sources_read_ids_alike(raw, ingest):
    raw("ratings.csv", "userId,movieId,rating,timestamp\n1.0,10,4.0,1000000000\n")
    folder = raw("movies.csv", "movieId,title,genres\n10.0,A (1990),Drama\n")
    got = ingest(path=folder)
    assert (got.column("interactions", "user_id"), got.column("items", "item_id")) == ([1], [10])
    assert ingest(path=folder, ids="string").column("interactions", "item_id") == ["10"]


# nothing


@pytest.mark.parametrize(
    "word", ["", " ", "nan", "NaN", "None", "null", "NULL", "<NA>", "\\N", "NaT", "N/A", "undefined"]
)
@pytest.mark.parametrize("as_parquet", [False, True])
def test_every_spelling_of_nothing_is_an_empty_cell(read, word, as_parquet):
    if as_parquet:
        cells = pa.array([word, "u1"])
        log = log_table(cells, pa.array([word, "a"]), scenarios=pa.array([word, "feed"]), labels=pa.array([word, "1"]))
        items = pa.table({"item_id": ["a"], "title": [word], "kind": [word], "price": [word]})
    else:
        log = [f"{word},{word},{word},,{word}", "u1,a,feed,1700000000,1"]
        items = f"item_id,title,kind,price\na,{word},{word},{word}\n"
    got = read(log, items, item_categorical=["kind"], item_dense=["price"])
    for name in ("user_id", "item_id", "scenario", "label"):
        assert got.interactions[name].null_count == 1, name
    for name in ("title", "kind", "price"):
        assert got.column("items", name) == [None], name
    assert got.column("scenarios", "scenario") == ["feed"]


def test_real_words_are_none_of_them(read):
    words = ["NA", "none", "Nullarbor", "0", "-", "Nan Goldin"]
    got = read([f"{word},a,feed,1700000000,1" for word in words])
    assert got.column("interactions", "user_id") == words


def test_the_settings_can_name_other_spellings(read):
    lines = ["null,a,feed,1700000000,1", "anon,a,feed,1700000000,1"]
    assert read(lines, nulls=["anon"]).column("interactions", "user_id") == ["null", None]
    assert read(lines, nulls=[]).column("interactions", "user_id") == ["null", "anon"]


# labels


def test_labels_can_be_named_words(read, caplog):
    lines = [f"1,a,feed,1700000000,{word}" for word in ("view", "cart", "purchase", "", "view")]
    with caplog.at_level(logging.INFO, logger="llm4msr"):
        got = read(lines, label={"column": "label", "in": ["cart", "purchase", "wish"]})
    assert got.column("interactions", "label") == [0, 1, 1, None, 0]
    assert "label 1: cart 1, purchase 1; label 0: view 2" in caplog.text
    assert "no row says wish" in caplog.text


def test_words_under_a_numeric_rule_show_what_to_write(read):
    message = r"row 3, column 'label': 'view' is no number; data\.label\.column .* it holds: .*view.*in: \[.*view.*\]\}"
    with pytest.raises(DataError, match=message):
        read(["1,a,feed,1700000000,1", "1,a,feed,1700000000,view"])


@pytest.mark.parametrize(("words", "numbers"), [(["t", "F"], 1), (["yes", "No"], 1), (["TRUE", "off"], 1)])
def test_yes_and_no_are_one_and_zero(read, words, numbers):
    got = read([f"1,a,feed,1700000000,{word}" for word in words])
    assert got.column("interactions", "label") == [1, 0]


@pytest.mark.parametrize(
    ("labels", "positive"),
    [
        (pa.array([1, 4, 5]), [4, 5]),
        (pa.array([1.0, 4.0, 5.0]), [4, 5]),
        (pa.array(["1", "4", "5.0"]), [4, 5]),
        (pa.array([False, True, True]), [True]),
        (pa.array(["no", "yes", "YES"]), [True]),
    ],
)
def test_named_labels_can_be_numbers_and_booleans(read, labels, positive):
    got = read(log_table(pa.array([1, 2, 3]), labels=labels), label={"column": "label", "in": positive})
    assert got.column("interactions", "label") == [0, 1, 1]


def test_a_rule_is_given_one_way():
    with pytest.raises(ValueError, match="either `in` or `op`"):
        DataSettings(label={"column": "x", "in": ["a"], "op": ">"})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"label": {"column": "click", "op": "is"}}, r"column 'click': .*set data\.label\.column"),
        ({"scenario": {"rule": "column", "column": "tab"}}, r"column 'tab': .*set data\.scenario\.column"),
        ({"grade": "stars"}, r"column 'stars': .*set data\.grade"),
    ],
)
def test_a_missing_column_names_its_setting(read, data, message):
    with pytest.raises(DataError, match=message):
        read(["1,a,feed,1700000000,1"], **data)


# times


@pytest.mark.parametrize(
    "text",
    [
        "2026-10-01 12:00:00 UTC",
        "2026-10-01T12:00:00Z",
        "2026-10-01t12:00:00z",
        "2026-10-01 12:00",
        "2026-10-01 12:00:00.000",
        '"2026-10-01 12:00:00,000"',
        "2026-10-01 12:00:00+00",
        "2026-10-01 14:00:00 +0200",
        "2026-10-01T14:00:00+02:00[Europe/Berlin]",
        "2026/10/01 12:00:00",
        "20261001T120000Z",
        "2026-10-01 12:00:00 GMT",
    ],
)
def test_iso_texts_in_every_spelling(read, text):
    assert read([f"1,a,feed,{text},1"], timestamp_unit="iso").meta["first"] == NOON


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
@pytest.mark.parametrize("kind", ["text", "int64", "float64", "float text"])
def test_numbers_of_every_unit(read, unit, factor, kind):
    value = NOON // 10**6 * factor
    column = {
        "text": pa.array([str(value)]),
        "int64": pa.array([value]),
        "float64": pa.array([float(value)]),
        "float text": pa.array([repr(float(value))]),
    }[kind]
    assert read(log_table(pa.array([1]), times=column), timestamp_unit=unit).meta["first"] == NOON


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_arrow_timestamps_of_every_unit(read, unit, zone):
    moment = dt.datetime(2026, 10, 1, 12, tzinfo=dt.UTC if zone else None)
    times = pa.array([moment]).cast(pa.timestamp(unit, tz=zone))
    assert read(log_table(pa.array([1]), times=times)).meta["first"] == NOON


def test_times_without_a_zone_are_those_of_the_logs_own(read):
    naive = pa.array([dt.datetime(2026, 10, 1, 14), dt.datetime(2026, 12, 1, 13)])
    texts = ["1,a,feed,2026-10-01 14:00:00,1", "1,a,feed,2026-12-01 13:00:00,1"]
    for log, unit in ((log_table(pa.array([1, 2]), times=naive), "s"), (texts, "iso")):
        got = read(log, timestamp_unit=unit, timezone="Europe/Berlin")
        assert [t.isoformat()[5:16] for t in got.column("interactions", "event_timestamp")] == [
            "10-01T12:00",
            "12-01T12:00",
        ]
    zoned = read(["1,a,feed,2026-10-01 12:00:00 UTC,1"], timestamp_unit="iso", timezone="Europe/Berlin")
    assert zoned.meta["first"] == NOON


def test_an_hour_that_does_not_exist_is_an_error_and_one_that_came_twice_is_said(read, caplog):
    with pytest.raises(
        DataError, match=r"row 2, .*2026-03-29 02:30:00 does not exist in Europe/Berlin.*data\.timezone"
    ):
        read(["1,a,feed,2026-03-29 02:30:00,1"], timestamp_unit="iso", timezone="Europe/Berlin")
    got = read(["1,a,feed,2026-10-25 02:30:00,1"], timestamp_unit="iso", timezone="Europe/Berlin")
    assert got.meta["first"] == to_micros(as_utc("2026-10-25T00:30:00Z")), "the first of the two"
    assert "ran twice, e.g. 2026-10-25 02:30:00" in caplog.text


def test_users_and_items_are_dated_by_the_same_rule(read):
    items = "item_id,title,event_timestamp\na,Lamp,2026-10-01 14:00:00\n"
    got = read(["1,a,feed,2026-10-02 12:00:00,1"], items, timestamp_unit="iso", timezone="Europe/Berlin")
    assert to_micros(got.column("items", "event_timestamp")[0]) == NOON


@pytest.mark.parametrize(
    ("time", "unit", "message"),
    [
        ("2026-10-01 12:00:00", "s", r"row 2, .*is no time in unit 's'; set data\.timestamp_unit: iso"),
        ("1790856000", "iso", r"1790856000 is no time in unit 'iso'; set data\.timestamp_unit: s"),
        ("1790856000000", "s", r"set data\.timestamp_unit: ms"),
        ("1790856000000000000", "us", r"set data\.timestamp_unit: ns"),
        ("1790856000", "ms", r"set data\.timestamp_unit: s"),
        ("1790856000000", "us", r"set data\.timestamp_unit: ms"),
        ("soon", "s", r"'soon' is no time in unit 's'; write ISO 8601"),
        ("2026-02-30", "iso", r"'2026-02-30' is no time"),
    ],
)
def test_a_wrong_unit_names_the_right_one(read, time, unit, message):
    with pytest.raises(DataError, match=message):
        read([f"1,a,feed,{time},1"], timestamp_unit=unit)


def test_an_unknown_zone_is_refused():
    with pytest.raises(ValueError, match="is no time zone"):
        DataSettings(timezone="Berlin")
