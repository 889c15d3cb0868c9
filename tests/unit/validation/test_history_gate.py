"""A window of the log must look like the windows before it; a rule speaks only when enough of them are known."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from core import Settings, Window, from_micros, replay
from core.contracts.gates import Facts, GateResults, TableResult
from core.tables import TIMESTAMP
from validation import history

DAY = 86_400_000_000
BEGIN = 19_000 * DAY
SETTINGS = Settings(data={"user_categorical": ["age"], "item_dense": ["price"]})


class Day:
    """One day's sound tables; a test plants its fault."""

    def __init__(self, number, rows=1500):
        rng = np.random.default_rng(number)
        self.number, self.days = number, 1
        scenario = rng.choice(["home", "search"], rows)
        self.log = {
            "user_id": rng.integers(0, 200, rows),
            "item_id": rng.integers(0, 100, rows) + 150,
            "scenario": scenario,
            "event_timestamp": BEGIN + number * DAY + np.sort(rng.integers(0, DAY, rows)),
            "label": (rng.random(rows) < np.where(scenario == "home", 0.2, 0.5)).astype(int),
            "weight": np.ones(rows),
        }
        self.users = {"user_id": np.arange(200), "age": np.array(["young", "old"] * 100)}
        self.items = {"item_id": np.arange(100) + 150, "price": np.linspace(1.0, 50.0, 100)}

    def keep(self, mask):
        self.log = {name: values[mask] for name, values in self.log.items()}

    def described(self, scenarios=None):
        times = pa.array(self.log["event_timestamp"]).cast(TIMESTAMP)
        window = Window(from_micros(BEGIN + self.number * DAY), from_micros(BEGIN + (self.number + self.days) * DAY))
        with duckdb.connect() as connection:
            connection.register("interactions", pa.table({**self.log, "event_timestamp": times}))
            connection.register("users", pa.table(self.users))
            connection.register("items", pa.table(self.items))
            connection.execute("CREATE VIEW known_users AS FROM users; CREATE VIEW known_items AS FROM items")
            return history.describe(connection, SETTINGS, window, scenarios)


@pytest.fixture(scope="module")
def past():
    return [Day(number).described() for number in range(6)]


def problems(day, past):
    return {name for name, text in history.judge(day.described(), past, SETTINGS).items() if text}


@pytest.mark.parametrize("number", [6, 7, 8])
def test_a_window_like_those_before_is_no_problem(past, number):
    assert problems(Day(number), past) == set()


def lose_an_hour(day):
    day.keep((day.log["event_timestamp"] % DAY) // (DAY // 24) != 13)


def shift_time_zone(day):
    day.log["event_timestamp"] = day.log["event_timestamp"] + 2 * DAY // 24
    day.keep(day.log["event_timestamp"] < BEGIN + 7 * DAY)


def lose_half(day):
    day.keep(np.arange(1500) % 2 == 0)


def swap_ids(day):
    day.log["user_id"], day.log["item_id"] = day.log["item_id"], day.log["user_id"]


def rename_scenario(day):
    day.log["scenario"] = np.where(day.log["scenario"] == "home", "house", "search")


def flip_labels(day):
    day.log["label"] = 1 - day.log["label"]


def one_user(day):
    day.log["user_id"][:300] = 7


def cents(day):
    day.items["price"] = day.items["price"] * 100


def recode(day):
    day.users["age"] = np.char.upper(day.users["age"])


def empty(day):
    day.users["age"] = np.array([None] * 200, dtype=object)


def resend(day):
    old = Day(5)
    day.log = {**old.log, "event_timestamp": old.log["event_timestamp"] + DAY}


def send_old_partition(day):
    day.log["event_timestamp"] = day.log["event_timestamp"] - 3 * DAY


@pytest.mark.parametrize(
    ("plant", "rule"),
    [
        (lose_an_hour, "gap_problems"),
        (shift_time_zone, "gap_problems"),
        (lose_half, "volume_problems"),
        (swap_ids, "link_problems"),
        (rename_scenario, "scenario_problems"),
        (flip_labels, "scenario_problems"),
        (one_user, "busiest_user_problems"),
        (cents, "items_drift_problems"),
        (recode, "users_drift_problems"),
        (empty, "users_drift_problems"),
        (resend, "resent_problems"),
        (send_old_partition, "watermark_problems"),
    ],
)
def test_a_planted_fault_is_named(past, plant, rule):
    day = Day(6)
    plant(day)
    assert rule in problems(day, past)


def test_with_too_few_windows_only_the_watermark_is_judged(past):
    day = Day(6)
    lose_half(day)
    assert problems(day, past[:2]) == set() and problems(day, []) == set()


def test_windows_with_few_rows_are_not_compared_with():
    sparse = [Day(number, rows=40).described() for number in range(6)]
    assert problems(Day(6), sparse) == set()


def results(look):
    table = TableResult(success=True, facts=Facts(window=look), quarantined_by_rule={}, notes=(), rules=())
    return GateResults(verdict="passed", tables={"interactions": table})


def test_unbounded_windows_are_not_compared_with(past):
    unbounded = past[0].model_copy(update={"bounded": False})
    assert history.earlier(map(results, [unbounded, *past[1:]]), SETTINGS) == past[1:]
    assert history.earlier([results(None)], SETTINGS) == []


def graded(number, **changes):
    day = Day(number)
    grade = np.random.default_rng(number).integers(1, 6, len(day.log["label"])).astype(float)
    day.log["grade"] = np.where(np.arange(len(grade)) < changes.get("missing", 0), np.nan, grade) * changes.get(
        "unit", 1
    )
    return day


@pytest.mark.parametrize("first_missing", [0, 1])
def test_rows_that_were_pushed_without_a_grade_are_no_problem_and_a_new_unit_is(first_missing):
    """A NaN in an earlier window must not end up as its largest grade either."""
    past = [graded(number, missing=first_missing).described() for number in range(6)]
    assert problems(graded(6, missing=300), past) == set()
    assert problems(graded(6, unit=20), past) == {"interactions_drift_problems"}


def test_a_number_that_became_nan_is_empty(past):
    day = Day(6)
    day.items["price"] = np.where(np.arange(100) < 20, np.nan, day.items["price"])
    assert problems(day, past) == {"items_drift_problems"}


def test_a_window_of_several_days_is_not_held_against_windows_of_one(past):
    days = [Day(6), Day(7), Day(8)]
    long = Day(6)
    long.log = {name: np.concatenate([day.log[name] for day in days]) for name in long.log}
    long.days = 3
    assert problems(long, past) == set()
    long.days = 1
    assert "volume_problems" in problems(long, past)


class Opening(Day):
    """The page `toys` opens: a third of the rows, with users, items, categories and prices of its own."""

    def __init__(self, number, rows=1500):
        super().__init__(number, rows)
        new = 750
        rng = np.random.default_rng(900 + number)
        add = {
            "user_id": rng.integers(1000, 1040, new),
            "item_id": rng.integers(2000, 2100, new),
            "scenario": np.repeat("toys", new),
            "event_timestamp": BEGIN + number * DAY + np.sort(rng.integers(0, DAY, new)),
            "label": np.ones(new, dtype=int),
            "weight": np.ones(new),
        }
        self.log = {name: np.concatenate([values, add[name]]) for name, values in self.log.items()}
        self.items = {
            "item_id": np.concatenate([self.items["item_id"], np.arange(2000, 2100)]),
            "price": np.concatenate([self.items["price"], np.linspace(5000.0, 9000.0, 100)]),
        }


def judged(day, past, settings=SETTINGS):
    """The day's new scenarios and problems, as the gate of the source finds them."""
    whole = day.described()
    new = history.new_scenarios(whole, past, settings)
    like = day.described([name for name in whole.scenarios if name not in new]) if new else whole
    return new, {name for name, text in history.judge(like, past, settings).items() if text}


def test_the_first_days_of_a_new_scenario_pass_and_say_so(past):
    seen = list(past)
    for number in range(6, 6 + SETTINGS.validation.min_history_windows):
        assert judged(Opening(number), seen) == (["toys"], set())
        seen.append(Opening(number).described())
    assert judged(Opening(12), seen) == ([], set())


@pytest.mark.parametrize(
    ("plant", "rule"), [(flip_labels, "scenario_problems"), (swap_ids, "link_problems"), (lose_half, "volume_problems")]
)
def test_a_new_scenario_does_not_hide_a_fault_of_the_others(past, plant, rule):
    day = Opening(6)
    if plant is lose_half:
        day.keep(np.arange(2250) % 2 == 0)
    else:
        plant(day)
    assert rule in judged(day, past)[1]


def test_a_scenario_that_is_gone_stops_the_run_unless_it_was_closed_for_good(past):
    day = Day(6)
    day.keep(day.log["scenario"] == "home")
    assert {"scenario_problems", "volume_problems"} <= judged(day, past)[1]
    closed = Settings(data=SETTINGS.data.model_dump(), validation={"closed_scenarios": ["search"]})
    assert judged(day, past, closed) == ([], set())


def test_a_log_whose_every_scenario_is_new_stops_the_run(past):
    day = Day(6)
    day.log["scenario"] = np.where(day.log["scenario"] == "home", "a", "b")
    assert judged(day, past) == (["a", "b"], {"scenario_problems"})


LIFTED = {
    "volume_band": (0.0, 100.0),
    "max_gap_ratio": 1e9,
    "rate_sigmas": 1e9,
    "max_link_drop": 1.0,
    "max_resent_share": 1.0,
    "max_busiest_ratio": 1e9,
    "max_unusual_share": 0.49,
}


@pytest.mark.parametrize("plant", [lose_an_hour, lose_half, swap_ids, rename_scenario, flip_labels, one_user, resend])
def test_the_setting_that_a_message_names_lets_the_day_pass(past, plant):
    from validation.suites.interactions import suite

    rules = {rule.name: rule for rule in suite(SETTINGS, replay("2030-01-01"), ["home"])}
    day = Day(6)
    plant(day)
    named = {rules[name].setting for name in judged(day, past)[1]}
    assert named and named <= set(LIFTED)
    lifted = Settings(data=SETTINGS.data.model_dump(), validation={name: LIFTED[name] for name in named})
    assert judged(day, past, lifted)[1] == set()
