"""Tiny models with random weights, of each family, and a tokenizer trained on the tests' words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from unit.knowledge.knowledge_worlds import CORPUS

CHAT = (
    "{% for m in messages %}[CLS]user {{ m['content'] }}[SEP]{% endfor %}{% if add_generation_prompt %}[CLS]{% endif %}"
)


def tokenizer(folder: Path) -> None:
    """A small byte-pair tokenizer, trained here, with BERT's special tokens."""
    body = Tokenizer(models.BPE(unk_token="[UNK]"))
    body.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    body.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=200, special_tokens=special))
    body.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=body, **names).save_pretrained(folder)


def make(family: str, folder: Path, **options: Any) -> Path:
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
        model(config(**shape, **ends, **options)).save_pretrained(folder)
    tokenizer(folder)
    return folder
