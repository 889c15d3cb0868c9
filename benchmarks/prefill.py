"""Reading and answering prompts with a large model of random weights: on a GPU, ChatGLM2-6B's shape; part of `knowledge`.

Speed depends on a model's shape, not on its weights. Prompts are unlike from their first token, so that nothing is shared and
every token is paid for. The references: the matrix-product rate of the same moment, and the loop that the paper's
authors ran, one `generate` per user. NOT RUN ON A GPU where this was written; a test runs the code on a tiny shape.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Figure, figure, in_turn_many

PROMPT_TOKENS, ANSWER_TOKENS, BATCH_TOKENS = 800, 200, 32_768
_LOOP_USERS = 20
# Published sizes of ChatGLM2-6B.
CHATGLM2: dict[str, Any] = {
    "vocab_size": 65_024,
    "hidden_size": 4096,
    "intermediate_size": 13_696,
    "num_hidden_layers": 28,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "attention_bias": True,
    "max_position_embeddings": 32_768,
}


def chatglm2(quick: bool) -> list[Figure]:
    """The figures at full size on CUDA; targets are an H200's."""
    users = 128 if quick else 1024
    return measured(CHATGLM2, "cuda", "bfloat16", users=users, target=51.0)


def measured(
    sizes: dict[str, Any],
    device: str,
    dtype: str,
    *,
    users: int,
    prompt: int = PROMPT_TOKENS,
    answer: int = ANSWER_TOKENS,
    loop_users: int = _LOOP_USERS,
    target: float | None = None,
) -> list[Figure]:
    """Users per second that are read, and that are answered, for a GLM of these sizes.

    Args:
        sizes: of a `GlmConfig`.
        device: where it runs.
        dtype: of its weights.
        users: prompts to read; a quarter of them is answered.
        prompt: tokens each.
        answer: tokens each.
        loop_users: prompts that the reference answers one by one.
        target: users per second to read.
    """
    from knowledge.plan import architecture_from_config, matrix_rate
    from knowledge.reasoners.transformers import TransformersReasoner

    with tempfile.TemporaryDirectory() as folder:
        _save(Path(folder), sizes, device, dtype)
        reasoner = TransformersReasoner(
            folder, device=device, dtype=dtype, max_tokens=prompt, batch_tokens=BATCH_TOKENS, generates=True
        )
        architecture = architecture_from_config(reasoner.model.config)
    texts = _prompts(reasoner, users, prompt)
    generator = reasoner.answering(answer, chat=False)
    answered = texts[: max(1, users // 4)]
    reasoner.encode(texts[: max(1, users // 8)])

    def read() -> dict[str, float]:
        return {"users": len(texts) / _seconds(lambda: reasoner.encode(texts))}

    def write() -> dict[str, float]:
        return {"users": len(answered) / _seconds(lambda: generator.encode(answered))}

    found = in_turn_many({"read": read, "write": write, "matmul": lambda: {"flops": matrix_rate(device, dtype)}})
    # Minutes of work, and even: a single round.
    loop = loop_users / _seconds(lambda: _one_by_one(reasoner, texts[:loop_users], prompt, answer))
    read_users, write_users = found["read"]["users"], found["write"]["users"]
    work = architecture.flops(np.array([prompt])) * read_users
    print(f"read in {'packs' if reasoner.packs else 'padded batches'} of up to {BATCH_TOKENS} tokens", flush=True)
    return [
        figure("prefill_users_per_s", "users/s", read_users, loop, target=target, of="ours"),
        figure("prefill_tokens_per_s", "tokens/s", read_users * prompt),
        figure("prefill_share_of_matmul", "FLOP/s", work, found["matmul"]["flops"], target=0.6),
        figure("answered_users_per_s", "users/s", write_users, loop),
    ]


def _save(folder: Path, sizes: dict[str, Any], device: str, dtype: str) -> None:
    """Random weights, and the packaged encoder's tokenizer: its ids are below every vocabulary used here."""
    import torch
    from transformers import AutoTokenizer, GlmConfig, GlmForCausalLM

    from knowledge.reasoners.minilm import model_folder

    torch.manual_seed(1)
    config = GlmConfig(**{"pad_token_id": 0, "eos_token_id": None, "bos_token_id": None, **sizes})
    with torch.device(device):
        model = GlmForCausalLM._from_config(config, dtype=getattr(torch, dtype))
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder()).save_pretrained(folder)


def _prompts(reasoner: Any, users: int, tokens: int) -> list[str]:
    """Texts of random words, each one token long, that begin differently."""
    words = [word for word in reasoner.tokenizer.get_vocab() if word.isascii() and word.isalpha() and len(word) > 3]
    words = sorted(words)[:5000]
    draw = np.random.default_rng(7).integers(0, len(words), (users, tokens))
    return [" ".join(words[i] for i in row) for row in draw]


def _one_by_one(reasoner: Any, texts: Sequence[str], prompt: int, answer: int) -> None:
    import torch

    with torch.inference_mode():
        for text in texts:
            ids = reasoner.tokenizer(text, return_tensors="pt", truncation=True, max_length=prompt)["input_ids"]
            ids = ids.to(reasoner.device)
            reasoner.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=answer,
                min_new_tokens=answer,
                do_sample=False,
                output_hidden_states=True,
                return_dict_in_generate=True,
            )


def _seconds(work: Any) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
