"""The whole loop through the command line."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.e2e


def test_a_second_run_does_nothing_and_says_so(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.root.joinpath("objects").rglob("*") if p.is_file()}
    result = finished.command("run")
    after = {p: p.stat().st_mtime_ns for p in finished.root.joinpath("objects").rglob("*") if p.is_file()}

    assert result.returncode == 0, result.stderr
    assert after == before
    for stage in (
        "ingest",
        "validate",
        "features",
        "knowledge",
        "materialize",
        "dataset",
        "train",
        "evaluate",
        "report",
    ):
        assert f"{stage}: up to date, nothing to do" in result.stderr


def test_the_report_opens_without_a_network(finished):
    latest = json.loads((finished.root / "refs" / "report" / "latest.json").read_text())
    text = (finished.root / "objects" / "report" / latest["object"] / "report.html").read_text()

    assert "<svg" in text
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "https://" not in text
