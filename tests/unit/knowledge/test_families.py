"""Each family of models, tiny and random, against the untouched model reading and writing one text at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tokenizer
from knowledge_worlds import Build, log_rows

from core import Settings
from core.errors import SettingsError
from knowledge.reasoners.transformers import TransformersReasoner

FAMILIES = ["qwen", "llama", "glm", "bert"]
CAUSAL = FAMILIES[:3]
COMMON = "You study what people like on a platform with these scenarios: Home, Search. Red River and Blue Moon. "
TEXTS = [
    COMMON + tail for tail in ("x", "Green Fields", "", "White Noise, Golden Eye, Silver Lake and Iron Sky", "x y")
]
CHAT = (
    "{% for m in messages %}[CLS]user {{ m['content'] }}[SEP]{% endfor %}{% if add_generation_prompt %}[CLS]{% endif %}"
)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=CAUSAL)
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(request.param, tmp_path_factory.mktemp(request.param))


def make(family: str, folder: Path) -> Path:
    from transformers import (
        BertConfig,
        BertModel,
        GlmConfig,
        GlmForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    torch.manual_seed(5)
    shape: dict[str, Any] = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    shape |= {"intermediate_size": 48, "max_position_embeddings": 4096, "pad_token_id": 0, "initializer_range": 0.3}
    ends = {"eos_token_id": 3, "bos_token_id": 2, "num_key_value_heads": 2, "head_dim": 8}
    if family == "bert":
        BertModel(BertConfig(**shape)).save_pretrained(folder)
    else:
        kinds: dict[str, Any] = {
            "qwen": (Qwen3Config, Qwen3ForCausalLM),
            "llama": (LlamaConfig, LlamaForCausalLM),
            "glm": (GlmConfig, GlmForCausalLM),
        }
        config, model = kinds[family]
        model(config(**shape, **ends)).save_pretrained(folder)
    tokenizer(folder)
    return folder


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
    thinker = TransformersReasoner(writer, pooling=pooling, generates=True).answering(12, chat=True)
    vectors, answers = thinker.pooled(TEXTS)
    expected, tokens = written_one_by_one(writer, pooling, 12)
    assert answers == [thinker._reasoner.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in tokens]
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
    texts = pq.read_table(first / "user_text.parquet").to_pylist()
    sources = {row["user_id"]: row["text_source"] for row in texts}
    assert sorted(sources.values()) == ["generated"] * 3 + ["summary"] * 3
    assert {row["version"] for row in texts if row["text_source"] == "generated"} == {built.versions["prompt"]}
    assert all(row["text"] for row in texts)
    again, _ = build(log_rows(), settings=asked)
    assert (again / "user_text.parquet").read_bytes() == (first / "user_text.parquet").read_bytes()
    _, silent = build(log_rows(), settings=Settings(knowledge=knowledge | {"generate": None}))
    assert silent.versions["prompt"] != built.versions["prompt"]
    assert silent.versions["pooled"] == built.versions["pooled"]
