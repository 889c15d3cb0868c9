"""The whole loop through the command line."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from core import ArtifactStore, Window, load_settings
from pipeline.declared import UndeclaredSettingError
from pipeline.graph import GRAPH
from pipeline.run import RUN_ORDER, STAGES

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
    assert "Up to date" in result.stdout
    assert "AUC" in result.stdout
    report = re.search(r"^Report +(.*)$", result.stdout, re.MULTILINE)
    assert Path(report.group(1)).is_file()


def test_the_log_of_a_run_tells_every_stage_and_its_duration_and_never_goes_back(finished):
    log = (finished.folder / "run.log").read_text()
    assert re.findall(r"pipeline: (\w+) took ", log) == list(RUN_ORDER)
    percents = [int(percent) for percent in re.findall(r"(\d+) % done", log)]
    assert percents == sorted(percents)
    assert percents[-1] == 100


def test_a_stage_that_reads_a_setting_which_it_does_not_declare_is_stopped(finished, monkeypatch):
    settings = load_settings(finished.file)
    before = ArtifactStore(settings.root).get("features", Window())
    monkeypatch.setitem(GRAPH, "features", dataclasses.replace(GRAPH["features"], settings=("features",)))
    with pytest.raises(UndeclaredSettingError, match="stage features reads the setting knowledge, which"):
        STAGES["features"](settings, Window())
    assert ArtifactStore(settings.root).get("features", Window()) == before
