from __future__ import annotations

from benchmarks.prefill import CHATGLM2, measured
from knowledge.plan import ARCHITECTURES, architecture_from_config


def test_the_part_for_a_gpu_runs_on_a_tiny_shape():
    tiny = {**CHATGLM2, "vocab_size": 30_522, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    tiny |= {"num_attention_heads": 4, "head_dim": 8}
    found = measured(tiny, "cpu", "float32", users=8, prompt=40, answer=3, loop_users=2)
    assert [one.name for one in found] == [
        "prefill_users_per_s",
        "prefill_tokens_per_s",
        "prefill_share_of_matmul",
        "answered_users_per_s",
    ]
    assert all(one.ours > 0 for one in found)
    assert found[1].ours == found[0].ours * 40


def test_the_full_size_is_chatglm2s():
    from transformers import GlmConfig

    architecture = architecture_from_config(GlmConfig(**{**CHATGLM2, "pad_token_id": 0}))
    assert abs(architecture.linear / ARCHITECTURES["chatglm2-6b"].linear - 1) < 0.01
    assert (architecture.layers, architecture.attention, architecture.causal) == (28, 4096, True)
