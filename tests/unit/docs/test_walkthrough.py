"""The worked example: what it says of the log is what the log says."""

from __future__ import annotations

import csv
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = (REPOSITORY / "docs" / "walkthrough.md").read_text()
FORM = (REPOSITORY / "docs" / "walkthrough.form.md").read_text()


def test_the_rows_and_the_statistics_before_one_are_those_of_the_raw_log():
    user, rows = map(int, re.search(r"User (\d+) has (\d+) lines", PAGE).groups())
    with (REPOSITORY / "data" / "ml-latest-small" / "ratings.csv").open() as stream:
        log = sorted((r for r in csv.DictReader(stream) if r["userId"] == str(user)), key=lambda r: int(r["timestamp"]))
    assert len(log) == rows
    lines = re.search(r"```text\n(.*?)\n```", PAGE, re.DOTALL)[1].splitlines()
    place = next(number for number, row in enumerate(log) if ",".join(row.values()) == lines[-1])
    assert [",".join(row.values()) for row in log[place - len(lines) + 1 : place + 1]] == lines
    before = [float(row["rating"]) > 3 for row in log if int(row["timestamp"]) < int(log[place]["timestamp"])]
    said = re.search(r"The user had (\d+) rows then, (\d+) of them positive", PAGE).groups()
    assert said == (str(len(before)), str(sum(before)))
    assert f"= {(sum(before) + 5) / (len(before) + 10):.4f}." in PAGE


def test_the_page_was_written_from_its_form():
    for line in FORM.splitlines():
        pattern = re.sub(r"\\\{\w+\\\}", ".*?", re.escape(line))
        assert re.search(f"^{pattern}", PAGE, re.MULTILINE | re.DOTALL), line
