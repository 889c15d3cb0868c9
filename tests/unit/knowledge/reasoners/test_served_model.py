"""The reasoner `openai` against a real model server: `transformers serve` on a tiny model. It serves text, no embeddings."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from unit.knowledge.tiny_models import CHAT, make

from core.errors import SettingsError
from core.settings import KnowledgeSettings
from knowledge.reasoners import make_generator, make_reasoner
from knowledge.reasoners.client import Limits
from knowledge.reasoners.openai import OpenAIReasoner
from knowledge.reasoners.transformers import TransformersReasoner

EMBEDDER = Path(__file__).parent / "served_reasoner.py"
TEXTS = ["Red River", "Blue Moon and Green Fields", "White Noise Golden Eye Silver Lake", "x", "Iron Sky Red River"]
WAIT = 600.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer

    folder = make("llama", tmp_path_factory.mktemp("served"))
    words = AutoTokenizer.from_pretrained(folder)
    words.chat_template = CHAT
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("log") / "serve.log"
    # Another process may take the port before the server does, which then ends.
    for _ in range(3):
        with _serving(model, log) as url:
            if url is not None:
                yield url
                return
    pytest.fail(log.read_text())


@contextmanager
def _serving(model: Path, log: Path) -> Iterator[str | None]:
    """The URL of a server that answers; None if it ended before."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(model), "--device", "cpu"]
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=stream,
            stderr=stream,
        )
    try:
        deadline = time.monotonic() + WAIT
        while process.poll() is None and not _answers(f"http://127.0.0.1:{port}/health"):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1" if process.poll() is None else None
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def embedder() -> Iterator[str]:
    with subprocess.Popen([sys.executable, str(EMBEDDER)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        process.kill()


def _answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=5).status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_a_model_server_writes_what_the_model_writes_here_and_another_embeds_it(
    server: str, embedder: str, model: Path
) -> None:
    here = TransformersReasoner(model, generates=True).answering(8, chat=True).answer(TEXTS)[1]
    settings = KnowledgeSettings(
        reasoner="openai",
        model="known",
        base_url=embedder,
        generate={"max_new_tokens": 8, "model": str(model), "base_url": server},
    )
    reasoner = make_reasoner(settings)
    generator = make_generator(settings, reasoner)
    vectors, answers = generator.answer(TEXTS)  # type: ignore[attr-defined]
    assert answers == here
    assert len(set(answers)) > 1
    assert vectors[:, 0].tolist() == [len(answer) for answer in answers]
    assert len({generator.identity, reasoner.identity, reasoner.answering(8, chat=True).identity}) == 3  # type: ignore[attr-defined]


def test_a_server_without_embeddings_is_named(server: str, model: Path) -> None:
    limits = Limits(retries=1, first_wait=0.01)
    with pytest.raises(SettingsError, match=r"embeddings request .*failed"):
        OpenAIReasoner(str(model), server, limits=limits).encode(TEXTS)


def test_a_server_of_another_model_is_named(server: str, embedder: str) -> None:
    reasoner = OpenAIReasoner("known", embedder, limits=Limits(retries=1, first_wait=0.01))
    with pytest.raises(SettingsError, match=r"chat request for 'other' failed .*pinned"):
        reasoner.answering(8, chat=True, model="other", base_url=server).write(TEXTS)


def test_only_a_served_reasoner_lets_another_model_answer(model: Path) -> None:
    settings = KnowledgeSettings(
        reasoner="transformers",
        model=str(model),
        generate={"max_new_tokens": 8, "model": "other"},
    )
    with pytest.raises(SettingsError, match=r"knowledge\.generate\.model"):
        make_generator(settings, make_reasoner(settings))
