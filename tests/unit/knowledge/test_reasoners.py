from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import SettingsError
from core.settings import KnowledgeSettings
from knowledge import make_reasoner
from knowledge.reasoners.base import to_half
from knowledge.reasoners.minilm import minilm
from knowledge.reasoners.openai import OpenAIReasoner
from knowledge.reasoners.transformers import TransformersReasoner, batches

TEXTS = ["Red River", "Blue Moon and Green Fields and Black Rain", "x", "", "White Noise, Golden Eye, Silver Lake"] * 3


def one_by_one(folder: Path, layer: int, pooling: str) -> np.ndarray:
    """Each text alone through the untouched model."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            output = model(input_ids=ids, output_hidden_states=True)
        states = (output.last_hidden_state if layer == -1 else output.hidden_states[layer])[0]
        rows.append((states.mean(0) if pooling == "mean" else states[-1]).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("layer", [-1, -2, 1])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_batches_equal_each_text_alone(family: str, layer: int, pooling: Any, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(family)
    reasoner = TransformersReasoner(folder, layer=layer, pooling=pooling, batch_tokens=64)
    np.testing.assert_allclose(reasoner.pooled(TEXTS), one_by_one(folder, layer, pooling), atol=1e-5, rtol=0)


def test_a_long_text_is_cut_at_max_tokens(bert: Path) -> None:
    reasoner = TransformersReasoner(bert, max_tokens=8)
    long = "Red River " * 50
    assert reasoner.tokens([long])[0] > 8
    assert np.array_equal(reasoner.encode([long]), reasoner.encode([long + "Blue Moon"]))


def test_a_title_cannot_spell_a_special_token(bert: Path) -> None:
    reasoner = TransformersReasoner(bert)
    assert 3 not in reasoner.tokenize(["Red [SEP] River"], cut=True)[0][1:-1]


@pytest.mark.parametrize("budget", [1, 10, 64, 10_000])
def test_batches_hold_every_text_once_within_the_budget(budget: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 30, 200)
    cut = batches(lengths.tolist(), budget)
    assert sorted(np.concatenate(cut).tolist()) == list(range(200))
    assert all(len(b) == 1 or lengths[b].max() * len(b) <= budget for b in cut)


def test_identity_depends_on_what_shapes_vectors_and_not_on_the_path(bert: Path, llama: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    for file in bert.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    plain = TransformersReasoner(bert).identity
    assert TransformersReasoner(copied, batch_tokens=128).identity == plain
    others = [
        TransformersReasoner(llama),
        TransformersReasoner(bert, layer=1),
        TransformersReasoner(bert, pooling="last"),
        TransformersReasoner(bert, dtype="bfloat16"),
        TransformersReasoner(bert, max_tokens=64),
    ]
    assert len({plain, *(other.identity for other in others)}) == 6


@pytest.mark.parametrize("options", [{"layer": 4}, {"layer": 0}, {"max_tokens": 4097}])
def test_impossible_settings_are_refused(bert: Path, options: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=r"knowledge\."):
        TransformersReasoner(bert, **options)


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be loaded"):
        TransformersReasoner(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 70_000.0])
def test_values_beyond_float16_are_refused(value: float) -> None:
    with pytest.raises(SettingsError, match=r"knowledge\.dtype"):
        to_half(np.array([[1.0, value]]))


def test_the_packaged_model_places_like_near_like() -> None:
    vectors = minilm().encode(["a funny romantic comedy", "a hilarious love story", "tax law of Norway"]).astype(float)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert units[0] @ units[1] > units[0] @ units[2] + 0.2


@pytest.mark.parametrize("kind", ["transformers", "openai"])
def test_a_reasoner_without_a_model_is_refused(kind: Any) -> None:
    with pytest.raises(SettingsError, match=r"knowledge\.model"):
        make_reasoner(KnowledgeSettings(reasoner=kind))


class Server(http.server.BaseHTTPRequestHandler):
    """An embeddings endpoint: the vector of a text is (its length, 0.5, -1); answers in reverse order."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rows = [
            {"object": "embedding", "index": i, "embedding": [len(t), 0.5, -1]} for i, t in enumerate(body["input"])
        ]
        status = 200 if body["model"] == "known" else 404
        answer = (
            {"object": "list", "model": body["model"], "data": rows[::-1]}
            if status == 200
            else {"error": "no such model"}
        )
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()
        thread.join()


def test_served_vectors_come_back_in_the_order_of_the_texts(server: str) -> None:
    texts = ["abc", "a", "abcdefgh" * 4, ""]
    reasoner = OpenAIReasoner("known", server, batch_tokens=64)
    assert reasoner.dim == 3
    assert reasoner.encode(texts)[:, 0].tolist() == [3, 1, 32, 0]


def test_a_served_text_is_cut_to_the_estimated_limit(server: str) -> None:
    reasoner = OpenAIReasoner("known", server, max_tokens=10)
    assert reasoner.encode(["a" * 1000])[0, 0] == 32


def test_a_refusing_server_is_a_users_error(server: str) -> None:
    with pytest.raises(SettingsError, match=r"knowledge\.base_url.*failed"):
        OpenAIReasoner("unknown", server).encode(["a"])
