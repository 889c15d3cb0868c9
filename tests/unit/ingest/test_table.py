import datetime as dt
import os
import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from core import as_utc, to_micros
from core.catalogues import Catalogues
from core.digest import REPOSITORY
from core.errors import DataError, SettingsError

LOG = "uid,item,surface,when,stars,w\n1,a,home,1700000000,5,2.0\n2,b,search,1700000001,1,\n1,a,,1700000002,4,1\n"
ITEMS = "item,name,kind,price,where\na,Lamp,light,9.5,home|search\nb,,chair,,search\n"
USERS = "uid,segment,changed\n1,new,1600000000\n2,old,1800000000\n"
COLUMNS = {
    "user_id": "uid",
    "item_id": "item",
    "event_timestamp": "when",
    "scenario": "surface",
    "label": "stars",
    "weight": "w",
    "title": "name",
    "scenarios": "where",
    "users.event_timestamp": "changed",
}
NULLS = csv.ConvertOptions(strings_can_be_null=True)
SECTION = {
    "source": "table",
    "files": {"interactions": "log.csv", "items": "items.csv", "users": "users.csv"},
    "columns": COLUMNS,
    "label": {"column": "label", "op": ">=", "value": 4},
    "user_categorical": ["segment"],
    "item_categorical": ["kind"],
    "item_dense": ["price"],
}


@pytest.fixture
def folder(raw):
    raw("log.csv", LOG)
    raw("users.csv", USERS)
    return raw("items.csv", ITEMS)


@pytest.fixture
def simple(raw, ingest):
    """Ingest one CSV log given as text, with the columns named as ours."""

    def run(text, name="log.csv", **data):
        section = {"source": "table", "files": {"interactions": name}, "label": {"column": "label", "op": "is"}, **data}
        return ingest(path=raw(name, text), **section)

    return run


def test_ingest_says_what_the_tables_are(folder, ingest, raw):
    def kinds(**data):
        about = Catalogues.read(ingest(path=folder, **{**SECTION, **data}).folder)
        return about.users, about.items, about.scenarios

    assert kinds() == ("snapshot", "snapshot", "log")
    assert kinds(catalogue={"items": "delta"}) == ("snapshot", "delta", "log")
    assert kinds(catalogue="delta") == ("delta", "delta", "log")
    home = {"home": {"title": "Home", "description": "The first page."}}
    assert kinds(scenarios=home, files={"interactions": "log.csv"}) == ("log", "log", "snapshot")


def rows(*lines: str) -> str:
    return "\n".join(["user_id,item_id,scenario,event_timestamp,label", *lines]) + "\n"


def test_columns_are_mapped(folder, ingest):
    got = ingest(path=folder, **SECTION)
    log = got.interactions.drop_columns(["created_timestamp"]).to_pylist()
    assert [tuple(row.values()) for row in log] == [
        (1, "a", "home", dt.datetime.fromtimestamp(1_700_000_000, dt.UTC), 1, 2.0),
        (2, "b", "search", dt.datetime.fromtimestamp(1_700_000_001, dt.UTC), 0, 1.0),
        (1, "a", None, dt.datetime.fromtimestamp(1_700_000_002, dt.UTC), 1, 1.0),
    ]
    assert got.items.drop_columns(["event_timestamp", "created_timestamp"]).to_pylist() == [
        {"item_id": "a", "title": "Lamp", "scenarios": ["home", "search"], "kind": "light", "price": 9.5},
        {"item_id": "b", "title": None, "scenarios": ["search"], "kind": "chair", "price": None},
    ]
    assert got.column("users", "segment") == ["new", "old"]
    assert got.column("users", "event_timestamp")[0] == dt.datetime.fromtimestamp(1_600_000_000, dt.UTC)
    assert got.column("scenarios", "scenario") == ["home", "search"]


def test_parquet_and_csv_give_the_same_tables(raw, folder, ingest):
    for name in ("log", "items", "users"):
        pq.write_table(csv.read_csv(folder / f"{name}.csv", convert_options=NULLS), folder / f"{name}.parquet")
    files = {table: name.replace(".csv", ".parquet") for table, name in SECTION["files"].items()}
    one, two = ingest(path=folder, **SECTION), ingest(path=folder, **{**SECTION, "files": files})
    for table in ("interactions", "users", "items", "scenarios"):
        assert getattr(one, table) == getattr(two, table)


def test_a_folder_of_parquet_is_read_in_order_of_names(raw, simple, tmp_path, ingest):
    table = csv.read_csv(raw("log.csv", LOG) / "log.csv")
    (tmp_path / "raw" / "parts").mkdir()
    pq.write_table(table.slice(2), tmp_path / "raw" / "parts" / "b.parquet")
    pq.write_table(table.slice(0, 2), tmp_path / "raw" / "parts" / "a.parquet")
    section = {**SECTION, "user_categorical": [], "item_categorical": [], "item_dense": []}
    got = ingest(path=tmp_path / "raw", **{**section, "files": {"interactions": "parts"}})
    assert got.column("interactions", "user_id") == [1, 2, 1]
    assert got.column("items", "item_id") == ["a", "b"]


def test_user_rows_dated_after_the_window_are_left_out(folder, ingest):
    from core import Window

    got = ingest(Window.parse("2023-01-01", "2024-01-01"), path=folder, **SECTION)
    assert got.column("users", "user_id") == [1]


@pytest.mark.parametrize(
    ("ids", "kind"), [(["1", "2"], "int64"), (["1", "u2"], "string"), (["007", "7"], "string"), (["-3", "0"], "int64")]
)
def test_ids_are_integers_only_where_nothing_is_lost(simple, ids, kind):
    got = simple(rows(*(f"{value},1,a,1700000000,1" for value in ids)))
    assert got.meta["user_id"] == kind
    assert [str(value) for value in got.column("interactions", "user_id")] == ids


def test_an_id_that_is_text_in_one_file_is_text_in_all(raw, simple):
    raw("items.csv", "item_id,title\nx1,Lamp\n")
    files = {"interactions": "log.csv", "items": "items.csv"}
    got = simple(rows("1,1,a,1700000000,1"), files=files)
    assert (got.meta["item_id"], got.column("interactions", "item_id")) == ("string", ["1"])


def test_cells_that_validation_can_judge_are_passed_on(simple):
    got = simple(rows(",1,a,1700000000,1", "1,1,,1700000000,1", "1,1,a,,1", "1,1,a,1700000000,2", "1,1,a,9700000000,"))
    assert got.rows["interactions"] == 5
    assert got.column("interactions", "label") == [1, 1, 1, 2, None]
    assert [got.interactions[c].null_count for c in ("user_id", "scenario", "event_timestamp")] == [1, 1, 1]


def test_labels_can_be_words(simple):
    assert simple(rows("1,1,a,1700000000,true", "1,1,a,1700000000,False")).column("interactions", "label") == [1, 0]


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("s", "1700000000"),
        ("s", "1700000000.0"),
        ("ms", "1700000000000"),
        ("us", "1700000000000000"),
        ("iso", "2023-11-14T22:13:20"),
        ("iso", "2023-11-14 22:13:20Z"),
        ("iso", "2023-11-15T06:13:20+08:00"),
    ],
)
def test_times_of_all_units_are_utc(simple, unit, text):
    got = simple(rows(f"1,1,a,{text},1"), timestamp_unit=unit)
    assert got.meta["first"] == 1_700_000_000_000_000


def test_an_iso_date_is_its_midnight_in_utc(simple):
    got = simple(rows("1,1,a,2023-11-14,1"), timestamp_unit="iso")
    assert got.column("interactions", "event_timestamp") == [dt.datetime(2023, 11, 14, tzinfo=dt.UTC)]


@pytest.mark.parametrize("zone", ["", "Z", "+08:00", "-0530"])
@pytest.mark.parametrize("decimals", ["123456", "1234567", "123456999"])
def test_decimals_beyond_the_microsecond_are_cut_off(simple, decimals, zone):
    text = f"2023-11-14T22:13:20.{decimals}{zone}"
    got = simple(rows(f"1,1,a,{text},1"), timestamp_unit="iso")
    # As a push reads the same text.
    assert got.meta["first"] == to_micros(as_utc(text))
    assert got.meta["first"] % 1_000_000 == 123_456


def test_decimals_alone_make_no_time(simple):
    with pytest.raises(DataError, match="is no time"):
        simple(rows("1,1,a,2023-11-14T22:13.1234567,1"), timestamp_unit="iso")


def test_tabs_separate_a_tsv(simple):
    assert simple(rows("1,1,a,1700000000,1").replace(",", "\t"), name="log.tsv").rows["interactions"] == 1


@pytest.mark.parametrize(
    ("text", "data", "message"),
    [
        (rows(), {}, r"log\.csv: the log is empty"),
        ("", {}, r"log\.csv: the file is empty"),
        (rows("1,1,a,1700000000,1").replace("user_id", "uid"), {}, r"column 'user_id': no such column.*data\.columns"),
        (rows("1,1,a,1700000000,1").replace("scenario", "tab"), {}, r"column 'scenario': no such column.*has: user_id"),
        (rows("1,1,a,1700000000,1", "1,1,a,x,1"), {}, r"row 3, column 'event_timestamp': .*'x'"),
        (
            rows("1,1,a,1700000000,1", "1,1,a,1700000000,maybe"),
            {},
            r"row 3, column 'label': 'maybe' is no number; data\.label\.column must be 0 or 1; it holds: 1, maybe",
        ),
        (
            rows("1,1,a,2023-11-14,1", "1,1,a,soon,1"),
            {"timestamp_unit": "iso"},
            r"row 3, .*'soon' is no time; write ISO 8601",
        ),
        (rows("1,1,a,1700000000000000000,1"), {}, r"row 2, column 'event_timestamp': .*data\.timestamp_unit"),
        (rows("1,1,é,1700000000,1").encode("latin-1"), {}, r"row 2: byte 51 is not UTF-8 text; set data\.encoding"),
        (rows("1,1,a"), {}, r"row 2: .*3 fields where the header has 5"),
    ],
)
def test_bad_input_names_file_row_and_column(simple, text, data, message):
    with pytest.raises(DataError, match=message):
        simple(text, **data)


def test_a_missing_file_is_named(tmp_path, ingest):
    with pytest.raises(DataError, match=r"absent\.parquet: this file does not exist"):
        ingest(path=tmp_path, source="table", files={"interactions": "absent.parquet"})


def test_what_is_no_parquet_is_named(raw, ingest):
    with pytest.raises(DataError, match=r"log\.parquet: not a parquet file"):
        ingest(path=raw("log.parquet", "user_id"), source="table", files={"interactions": "log.parquet"})


def test_a_parquet_column_of_the_wrong_type_is_named(raw, ingest, tmp_path):
    now = dt.datetime(2024, 1, 1)
    table = pa.table({"user_id": [1], "item_id": [1], "scenario": ["a"], "event_timestamp": [now], "rating": ["x"]})
    pq.write_table(table, raw("x", "") / "log.parquet")
    with pytest.raises(
        DataError, match=r"log\.parquet, row 1, column 'rating': 'x' is no number; data\.label\.column must be a number"
    ):
        ingest(path=tmp_path / "raw", source="table", files={"interactions": "log.parquet"})


@pytest.mark.parametrize(
    ("files", "message"),
    [({}, "must name the file of `interactions`"), ({"interactions": "log.csv", "item": "x"}, "unknown table 'item'")],
)
def test_wrong_file_settings_are_refused(tmp_path, ingest, files, message):
    with pytest.raises(SettingsError, match=message):
        ingest(path=tmp_path, source="table", files=files)


PEAK = """
    import sys
    import pyarrow as pa
    from pathlib import Path
    from core import Settings, Window
    from ingest import delimited, read_source

    # pyarrow reads up to 32 blocks ahead: with small ones the bound is reached by a small file.
    delimited.BLOCK_BYTES = 1 << 16
    files = {"interactions": sys.argv[2]}
    data = {"source": "table", "path": sys.argv[1], "files": files, "batch_rows": 20_000}
    out = Path(sys.argv[1]) / f"out-{sys.argv[2]}"
    out.mkdir()
    read_source(Settings(data=data), Window(), out)
    print(pa.default_memory_pool().max_memory())
"""


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_log_many_times_larger_needs_no_more_memory(tmp_path, kind):
    peaks = {}
    for count in (100_000, 600_000):
        numbers = pa.array(range(count), pa.int64())
        values = {"user_id": pa.compute.bit_wise_and(numbers, 1023), "item_id": pa.compute.bit_wise_and(numbers, 511)}
        scenario, times = pa.repeat("home", count), pa.compute.add(numbers, 1_700_000_000)
        table = pa.table({**values, "scenario": scenario, "event_timestamp": times, "rating": pa.repeat(4.0, count)})
        name = f"log{count}.{kind}"
        if kind == "csv":
            csv.write_csv(table, tmp_path / name)
        else:
            pq.write_table(table, tmp_path / name, row_group_size=50_000)
        del table
        command = [sys.executable, "-c", textwrap.dedent(PEAK), str(tmp_path), name]
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        peaks[count] = int(done.stdout)
    assert peaks[600_000] < 1.5 * peaks[100_000]


def test_a_grade_is_a_column_of_your_log(simple):
    text = "user_id,item_id,scenario,event_timestamp,label,share\n1,a,home,1700000000,1,0.9\n1,b,home,1700000001,0,\n"
    got = simple(text, grade="share")
    assert got.column("interactions", "grade") == [pytest.approx(0.9), None]
    assert got.column("interactions", "label") == [1, 0]
    assert simple(text).interactions.column_names[-1] == "created_timestamp"


@pytest.mark.parametrize("as_parquet", [False, True])
def test_the_labels_own_column_can_be_the_grade(folder, ingest, as_parquet):
    files = SECTION["files"]
    if as_parquet:
        pq.write_table(csv.read_csv(folder / "log.csv", convert_options=NULLS), folder / "log.parquet")
        files = {**files, "interactions": "log.parquet"}
    for name in ("stars", "label"):
        got = ingest(path=folder, **{**SECTION, "files": files, "grade": name})
        assert got.column("interactions", "grade") == [5.0, 1.0, 4.0]
        assert got.column("interactions", "label") == [1, 0, 1]


@pytest.mark.parametrize(("grade", "message"), [("liked", "needed as liked"), ("surface", "surface")])
def test_a_grade_that_cannot_be_read_is_named(folder, ingest, grade, message):
    with pytest.raises(DataError, match=message):
        ingest(path=folder, **{**SECTION, "grade": grade})


@pytest.mark.parametrize("section", [{"grade": "weight"}, {"label": {"column": "weight"}}, {"grade": "item_id"}])
def test_a_column_cannot_be_asked_for_by_a_name_of_ours(simple, section):
    text = "user_id,item_id,scenario,event_timestamp,label,weight\n1,a,home,1700000000,1,5\n"
    with pytest.raises(SettingsError, match="' has a meaning"):
        simple(text, **section)
    got = simple(text, grade="outcome", columns={"outcome": "weight"})
    assert (got.column("interactions", "grade"), got.column("interactions", "weight")) == ([5.0], [1.0])


def test_a_column_called_value_is_like_any_other(simple):
    text = "user_id,item_id,scenario,event_timestamp,value,values\n1,a,home,1700000000,5,2\n"
    got = simple(text, label={"column": "value", "op": ">", "value": 4}, grade="values")
    assert (got.column("interactions", "label"), got.column("interactions", "grade")) == ([1], [2.0])
    assert got.column("interactions", "scenario") == ["home"]


def test_a_grade_that_is_no_number_is_empty(tmp_path, raw, ingest):
    folder = raw(
        "log.csv", "user_id,item_id,scenario,event_timestamp,label,g\n1,a,x,1700000000,1,1\n1,b,x,1700000001,0,2\n"
    )
    rows = csv.read_csv(folder / "log.csv").drop_columns(["g"]).append_column("g", pa.array([float("nan"), 2.0]))
    pq.write_table(rows, folder / "log.parquet")
    got = ingest(
        path=folder,
        source="table",
        files={"interactions": "log.parquet"},
        label={"column": "label", "op": "is"},
        grade="g",
    )
    assert got.column("interactions", "grade") == [None, 2.0]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("userid", "user_id"), ("scenario_s", "scenarios"), ("items.titel", "title"), ("wieght", "weight")],
)
def test_a_name_that_nothing_reads_is_refused_and_what_it_may_have_meant_is_said(folder, ingest, name, meant):
    with pytest.raises(SettingsError, match=f"data.columns: nothing reads '{name}'; did you mean '{meant}'"):
        ingest(path=folder, **{**SECTION, "columns": {**COLUMNS, name: "x"}})


def test_a_column_that_the_settings_map_must_be_there_though_it_may_be_left_out(folder, ingest):
    with pytest.raises(DataError, match="column 'wher': no such column, needed as scenarios"):
        ingest(path=folder, **{**SECTION, "columns": {**COLUMNS, "scenarios": "wher"}})


PART = "user_id,item_id,scenario,event_timestamp,label\n"


def folder_of(raw, **parts: str | pa.Table):
    """A folder `log` of parts; `__` in a name is a slash, `_d` a dot."""
    base = raw("x", "")
    for name, content in parts.items():
        path = base / "log" / name.replace("__", "/").replace("_d", ".").replace("_e", "=")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pa.Table):
            pq.write_table(content, path)
        else:
            path.write_text(content)
    return base


FOLDER = {"source": "table", "files": {"interactions": "log"}, "label": {"column": "label", "op": "is"}}


def test_parts_of_csv_may_order_their_columns_and_separators_as_they_like(raw, ingest):
    base = folder_of(
        raw,
        a_dcsv=PART + "1,a,home,1700000000,1\n",
        b_dcsv="label;event_timestamp;scenario;item_id;user_id;more\n0;1700000001;home;b;2;x\n",
        c_dcsv=PART,
    )
    got = ingest(path=base, **FOLDER)
    assert got.column("interactions", "user_id") == [1, 2]
    assert got.column("interactions", "label") == [1, 0]


@pytest.mark.parametrize("column", ["scenario", "weight"])
def test_a_part_that_lacks_a_column_is_named(raw, ingest, column):
    whole = "user_id,item_id,scenario,event_timestamp,label,weight\n1,a,home,1700000000,1,2\n"
    base = folder_of(raw, a_dcsv=whole, b_dcsv=whole.replace(column, "other"))
    with pytest.raises(DataError, match=rf"b\.csv, column '{column}': no such column"):
        ingest(path=base, **FOLDER)


def test_partitions_are_columns(raw, ingest):
    text = "item_id,scenario,event_timestamp,label\na,home,1700000000,1\n"
    base = folder_of(raw, user_id_e7__a_dcsv=text, user_id_e8__a_dcsv=text)
    assert ingest(path=base, **FOLDER).column("interactions", "user_id") == [7, 8]
    rows = pa.table({"user_id": [1], "item_id": [2], "event_timestamp": [1700000000], "label": [1]})
    base = folder_of(raw, scenario_ehome__a_dparquet=rows, scenario_e__HIVE_DEFAULT_PARTITION____a_dparquet=rows)


def test_a_partition_without_a_value_is_empty(raw, ingest, tmp_path):
    rows = pa.table({"user_id": [1], "item_id": [2], "event_timestamp": [1700000000], "label": [1]})
    for value in ("home", "__HIVE_DEFAULT_PARTITION__", "a%20b"):
        (tmp_path / "p" / "log" / f"scenario={value}").mkdir(parents=True)
        pq.write_table(rows, tmp_path / "p" / "log" / f"scenario={value}" / "part-0")
    got = ingest(path=tmp_path / "p", **FOLDER)
    assert got.column("interactions", "scenario") == [None, "a b", "home"]


@pytest.mark.parametrize("kind", ["csv", "parquet", "partition"])
def test_two_columns_of_one_name_are_refused(raw, ingest, tmp_path, kind):
    table = csv.read_csv(raw("log.csv", PART + "1,a,home,1700000000,1\n") / "log.csv")
    if kind == "csv":
        raw("log.csv", "user_id," + PART + "9,1,a,home,1700000000,1\n")
    elif kind == "parquet":
        twice = pa.Table.from_arrays([*table.columns, table["user_id"]], [*table.column_names, "user_id"])
        pq.write_table(twice, tmp_path / "raw" / "log.parquet")
    else:
        (tmp_path / "raw" / "log.parts" / "user_id=3").mkdir(parents=True)
        pq.write_table(table, tmp_path / "raw" / "log.parts" / "user_id=3" / "a.parquet")
    name = {"csv": "log.csv", "parquet": "log.parquet", "partition": "log.parts"}[kind]
    with pytest.raises(DataError, match=r"log.*, column 'user_id': columns .* have this name") as caught:
        ingest(path=tmp_path / "raw", **{**FOLDER, "files": {"interactions": name}})
    assert caught.value.exit_code == 2


def test_names_that_differ_in_case_only_are_two_columns(simple):
    text = "USER_ID,user_id,item_id,scenario,event_timestamp,label\n9,1,a,home,1700000000,1\n"
    assert simple(text).column("interactions", "user_id") == [1]


@pytest.mark.parametrize("column", [0, 2, 3, 4])
def test_a_field_of_ids_scenarios_times_or_labels_holds_no_line_break(simple, column):
    cells = ["1", "a", "home", "1700000000", "1"]
    cells[column] = f'"{cells[column]}\nx"'
    with pytest.raises(DataError, match=r"row 3, column '\w+': .* are one value here"):
        simple(rows("1,a,home,1700000000,1", ",".join(cells)))


def test_a_title_may_hold_line_breaks_and_errors_below_it_name_the_line(raw, simple):
    raw("items.csv", 'item_id,title,price\na,"Lamp,\nred\n\nand blue",1\nb,Chair,x\n')
    data = {"files": {"interactions": "log.csv", "items": "items.csv"}, "item_dense": ["price"]}
    with pytest.raises(DataError, match=r"items\.csv, row 6, column 'price': 'x' is no number"):
        simple(rows("1,a,home,1700000000,1"), **data)
    raw("items.csv", 'item_id,title,price\na,"Lamp,\nred\n\nand blue",1\nb,Chair,2\n')
    assert simple(rows("1,a,home,1700000000,1"), **data).column("items", "title") == ["Lamp,\nred\n\nand blue", "Chair"]


def test_each_table_may_have_a_dialect_of_its_own(raw, simple):
    raw("items.csv", 'item_id^title\na^"Lamp"\n')
    files = {"interactions": "log.csv", "items": "items.csv"}
    got = simple(rows("1,a,home,1700000000,1"), files=files, csv={"items": {"delimiter": "^", "quote": "none"}})
    assert got.column("items", "title") == ['"Lamp"']


def test_types_that_differ_between_parts_of_parquet_are_brought_together(raw, ingest):
    one = {"user_id": [1], "item_id": [2], "scenario": ["home"], "event_timestamp": [1700000000], "label": [1]}
    other = {**one, "user_id": ["u2"], "event_timestamp": [1700000001.0], "label": [True]}
    got = ingest(path=folder_of(raw, a_dparquet=pa.table(one), b_dparquet=pa.table(other)), **FOLDER)
    assert got.column("interactions", "user_id") == ["1", "u2"]
    assert got.column("interactions", "label") == [1, 1]


def test_what_is_left_out_of_a_folder_is_said(raw, ingest, caplog):
    base = folder_of(raw, a_dcsv=PART + "1,a,home,1700000000,1\n", b_dcsv=PART, c_dcsv="")
    (base / "log" / "_temporary").mkdir()
    (base / "log" / "_temporary" / "d.csv").write_text(PART + "9,a,home,1700000000,1\n")
    with caplog.at_level("INFO", logger="llm4msr"):
        assert ingest(path=base, **FOLDER).rows["interactions"] == 1
    said = "\n".join(caplog.messages)
    assert (
        "interactions: 2 CSV files; left out 2: log/_temporary/d.csv (not data by its name), log/c.csv (empty)" in said
    )
    assert "interactions: no row in b.csv" in said


def test_a_column_of_items_that_is_called_as_the_logs_time_is_named_with_the_way_out(tmp_path, raw, ingest):
    raw("clicks.csv", b"uid,sku,page,t,label\n1,a,home,1700000000,1\n")
    folder = raw("items.csv", b"sku,t\na,red\n")
    columns = {"user_id": "uid", "item_id": "sku", "scenario": "page", "event_timestamp": "t", "items.colour": "t"}
    given = {
        "source": "table",
        "files": {"interactions": "clicks.csv", "items": "items.csv"},
        "label": {"column": "label", "op": "is"},
        "item_categorical": ["colour"],
        "item_text": [],
    }
    with pytest.raises(DataError, match=r"items.csv, row 2, column 't'.*map data.columns.interactions.event_timestamp"):
        ingest(path=folder, columns=columns, **given)
    columns["interactions.event_timestamp"] = columns.pop("event_timestamp")
    got = ingest(path=folder, columns=columns, **given)
    assert (got.column("items", "colour"), got.column("interactions", "label")) == (["red"], [1])
