"""Windows that follow one another."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from core import Window
from pipeline.windows import missing_before

DAY = Window.parse("2024-01-05", "2024-01-06")


def windows(*bounds):
    return [SimpleNamespace(window=Window.parse(start, end).as_json()) for start, end in bounds]


@pytest.mark.parametrize(
    "before",
    [
        [(None, "2024-01-05")],
        [(None, "2024-01-04"), ("2024-01-04", "2024-01-05")],
        [("2024-01-02", "2024-01-05T12:00")],
    ],
)
def test_windows_that_join_are_no_reason_to_warn(before):
    assert missing_before(DAY, windows(*before, ("2024-01-05", "2024-01-06"))) == ""


def test_a_window_that_begins_with_the_log_is_no_reason_to_warn():
    assert missing_before(Window.parse(None, "2024-01-06"), windows((None, "2024-01-06"))) == ""


def test_a_window_without_any_before_it_says_how_to_run_the_history():
    assert "llm4msr run --end 2024-01-05T00:00:00+00:00" in missing_before(DAY, windows(("2024-01-05", "2024-01-06")))


def test_a_gap_between_windows_is_named():
    said = missing_before(DAY, windows((None, "2024-01-03"), ("2024-01-05", "2024-01-06")))
    assert "from 2024-01-03T00:00:00+00:00 to 2024-01-05T00:00:00+00:00" in said
