"""One progress for a run, whatever loops run inside it."""

import logging
import re

import pytest

from core import configure, progress
from core.pace import Loop, Run, duration, left_in_words, line, portion, whole


class Watch:
    """A clock that goes as the test says."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def log_restored():
    root = logging.getLogger("llm4msr")
    before = (root.handlers[:], root.level, root.propagate)
    yield
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def lived(run, watch, seconds, steps):
    """Work evenly through a stage; the status after each step."""
    seen = []
    loop = Loop("working", steps, "steps", 1.0)
    run.top.open(loop, 1.0)
    loop.begin(1)
    for step in range(1, steps + 1):
        watch.now += seconds / steps
        loop.begin(1 if step < steps else 0)
        seen.append(run.status())
    run.top.close(loop)
    return seen


@pytest.mark.parametrize("planned", [(10, 100, 10), (100, 1, 1), (1, 1, 500), (0, 0, 0)])
@pytest.mark.parametrize("real", [(10, 100, 10), (1, 600, 3), (200, 5, 5)])
def test_the_share_that_is_done_never_goes_back_whatever_was_planned(watch, planned, real):
    names = ("one", "two", "three")
    run = Run(dict(zip(names, planned, strict=True)), watch)
    seen = []
    for name, seconds in zip(names, real, strict=True):
        run.begin(name)
        seen += lived(run, watch, seconds, 20)
        run.end()
    percents = [status.percent for status in seen]
    assert percents == sorted(percents)
    assert percents[-1] > 0
    assert max(percents) < 100


def test_a_good_plan_tells_the_time_left_from_the_start(watch):
    run = Run({"one": 10, "two": 100}, watch)
    run.begin("one")
    first = lived(run, watch, 10, 10)
    run.end()
    run.begin("two")
    then = lived(run, watch, 100, 10)
    for status, at in zip([*first, *then], [*range(1, 11), *range(20, 111, 10)], strict=True):
        assert status.left == pytest.approx(110 - at, abs=12)
        assert status.percent == pytest.approx(100 * at / 110, abs=12)


def test_a_stage_that_takes_longer_than_planned_says_so_once_it_is_a_tenth_done(watch):
    run = Run({"one": 10}, watch)
    run.begin("one")
    left = [status.left for status in lived(run, watch, 600, 20)]
    assert left[2:] == pytest.approx([600 - 30 * (n + 1) for n in range(2, 20)])


def test_the_share_goes_on_rising_where_there_was_far_more_to_do_than_planned(watch):
    run = Run({"one": 10, "two": 10}, watch)
    run.begin("one")
    lived(run, watch, 10, 10)
    run.end()
    run.begin("two")
    percents = [status.percent for status in lived(run, watch, 1000, 20)]
    assert all(later > earlier for earlier, later in zip(percents[2:], percents[3:], strict=False))


def test_what_comes_before_the_first_loop_is_not_expected_again(watch):
    run = Run({"one": 10}, watch)
    run.begin("one")
    watch.now += 50
    assert [status.left for status in lived(run, watch, 100, 10)][1:] == pytest.approx(
        [80, 70, 60, 50, 40, 30, 20, 10, 0]
    )


def test_a_stage_that_reports_nothing_is_never_nearly_over(watch):
    run = Run({"silent": 10, "later": 10}, watch)
    run.begin("silent")
    watch.now = 100
    assert run.status().left >= 50
    assert run.status().percent < 100


def test_a_slow_machine_is_noticed_after_the_first_stage(watch):
    run = Run({"one": 20, "two": 100}, watch)
    run.begin("one")
    watch.now = 60
    run.end()
    run.begin("two")
    assert run.status().left > 200


def test_a_stage_with_nothing_to_do_says_nothing_about_the_machine(watch):
    run = Run({"one": 20, "two": 100}, watch)
    run.begin("one")
    run.end(worked=False)
    run.begin("two")
    assert run.status().left == pytest.approx(100)


def test_a_loop_fills_the_step_of_the_loop_around_it():
    fractions = []
    with whole({"stage": 1.0}) as run:
        run.begin("stage")
        for _ in progress(range(2), "outer", unit="blocks", share=1.0):
            for _ in progress(range(4), share=1.0):
                fractions.append(run.top.fraction)
    assert fractions == [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875]


def test_loops_after_one_another_share_the_step_around_them():
    seen = []
    with whole({"stage": 1.0}) as run:
        run.begin("stage")
        with portion(0.8):
            list(progress(range(3), share=1.0))
            seen.append(run.top.fraction)
        for _ in range(5):
            list(progress(range(3)))
            seen.append(run.top.fraction)
    assert seen[0] == pytest.approx(0.8)
    assert seen == sorted(seen)
    assert seen[-1] < 1


def test_a_loop_that_is_left_early_leaves_no_trace():
    with whole({"stage": 1.0}) as run:
        run.begin("stage")
        with pytest.raises(RuntimeError):
            for _ in progress(range(10), "outer"):
                for _ in progress(range(10), "inner"):
                    raise RuntimeError
        list(progress([1], "next"))
        assert run.top.inner is None
    assert list(progress([1, 2], "alone")) == [1, 2]


def test_steps_count_with_their_sizes():
    told = []
    with whole({"stage": 1.0}) as run:
        run.begin("stage")
        for _ in progress([[1], [1, 2, 3]], "reading", unit="rows", size=len):
            told.append(line(run.status()).partition("; ")[2])
    assert told == ["stage: reading 0 of 4 rows", "stage: reading 1 of 4 rows"]


def test_off_a_terminal_lines_come_also_from_a_stage_that_reports_nothing(capsys, log_restored, monkeypatch):
    monkeypatch.setattr("core.pace.LINE_SECONDS", 0.01)
    configure()
    with whole({"silent": 100.0, "last": 1.0}) as run:
        run.begin("silent")
        shown = ""
        while shown.count("done, about") < 3:
            shown += capsys.readouterr().err
    percents = [int(p) for p in re.findall(r"(\d+) % done", shown)]
    assert percents == sorted(percents)
    assert "silent" in shown


def test_json_lines_carry_the_numbers(capsys, log_restored, monkeypatch):
    monkeypatch.setattr("core.pace.LINE_SECONDS", 0.01)
    configure("json")
    with whole({"silent": 100.0}) as run:
        run.begin("silent")
        shown = ""
        while "\n" not in shown:
            shown += capsys.readouterr().err
    import json

    first = json.loads(shown.splitlines()[0])
    assert first["stage"] == "silent"
    assert {"percent", "seconds_left"} <= first.keys()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.44, "0.4 s"),
        (12.3, "12 s"),
        (59.7, "1 min"),
        (185, "3 min 5 s"),
        (7_800, "2 h 10 min"),
        (3_605, "1 h"),
        (273_600, "3 d 4 h"),
        (86_400.0 * 30, "30 d"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.5, "about 5 s left"), (43, "about 45 s left"), (61, "about 1 min left"), (5_400, "about 1.5 h left")],
)
def test_the_time_left_is_said_no_finer_than_it_is_known(seconds, said):
    assert left_in_words(seconds) == said
