"""The stages' declarations: complete, in order, and binding for what a stage may read."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from core import Settings
from core.source import code_version
from pipeline.declared import UndeclaredSettingError, declared, shaping
from pipeline.graph import GRAPH, built_within, newest_alone, run_order, waits_for
from pipeline.run import STAGES

REPOSITORY = Path(__file__).resolve().parents[3]
DAY = dt.timedelta(days=1)


def test_every_stage_has_a_function_and_every_function_is_declared():
    assert set(STAGES) == {name for name, stage in GRAPH.items() if not stage.within}
    assert all(GRAPH[stage.within] for stage in GRAPH.values() if stage.within)


def test_a_stage_comes_after_all_that_it_reads_or_waits_for():
    order = list(GRAPH)
    for name, stage in GRAPH.items():
        for earlier in (*stage.reads, *stage.after):
            assert order.index(earlier.removesuffix("*")) < order.index(name)
    assert set(waits_for("dataset")) == {"features", "knowledge"}  # not the online store
    assert set(waits_for("promote")) == {"evaluate", "materialize"}
    assert waits_for("report") == ("controls",)  # which waits for all others


def test_every_setting_that_is_named_exists_and_every_room_too():
    for stage in GRAPH.values():
        for name in stage.settings:
            section, _, field = name.partition(".")
            fields = type(getattr(Settings(), section)).model_fields
            assert not field or field in fields, name
        assert all(hasattr(Settings(), place) for place in stage.places)
        assert code_version(stage.rooms)


def test_it_can_be_read_without_any_library():
    code = "import sys; sys.path.insert(0, '.'); import pipeline.graph; print(len(pipeline.graph.run_order()))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == str(len(run_order())), done.stderr


def test_what_is_cumulative_can_be_pruned_and_the_log_never_is():
    assert set(GRAPH) - set(newest_alone()) == {"ingest", "validate"}
    assert set(built_within()) == {"catalogue", "dataset_champion", "drift"}


def changed(**sections) -> Settings:
    settings = Settings()
    update = {name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()}
    return settings.model_copy(update=update)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"validation": {"max_psi": 0.9}}, {"validate", "drift", "report"}),
        ({"validation": {"allow_constant": ["price"]}}, {"validate", "dataset", "report"}),
        ({"validation": {"max_future": DAY}}, {"validate", "materialize", "report"}),
        ({"validation": {"max_norm": 5.0}}, {"validate", "knowledge", "report"}),
        ({"knowledge": {"lag": {"pooled": DAY}}}, {"features", "knowledge", "materialize", "dataset", "dataset_champion", "report"}),
        ({"data": {"user_dense": ["age"]}}, {"ingest", "validate", "knowledge", "materialize", "dataset", "dataset_champion", "report"}),
        ({"promotion": {"cold_rows": 3}}, {"evaluate", "promote", "controls", "report"}),
        ({"promotion": {"margin": 0.1}}, {"evaluate", "promote", "report"}),
        ({"train": {"seed": 7}}, {"train", "evaluate", "promote", "controls", "report"}),
        ({"controls": {"every": 3}}, {"controls", "report"}),
        ({"serving": {"port": 4000}}, set()),
        ({"online": {"timeout_ms": 7}}, {"materialize"}),
    ],
)  # fmt: skip
def test_a_changed_field_concerns_the_stages_that_declare_it_and_no_other(change, again):
    before, after = Settings(), changed(**change)
    assert {name for name in GRAPH if shaping(before, name) != shaping(after, name)} == again


def test_a_stage_can_read_what_it_declares_and_nothing_else():
    settings = Settings()
    seen = declared(settings, "dataset")
    assert seen.split is settings.split
    assert seen.knowledge.user_vectors == ["pooled"] and seen.online.store == "sqlite"
    assert seen.root == settings.root and seen.project == "llm4msr"
    assert seen.section("split", "data") == settings.section("split", "data")
    for read, name in (
        (lambda: seen.promotion, "promotion"),
        (lambda: seen.knowledge.thresholds, "knowledge.thresholds"),
        (lambda: seen.validation.max_psi, "validation.max_psi"),
        (lambda: seen.section("knowledge"), "knowledge"),
    ):
        with pytest.raises(UndeclaredSettingError, match=f"stage dataset reads the setting {name}, which"):
            read()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda view: pickle.loads(pickle.dumps(view))])
def test_a_view_goes_to_other_processes_as_it_is(copied):
    seen = copied(declared(Settings(), "knowledge"))
    assert seen.knowledge.thresholds and seen.validation.min_vectors
    other = seen.model_copy(update={"knowledge": seen.knowledge.model_copy(update={"language": "zh"})})
    assert other.knowledge.language == "zh"
    with pytest.raises(UndeclaredSettingError):
        _ = other.train


def test_the_page_of_running_lists_the_stages_as_they_are_declared():
    page = (REPOSITORY / "docs" / "running.md").read_text()
    for name in (*run_order(), *built_within()):
        assert row(name) in page, row(name)


def row(name: str) -> str:
    stage = GRAPH[name]
    reads = ", ".join(f"{one[:-1]} of all windows so far" if one.endswith("*") else one for one in stage.reads)
    if len(stage.reads) > 6:
        reads = "all of them"
    where = f" (within `{stage.within}`)" if stage.within else ""
    return f"| `{name}`{where} | {reads} | {stage.publishes} | {stage.stops} |".replace("|  |", "| |").replace(
        "|  |", "| |"
    )


def test_a_declaration_cannot_be_changed_by_chance():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GRAPH["train"].minutes = 1
