"""Every expectation says why it exists, what to look at where it stops a run, and which setting holds its limit."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from unit.validation.validation_tables import NOW

from core import Settings, replay
from core.digest import REPOSITORY
from core.limits import ValidationSettings
from validation.suites import interactions, items, knowledge, online, scenarios, training_table, users

FIELDS = ValidationSettings.model_fields
BOUNDS = ("min_value", "max_value")
# What no setting moves: a table that breaks one of these is not understood, whatever a person allows.
INVARIANTS = {
    # A number whose sign, or whose being there, is its meaning.
    *("scenarios.rows", "user_pooled.rows", "training_table.rows", "user_pooled.versions"),
    *("training_table.history_end_negative", "user_pooled.vectors_differ"),
    # Two rows of one key and time.
    *("user_pooled.repeated_keys", "user_text.repeated_keys"),
    # Positions within a matrix.
    *("user_pooled.row_outside_matrix", "training_table.user_pooled_row_outside_matrix"),
    # The clock's now and the kind's lag.
    *(
        f"{s}.{t}_in_future"
        for s in ("user_pooled", "user_text")
        for t in ("event_timestamp", "created_timestamp", "watermark")
    ),
}


def all_suites(**limits):
    settings, clock = Settings(validation=limits), replay(NOW)
    age = dt.timedelta(days=2) if limits else dt.timedelta(days=1)
    return [
        interactions.suite(settings, clock, ["home"], graded=True),
        users.suite(settings, ["segment"], ["age"]),
        items.suite(settings, ["title"], ["price"]),
        scenarios.suite(),
        knowledge.vector_suite("user_pooled", "user_id", NOW, 10, True, settings.validation),
        knowledge.text_suite("user_text", "user_id", NOW),
        online.suite("user_stats", age),
        training_table.suite(["user_stats_watermark"], {"user_pooled": 9}, ["home"], settings.validation),
    ]


@pytest.fixture(scope="module")
def suites():
    return all_suites()


def named(suites):
    return {f"{suite.table}.{rule.name}": rule for suite in suites for rule in suite}


def test_every_rule_has_a_reason_and_a_name_of_its_own(suites):
    for suite in suites:
        rules = list(suite)
        assert len({rule.name for rule in rules}) == len(rules) > 0
        assert all(len(rule.reason.split()) > 2 for rule in rules), suite.table


def test_every_rule_that_stops_a_run_says_what_to_look_at(suites):
    assert [f"{suite.table}.{rule.name}" for suite in suites for rule in suite.of("table") if not rule.look] == []


def test_every_limit_comes_from_a_setting_which_says_why(suites):
    assert [name for name, field in FIELDS.items() if not field.description or len(field.description.split()) < 4] == []
    rules = named(suites)
    limited = {n for n, rule in rules.items() if rule.scope != "note" and any(bound in rule.kwargs for bound in BOUNDS)}
    assert {name for name in limited if not rules[name].setting} == INVARIANTS
    assert {rule.setting for rule in rules.values() if rule.setting} <= set(FIELDS)


CHANGED = {
    "max_withdrawn_share": 0.5,
    "max_quarantined_share": 0.3,
    "min_rows": 7,
    "min_items": 5,
    "min_share_with_text": 0.4,
    "min_share_linked": 0.2,
    "earliest": dt.datetime(2001, 1, 1, tzinfo=dt.UTC),
    "max_future": dt.timedelta(hours=2),
    "max_wrong_times": 0.7,
    "largest_number": 1e9,
    "min_knowledge_coverage": 0.2,
    "max_coverage_drop": 0.3,
    "max_due_without_vector": 0.4,
    "max_lost_users": 0.6,
    "max_unchanged_vectors": 0.7,
    "max_zero_vectors": 0.8,
    "max_same_vector": 0.9,
    "max_norm": 77.0,
    "max_relative_norm": 5.0,
    "max_share_without_knowledge": 0.9,
    "max_online_age": dt.timedelta(days=2),
}


def test_a_changed_setting_changes_its_limits(suites):
    before, after = named(suites), named(all_suites(**CHANGED))
    for name, rule in before.items():
        limits = [bound for bound in BOUNDS if bound in rule.kwargs]
        if not rule.setting or not limits or rule.setting == "vector_tolerance":
            continue  # Texts that list problems: their limits are read where the problem is looked for.
        moved = [after[name].kwargs[bound] != rule.kwargs[bound] for bound in limits]
        assert rule.setting in CHANGED and any(moved), f"{name} does not follow validation.{rule.setting}"


def test_the_documentation_lists_every_limit_with_its_default():
    page = (REPOSITORY / "docs" / "gates.md").read_text()
    defaults = ValidationSettings().model_dump(mode="json")
    rows = [f"| `{name}` | `{json.dumps(defaults[name])}` | {field.description} |" for name, field in FIELDS.items()]
    assert [row for row in rows if row not in page] == []


def test_a_message_names_the_setting_of_its_limit(suites, tmp_path):
    from validation.engine import Tally
    from validation.report import Outcome

    for suite in suites:
        for rule in suite:
            tally = Tally(rule, checked=1, failed=1, examples=[(0, "1")])
            outcome = Outcome(suite, tmp_path, tallies={rule.name: tally})
            message = outcome.message([] if rule.scope in ("row", "key") else [tally])
            assert not rule.setting or f"validation.{rule.setting} sets the limit" in message
            assert rule.look in message
