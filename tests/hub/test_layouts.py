"""The layouts: the same embeddings whatever the weights are called, in the loaders that each is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2_5OmniThinkerModel,
)

from lco_embedding import LCOEmbedding
from lco_embedding.hub import export
from tests.conftest import mixed_inputs

IDS = torch.arange(10)[None]


@pytest.fixture(scope="module")
def untied(checkpoints: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a language head of its own."""
    folder = tmp_path_factory.mktemp("untied") / "untied"
    LCOEmbedding(checkpoints("full_omni"), device="cpu").save_pretrained(folder)
    return folder


def load_whole(folder: Path) -> Qwen2_5OmniForConditionalGeneration:
    """Load a whole model, whose class reads a pickle of voices even if it has no talker, which we do not write."""
    with pytest.raises(OSError, match=r"spk_dict\.pt"):
        Qwen2_5OmniForConditionalGeneration.from_pretrained(folder)
    voices = folder / "spk_dict.pt"
    torch.save({}, voices)
    model = Qwen2_5OmniForConditionalGeneration.from_pretrained(folder)
    voices.unlink()
    assert not model.has_talker
    return model


@pytest.mark.parametrize("source", ["plain", "untied"])
def test_omni_and_back(source: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder: Path = request.getfixturevalue(source)
    omni = export(folder, tmp_path / "omni", "omni")
    config = json.loads((omni / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5OmniForConditionalGeneration"]
    assert config["model_type"] == "qwen2_5_omni"
    assert config["enable_audio_output"] is False
    assert all(name.startswith("thinker.") for name in load_file(omni / "model.safetensors"))
    inputs = mixed_inputs()
    expected = LCOEmbedding(folder, device="cpu").encode(inputs)
    np.testing.assert_allclose(LCOEmbedding(omni, device="cpu").encode(inputs), expected, atol=1e-6)
    whole = load_whole(omni)
    part = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder)
    with torch.inference_mode():
        assert torch.equal(whole.thinker(input_ids=IDS).logits, part(input_ids=IDS).logits)
    back = export(omni, tmp_path / "back", "thinker")
    assert json.loads((back / "config.json").read_text())["architectures"] == [type(part).__name__]
    weights = load_file(back / "model.safetensors")
    assert weights.keys() == load_file(folder / "model.safetensors").keys()
    np.testing.assert_allclose(LCOEmbedding(back, device="cpu").encode(inputs), expected, atol=1e-6)


def test_names_are_those_of_the_whole_qwen(untied: Path, checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    """What we write is what transformers writes for a whole Qwen2.5-Omni, which serving engines read."""
    raw = load_file(checkpoints("full_omni") / "model.safetensors")
    ours = load_file(export(untied, tmp_path / "omni", "omni") / "model.safetensors")
    assert ours.keys() == {name for name in raw if name.startswith("thinker.")}
    assert all(torch.equal(ours[name], raw[name]) for name in ours)


def test_auto_classes_load_the_default(plain: Path) -> None:
    assert isinstance(AutoModel.from_pretrained(plain), Qwen2_5OmniThinkerModel)


def test_the_talker_of_a_whole_model_is_left_out(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    folder = export(checkpoints("full_omni"), tmp_path / "part", "thinker")
    assert not any("talker" in name or "token2wav" in name for name in load_file(folder / "model.safetensors"))
    Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder)


def test_an_adapter_alone_names_its_base(adapter: Path, plain: Path, tmp_path: Path) -> None:
    alone = export(adapter, tmp_path / "alone", "adapter", base_model=str(plain))
    names = {path.name for path in alone.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    expected = LCOEmbedding(adapter, device="cpu")
    inputs = mixed_inputs()[:4]
    np.testing.assert_allclose(LCOEmbedding(alone, device="cpu").encode(inputs), expected.encode(inputs), atol=1e-6)
    tuned = PeftModel.from_pretrained(AutoModel.from_pretrained(plain), alone)
    with torch.inference_mode():
        hidden = tuned(input_ids=IDS).last_hidden_state
        torch.testing.assert_close(hidden, expected.omni.model(input_ids=IDS).last_hidden_state)
    renamed = export(alone, tmp_path / "renamed", "adapter", base_model="org/base")
    config = json.loads((renamed / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", None)
    card = (renamed / "README.md").read_text()
    assert "base_model: org/base" in card
    assert "base_model_relation: adapter" in card


@pytest.mark.parametrize("layout", ["thinker", "omni"])
def test_an_adapter_is_merged_with_the_head_of_its_base(layout: str, untied: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tuned = LCOEmbedding(untied, device="cpu")
    tuned.add_adapter(LoraConfig(r=4, target_modules=tuned.omni.backbone.lora_targets, init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")
    merged = export(tmp_path / "adapter", tmp_path / "merged", layout)  # type: ignore[arg-type]
    assert not (merged / "adapter_config.json").exists()
    assert not (merged / "merged").exists()
    inputs = mixed_inputs()[:4]
    np.testing.assert_allclose(LCOEmbedding(merged, device="cpu").encode(inputs), tuned.encode(inputs), atol=1e-5)
    prefix = "thinker." if layout == "omni" else ""
    head = load_file(untied / "model.safetensors")["lm_head.weight"]
    assert torch.equal(load_file(merged / "model.safetensors")[f"{prefix}lm_head.weight"], head)


def test_what_can_not_be_exported(
    plain: Path, untied: Path, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="train with --keep adapter"):
        export(plain, tmp_path / "a", "adapter")
    with pytest.raises(ValueError, match="the omni layout is of Qwen"):
        export(checkpoints("llava_next"), tmp_path / "b", "omni")
    with pytest.raises(FileExistsError, match="not empty"):
        export(plain, plain, "thinker")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        export(tmp_path / "nowhere", tmp_path / "c")
    headless = tmp_path / "headless"
    LCOEmbedding(untied, device="cpu").omni.model.save_pretrained(headless)
    with pytest.raises(ValueError, match="has no language head"):
        export(headless, tmp_path / "d", "omni")
