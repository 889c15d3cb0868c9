from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import SettingsError
from core.settings import KnowledgeSettings
from knowledge import make_reasoner
from knowledge.reasoners import linear
from knowledge.reasoners.base import to_half
from knowledge.reasoners.batching import batches, packs
from knowledge.reasoners.minilm import minilm, model_folder
from knowledge.reasoners.transformers import TransformersReasoner

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
def test_impossible_settings_are_refused(bert: Path, options: dict[str, Any]) -> None:
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


def test_the_packaged_model_in_batches_equals_each_text_alone_through_the_plain_model() -> None:
    from transformers import AutoModel

    texts = [" ".join(TEXTS[:n]) for n in range(5)] * 4
    reasoner, plain = minilm(), AutoModel.from_pretrained(model_folder()).eval()
    with torch.no_grad():
        alone = [plain(torch.tensor([row])).last_hidden_state[0].mean(0) for row in reasoner.tokenize(texts, cut=True)]
    np.testing.assert_allclose(reasoner.pooled(texts), torch.stack(alone), atol=1e-5, rtol=0)


@pytest.mark.skipif(not linear.available(), reason="this CPU gains nothing by it")
@pytest.mark.parametrize("shape", [(16, 64), (1, 64), (3, 40, 64), (40, 3, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_through_onednn_equals_the_plain_one(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(3)
    layer = torch.nn.Linear(64, 96, bias=bias).requires_grad_(False)
    rows = torch.randn(shape)
    rows = rows.transpose(0, 1) if len(shape) == 3 else rows
    expected = layer(rows)
    linear.use_onednn(layer)
    assert type(layer) is not torch.nn.Linear
    torch.testing.assert_close(layer(rows), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(linear.product(rows, layer.weight), expected - (layer.bias if bias else 0))


def test_layers_that_are_trained_narrow_or_rounded_are_left_alone() -> None:
    others = [torch.nn.Linear(64, 64), torch.nn.Linear(8, 64), torch.nn.Linear(64, 64, dtype=torch.bfloat16)]
    model = torch.nn.Sequential(*(layer.requires_grad_(i == 0) for i, layer in enumerate(others)))
    linear.use_onednn(model)
    assert all(type(layer) is torch.nn.Linear for layer in model)


@pytest.mark.parametrize("budget", [1, 10, 64, 10_000])
def test_packs_hold_every_text_once_and_are_full(budget: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 30, 200)
    cut = packs(lengths.tolist(), budget)
    assert sorted(np.concatenate(cut).tolist()) == list(range(200))
    assert all(len(b) == 1 or lengths[b].sum() <= budget for b in cut)
    assert all(lengths[a].sum() + lengths[b[0]] > budget for a, b in zip(cut, cut[1:], strict=False))


@pytest.mark.parametrize("kind", ["transformers", "openai"])
def test_a_reasoner_without_a_model_is_refused(kind: Any) -> None:
    with pytest.raises(SettingsError, match=r"knowledge\.model"):
        make_reasoner(KnowledgeSettings(reasoner=kind))
