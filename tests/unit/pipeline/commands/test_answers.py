"""Answers are a page on a terminal and JSON elsewhere; addresses of services are read alike in every form."""

import json

import pytest
from rich.console import Console

from core import Settings
from core.errors import SettingsError, StorageError, UserError
from core.settings import ServingSettings
from pipeline.commands.answers import explain_page, rank_page, show
from pipeline.commands.serve import ask, free_port, local_url, need_port, service_url

RANKED = {
    "user_id": "o[brien]",
    "scenario": "feed",
    "items": [{"item_id": "a", "title": "Tea [green]", "score": 0.98765}, {"item_id": 7, "title": None, "score": 0.5}],
    "candidates": 1234,
    "unknown_candidates": [],
    "degraded": ["user_stats:stale"],
    "versions": {"model": "ranker", "version": 3},
}
WHY = {
    "user_id": 1,
    "scenario": "feed",
    "item_id": "a",
    "title": "Tea",
    "score": 0.9,
    "logit": 2.2,
    "parts": [{"part": "start", "logit": 1.2}, {"part": "item_text", "logit": 1.0}],
    "knowledge": "What the language model knows raises the chance.",
    "scenarios": [
        {"scenario": "feed", "score": 0.9, "shown": True},
        {"scenario": "cart", "score": 0.4, "shown": False},
    ],
    "neutral_score": 0.7,
    "user_text": "likes tea\nand cake",
    "user_text_source": "summary",
    "scenario_text": None,
    "nearest_history": [{"item_id": "b", "title": None, "similarity": 0.51}],
    "degraded": [],
}


def text(page, answer, width=100):
    out = Console(width=width, highlight=False)
    with out.capture() as shown:
        page(out, answer)
    return shown.get()


def test_a_ranking_is_a_table_with_places_scores_and_what_was_not_known():
    told = text(rank_page, RANKED)
    assert "user o[brien] in feed: the best 2 of 1,234 candidates, by model ranker version 3" in told
    assert "1   0.9877   a      Tea [green]" in told and "user_stats:stale" in told


def test_an_explanation_is_a_page():
    told = text(explain_page, WHY)
    assert "likes tea and cake" in told and "b (0.51)" in told and "0.7000 if nothing were known" in told
    assert "+1.20 start, +1.00 item text" in told and "feed 0.900, cart 0.400 (not shown)" in told


def test_elsewhere_than_on_a_terminal_an_answer_is_json(capsys):
    show(RANKED, rank_page, as_json=False)
    assert json.loads(capsys.readouterr().out) == RANKED


def test_a_terminal_gets_a_page_unless_json_is_asked_for(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show(RANKED, rank_page, as_json=False)
    assert "the best 2 of" in capsys.readouterr().out
    show(RANKED, rank_page, as_json=True)
    assert json.loads(capsys.readouterr().out) == RANKED


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("http://h:1", "http://h:1"),
        ("http://h:1/", "http://h:1"),
        (" h:1 ", "http://h:1"),
        ("https://h/ranker/", "https://h/ranker"),
        ("http://[::1]:3000//", "http://[::1]:3000"),
    ],
)
def test_an_address_is_read_with_and_without_scheme_slash_and_prefix(url, read):
    assert service_url(Settings(), url) == read


@pytest.mark.parametrize("url", ["", "http://", "ftp://h", "http://h:port", "http://h:99999"])
def test_what_is_no_address_is_refused_with_an_example(url):
    with pytest.raises(SettingsError, match="http://host:port"):
        service_url(Settings(), url)


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:3000"), ("0.0.0.0", "http://127.0.0.1:3000"), ("::", "http://[::1]:3000")],
)
def test_a_service_at_all_addresses_is_asked_at_this_machines_own(host, url):
    assert local_url(ServingSettings(host=host)) == url
    assert service_url(Settings(serving=ServingSettings(host=host)), None) == url


def test_no_service_says_how_to_start_one():
    with pytest.raises(UserError, match="start one with `llm4msr serve`"):
        ask(Settings(serving=ServingSettings(port=free_port())), "/rank", {})


def test_a_port_that_cannot_be_had_is_named_with_the_settings():
    with pytest.raises(StorageError, match="serving.host 'no.such.invalid' is no address"):
        need_port("no.such.invalid", 3000)
