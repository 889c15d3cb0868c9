"""Night after night through the real stages: what each reads anew, and that it ends in what one run gives."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import core.segments
from core import Manifest, Settings, Window
from core.contracts.chain import Chain, RowsChain
from core.contracts.dataset_spec import DatasetSpec
from core.segments import segments as segments_of
from core.training_table import read_rows
from feature_repo import build_features, build_training_table
from pipeline import stages
from pipeline.commands.forget import forget
from pipeline.commands.prune import remove, unneeded
from pipeline.windows import clean_tables, stage_clock

HEADER = "user_id,item_id,scenario,event_timestamp,label\n"
DAY = 1_704_067_200
TABLES = ("user_stats", "item_stats", "user_history", "user_log")


class Project:
    """A log in one file, of which each night reads its day."""

    def __init__(self, folder: Path, rewrite: bool = True) -> None:
        self.folder, self.days = folder, dict[int, list[str]]()
        self.changes: dict[str, Any] = {}
        for day in range(1, 6) if rewrite else ():
            self.write(day, range(8))

    @property
    def settings(self) -> Settings:
        body = {
            "root": self.folder / "root",
            "data": {
                "source": "table",
                "path": self.folder,
                "files": {"interactions": "log.csv"},
                "label": {"column": "label", "op": "is"},
            },
        }
        return Settings(**{**body, **self.changes})

    def write(self, day: int, rows: Any) -> None:
        """Let the log have these rows of a day of January."""
        at = DAY + (day - 1) * 86_400
        self.days[day] = [f"{k % 4 + 1},{k * day % 3},feed,{at + k // 2},{(k + day) % 2}\n" for k in rows]
        lines = [line for one in sorted(self.days) for line in self.days[one]]
        (self.folder / "log.csv").write_text(HEADER + "".join(lines))

    def night(self, day: int) -> Manifest:
        """Run the stages up to the features for a day; the first takes in all before it."""
        start = f"2024-01-{day:02d}" if day > 1 else None
        window = Window.parse(start, f"2024-01-{day + 1:02d}")
        stages.ingest(self.settings, window)
        stages.validate(self.settings, window)
        made = stages.features(self.settings, window)
        self.check(made, window)
        return made

    def check(self, made: Manifest, window: Window) -> None:
        """It holds what one run over all these windows gives."""
        out = self.folder / f"once_{made.fingerprint[:12]}"
        if not out.exists():
            out.mkdir()
            clean = [manifest.path for manifest in clean_tables(self.settings, window)]
            build_features(clean, out, self.settings, window.bounds_micros()[1])
        for name in TABLES:
            assert rows_of(made.path, name).equals(rows_of(out, name)), name
        for name in ("users", "items"):
            assert made.file(f"{name}.parquet").read_bytes() == (out / f"{name}.parquet").read_bytes()


def test_the_training_table_grows_by_the_night_through_the_real_stages(project: Project, tmp_path: Path) -> None:
    """Knowledge keeps the places of its vectors, and what is joined night by night is what one run joins."""
    lines = [f"{item},{title}\n" for item, title in enumerate(("Red River", "Blue Moon", "Iron Sky"))]
    (project.folder / "items.csv").write_text("item_id,title\n" + "".join(lines))
    project.changes = {
        "data": {
            "source": "table",
            "path": project.folder,
            "files": {"interactions": "log.csv", "items": "items.csv"},
            "label": {"column": "label", "op": "is"},
        },
        "knowledge": {"thresholds": [2, 4, 6, 8]},
        "clock": {"mode": "replay", "at": "window_end"},
    }
    for day in (1, 2, 3, 4):
        project.night(day)
        window = Window.parse(f"2024-01-{day:02d}" if day > 1 else None, f"2024-01-{day + 1:02d}")
        knowledge = stages.knowledge(project.settings, window)
        made = stages.dataset(project.settings, window)
    assert RowsChain.read(made.path).segments == (8, 8, 8, 8)
    assert [number for number, file in enumerate(segments_of(made.path / "rows")) if file.stat().st_nlink > 1] == [
        0,
        1,
        2,
    ]
    out = tmp_path / "once"
    out.mkdir()
    clean = [manifest.path for manifest in clean_tables(project.settings, window)]
    build_training_table(
        project.settings,
        stage_clock(project.settings, window),
        sources=clean,
        features=stages.features(project.settings, window).path,
        knowledge=knowledge.path,
        out=out,
        window=Window(None, window.end),
        train_start=DatasetSpec.read(made.path).train_start or 0,
    )
    rows, once = read_rows(made.path), read_rows(out)
    assert rows.combine_chunks().equals(once.combine_chunks())
    assert rows["user_pooled_row"].null_count < rows.num_rows and rows["item_text_row"].null_count == 0


def rows_of(folder: Path, name: str) -> pa.Table:
    table = pq.read_table(folder / name)
    return table.sort_by([(key, "ascending") for key in table.column_names[:2]]).combine_chunks()


def segments(made: Manifest) -> tuple[int, ...]:
    return Chain.read(made.path).segments


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_night_adds_a_segment_and_after_a_corrected_day_later_nights_are_made_from_it_on(project: Project) -> None:
    assert [segments(project.night(day)) for day in (1, 2, 3)] == [(8,), (8, 8), (8, 8, 8)]
    assert project.night(3).reused
    assert project.night(2).reused, "an earlier night is what it was"
    project.write(2, range(2, 12))
    assert segments(project.night(2)) == (8, 10)
    assert segments(project.night(4)) == (8, 10, 16), "day 3 was made on top of another day 2"


def test_a_day_that_comes_late_is_put_where_it_belongs(project: Project) -> None:
    for day in (1, 3):
        project.night(day)
    assert segments(project.night(2)) == (8, 8)
    assert segments(project.night(4)) == (8, 8, 16)


def test_another_setting_makes_everything_anew_and_another_stages_does_not(project: Project) -> None:
    project.night(1)
    project.changes = {"train": {"epochs": 3}}
    assert segments(project.night(2)) == (8, 8)
    project.changes = {"features": {"prior_weight": 3.0}}
    assert segments(project.night(3)) == (24,)


def test_prune_leaves_what_the_next_night_goes_on_from_and_forget_leaves_nothing(project: Project) -> None:
    for day in (1, 2):
        project.night(day)
    gone = unneeded(project.settings, keep=1, min_age=dt.timedelta(0))
    remove(project.settings, gone)
    assert [one.stage for one in gone] == ["features"]
    made = project.night(3)
    assert segments(made) == (8, 8, 8)
    made.check()
    forget(project.settings, [3])
    made = project.night(4)
    assert segments(made) == (24,), "six of eight rows a day are left"
    for file in sorted((project.folder / "root" / "objects").rglob("*.parquet")):
        table = pq.read_table(file)
        assert "user_id" not in table.column_names or 3 not in table["user_id"].to_pylist(), file


KILLED = """
import os, signal, sys
from pathlib import Path
from core import segments
from feature_repo import features
from test_nights import Project

segments.FANOUT = 3
write, merged = features.write_query, []

def killed(connection, query, file, shape):
    merged.extend([file] if file.name == ".merged.parquet" else [])
    if len(merged) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(connection, query, file, shape)

features.write_query = killed
Project(Path(sys.argv[1]), rewrite=False).night(3)
"""


def test_a_kill_while_segments_are_merged_leaves_nothing_half_done(
    project: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.segments, "FANOUT", 3)
    unbroken = Project(tmp_path_factory.mktemp("unbroken"))
    for day in (1, 2):
        assert project.night(day).digest == unbroken.night(day).digest
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run([sys.executable, "-c", KILLED, str(project.folder)], env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == -signal.SIGKILL
    made = project.night(3)
    assert not made.reused
    assert segments(made) == (24,)
    assert made.digest == unbroken.night(3).digest
    assert not list((project.folder / "root" / "tmp").iterdir())
