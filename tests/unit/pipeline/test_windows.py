"""Windows that follow one another."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import pytest

from core import Built, Settings, Window, to_micros
from core.contracts.ingested import Ingested
from core.errors import DataError, EmptyWindowError
from pipeline.windows import artifact_store, caught_up, missing_before, refuse_empty, stage_clock

DAY = Window.parse("2024-01-05", "2024-01-06")
IDS = {"user_id": "int64", "item_id": "int64"}


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


@pytest.fixture
def project(tmp_path):
    """Settings with a root of their own; `project.run("2024-01-05", "2024-01-06")` leaves what two stages publish."""

    class Project:
        settings = Settings(root=tmp_path)

        def run(self, start, end, rows=5):
            window = Window.parse(start, end)
            last = to_micros(window.end) - 1_000_000 if rows else None

            def ingested(out):
                Ingested(**IDS, first=last, last=last, rows=rows, empty=not rows).write(out)
                return Built(rows={"interactions": rows})

            publish(self.settings, "ingest", window, ingested)
            if rows:
                publish(self.settings, "validate", window, lambda out: Built(rows={"interactions": rows}))

    return Project()


def publish(settings, stage, window, builder):
    artifact_store(settings).build(stage, window, inputs={}, settings={}, rooms=("core",), builder=builder)


def test_the_first_window_of_a_schedule_takes_in_the_whole_log_before_it(project):
    assert caught_up(project.settings, DAY) == Window(None, DAY.end)


def test_a_window_that_joins_those_before_it_stays_as_it_is(project):
    project.run(None, "2024-01-05")
    assert caught_up(project.settings, DAY) == DAY


@pytest.mark.parametrize("rows", [5, 0])
def test_a_schedule_that_stood_still_goes_on_where_it_was_also_after_a_window_without_rows(project, rows):
    project.run(None, "2024-01-02")
    project.run("2024-01-02", "2024-01-03", rows)
    assert caught_up(project.settings, DAY) == Window.parse("2024-01-03", "2024-01-06")


def test_where_a_window_begins_is_decided_once_whatever_is_run_in_between(project):
    project.run(None, "2024-01-02")
    first = caught_up(project.settings, DAY)
    project.run("2024-01-02", "2024-01-05")
    assert caught_up(project.settings, DAY) == first == Window.parse("2024-01-02", "2024-01-06")


def test_a_run_without_an_end_is_before_no_window(project):
    project.run("2023-01-01", "2024-02-01")
    project.run(None, "2024-03-01")
    assert caught_up(project.settings, Window.parse("2024-02-15", "2024-02-16")) == Window.parse(
        "2024-02-15", "2024-02-16"
    )
    assert caught_up(project.settings, Window.parse("2024-03-05", "2024-03-06")).start == dt.datetime(
        2024, 3, 1, tzinfo=dt.UTC
    )


def empty(settings, **validation):
    project = settings.model_copy(update={"validation": settings.validation.model_copy(update=validation)})
    refuse_empty(project, DAY, artifact_store(settings).get("ingest", DAY))


def test_a_window_without_rows_is_skipped_with_an_exit_code_of_its_own(project):
    project.run("2024-01-05", "2024-01-06", rows=0)
    with pytest.raises(EmptyWindowError, match=r"no row of window 20240105.*validation.empty_window: skip") as raised:
        empty(project.settings)
    assert raised.value.exit_code == 3


def test_a_window_without_rows_goes_on_to_the_gate_where_the_setting_says_so(project):
    project.run("2024-01-05", "2024-01-06", rows=0)
    empty(project.settings, empty_window="fail")


def test_a_window_with_rows_goes_on(project):
    project.run("2024-01-05", "2024-01-06")
    empty(project.settings)


def test_a_window_that_lost_the_rows_it_had_is_an_error_and_not_skipped(project):
    project.run("2024-01-05", "2024-01-06")
    # A log that keeps its last days only, read again for an old window.
    _read_again_without_rows(project.settings)
    with pytest.raises(DataError, match=r"no row of window 20240105.* any more; the 5 rows .* still count"):
        empty(project.settings)


def _read_again_without_rows(settings):
    def ingested(out):
        Ingested(**IDS, first=None, last=None, rows=0, empty=True).write(out)
        return Built(rows={"interactions": 0})

    artifact_store(settings).build(
        "ingest", DAY, inputs={"source": "cut"}, settings={}, rooms=("core",), builder=ingested
    )


def test_a_clock_at_the_windows_end_stands_there_and_without_an_end_at_the_logs(project):
    project.run("2024-01-05", "2024-01-06")
    settings = project.settings.model_copy(
        update={"clock": Settings(clock={"mode": "replay", "at": "window_end"}).clock}
    )
    assert stage_clock(settings, DAY).now() == DAY.end
    assert stage_clock(settings, Window()).now() == DAY.end - dt.timedelta(seconds=1) + dt.timedelta(microseconds=1)
