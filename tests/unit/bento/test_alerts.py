"""Each alert is set off by the trouble that it names, and by nothing else; promtool plays both to it."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import yaml

from core.digest import REPOSITORY

RULES = yaml.safe_load((REPOSITORY / "bento" / "deploy" / "monitoring" / "rules.yaml").read_text())["spec"]
PROMTOOL = shutil.which("promtool")
WHERE = 'job="llm4msr", instance="pod"'
RANKED = f'llm4msr_answer_seconds_bucket{{{WHERE}, route="/rank", scenario="home", version="1"'
# All is well, for two hours: series and how they go on from minute to minute.
WELL = {
    f"llm4msr_ready{{{WHERE}}}": "1x120",
    f"llm4msr_refusing{{{WHERE}}}": "0x120",
    f'bentoml_service_request_total{{{WHERE}, http_response_code="200"}}': "0+600x120",
    f'bentoml_service_request_total{{{WHERE}, http_response_code="503"}}': "0x120",
    f'{RANKED}, le="0.02"}}': "0+600x120",
    f'{RANKED}, le="0.25"}}': "0+600x120",
    f'{RANKED}, le="+Inf"}}': "0+600x120",
    f'llm4msr_refused_total{{{WHERE}, why="busy"}}': "0x120",
    f'llm4msr_refused_total{{{WHERE}, why="token"}}': "0x120",
    f'llm4msr_online_failures_total{{{WHERE}, read="user", why="timeout"}}': "0x120",
    f'llm4msr_online_read_seconds_count{{{WHERE}, read="user"}}': "0+600x120",
    f'llm4msr_degraded_total{{{WHERE}, what="user_stats:missing", scenario="home", version="1"}}': "0+600x120",
    f'llm4msr_degraded_total{{{WHERE}, what="user_stats:stale", scenario="home", version="1"}}': "0x120",
    f'llm4msr_candidates_count{{{WHERE}, scenario="home", version="1"}}': "0+600x120",
    f"llm4msr_looked_timestamp_seconds{{{WHERE}}}": "0+60x120",
    f"llm4msr_promoted_timestamp_seconds{{{WHERE}}}": "1x120",
    f"llm4msr_catalogue_timestamp_seconds{{{WHERE}}}": "0x120",
    f"llm4msr_pushes_waiting{{{WHERE}}}": "1x120",
}
# Alert to what is then otherwise.
TROUBLE = {
    "RankerNotReady": {"llm4msr_ready{": "0x120"},
    "RankerErrors": {'http_response_code="503"': "0+30x120"},
    "RankerSlow": {'le="0.02"': "0+300x120", 'le="0.25"': "0+590x120"},
    "RankerRefusesRequests": {'why="busy"': "0+120x120"},
    "OnlineStoreFails": {'why="timeout"': "0+60x120"},
    "AnswersStale": {'what="user_stats:stale"': "0+60x120"},
    "PublishedModelRefused": {"llm4msr_refusing{": "1x120"},
    "PublicationNotWatched": {"llm4msr_looked": "0x120"},
    "ChampionOld": {"llm4msr_promoted": f"{-20 * 86400}x120"},
    "CatalogueOld": {"llm4msr_catalogue": f"{-4 * 86400}x120"},
    "PushesWait": {"llm4msr_pushes_waiting": "12x120"},
    "TokensTried": {'why="token"': "0+60x120"},
}


def test_every_alert_has_a_trouble_of_its_own():
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert [rule["alert"] for rule in rules] == list(TROUBLE)
    assert all(
        rule["labels"]["severity"] in ("page", "ticket") and rule["annotations"].keys() == {"summary", "description"}
        for rule in rules
    )


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
@pytest.mark.parametrize("trouble", [None, *TROUBLE])
def test_a_trouble_sets_off_its_own_alert(tmp_path, trouble):
    changed = TROUBLE.get(trouble, {})
    assert all(any(part in name for name in WELL) for part in changed)
    series = {name: next((v for part, v in changed.items() if part in name), values) for name, values in WELL.items()}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    asked = [
        {"expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}})', "eval_time": "2h",
         "exp_samples": [{"labels": "{}", "value": 1}] if name == trouble else []}
        for name in TROUBLE
    ]  # fmt: skip
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": asked,
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [test]}))
    done = subprocess.run([PROMTOOL, "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
