"""Whether knowledge goes live is decided by what it does on the log: invented shops of which the answer is known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.shop_world import write_shop
from core import Window, load_settings
from pipeline.run import STAGES

pytestmark = pytest.mark.e2e

NEEDED = ("ingest", "validate", "features", "knowledge", "dataset", "train", "evaluate", "promote", "controls")
SMALL = {"users": 400, "items": 1_500, "positives": 4_500}


@dataclass(frozen=True)
class Came:
    """What came of a shop's run."""

    choice: dict[str, str]
    verdict: dict[str, Any]
    auc: dict[str, float]
    lift: dict[str, Any]
    worth: dict[str, Any]
    live: bool


@pytest.fixture
def came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(**shop: Any) -> Came:
        write_shop(tmp_path, **{**SMALL, **shop})
        settings = load_settings(tmp_path / "llm4msr.yaml")
        made = {stage: STAGES[stage](settings, Window()) for stage in NEEDED}
        read = {name: json.loads(made[stage].file(f"{name}.json").read_text()) for stage, name in FILES}
        placebo = read["controls"]["placebos"].get("shuffled_titles")
        return Came(
            read["choice"],
            read["verdict"],
            {name: body["overall"]["auc"] for name, body in read["metrics"].items()},
            read["lift"],
            placebo["against"]["overall"]["auc"],
            (settings.root / "serving" / "current.json").is_file(),
        )

    return run


FILES = [
    ("evaluate", "choice"),
    ("promote", "verdict"),
    ("evaluate", "metrics"),
    ("evaluate", "lift"),
    ("controls", "controls"),
]


def test_where_titles_say_everything_knowledge_goes_live_and_beats_its_placebo(came):
    shop = came()
    assert shop.choice["system"] == "knowledge" and shop.live, shop
    assert shop.auc["knowledge"] > 0.1 + max(shop.auc["plain"], shop.auc["counting"])
    assert shop.worth["says"] == "better" and shop.worth["difference"] > 0.03


def test_where_titles_say_nothing_knowledge_stays_out(came):
    shop = came(shuffled=True)
    assert shop.choice["system"] == "plain", shop
    assert shop.worth["says"] != "better"
    # Nothing that was learned of noise makes the model worse than what rates say alone.
    assert shop.auc["plain"] > shop.auc["counting"] - 0.01


def test_two_thousand_rows_run_and_are_judged_by_what_they_can_tell(came):
    shop = came(users=120, items=900, positives=667)
    assert shop.verdict["reason"]
    assert shop.choice["system"] == "plain" or shop.lift["overall"]["auc"]["low"] > 0


def test_one_positive_in_twenty_one_is_no_hindrance(came):
    shop = came(negatives=20, positives=1_500)
    assert shop.choice["system"] == "knowledge" and shop.live, shop
    assert shop.lift["overall"]["logloss"]["says"] != "worse"


def test_one_scenario_in_which_knowledge_misleads_is_enough_to_keep_it_out(came):
    shop = came(turned="beauty")
    assert shop.lift["scenarios"]["beauty"]["auc"]["difference"] < 0, shop
    assert shop.lift["scenarios"]["sports"]["auc"]["difference"] > 0
    assert shop.choice["system"] == "plain" and "beauty" in shop.choice["reason"]
