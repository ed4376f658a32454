"""A hash that tells one model from another, and from itself after training."""

from __future__ import annotations

import hashlib
import json

import torch

from lco_embedding.model import LCOEmbedding


def fingerprint(model: LCOEmbedding) -> str:
    """Return a hash of what decides the embeddings: every weight, the chat template and the settings."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        if not value.is_meta:
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    processor = model.omni.processor
    rest = [processor.chat_template, model.omni.processing_kwargs, model.prompts, model.truncate_dim]
    digest.update(json.dumps(rest, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:40]
