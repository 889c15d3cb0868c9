"""Each family of models, tiny and random, against the untouched model reading and writing one text at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from unit.knowledge.knowledge_worlds import Build, log_rows
from unit.knowledge.tiny_models import CHAT, make

from core import Settings
from core.errors import SettingsError
from knowledge.reasoners.transformers import TransformersReasoner

FAMILIES = ["qwen", "llama", "glm", "bert"]
CAUSAL = FAMILIES[:3]
COMMON = "You study what people like on a platform with these scenarios: Home, Search. Red River and Blue Moon. "
TEXTS = [
    COMMON + tail for tail in ("x", "Green Fields", "", "White Noise, Golden Eye, Silver Lake and Iron Sky", "x y")
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=CAUSAL)
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(request.param, tmp_path_factory.mktemp(request.param))


def one_by_one(folder: Path, layer: int, pooling: str) -> np.ndarray:
    from transformers import AutoModel, AutoTokenizer

    words, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in TEXTS:
        with torch.no_grad():
            output = model(input_ids=torch.tensor([words(text)["input_ids"]]), output_hidden_states=True)
        states = (output.last_hidden_state if layer == -1 else output.hidden_states[layer])[0]
        rows.append((states.mean(0) if pooling == "mean" else states[-1]).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(("layer", "pooling"), [(-1, "mean"), (2, "mean"), (-1, "last"), (1, "last")])
@pytest.mark.parametrize("budget", [64, 100_000])
def test_batches_with_a_shared_prefix_equal_each_text_alone(
    family: tuple[str, Path], layer: int, pooling: Any, budget: int
) -> None:
    name, folder = family
    reasoner = TransformersReasoner(folder, layer=layer, pooling=pooling, batch_tokens=budget)
    assert reasoner.causal == (name != "bert")
    with torch.inference_mode():
        assert (reasoner.shared_prefix(reasoner.tokenize(TEXTS, cut=True)) is not None) == (name != "bert")
    np.testing.assert_allclose(reasoner.pooled(TEXTS), one_by_one(folder, layer, pooling), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("layer", "pooling"), [(-1, "mean"), (2, "last")])
@pytest.mark.parametrize("budget", [64, 100_000])
def test_packed_texts_equal_each_text_alone(family: tuple[str, Path], layer: int, pooling: Any, budget: int) -> None:
    _, folder = family
    reasoner = TransformersReasoner(folder, layer=layer, pooling=pooling, batch_tokens=budget, packed=True)
    assert reasoner.packs
    np.testing.assert_allclose(reasoner.pooled(TEXTS), one_by_one(folder, layer, pooling), atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_kernel_for_packed_texts_says_what_padded_batches_say(family: tuple[str, Path]) -> None:
    _, folder = family
    packed, padded = (TransformersReasoner(folder, device="cuda", dtype="bfloat16", packed=p) for p in (None, False))
    assert (packed.packs, padded.packs) == (True, False)
    expected = one_by_one(folder, -1, "mean")
    for reasoner in (packed, padded):
        assert np.abs(reasoner.pooled(TEXTS) - expected).max() < 0.1 * expected.std()


def test_a_model_that_cannot_be_packed_is_padded(tmp_path: Path) -> None:
    folder = make("qwen", tmp_path, use_sliding_window=True, sliding_window=2, max_window_layers=0)
    reasoner = TransformersReasoner(folder, packed=True)
    assert not reasoner.packs
    np.testing.assert_allclose(reasoner.pooled(TEXTS), one_by_one(folder, -1, "mean"), atol=1e-5, rtol=0)


def test_an_offloaded_model_and_one_in_half_precision_say_the_same(family: tuple[str, Path]) -> None:
    _, folder = family
    expected = one_by_one(folder, -1, "mean")
    spread = TransformersReasoner(folder, device="auto")
    accelerate.cpu_offload(spread.model, execution_device=torch.device("cpu"))
    assert {weight.device.type for weight in spread.model.parameters()} == {"meta"}  # each is loaded when it is used
    np.testing.assert_allclose(spread.pooled(TEXTS), expected, atol=1e-5, rtol=0)
    half = TransformersReasoner(folder, dtype="bfloat16").pooled(TEXTS)
    assert 0 < np.abs(half - expected).max() < 0.1 * expected.std()


def test_layers_above_the_one_asked_for_are_not_loaded(family: tuple[str, Path]) -> None:
    _, folder = family
    whole, cut = (TransformersReasoner(folder, layer=layer) for layer in (-1, 1))
    kept = [sum(isinstance(m, torch.nn.Linear) for m in reasoner.model.modules()) for reasoner in (whole, cut)]
    assert cut.model.config.num_hidden_layers == 1
    assert 0 < kept[1] <= kept[0] / 2


def written_one_by_one(folder: Path, pooling: str, most: int) -> tuple[np.ndarray, list[list[int]]]:
    """The library's own greedy decoding, and the states of the whole sequence read anew."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    vectors, answers = [], []
    for text in TEXTS:
        ids = torch.tensor([words(text)["input_ids"]])
        with torch.no_grad():
            whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False)
            answer = [token for token in whole[0, ids.shape[1] :].tolist() if token != 3]
            states = model.base_model(input_ids=whole).last_hidden_state[0]
        drawn = states[ids.shape[1] - 1 : ids.shape[1] - 1 + max(1, len(answer))]
        vectors.append((drawn.mean(0) if pooling == "mean" else drawn[-1]).numpy())
        answers.append(answer)
    return np.stack(vectors), answers


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_answers_in_batches_equal_each_written_alone(writer: Path, pooling: Any) -> None:
    generator = TransformersReasoner(writer, pooling=pooling, generates=True).answering(12, chat=True)
    vectors, answers = generator.pooled(TEXTS)
    expected, tokens = written_one_by_one(writer, pooling, 12)
    assert answers == [generator._reasoner.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in tokens]
    assert len(set(answers)) > 1
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


def test_an_answer_ends_where_the_model_ends_it(writer: Path) -> None:
    reasoner = TransformersReasoner(writer, generates=True)
    free = reasoner.answering(6, chat=False)
    ids = reasoner.tokenize(TEXTS[:1], cut=True)
    with torch.inference_mode():
        _, [answer] = free._write(ids, None)
        reasoner.model.generation_config.eos_token_id = answer[2]
        _, [ended] = reasoner.answering(6, chat=False)._write(ids, None)
    assert ended == answer[: answer.index(answer[2])]


def test_a_prompt_inside_a_chat_template_can_spell_no_special_token(writer: Path) -> None:
    reasoner = TransformersReasoner(writer, generates=True)
    plain = reasoner.answering(4, chat=True)
    reasoner.tokenizer.chat_template = CHAT
    framed = reasoner.answering(4, chat=True)
    [row] = framed._rows(["Red [SEP] River"], cut=True)
    assert (row[0], row[-2], row[-1]) == (2, 3, 2)
    assert not {2, 3} & set(row[1:-2])
    assert len({reasoner.identity, plain.identity, framed.identity, reasoner.answering(5, chat=True).identity}) == 4


def test_a_mid_layer_of_a_writing_model_equals_the_truncated_one(writer: Path) -> None:
    whole, cut = (TransformersReasoner(writer, layer=2, generates=g) for g in (True, False))
    np.testing.assert_allclose(whole.pooled(TEXTS), cut.pooled(TEXTS), atol=1e-5, rtol=0)
    assert whole.identity == cut.identity


def test_an_encoder_that_is_to_write_is_refused(tmp_path: Path) -> None:
    folder = make("bert", tmp_path)
    with pytest.raises(SettingsError, match=r"knowledge\.(generate|model)"):
        TransformersReasoner(folder, generates=True).answering(4, chat=True)


def test_answers_become_the_users_text_and_are_kept(build: Build, settings: Settings, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    folder = make("llama", tmp_path / "model")
    knowledge = settings.knowledge.model_dump() | {"model": str(folder), "prompt_users": 3}
    knowledge["generate"] = {"max_new_tokens": 5}
    asked = Settings(knowledge=knowledge)
    first, built = build(log_rows(), settings=asked)
    texts = pq.read_table(first / "user_text").to_pylist()
    sources = {row["user_id"]: row["text_source"] for row in texts}
    assert sorted(sources.values()) == ["generated"] * 3 + ["summary"] * 3
    assert {row["version"] for row in texts if row["text_source"] == "generated"} == {built.versions["prompt"]}
    assert all(row["text"] for row in texts)
    again, _ = build(log_rows(), settings=asked)
    assert pq.read_table(again / "user_text") == pq.read_table(first / "user_text")
    _, silent = build(log_rows(), settings=Settings(knowledge=knowledge | {"generate": None}))
    assert silent.versions["prompt"] != built.versions["prompt"]
    assert silent.versions["pooled"] == built.versions["pooled"]
