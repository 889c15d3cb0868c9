"""The engine: rows map to rules whatever order results come in; a crash is not a pass."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

from validation.engine import Checker
from validation.report import Outcome
from validation.suite import Suite, fact, not_after, not_null, one_of, within


def test_each_rule_gets_its_own_rows_and_examples_count_from_the_table(capfd):
    frame = pd.DataFrame({"a": [1, 2, 99, 4], "b": ["x", None, "x", "y"]})
    checker = Checker("t", [within("a", "too_big", "r", high=10), not_null("b", "r"), one_of("b", "odd", "r", ["x"])])
    found = checker.check(frame, offset=100)
    assert {name: list(rows) for name, rows in found.items()} == {"too_big": [2], "b_null": [1], "odd": [3]}
    checker.check(frame, offset=200)
    assert checker.tallies["too_big"].failed == 2
    assert checker.tallies["too_big"].examples == [(103, "99"), (203, "99")]
    assert capfd.readouterr().err == ""


def test_a_frame_with_its_own_index_is_counted_by_position():
    frame = pd.DataFrame({"a": [1, 99]}, index=[7, 7])
    assert list(Checker("t", [within("a", "too_big", "r", high=10)]).check(frame)["too_big"]) == [1]


def test_pairs_pass_when_equal_or_missing():
    times = pd.to_datetime(["2024-01-01", "2024-01-02", None], utc=True)
    frame = pd.DataFrame({"w": times, "t": times[[0, 0, 0]]})
    assert list(Checker("t", [not_after("w", "t", "leak", "r")]).check(frame)["leak"]) == [1]


def test_an_expectation_that_cannot_be_computed_raises():
    with pytest.raises(RuntimeError, match="absent"):
        Checker("t", [not_null("absent", "r")]).check(pd.DataFrame({"a": [1]}))


def test_an_empty_frame_breaks_nothing():
    assert len(Checker("t", [not_null("a", "r")]).check(pd.DataFrame({"a": []}))["a_null"]) == 0


def test_an_unknown_fact_passes(tmp_path):
    outcome = Outcome(Suite("t", (fact("share", "r", "look", low=0.5),)), tmp_path / "t.parquet")
    outcome.judge({"share": None})
    assert outcome.as_json()["success"]


def test_rule_names_are_unique_within_a_suite():
    with pytest.raises(ValueError, match="repeat"):
        Suite("t", (not_null("a", "r"), not_null("a", "other")))


def test_importing_the_room_does_not_load_great_expectations():
    code = "import sys, validation; sys.exit('great_expectations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
