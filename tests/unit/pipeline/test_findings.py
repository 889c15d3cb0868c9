"""What a report says first: harm is an alarm."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import BaseModel
from results import filled

from core.contracts.drift import Drift
from core.contracts.results import Controls, Lift, Metrics, OverCounting, Promotion
from pipeline import findings as module
from pipeline.findings import Finding

ALIKE = {
    "champion": 0.7,
    "challenger": 0.7,
    "difference": 0.0,
    "low": -0.01,
    "high": 0.01,
    "told": False,
    "says": "no difference can be told",
}
LOSS = {**ALIKE, "champion": 0.5, "challenger": 0.5}
CHANGE = {"auc": {**ALIKE, "told": True, "says": "better", "difference": 0.02}, "logloss": LOSS}
MEASURES = {"auc": 0.7, "calibration": {"ratio": 1.0}}
GOOD: dict[str, Any] = {
    "metrics": {
        name: {"overall": MEASURES, "scenarios": {"feed": MEASURES}} for name in ("counting", "plain", "knowledge")
    },
    "lift": {"overall": CHANGE, "scenarios": {"feed": CHANGE}},
    "over_counting": {"overall": CHANGE},
    "verdict": {"promote": True, "reason": "better", "details": {}},
    "drift": {},
    "rejected": [],
    "rows_in": 100,
    "unknown_share": 0.0,
    "controls": {"runs_ago": 0, "placebos": {"shuffled_titles": {"against": {"overall": copy.deepcopy(CHANGE)}}}},
}
PLACEBO = ("controls", "placebos", "shuffled_titles", "against", "overall", "auc")


KINDS: dict[str, type[BaseModel]] = {
    "metrics": Metrics,
    "lift": Lift,
    "over_counting": OverCounting,
    "verdict": Promotion,
    "controls": Controls,
    "drift": Drift,
}


def findings(**body: Any) -> list[Finding]:
    typed: dict[str, Any] = body | {name: filled(kind, body[name]) for name, kind in KINDS.items()}
    return module.findings(**typed)


def changed(*path: str, value: object) -> list[tuple[str, str]]:
    body = copy.deepcopy(GOOD)
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return [(found.level, found.text) for found in findings(**body)]


def test_a_good_run_has_nothing_to_look_at():
    assert findings(**GOOD) == []


@pytest.mark.parametrize(
    ("path", "value", "level", "words"),
    [
        (("lift", "scenarios", "feed", "auc"), {**ALIKE, "told": True, "says": "worse", "difference": -0.03}, "alarm", "feed: knowledge made AUC worse"),
        (("lift", "overall", "logloss"), {**LOSS, "challenger": 1.1}, "alarm", "log loss rose from 0.5000 to 1.1000 (+120%)"),
        (("lift", "scenarios", "feed", "logloss"), {**LOSS, "challenger": 0.51, "says": "worse"}, "warning", "feed: log loss rose"),
        (("metrics", "knowledge", "scenarios", "feed", "auc"), 0.44, "alarm", "feed: AUC 0.4400 is below .5"),
        (("over_counting", "overall", "auc"), {**ALIKE, "difference": -0.02, "says": "worse", "challenger": 0.68}, "alarm", "Counting positives, without any model"),
        (("over_counting", "overall", "auc"), {**ALIKE, "difference": -0.001}, "warning", "Counting positives, without any model"),
        (PLACEBO, {**ALIKE, "difference": 0.001}, "warning", "Knowledge adds +0.0200 AUC to the plain model, but only +0.0010 to the same model with titles shuffled"),
        (("verdict", "details"), {"groups": {"feed": {"difference": -0.001}}}, "warning", "lower AUC than the champion's in feed"),
        (("metrics", "knowledge", "scenarios", "feed", "calibration"), {"ratio": 1.4}, "warning", "predicted over observed positives is 1.40"),
        (("unknown_share",), 0.8, "warning", "80% of the rows have no user knowledge"),
        (("texts",), False, "warning", "No item has a text (data.item_text)"),
        (("metrics", "knowledge", "negatives"), {"per_positive": 4, "strategy": "uniform"}, "note", "Negatives are sampled (4 per positive, uniform)"),
        (("verdict",), {"promote": False, "reason": "kept: too old", "details": {}}, "note", "not promoted: too old."),
        (("rejected",), [{"table": "interactions", "rule": "r", "rows": 3}], "note", "3 rows (3.00%) are in quarantine"),
        (("lift", "scenarios", "feed", "auc"), ALIKE, "note", "No difference can be told in feed"),
    ],
)  # fmt: skip
def test_each_thing_that_stands_out_is_said_at_its_level(path, value, level, words):
    assert any(words in text for found, text in changed(*path, value=value) if found == level)


def test_a_model_that_is_live_although_worse_in_something_is_an_alarm_and_the_way_back_is_named_where_there_is_one():
    body = copy.deepcopy(GOOD)
    body["lift"]["scenarios"]["feed"]["auc"] = {**ALIKE, "told": True, "says": "worse", "difference": -0.03}
    live = "The new model is live although it is worse in something; "
    assert any(
        f"{live}it is the first, so that there is none" in f.text for f in findings(**body) if f.level == "alarm"
    )
    body["verdict"]["champion"] = "objects/train/x/bundle_plain"
    assert any(f"{live}`llm4msr rollback` takes it back" in f.text for f in findings(**body) if f.level == "alarm")


def test_alarms_come_first():
    body = copy.deepcopy(GOOD)
    body["unknown_share"] = 0.9
    body["verdict"] = {"promote": False, "reason": "kept", "details": {}}
    body["metrics"]["knowledge"]["overall"] = {**MEASURES, "auc": 0.4}
    assert [found.level for found in findings(**body)] == ["alarm", "warning", "note"]


def test_an_undefined_measure_is_no_finding():
    nothing = {
        "champion": None,
        "challenger": None,
        "difference": None,
        "low": None,
        "high": None,
        "told": True,
        "says": "undefined",
    }
    body = copy.deepcopy(GOOD)
    body["lift"]["overall"] = body["lift"]["scenarios"]["feed"] = {"auc": nothing, "logloss": nothing}
    body["over_counting"]["overall"] = {"auc": nothing, "logloss": nothing}
    body["metrics"]["knowledge"]["overall"] = {"auc": None}
    assert findings(**body) == []


def test_what_was_withdrawn_is_said():
    assert changed("withdrawn", value={"users": 0, "items": 0}) == []
    [(level, text)] = changed("withdrawn", value={"users": 1, "items": 1200})
    assert level == "note" and "1 users and 1,200 items" in text
