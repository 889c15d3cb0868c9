"""Knowledge speed: the reasoner's batches against a plain batch-of-one loop, and a refresh against a full run.

    python -m benchmarks.knowledge [--quick] [--threads N]

The packaged MiniLM reads item titles of the shipped sample (cut to 20 tokens) and user prompts of 250 tokens; the
reference is the loop that most research code has: tokenise one text, run the model, mean over its states. Same model,
texts and threads; ours multiplies by oneDNN where that is faster, which is part of what is compared. Both are given in tokens per second of wall time and, ending in `_cpu`, of the process's CPU time, which other work
on the machine disturbs less; `share_of_matmul` is the rate of the model's linear operations over the machine's
matrix-product rate of the same moment. A refresh reads the prompts of 1 % changed users through the cache, against all
users through an empty one. `plan_factor` is what `llm4msr knowledge plan` would foretell for a run of texts over
what it took. Loading the model is left out. On CUDA, the figures of `prefill.py` follow.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.csv as pacsv

from benchmarks import prefill
from benchmarks.harness import Figure, arguments, figure, finish, in_turn, in_turn_many, peak_mib
from core import configure

if TYPE_CHECKING:
    from knowledge.reasoners.transformers import TransformersReasoner

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "ml-latest-small" / "movies.csv"
TITLE_TOKENS, PROMPT_TOKENS = 20, 250


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; all cores without it")
    parser.add_argument("--users", type=int, default=None, help="of the refresh; 20,000 without it, 400 with --quick")
    options = parser.parse_args()
    configure(level="WARNING")
    import torch

    from knowledge.reasoners.minilm import minilm

    if options.threads:
        torch.set_num_threads(options.threads)
    reasoner = minilm()
    print(f"{torch.get_num_threads()} threads; loading the model is left out", flush=True)
    titles = item_texts(reasoner, 400 if options.quick else 2000)
    prompts = user_prompts(reasoner, titles, 24 if options.quick else 96)
    figures = [
        *speed(reasoner, "title", titles, target=3.0),
        *speed(reasoner, "prompt", prompts, target=1.1),
        foretold(reasoner, [*titles, *prompts]),
        *refresh(reasoner, titles, options.users or (400 if options.quick else 20_000)),
        *(prefill.chatglm2(options.quick) if torch.cuda.is_available() else []),
        figure("peak_memory", "MiB", peak_mib()),
    ]
    finish("knowledge", figures, options.quick)


def item_texts(reasoner: TransformersReasoner, count: int) -> list[str]:
    """Titles of the shipped sample, made to hold TITLE_TOKENS tokens each."""
    names = pacsv.read_csv(SAMPLE).column("title").to_pylist()
    return [_of_length(reasoner, [names[i], *names[i + 1 :: 7]], TITLE_TOKENS) for i in range(count)]


def user_prompts(reasoner: TransformersReasoner, titles: Sequence[str], count: int) -> list[str]:
    """Texts of PROMPT_TOKENS tokens with a common beginning, like a user's."""
    head = "You study what people like on a platform with these scenarios: home, search. Liked, newest first:"
    return [_of_length(reasoner, [head, *titles[i : i + 60]], PROMPT_TOKENS) for i in range(count)]


def speed(reasoner: TransformersReasoner, name: str, texts: Sequence[str], target: float) -> list[Figure]:
    """Tokens per second of both ways, and the share of the matrix-product rate."""
    import torch
    from transformers import AutoModel

    from knowledge.plan import architecture_from_config, matrix_rate
    from knowledge.reasoners.minilm import model_folder

    model, tokenizer = AutoModel.from_pretrained(model_folder()).eval(), reasoner.tokenizer
    architecture = architecture_from_config(model.config)
    few = texts[: max(8, len(texts) // 8)]

    def one_by_one() -> None:
        with torch.inference_mode():
            for text in few:
                ids = tokenizer(text, return_tensors="pt")
                _ = model(**ids).last_hidden_state.mean(dim=1).numpy()

    found = in_turn_many(
        {
            "ours": lambda: _timed(lambda: reasoner.encode(texts), _tokens(reasoner, texts)),
            "reference": lambda: _timed(one_by_one, _tokens(reasoner, few)),
            "matmul": lambda: {"flops": matrix_rate("cpu", "float32")},
        }
    )
    ours, reference = found["ours"], found["reference"]
    linear = architecture.flops(np.full(1, len(texts[0]) and _tokens(reasoner, texts) // len(texts)))
    per_token = linear / (_tokens(reasoner, texts) // len(texts))
    unit = "tokens/s"
    return [
        figure(f"{name}_tokens_per_s", unit, ours["wall"], reference["wall"], target=target),
        figure(f"{name}_tokens_per_s_cpu", unit, ours["cpu"], reference["cpu"]),
        figure(f"{name}s_per_s", "texts/s", ours["wall"] * len(texts) / _tokens(reasoner, texts)),
        figure(f"{name}_share_of_matmul", "FLOP/s", ours["wall"] * per_token, found["matmul"]["flops"]),
    ]


def foretold(reasoner: TransformersReasoner, texts: Sequence[str]) -> Figure:
    """What a plan would foretell for reading these texts, from every eighth of them, over what reading them takes."""
    from knowledge.plan import architecture_from_config, matrix_rate, short_run

    architecture = architecture_from_config(reasoner.model.config)
    lengths = np.minimum(reasoner.tokens(texts), reasoner.max_tokens)

    def measure() -> float:
        rate = matrix_rate("cpu", "float32")
        share = short_run(reasoner, texts[::8], architecture, rate).share
        begin = time.perf_counter()
        reasoner.encode(texts)
        return architecture.flops(lengths) / (rate * share) / (time.perf_counter() - begin)

    factor = in_turn({"plan": measure})["plan"]
    return figure("plan_factor", "foretold/taken", max(factor, 1 / factor), target=1.5, bound="at_most", of="ours")


def refresh(reasoner: TransformersReasoner, titles: Sequence[str], users: int) -> list[Figure]:
    """Seconds to read 1 % changed users beside all others, against all users. Users have prompts of TITLE_TOKENS tokens."""
    from knowledge.storage.cache import Cache

    texts = [f"{titles[i % len(titles)]} {i}" for i in range(users)]

    def measure() -> Mapping[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            full = _seconds(lambda: Cache(Path(folder), reasoner).encode(texts))
            changed = [f"{text} new" if i % 100 == 0 else text for i, text in enumerate(texts)]
            again = _seconds(lambda: Cache(Path(folder), reasoner).encode(changed))
        return {"full": full, "again": again}

    # Minutes of work: one round of many shards is an average already.
    found = measure() if users > 1000 else in_turn_many({"refresh": measure})["refresh"]
    return [figure("refresh_1pct", "s of CPU", found["again"], found["full"], target=0.03, bound="at_most")]


def _timed(work: Callable[[], object], tokens: int) -> Mapping[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": tokens / (time.perf_counter() - wall), "cpu": tokens / (time.process_time() - cpu)}


def _seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _tokens(reasoner: TransformersReasoner, texts: Sequence[str]) -> int:
    return int(np.minimum(reasoner.tokens(texts), reasoner.max_tokens).sum())


def _of_length(reasoner: TransformersReasoner, parts: Sequence[str], tokens: int) -> str:
    """Parts one after the other, cut to so many tokens, special ones counted."""
    tokenizer = reasoner.tokenizer
    ids = tokenizer(". ".join(parts), add_special_tokens=False, truncation=True, max_length=tokens - 2)["input_ids"]
    return str(tokenizer.decode(ids))


if __name__ == "__main__":
    main()
