"""Every expectation says why it exists, and what to look at where it stops a run."""

from __future__ import annotations

import datetime as dt

import pytest
from validation_tables import NOW

from core import Settings
from validation.suites import interactions, items, knowledge, online, scenarios, training_table, users


@pytest.fixture(scope="module")
def suites():
    from core import replay

    settings, clock = Settings(), replay(NOW)
    return [
        interactions.suite(settings, clock, ["home"]),
        users.suite(settings, ["segment"], ["age"]),
        items.suite(settings, ["title"], ["price"]),
        scenarios.suite(),
        knowledge.vector_suite("user_pooled", "user_id", NOW, 10, True, 0.5),
        knowledge.text_suite("user_text", "user_id", NOW),
        online.suite("user_stats", dt.timedelta(days=1)),
        training_table.suite(["user_stats_watermark"], {"user_pooled": 9}, ["home"]),
    ]


def test_every_rule_has_a_reason_and_a_name_of_its_own(suites):
    for suite in suites:
        rules = list(suite)
        assert len({rule.name for rule in rules}) == len(rules) > 0
        assert all(len(rule.reason.split()) > 2 or rule.reason == "reported" for rule in rules), suite.table


def test_every_rule_that_stops_a_run_says_what_to_look_at(suites):
    assert [f"{suite.table}.{rule.name}" for suite in suites for rule in suite.of("table") if not rule.look] == []
