"""The ladder of systems, and the sentence that says what texts are worth."""

import re

import pytest
from results import filled

from core.contracts.results import Controls, Ladder, Metrics
from pipeline import ladder as module
from pipeline import plots


def change(difference, says="better", low=None, high=None):
    low = difference - 0.005 if low is None else low
    high = difference + 0.005 if high is None else high
    values = {"champion": 0.8 - difference, "challenger": 0.8, "difference": difference, "low": low, "high": high}
    return {
        "overall": {m: {**values, "says": says, "told": says in ("better", "worse")} for m in ("auc", "logloss")},
        "confidence": 0.95,
    }


def ladder(metrics, over, controls):
    return module.ladder(filled(Metrics, metrics), filled(Ladder, over), filled(Controls, controls))


def worth(controls, texts=True):
    return module.worth(filled(Controls, controls), texts)


MEASURES = {"overall": {"auc": 0.8, "logloss": 0.5}}
NO = "no difference can be told"


def controls(says="better", difference=0.01, ago=0, **others):
    body = {"metrics": MEASURES, "against": change(difference, says)}
    return {"runs_ago": ago, "placebos": {"shuffled_titles": body, **others}}


def test_rungs_stand_in_order_and_say_how_old_they_are():
    metrics = dict.fromkeys(("knowledge", "plain", "counting", "without_text"), MEASURES)
    over = {name: change(0.02) for name in ("plain", "counting", "without_text")}
    rungs = ladder(metrics, over, controls(ago=3))
    assert [rung.name for rung in rungs] == ["counting", "without_text", "plain", "shuffled_titles", "knowledge"]
    assert [rung.label for rung in rungs][3] == "shuffled titles (3 runs ago)"
    assert [rung.change is None for rung in rungs] == [False] * 4 + [True]
    del metrics["without_text"]
    assert [rung.name for rung in ladder(metrics, over, {"runs_ago": 0, "placebos": {}})] == [
        "counting",
        "plain",
        "knowledge",
    ]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            controls(),
            "What the texts say is worth +0.0100 AUC (95%: +0.0050 to +0.0150): AUC 0.8000 with knowledge, 0.7900 with shuffled titles.",
        ),
        (controls(ago=1), "0.7900 with shuffled titles, 1 run ago."),
        (controls(NO, 0.001), "What the texts say cannot be told from nothing: +0.0010 AUC"),
        (controls("worse", -0.02), "What the texts say does harm: -0.0200 AUC"),
        ({"runs_ago": 0, "placebos": {}}, "was not measured"),
    ],
)
def test_what_texts_are_worth_is_said_in_a_sentence(body, words):
    assert words in worth(body)


def test_without_texts_there_is_nothing_to_be_worth():
    assert "No item has a text" in worth(controls(), texts=False)


def test_the_picture_names_every_system_and_its_colours():
    metrics = dict.fromkeys(("knowledge", "plain", "counting"), MEASURES)
    over = {"plain": change(-0.02, "worse"), "counting": change(0.02, NO)}
    svg = plots.ladder(ladder(metrics, over, controls()))
    found = set(re.findall(r"<text[^>]*>([^<]+)</text>", svg))
    assert {"counting", "plain", "shuffled titles", "with knowledge", "not told apart", "knowledge is worse"} <= found
    assert svg == plots.ladder(ladder(metrics, over, controls()))


def test_an_undefined_difference_is_left_out_of_the_picture():
    nothing = {
        m: dict.fromkeys(("difference", "low", "high")) | {"says": "undefined", "told": False}
        for m in ("auc", "logloss")
    }
    rungs = ladder(
        {"plain": MEASURES, "knowledge": MEASURES}, {"plain": {"overall": nothing}}, {"runs_ago": 0, "placebos": {}}
    )
    assert ">plain<" not in plots.ladder(rungs)
