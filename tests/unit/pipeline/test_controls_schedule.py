"""When placebos are due, and that a repeated run decides as it did; artifacts and files are real, training is not needed."""

import json

import pyarrow as pa
import pytest

from core import ArtifactStore, Built, Manifest, Settings, Window
from core.contracts.results import Controls, Placebo
from core.settings import PromotionSettings
from models import compare, evaluate
from pipeline import controls as stage

ROWS = pa.table(
    {
        "row_id": [0, 1, 2, 3],
        "user_id": [1, 1, 2, 2],
        "item_id": [1, 2, 1, 2],
        "scenario": ["home"] * 4,
        "label": pa.array([0, 1, 0, 1], pa.int8()),
        "score": [0.2, 0.6, 0.4, 0.5],
        "user_rows": [3, 4, 5, 6],
        "split": ["test"] * 4,
    }
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the stage for a window whose training table is `content`; says how many runs ago placebos were trained."""
    store = ArtifactStore(tmp_path)
    trained = []

    def measured(settings, window, source, table, known, out):
        trained.append(source.digest)
        return {"other_user": Placebo(metrics=evaluate(ROWS), against=compare(ROWS, ROWS, PromotionSettings(), seed=1))}

    monkeypatch.setattr(stage, "_measure", measured)

    def go(day, content, every=3, **train):
        window = Window.parse(f"2026-11-{day:02d}", f"2026-11-{day + 1:02d}") if day else Window()
        for name in ("train", "dataset", "knowledge"):
            store.build(
                name,
                window,
                inputs={"c": content},
                settings={},
                rooms=(),
                builder=lambda out: Built(versions={"c": content}),
            )
        settings = Settings(root=tmp_path, controls={"every": every}, train=train)
        made: Manifest = stage.controls(settings, window)
        return json.loads(made.file(Controls.FILE).read_text())["runs_ago"], made

    go.trained = trained
    return go


def test_placebos_are_trained_at_the_first_run_and_then_every_so_many(run):
    assert [run(day, f"rows {day}")[0] for day in range(1, 9)] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert len(run.trained) == 3


def test_a_log_without_windows_counts_its_runs(run):
    assert [run(0, f"rows {number}")[0] for number in range(5)] == [0, 1, 2, 0, 1]


def test_a_repeated_run_changes_nothing(run):
    first = [run(day, f"rows {day}")[1] for day in range(1, 6)]
    for day in (2, 5, 1, 4):
        again = run(day, f"rows {day}")[1]
        assert again.reused and again.digest == first[day - 1].digest
    assert run(6, "rows 6")[0] == 2
    assert len(run.trained) == 2


def test_other_settings_of_the_model_need_placebos_of_their_own(run):
    assert run(1, "rows")[0] == 0
    assert run(2, "rows 2", epochs=4)[0] == 0
    assert run(3, "rows 3", epochs=4)[0] == 1


def test_never_is_never(run):
    ago, made = run(1, "rows", every=0)
    assert not run.trained
    assert json.loads(made.file(Controls.FILE).read_text())["placebos"] == {}


def test_what_was_pruned_is_trained_anew_only_where_it_is_needed(run):
    import shutil

    made = [run(day, f"rows {day}")[1] for day in (1, 2)]
    shutil.rmtree(made[0].path)
    assert run(2, "rows 2")[1].reused
    assert run(3, "rows 3")[0] == 2
