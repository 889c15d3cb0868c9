"""What a folder, a pattern or a name stands for: every file that is data, once, and a word for what is not."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import DataError
from ingest.parts import parts_of

KEY = "data.files.interactions"
ROWS = pa.table({"user_id": [1, 2], "item_id": [3, 4]})


@pytest.fixture
def put(tmp_path):
    """Write a file below a folder; parquet unless text is given."""

    def write(name: str, text: str | bytes | None = None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            pq.write_table(ROWS, path)
        else:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


def names(base, name: str) -> list[str]:
    return [str(part.path.relative_to(base)) for part in parts_of(base, name, KEY).found]


def test_what_spark_and_editors_leave_behind_is_no_data(put):
    for name in ("part-1.parquet", "part-0.snappy.parquet", "sub/part-2.parquet", "_temporary/0/a/part-1.parquet"):
        put(f"clicks/{name}")
    put("clicks/.ipynb_checkpoints/part-1-checkpoint.parquet")
    put("clicks/sub/_attempt/deep/part-9.parquet")
    put("clicks/_SUCCESS", "")
    put("clicks/.part-1.parquet.crc", "x")
    put("clicks/README.md", "# hello")
    base = put("clicks/part-3.parquet", "")
    parts = parts_of(base, "clicks", KEY)
    assert names(base, "clicks") == [
        f"clicks/{n}" for n in ("part-0.snappy.parquet", "part-1.parquet", "sub/part-2.parquet")
    ]
    said = parts.says(base)
    assert said.startswith("3 parquet files; left out 7: clicks/.ipynb_checkpoints/part-1-checkpoint.parquet (not data")
    assert said.endswith("and 4 more")
    assert dict(parts.left_out)[base / "clicks/part-3.parquet"] == "empty"
    assert dict(parts.left_out)[base / "clicks/README.md"] == "neither parquet nor CSV by its name"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clicks/*.csv", ["clicks/a.csv", "clicks/b.csv"]),
        ("clicks/*", ["clicks/a.csv", "clicks/b.csv"]),
        ("clicks/**/*.csv", ["clicks/a.csv", "clicks/b.csv", "clicks/deep/c.csv"]),
        ("clicks/[b-z].csv", ["clicks/b.csv"]),
        ("cli*", ["clicks/a.csv", "clicks/b.csv", "clicks/deep/c.csv"]),
    ],
)
def test_a_pattern_names_files_in_order(put, name, expected):
    for place in ("b.csv", "a.csv", "deep/c.csv", "_old/d.csv", ".e.csv"):
        base = put(f"clicks/{place}", "a,b\n1,2\n")
    put("clicks/notes.md", "x")
    if name == "clicks/*":
        expected = [*expected, "clicks/deep/c.csv"]  # a folder that matches counts with all that it holds
    assert names(base, name) == expected
    assert names(base, str(base / name)) == expected


def test_a_part_without_a_suffix_is_told_by_its_bytes_or_refused(put):
    base = put("clicks/part-00000")
    assert parts_of(base, "clicks", KEY).found[0].kind == "parquet"
    put("logs/part-00000", "a,b\n1,2\n")
    with pytest.raises(DataError, match=r"part-00000: neither parquet nor CSV.*logs/part-\*"):
        parts_of(base, "logs", KEY)
    assert [part.kind for part in parts_of(base, "logs/part-*", KEY).found] == ["csv"]
    assert parts_of(base, "logs/part-00000", KEY).found[0].kind == "csv"


def test_folders_of_hive_give_columns(put):
    put("clicks/dt=2026-10-01/page=a%2Fb c/part-0.parquet")
    base = put("clicks/dt=2026-10-02/page=__HIVE_DEFAULT_PARTITION__/part-0.parquet")
    parts = parts_of(base, "clicks", KEY).found
    expected = [{"dt": "2026-10-01", "page": "a/b c"}, {"dt": "2026-10-02", "page": None}]
    assert [dict(part.partition) for part in parts] == expected
    assert [dict(part.partition) for part in parts_of(base, "clicks/dt=*/*/*.parquet", KEY).found] == expected
    put("clicks/part-1.parquet")
    with pytest.raises(DataError, match="its folders give the columns none, those of .* give dt, page|give dt, page"):
        parts_of(base, "clicks", KEY)


@pytest.mark.parametrize(
    ("extra", "text", "message"),
    [
        ("clicks/b.csv", "a,b\n", r"b\.csv: this is csv, but .*a\.parquet is parquet"),
        ("clicks/b.json", "{}", r"b\.json: neither parquet nor CSV, but it lies among"),
        ("clicks/b.orc", "ORC", r"b\.orc: neither parquet nor CSV"),
        ("clicks/_delta_log/00000.json", "{}", r"clicks: a Delta table.*deleted or replaced.*write"),
        ("clicks/metadata/v1.metadata.json", "{}", r"clicks: an Iceberg table.*write"),
        ("clicks/.hoodie/hoodie.properties", "", r"clicks: a Hudi table.*write"),
        ("_delta_log/00000.json", "{}", r": a Delta table"),
    ],
)
def test_what_would_be_read_wrongly_is_refused_by_name(put, extra, text, message):
    put("clicks/a.parquet")
    base = put(extra, text)
    for name in ("clicks", "clicks/*") if "b." in extra else ("clicks", "clicks/a*", "clicks/a.parquet"):
        with pytest.raises(DataError, match=message):
            parts_of(base, name, KEY)


def test_links_are_followed_and_loops_and_twins_are_not(put):
    base = put("store/a.parquet")
    put("clicks/b.parquet")
    (base / "clicks/linked").symlink_to(base / "store", target_is_directory=True)
    (base / "clicks/loop").symlink_to(base / "clicks", target_is_directory=True)
    assert names(base, "clicks") == ["clicks/b.parquet", "clicks/linked/a.parquet"]
    (base / "clicks/twin.parquet").symlink_to(base / "clicks/b.parquet")
    with pytest.raises(DataError, match=r"twin\.parquet: the same file as .*b\.parquet by a link"):
        parts_of(base, "clicks", KEY)
    (base / "clicks/twin.parquet").unlink()
    (base / "clicks/gone.parquet").symlink_to(base / "nowhere")
    with pytest.raises(DataError, match=r"gone\.parquet: this link leads nowhere"):
        parts_of(base, "clicks", KEY)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.csv", r"absent\.csv: this file does not exist; see data\.path and data\.files"),
        ("absent/*.csv", "no file has a name like this"),
        ("empty", r"empty: this folder holds no parquet or CSV files; it holds 1 that are not: _SUCCESS"),
        ("log.json", r"log\.json: neither parquet nor CSV"),
    ],
)
def test_nothing_to_read_is_said(put, name, message):
    put("empty/_SUCCESS", "")
    with pytest.raises(DataError, match=message):
        parts_of(put("log.json", "{}"), name, KEY)
