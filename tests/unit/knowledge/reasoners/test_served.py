"""The reasoner `openai` against a real server process, well-behaved and not."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx2
import openai
import pytest

from core import replay
from core.errors import BudgetError, SettingsError
from knowledge.reasoners import client
from knowledge.reasoners import openai as openai_reasoner
from knowledge.reasoners.base import Interrupted
from knowledge.reasoners.client import Limits, Rate
from knowledge.reasoners.openai import OpenAIReasoner
from knowledge.storage.cache import Cache

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


@pytest.mark.parametrize("fault", ["408", "409", "500", "429", "drop", "garbage", "short", "twice", "nan", "html"])
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


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_budget_below_one_shard_is_enough_after_some_runs_and_no_text_is_paid_twice(
    serve: Serve, tmp_path: Path, concurrency: int
) -> None:
    url = serve()
    runs = 0
    while True:
        runs += 1
        assert runs < 20
        try:
            vectors = Cache(tmp_path, reasoner(url, token_budget=200, concurrency=concurrency)).encode(TEXTS)
            break
        except BudgetError:
            pass
    assert runs > 2
    assert vectors[:, 0].tolist() == lengths(TEXTS)
    assert (told(url, "read"), told(url, "again")) == (len(TEXTS), 0)


def test_a_budget_below_one_shard_is_enough_for_answers_too(serve: Serve, tmp_path: Path) -> None:
    answering, embedding = serve(), serve()
    runs = 0
    while True:
        runs += 1
        assert runs < 40
        generator = reasoner(embedding, token_budget=200).answering(20, True, base_url=answering + "/v1")
        try:
            answers = Cache(tmp_path, generator).answer(TEXTS)[1]
            break
        except BudgetError:
            pass
    assert runs > 2
    assert answers == [f"likes {len(text)}" for text in TEXTS]
    assert (told(answering, "read"), told(answering, "again")) == (len(TEXTS), 0)


def test_what_was_answered_before_the_server_broke_is_kept(serve: Serve, tmp_path: Path) -> None:
    url = serve(",".join(["ok"] * 3 + ["500"] * 5))
    with pytest.raises(SettingsError, match="failed 1 times"):
        Cache(tmp_path, reasoner(url, retries=0, concurrency=1)).encode(TEXTS)
    read = told(url, "read")
    assert read > 0
    rich = reasoner(serve(), concurrency=1)
    assert Cache(tmp_path, rich).share_known(TEXTS) == read / len(TEXTS)
    assert Cache(tmp_path, rich).encode(TEXTS)[:, 0].tolist() == lengths(TEXTS)


def test_a_refused_try_costs_no_budget(serve: Serve) -> None:
    url = serve("429,500,429")
    assert reasoner(url, token_budget=20, concurrency=1).encode(["a" * 50])[0, 0] == 50


@pytest.mark.parametrize(
    ("chat", "embeddings", "most"), [("ok", "ok,garbage,html,garbage", 1000), ("html,html", "ok", 3200)]
)
def test_what_is_set_aside_for_embedding_is_given_back_once(
    serve: Serve, chat: str, embeddings: str, most: int
) -> None:
    """A try without an answer stays charged with its own estimate, and with no other's."""
    answering = serve(chat)
    generator = reasoner(serve(embeddings), token_budget=100_000).answering(1000, True, base_url=answering + "/v1")
    assert generator.answer(TEXTS[:1])[1] == [f"likes {len(TEXTS[0])}"]
    assert 0 < generator._client._spent.tokens < most


def test_answers_of_a_block_are_embedded_before_more_is_asked(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_reasoner, "BLOCK", 4)
    answering, embedding = serve(), serve(",".join(["ok"] * 3 + ["400"] * 50))
    generator = reasoner(embedding, retries=0, concurrency=1).answering(20, True, base_url=answering + "/v1")
    with pytest.raises(Interrupted) as caught:
        generator.answer(TEXTS)
    done = caught.value.finished
    assert isinstance(caught.value.cause, SettingsError)
    assert done.answers is not None
    assert len(done.rows) == len(done.vectors) == len(done.answers) >= 4
    assert told(answering, "read") <= len(done.rows) + 4


def test_a_text_that_is_refused_is_named_and_the_others_of_its_batch_are_kept(serve: Serve, tmp_path: Path) -> None:
    url = serve()
    texts = [*TEXTS[:20], f"forbidden {'x' * 10}"]
    asked = OpenAIReasoner("known", url + "/v1", limits=Limits(concurrency=1))
    with pytest.raises(SettingsError, match=r"too large.*one text of 20 characters"):
        Cache(tmp_path, asked).encode(texts)
    assert told(url, "again") == 0
    assert Cache(tmp_path, asked).share_known(texts) == told(url, "read") / len(texts)


def test_a_batch_that_is_refused_is_sent_in_halves(serve: Serve) -> None:
    url = serve("400")
    asked = OpenAIReasoner("known", url + "/v1", limits=Limits(concurrency=1))
    assert asked.encode(TEXTS)[:, 0].tolist() == lengths(TEXTS)
    assert told(url, "count") == 3


def test_a_prompt_that_is_refused_is_named(serve: Serve) -> None:
    with pytest.raises(SettingsError, match=r"too large.*one text of 9 characters"):
        reasoner(serve()).answering(20, chat=True).answer(["forbidden"])


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0.5", 0.5),
        ("120", 120.0),
        ("86400", 600.0),
        ("Mon, 01 Jan 2024 00:01:30 GMT", 90.0),
        ("Tue, 02 Jan 2024 00:00:00 GMT", 600.0),
        ("Sun, 31 Dec 2023 00:00:00 GMT", 0.0),
        ("soon", 0.0),
        ("", 0.0),
    ],
)
def test_the_wait_that_a_server_asks_for_is_obeyed(
    header: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "wall", lambda: replay("2024-01-01"))
    response = httpx2.Response(429, headers={"Retry-After": header}, request=httpx2.Request("POST", "http://x"))
    assert client.asked_wait(openai.RateLimitError("slow down", response=response, body=None)) == seconds
    assert client.asked_wait(ValueError("no answer")) == 0.0


def test_a_served_text_is_cut_to_the_estimated_limit(serve: Serve) -> None:
    short = OpenAIReasoner("known", serve() + "/v1", max_tokens=10)
    assert short.encode(["a" * 1000])[0, 0] == 32


def test_a_rate_spaces_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: 50.0))
    rate = Rate(600.0, float)
    assert rate.wait(100) == 0.0
    assert rate.wait(1) == 10.0
    assert Rate(None, float).wait(100) == 0.0


def test_answers_are_written_and_embedded(serve: Serve) -> None:
    generator = reasoner(serve()).answering(20, chat=True)
    vectors, answers = generator.answer(TEXTS[:4])
    assert answers == [f"likes {len(text)}" for text in TEXTS[:4]]
    assert vectors[:, 0].tolist() == lengths(answers)
    assert generator.identity != reasoner("http://x").identity


def test_nothing_asked_is_nothing_answered(serve: Serve) -> None:
    assert reasoner(serve()).answering(5, chat=True).write([]) == []


@pytest.mark.parametrize("end", ["/v1", "/v1/"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_no_proxy_of_the_environment_stands_before_a_server_on_this_machine(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, proxy: str, end: str
) -> None:
    url = serve()
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    vectors = OpenAIReasoner("known", url + end, limits=Limits(retries=0, timeout=120.0)).encode(TEXTS[:3])
    assert vectors.shape[0] == 3


def test_a_key_within_the_address_is_in_no_message() -> None:
    with pytest.raises(SettingsError) as raised:
        OpenAIReasoner("m", "http://me:hunter2@127.0.0.1:9/v1", limits=Limits(retries=0)).encode(["text"])
    assert "hunter2" not in str(raised.value) and "127.0.0.1:9" in str(raised.value)
