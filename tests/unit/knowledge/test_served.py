"""The reasoner `openai` against a real server process, well-behaved and not."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.errors import BudgetError, SettingsError
from knowledge.cache import Cache
from knowledge.reasoners import line
from knowledge.reasoners.line import Limits, Rate
from knowledge.reasoners.openai import OpenAIReasoner

SCRIPT = Path(__file__).parent / "served_reasoner.py"
TEXTS = [f"text {'x' * i}" for i in range(40)]
Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    running: list[subprocess.Popen[str]] = []

    def start(faults: str = "") -> str:
        process = subprocess.Popen([sys.executable, str(SCRIPT), faults], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        return f"http://127.0.0.1:{int(process.stdout.readline())}"

    yield start
    for process in running:
        process.kill()
        process.communicate()


def reasoner(url: str, **limits: float | None) -> OpenAIReasoner:
    chosen = Limits(**{"first_wait": 0.01, "timeout": 120.0, **limits})  # type: ignore[arg-type]
    return OpenAIReasoner("known", url + "/v1", batch_tokens=64, limits=chosen)


def told(url: str, what: str) -> int:
    return int(urllib.request.urlopen(f"{url}/{what}").read())


def lengths(texts: list[str]) -> list[float]:
    return [len(text) for text in texts]


def test_many_requests_at_a_time_come_back_in_order(serve: Serve) -> None:
    url = serve()
    assert reasoner(url, concurrency=4).encode(TEXTS)[:, 0].tolist() == lengths(TEXTS)
    assert told(url, "peak") <= 4


@pytest.mark.parametrize("fault", ["500", "429", "drop", "garbage", "short", "nan", "html"])
def test_a_passing_fault_is_tried_again(serve: Serve, fault: str) -> None:
    url = serve(f"ok,{fault},{fault},ok")
    assert reasoner(url, concurrency=1).encode(TEXTS)[:, 0].tolist() == lengths(TEXTS)
    assert told(url, "count") > 4


def test_a_server_that_stalls_is_left_and_asked_again(serve: Serve) -> None:
    url = serve("stall")
    assert reasoner(url, timeout=2, retries=10).encode(TEXTS[:3])[:, 0].tolist() == lengths(TEXTS[:3])


@pytest.mark.parametrize("fault", ["500", "html", "garbage"])
def test_a_server_that_stays_broken_ends_the_run_with_a_message(serve: Serve, fault: str) -> None:
    url = serve(",".join([fault] * 200))
    with pytest.raises(SettingsError, match=r"knowledge\.base_url.*failed 3 times"):
        reasoner(url, retries=2, concurrency=2).encode(TEXTS)
    assert told(url, "count") < 20


def test_a_wrong_model_is_not_tried_again(serve: Serve) -> None:
    url = serve()
    with pytest.raises(SettingsError, match="no such model"):
        OpenAIReasoner("unknown", url + "/v1").encode(["a"])
    assert told(url, "count") == 1


def test_a_server_that_is_not_there_is_a_users_error() -> None:
    with pytest.raises(SettingsError, match="is the server up"):
        reasoner("http://127.0.0.1:9", retries=1).encode(["a"])


def test_the_budget_stops_the_job_and_finished_shards_stay(serve: Serve, tmp_path: Path) -> None:
    url = serve()
    spent = reasoner(url, token_budget=500, concurrency=1)
    with pytest.raises(BudgetError, match=r"token_budget of 500 tokens"):
        Cache(tmp_path, spent, shard_rows=5).encode(TEXTS)
    asked = told(url, "count")
    rich = reasoner(url, concurrency=1)
    cache = Cache(tmp_path, rich, shard_rows=5)
    assert 0 < cache.share_known(TEXTS) < 1
    assert cache.encode(TEXTS)[:, 0].tolist() == lengths(TEXTS)
    fresh = serve()
    Cache(tmp_path / "fresh", reasoner(fresh, concurrency=1), shard_rows=5).encode(TEXTS)
    assert told(url, "count") - asked < told(fresh, "count")


def test_a_served_text_is_cut_to_the_estimated_limit(serve: Serve) -> None:
    short = OpenAIReasoner("known", serve() + "/v1", max_tokens=10)
    assert short.encode(["a" * 1000])[0, 0] == 32


def test_a_rate_spaces_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "time", SimpleNamespace(monotonic=lambda: 50.0))
    rate = Rate(600.0, float)
    assert rate.wait(100) == 0.0
    assert rate.wait(1) == 10.0
    assert Rate(None, float).wait(100) == 0.0


def test_answers_are_written_and_embedded(serve: Serve) -> None:
    thinker = reasoner(serve()).answering(20, chat=True)
    vectors, answers = thinker.answer(TEXTS[:4])
    assert answers == [f"likes {len(text)}" for text in TEXTS[:4]]
    assert vectors[:, 0].tolist() == lengths(answers)
    assert thinker.identity != reasoner("http://x").identity


def test_nothing_asked_is_nothing_answered(serve: Serve) -> None:
    assert reasoner(serve()).answering(5, chat=True).write([]) == []
