"""What a run prints at its end."""

import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from results import filled
from rich.console import Console
from specs import pointer

from core import Manifest, Window, load_settings
from core.contracts.results import Lift, Metrics, Promotion
from pipeline.commands.outcome import console, print_outcome

MEASURES = {"rows": 1000, "users": 40, "auc": 0.75, "logloss": 0.51}

CHOSEN = {"choice": {"system": "knowledge", "reason": "the model with knowledge: better overall"}}


FINDINGS = {
    "findings": [
        {"level": "alarm", "text": "toys: worse."},
        {"level": "note", "text": "12 rows [of 100] are in quarantine."},
    ]
}


def change(says):
    return {"auc": {"difference": 0.01, "low": -0.001, "high": 0.02, "says": says, "told": True}}


def of(kind, body):
    return filled(kind, body).as_json()


@pytest.fixture
def project(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"project": "mine", "root": "root"}))
    return load_settings(tmp_path / "mine.yaml")


@pytest.fixture
def made(project):
    """Manifests of all stages, as a run hands them over."""

    def manifest(stage, files=None, rows=None, digest="d"):
        folder = project.root / "objects" / stage / "1"
        folder.mkdir(parents=True)
        for name, value in (files or {}).items():
            (folder / name).write_text(json.dumps(value))
        return Manifest(stage, {}, "f", {}, {}, "c", rows or {}, {}, {}, digest, folder)

    measured = {"overall": MEASURES, "cold": MEASURES, "scenarios": {"feed[1]": MEASURES}}
    lift = {
        "confidence": 0.95,
        "overall": change("better"),
        "cold": change("worse"),
        "scenarios": {"feed[1]": change("better")},
    }
    done = {
        "ingest": manifest("ingest", rows={"interactions": 1000}),
        "validate": manifest("validate"),
        "train": manifest("train", digest="weights"),
        "evaluate": manifest(
            "evaluate",
            {
                "metrics.json": of(Metrics, {"counting": measured, "plain": measured, "knowledge": measured}),
                "lift.json": of(Lift, lift),
            },
        ),
        "promote": manifest(
            "promote", {"verdict.json": of(Promotion, CHOSEN | {"promote": True, "reason": "promoted: better overall"})}
        ),
        "report": manifest("report", {"findings.json": FINDINGS}),
    }
    rejected = done["validate"].path / "quarantine_interactions.parquet"
    pq.write_table(pa.table({"rule": ["label_known"] * 3}), rejected)
    return done


def live(project, digest, version=4):
    pointer(digest=digest, version=version).publish(project.root)


def said(project, done, window=Window()):
    out = Console(width=132, highlight=False, record=True)
    with out.capture() as shown:
        print_outcome(out, project, window, done)
    return shown.get()


@pytest.fixture
def example(monkeypatch):
    monkeypatch.setattr("pipeline.commands.serve.example_request", lambda settings: ("o'brien", "feed", 7))


def test_a_run_ends_with_quality_verdict_promotion_findings_report_and_what_to_type(project, made, example):
    live(project, "weights")
    told = said(project, made)
    for part in (
        "1,000 interactions",
        "3 interactions: label_known",
        "0.7500",
        "feed[1]",
        "+0.0100 [-0.0010, +0.0200]",
        "better than the plain backbone",
        "promoted: better overall. Version 4 is live, the model of this run.",
        "ALARM: toys: worse.",
        "counting alone has 0.7500",
        "12 rows [of 100] are in quarantine.",
        str(made["report"].file("report.html")),
        f"llm4msr serve --settings {project.file}",
        f"llm4msr rank 'o'\"'\"'brien' feed --settings {project.file}",
    ):
        assert part in told


def test_a_kept_champion_is_called_an_earlier_model(project, made, example):
    live(project, "other weights", version=3)
    made["promote"].file("verdict.json").write_text(
        json.dumps(of(Promotion, CHOSEN | {"promote": False, "reason": "kept: no gain"}))
    )
    assert "kept: no gain. Version 3 is live, an earlier model." in said(project, made)


def test_nothing_live_means_nothing_to_serve(project, made):
    told = said(project, made)
    assert "Nothing is live" in told
    assert "llm4msr serve" not in told


def test_a_run_with_nothing_to_do_says_so_and_still_tells_the_outcome(project, made, example):
    live(project, "weights")
    reused = {name: dataclasses.replace(manifest, reused=True) for name, manifest in made.items()}
    told = said(project, reused)
    assert "nothing had to be done" in told
    assert "better than the plain backbone" in told


def test_a_run_that_was_stopped_early_says_how_to_go_on(project, made):
    window = Window.parse("2024-01-01", "2024-01-02")
    told = said(project, {"ingest": made["ingest"], "validate": made["validate"]}, window)
    assert "goes on after validate" in told
    assert "llm4msr run --start 2024-01-01T00:00:00+00:00 --end 2024-01-02T00:00:00+00:00" in told
    assert "AUC" not in told


def test_a_window_is_followed_by_the_next(project, made, example):
    live(project, "weights")
    assert "llm4msr run --start 2024-01-02T00:00:00+00:00 --end" in said(
        project, made, Window.parse("2024-01-01", "2024-01-02")
    )


def test_where_the_settings_file_is_the_usual_one_it_is_not_named(project, made, example, monkeypatch):
    live(project, "weights")
    (project.file.parent / "llm4msr.yaml").write_text(project.file.read_text())
    monkeypatch.chdir(project.file.parent)
    assert "llm4msr serve   " in said(load_settings("llm4msr.yaml"), made)


def test_a_file_gets_lines_that_are_wide_enough():
    assert console().width >= 100


@pytest.mark.parametrize("width", [80, 90, 124, 200])
def test_no_number_is_cut_off_at_any_width(project, made, example, width):
    live(project, "weights")
    out = Console(width=width, highlight=False)
    with out.capture() as shown:
        print_outcome(out, project, Window(), made)
    told = shown.get()
    assert "…" not in told
    assert told.count("+0.0100 [-0.0010, +0.0200]") == 3
    assert told.count("no difference ") == 0 and told.count("better ") >= 2
