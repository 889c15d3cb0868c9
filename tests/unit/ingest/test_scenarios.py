import pyarrow as pa
import pytest

from core.settings import LabelRule, ScenarioRule
from ingest.delimited import rebatch
from ingest.labels import read_labels
from ingest.scenarios import ScenarioMap, slug


@pytest.mark.parametrize(
    ("value", "name"),
    [("Sci-Fi", "sci_fi"), ("Children's", "childrens"), ("IMAX", "imax"), ("Toys_and Games", "toys_and_games")],
)
def test_a_slug_is_a_plain_lower_case_name(value, name):
    assert slug(value) == name


def test_without_groups_each_value_is_its_own_scenario():
    values = pa.array(["Home", None, "Search", "Home"])
    assert ScenarioMap(ScenarioRule(), "column").apply(values).to_pylist() == ["Home", None, "Search", "Home"]
    assert ScenarioMap(ScenarioRule(), "source").apply(values).to_pylist() == ["home", None, "search", "home"]


def test_other_takes_what_no_group_has():
    rule = ScenarioRule(groups={"feed": ["home", "hot"]}, other="rest")
    mapped = ScenarioMap(rule, "column").apply(pa.array(["hot", "x", None]))
    assert mapped.to_pylist() == ["feed", "rest", "rest"]


@pytest.mark.parametrize(
    ("op", "value", "labels"),
    [
        (">", 3, [0, 0, 1, None, None]),
        (">=", 3, [0, 1, 1, None, None]),
        ("==", 3, [0, 1, 0, None, None]),
        ("is", 0, [None, 3, 4, None, None]),
    ],
)
def test_label_rules(op, value, labels):
    column = pa.array([2.5, 3.0, 4.0, None, float("nan")])
    got, _ = read_labels(column, LabelRule(column="x", op=op, value=value))
    assert (got.type, got.to_pylist()) == (pa.int8(), labels)


def test_a_label_too_large_for_its_type_is_null():
    assert read_labels(pa.array([300, 1, -1]), LabelRule(op="is"))[0].to_pylist() == [None, 1, -1]


def test_booleans_are_labels():
    assert read_labels(pa.array([True, False, None]), LabelRule(op="is"))[0].to_pylist() == [1, 0, None]


@pytest.mark.parametrize("sizes", [[3, 3, 3, 1], [10], [1] * 10, [7, 0, 3], [0]])
def test_rebatching_keeps_rows_and_bounds_sizes(sizes):
    count = sum(sizes)
    table, start, parts = pa.record_batch({"x": list(range(count))}), 0, []
    for size in sizes:
        parts.append(table.slice(start, size))
        start += size
    got = list(rebatch(iter(parts), 4))
    assert [x for batch in got for x in batch["x"].to_pylist()] == list(range(count))
    assert [batch.num_rows for batch in got] == [4] * (count // 4) + ([count % 4] if count % 4 else [])
