"""The hash of a model follows all that changes its embeddings, and nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from lco_embedding import LCOEmbedding
from lco_embedding.evaluation.fingerprint import fingerprint


def change_tokenizer(model: LCOEmbedding) -> None:
    model.tokenizer.add_tokens(["circle"])


CHANGES: dict[str, Callable[[LCOEmbedding], Any]] = {
    "max_seq_length": lambda model: setattr(model, "max_seq_length", 40),
    "tokenizer": change_tokenizer,
    "chat template": lambda model: setattr(model.processor, "chat_template", model.processor.chat_template + " "),
    "image processor": lambda model: setattr(model.processor.image_processor, "image_mean", [0.1, 0.2, 0.3]),
    "architecture": lambda model: setattr(model.omni.config.get_text_config(), "rms_norm_eps", 0.5),
    "normalisation": lambda model: model._modules.popitem(),
    "pooling": lambda model: setattr(model[1], "include_prompt", False),
    "truncate_dim": lambda model: setattr(model, "truncate_dim", 8),
    "prompts": lambda model: model.prompts.update(query="Find: "),
    "default prompt": lambda model: setattr(model, "default_prompt_name", "query"),
    "dtype": lambda model: model.to(torch.bfloat16),
    "settings": lambda model: model.omni.processing_kwargs.setdefault("text", {}).update(max_length=3),
    "similarity": lambda model: setattr(model, "similarity_fn_name", "dot"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_revision_follows_whatever_changes_embeddings(change: str, shared_model: LCOEmbedding) -> None:
    model = copy.deepcopy(shared_model)
    revision = fingerprint(model)
    model.encode(["a red circle"])
    assert fingerprint(model) == revision, "using a model changes it"
    CHANGES[change](model)
    assert fingerprint(model) != revision


def test_the_revision_of_what_is_saved_is_that_of_the_model(shared_model: LCOEmbedding, tmp_path: Path) -> None:
    shared_model.save_pretrained(tmp_path, create_model_card=False)
    loaded = LCOEmbedding(tmp_path, device="cpu")
    assert fingerprint(loaded) == fingerprint(shared_model)
    loaded.save_pretrained(tmp_path / "again", create_model_card=False)
    assert fingerprint(LCOEmbedding(tmp_path / "again", device="cpu")) == fingerprint(shared_model)


def test_the_revision_follows_the_scale_of_an_adapter(thinker: Path, tmp_path: Path) -> None:
    model = LCOEmbedding(thinker, device="cpu")
    targets = model.omni.backbone.lora_targets
    model.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=targets, init_lora_weights=False))
    model.save_pretrained(tmp_path)
    revisions = []
    for alpha in (8, 64, 8):
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": alpha}))
        revisions.append(fingerprint(LCOEmbedding(tmp_path, device="cpu")))
    assert revisions[0] == revisions[2] != revisions[1]
