"""The whole loop through the command line."""

from __future__ import annotations

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
