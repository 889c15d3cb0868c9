"""An error about a batch names the file, the row and the column, wherever in the batch the fault is."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from core.errors import DataError
from ingest.place import Place, cast, first_misfit

PLACE = Place(Path("log.parquet"), first_row=101, column="age")


@pytest.mark.parametrize("bad", [0, 1, 6, 7, 12])
def test_the_first_value_that_does_not_fit_is_named_with_its_row(bad: int) -> None:
    values = [str(n) for n in range(13)]
    values[bad] = "young"
    values[-1] = values[-1] if bad == 12 else "old"
    column = pa.array(values)
    assert first_misfit(column, pa.int64()) == bad
    with pytest.raises(DataError) as found:
        cast(column, pa.int64(), PLACE)
    for part in ("log.parquet", str(101 + bad), "age", "'young' is no int64"):
        assert part in str(found.value)


def test_rows_that_go_over_several_lines_are_named_by_the_line_they_begin_on() -> None:
    place = Place(Path("log.csv"), first_row=0, column="age", line=lambda row: 2 + 3 * row)
    assert place.after(2).number(1) == 11
    with pytest.raises(DataError, match="11"):
        cast(pa.array(["1", "x"]), pa.int64(), place.after(2))


def test_a_type_that_cannot_become_another_is_refused_by_both_names() -> None:
    with pytest.raises(DataError, match=r"holds struct<a: int64>, which is no int64"):
        cast(pa.array([{"a": 1}]), pa.int64(), PLACE)


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.string())])
def test_lists_become_one_string_and_missing_ones_stay_missing(kind: pa.DataType) -> None:
    found = cast(pa.array([["a", "b"], None, []], kind), pa.string(), PLACE)
    assert found.to_pylist() == ["a|b", None, ""]
    with pytest.raises(DataError, match=r"'a\|b' is no int64"):
        cast(pa.array([["1"], ["a", "b"]], kind), pa.int64(), PLACE)
