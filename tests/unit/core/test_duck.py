"""What DuckDB reads is the file that was named, whatever its folder is called."""

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.duck import quoted

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
