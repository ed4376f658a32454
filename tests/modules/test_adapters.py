"""Adapters against PEFT's own models: loaded, merged, saved again and put back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from lco_embedding import LCOEmbedding
from lco_embedding.modules.adapters import merge_lora, put_weights
from tests.conftest import noise

WEIGHTS = "adapter_model.safetensors"

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "towers": {"modules_to_save": ["visual", "audio_tower"]},
    "norms": {"modules_to_save": ["input_layernorm", "language_model.norm"]},
    "embeddings": {"modules_to_save": ["embed_tokens"]},
    "full names": {
        "rank_pattern": {"PREFIXlanguage_model.layers.0.self_attn.q_proj": 2, "PREFIXlanguage_model.layers.1.mlp": 3},
        "alpha_pattern": {"PREFIXlanguage_model.layers.0.self_attn.q_proj": 64, "^PREFIXlanguage_model.*v_proj": 1},
    },
    "short names": {"rank_pattern": {"k_proj": 1, r"layers\.1\..*": 6}, "alpha_pattern": {"0.mlp.up_proj": 50}},
    "rslora": {"use_rslora": True, "rank_pattern": {"q_proj": 9}},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "all biases": {"bias": "all"},
    "biases of layers": {"bias": "lora_only"},
    "biases of LoRA": {"lora_bias": True},
    "some layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "excluded": {"target_modules": "all-linear", "exclude_modules": r".*(layers\.0\.self_attn|visual).*"},
    "LoRA of embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
}
"""Settings of LoRA that decide where its weights go, and with what scale."""


CASES = [(form, *(("part", "bfloat16") if n % 2 else ("whole", "float32"))) for n, form in enumerate(FORMS)]
CASES += [("towers", "whole", "float32"), ("full names", "part", "bfloat16")]


@pytest.fixture(scope="module")
def base(thinker: Path) -> Callable[[str], LCOEmbedding]:
    """Return a function that gives a copy of the base in a dtype."""
    loaded = {
        dtype: LCOEmbedding(thinker, device="cpu", model_kwargs={"dtype": dtype}) for dtype in ("float32", "bfloat16")
    }
    return lambda dtype: copy.deepcopy(loaded[dtype])


def part_of(model: LCOEmbedding, on: str) -> Any:
    """Return what an adapter is trained on: the part that embeds, or the generation class around it."""
    return model.omni.model if on == "part" else model.omni.generation_model()


def train_with_peft(model: LCOEmbedding, folder: Path, on: str, settings: dict[str, Any]) -> None:
    """Write an adapter of random weights with PEFT."""
    prefix = "" if on == "part" else "model."
    options: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": model.omni.backbone.lora_targets, **settings}
    for key in ("rank_pattern", "alpha_pattern"):
        options[key] = {name.replace("PREFIX", prefix): value for name, value in settings.get(key, {}).items()}
    tuned = get_peft_model(part_of(model, on), LoraConfig(**options))
    generator = torch.Generator().manual_seed(0)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    tuned.save_pretrained(folder)


def embed(model: LCOEmbedding) -> NDArray[np.float32]:
    return model.encode(["a red circle", {"image": noise(56, 56, 3)}])


@pytest.mark.parametrize(("form", "on", "dtype"), CASES)
def test_an_adapter_is_what_it_is_in_peft(
    form: str, on: str, dtype: str, base: Callable[[str], LCOEmbedding], tmp_path: Path
) -> None:
    train_with_peft(base(dtype), tmp_path, on, FORMS[form])
    reference = base(dtype)
    # PEFT puts its layers into the model that it is given.
    peft = PeftModel.from_pretrained(part_of(reference, on), tmp_path)
    expected = embed(reference)
    assert np.abs(expected - embed(base(dtype))).max() > 1e-2, "the adapter changes nothing"
    loaded = LCOEmbedding(tmp_path, device="cpu", model_kwargs={"dtype": dtype})
    np.testing.assert_array_equal(embed(loaded), expected)
    assert {p.dtype for name, p in loaded.named_parameters() if ".lora_" in name} == {torch.float32}
    if form == "biases of LoRA":
        return  # which PEFT merges only into layers that have a bias
    peft.merge_and_unload(safe_merge=True)
    merge_lora(loaded.omni.model)
    found, merged = loaded.omni.model.state_dict(), reference.omni.model.state_dict()
    assert found.keys() == merged.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("form", ["towers", "full names", "all biases"])
def test_what_we_save_is_the_same_to_peft_and_when_put_back(
    form: str, base: Callable[[str], LCOEmbedding], tmp_path: Path
) -> None:
    train_with_peft(base("float32"), tmp_path / "adapter", "whole", FORMS[form])
    loaded = LCOEmbedding(tmp_path / "adapter", device="cpu")
    expected = embed(loaded)
    loaded.save_pretrained(tmp_path / "again", create_model_card=False)
    by_peft = base("float32")
    PeftModel.from_pretrained(by_peft.omni.model, tmp_path / "again")
    np.testing.assert_array_equal(embed(by_peft), expected)
    weights = load_file(tmp_path / "again" / WEIGHTS)
    for name, parameter in loaded.named_parameters():
        if ".lora_" in name or ".modules_to_save." in name or (form == "all biases" and name.endswith(".bias")):
            parameter.data += 1
    assert np.abs(embed(loaded) - expected).max() > 1e-2
    put_weights(loaded.omni.model, weights, "again")
    np.testing.assert_array_equal(embed(loaded), expected)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"modules_to_save": ["lm_head"]}, r"the language head \(base_model.model.lm_head.weight\)"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices, which is not supported"),
    ],
)
def test_what_an_embedding_model_can_not_hold_is_named(
    settings: dict[str, Any], reason: str, base: Callable[[str], LCOEmbedding], tmp_path: Path
) -> None:
    train_with_peft(base("float32"), tmp_path, "whole", settings)
    with pytest.raises(ValueError, match=reason) as caught:
        LCOEmbedding(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_tower_that_is_not_loaded_is_not_taken_for_the_decoder(
    base: Callable[[str], LCOEmbedding], tmp_path: Path
) -> None:
    train_with_peft(base("float32"), tmp_path, "part", {"target_modules": r"audio_tower\.layers\.0\.self_attn\.q_proj"})
    with pytest.raises(ValueError, match=r"audio_tower.*are its towers not loaded"):
        LCOEmbedding(tmp_path, device="cpu", model_kwargs={"load_towers": False})


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_that_do_not_fit_are_named(change: str, base: Callable[[str], LCOEmbedding], tmp_path: Path) -> None:
    train_with_peft(base("float32"), tmp_path, "part", {"modules_to_save": ["visual"]})
    weights = load_file(tmp_path / WEIGHTS)
    name = next(key for key in weights if ("visual" in key) == (change == "missing"))
    tensor = weights.pop(name)
    save_file({**weights, name: tensor[:1].contiguous()} if change == "shape" else weights, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="does not fit") as caught:
        LCOEmbedding(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)
    assert "visual" in str(caught.value) or "lora_A" in str(caught.value)
