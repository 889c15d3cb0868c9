"""Loading a frozen model and its tokenizer from a folder, the local model cache or a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from core.digest import sha256_json
from core.errors import SettingsError
from knowledge.reasoners.folder import folder_digest


def load(
    name: str, revision: str | None, dtype: torch.dtype, layer: int, generates: bool, device: str
) -> tuple[Any, Any, torch.nn.Module | None]:
    """Tokenizer, model and the layer to listen to (None: the model's own last state).

    Layers above the one asked for are neither loaded nor run, unless the model must write answers. `device` may be
    `auto`: the layers are spread over what there is.

    Raises:
        SettingsError: the model cannot be loaded, lacks the layer, or cannot write where it must.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    place: dict[str, Any] = {"device_map": "auto"} if device == "auto" else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        config = AutoConfig.from_pretrained(name, revision=revision)
        if getattr(config, "is_encoder_decoder", False):
            raise SettingsError(f"knowledge.model {name!r} is an encoder-decoder; use a causal model or an encoder")
        count = int(config.num_hidden_layers)
        wanted = _wanted(layer, count, name)
        if not generates:
            _truncate(config, wanted)
        family = AutoModelForCausalLM if generates else AutoModel
        model = family.from_pretrained(name, revision=revision, config=config, dtype=dtype, **place)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SettingsError(
            f"knowledge.model {name!r} cannot be loaded: {first}; give a folder with config, weights and tokenizer"
        ) from error
    # A title that spells "<|im_end|>" or "[SEP]" must not become that token.
    tokenizer.split_special_tokens = True
    model = model.eval().requires_grad_(False)
    if device != "auto":
        model = model.to(torch.device(device))
    return tokenizer, model, None if wanted == count else _layer(model, wanted, count if generates else wanted, name)


def model_digest(name: str, config: Any) -> str:
    """Hash of a folder's files, or of a hub's name and commit."""
    folder = Path(name)
    if not folder.is_dir():
        return sha256_json({"name": name, "commit": getattr(config, "_commit_hash", None)})
    return folder_digest(folder)


def _wanted(layer: int, count: int, name: str) -> int:
    wanted = layer if layer >= 0 else count + 1 + layer
    if not 1 <= wanted <= count:
        raise SettingsError(f"knowledge.layer is {layer}; {name} has layers 1 to {count} (or -1 to -{count})")
    return wanted


def _truncate(config: Any, wanted: int) -> None:
    """Make it the config of the first `wanted` layers."""
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:wanted]
    config.num_hidden_layers = wanted


def _layer(model: Any, wanted: int, count: int, name: str) -> torch.nn.Module:
    stacks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    if not stacks:
        raise SettingsError(f"knowledge.layer: the layers of {name} were not found; use -1")
    return stacks[0][wanted - 1]
