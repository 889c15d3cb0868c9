"""What DuckDB reads is the file that was named, whatever its folder is called."""

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.duck import arrow_of, name_of, quoted, to_write

# As a pattern, each of the first three would match the folder `axb` as well.
NAMES = ["a[xy]b", "a*b", "a?b", "a{x,y}b", "a'b", "a b", "a#b", "a%20b", "a\\b", "[", "]", ".é", "-"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("folders")
    for name in [*NAMES, "axb"]:
        (base / name).mkdir()
        pq.write_table(pa.table({"folder": [name]}), base / name / "rows.parquet")
    return base


@pytest.mark.parametrize("name", NAMES)
def test_a_folders_name_is_no_pattern(folders, name):
    file = folders / name / "rows.parquet"
    assert duckdb.sql(f"SELECT folder FROM read_parquet({quoted(file)})").fetchall() == [(name,)]
    assert duckdb.sql(f"SELECT folder FROM read_parquet([{quoted(file)}])").fetchall() == [(name,)]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_written_into_the_folder_of_that_very_name(folders, name):
    file = folders / name / "written.parquet"

    duckdb.execute(f"COPY (SELECT 1 AS n) TO {to_write(file)} (FORMAT parquet)")
    assert pq.read_table(file)["n"].to_pylist() == [1]


@pytest.mark.parametrize(
    "name", ['a"b', "it's", "x.y;z", "{0}", "order", "50% of", "1st", "n\u00e4me", '"; DROP TABLE x; --']
)
def test_a_column_of_any_name_is_found(name):
    with duckdb.connect() as connection:
        connection.register("given", pa.table({name: [7]}))
        assert arrow_of(connection, f"SELECT {name_of(name)} FROM given").to_pydict() == {name: [7]}
