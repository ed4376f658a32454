"""A hash that tells one model from another, and from itself after training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from lco_embedding.model import LCOEmbedding

NOT_EMBEDDING = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
"""Keys of a configuration that do not change embeddings; the dtype of each weight is told by the weight."""


def fingerprint(model: LCOEmbedding) -> str:
    """Return a hash of what decides the embeddings and their similarity.

    That is every weight with its dtype; the scale of adapters; the architecture; the tokenizer with its limit of
    tokens, and how media are processed; the chat template, prompts and settings; pooling and all later modules.
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        if not value.is_meta:
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    processor, omni = model.omni.processor, model.omni
    tokenizer = json.loads(omni.tokenizer.backend_tokenizer.to_str())
    rest = {
        "adapters": {name: _settings_of(layer) for name, layer in _adapted(model)},
        "architecture": _without(omni.config.to_dict()),
        # What is cut off and padded is set anew in every call.
        "tokenizer": {key: value for key, value in tokenizer.items() if key not in ("truncation", "padding")},
        "limits": [omni.max_text_tokens, omni.tokenizer.padding_side],
        "processor": processor.to_dict(),
        "chat template": processor.chat_template,
        "settings": omni.processing_kwargs,
        "modules": [
            [type(module).__name__, module.get_config_dict() if hasattr(module, "get_config_dict") else None]
            for module in list(model)[1:]
        ],
        "prompts": [model.prompts, model.default_prompt_name],
        "truncate_dim": model.truncate_dim,
        "similarity": str(model.similarity_fn_name),
    }
    digest.update(json.dumps(rest, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:40]


def has_adapter(model: LCOEmbedding) -> bool:
    """Tell whether a model holds an adapter beside its own weights."""
    return bool(_adapted(model))


def _adapted(model: LCOEmbedding) -> list[tuple[str, BaseTunerLayer]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def _settings_of(layer: BaseTunerLayer) -> list[Any]:
    scaling = getattr(layer, "scaling", {})
    return [sorted(scaling.items()), list(layer.active_adapters), layer.disable_adapters, list(layer.merged_adapters)]


def _without(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in NOT_EMBEDDING
    }
