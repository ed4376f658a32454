"""What comes out of a training is what was trained, whatever it started from and in whatever dtype."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback

from lco_embedding import LCOEmbedding
from lco_embedding.modules import OmniTransformer
from lco_embedding.training.contrastive import ContrastiveArguments, train
from lco_embedding.training.generative import ChatCollator, GenerativeArguments, load, pretrain
from lco_embedding.training.lora import check_start

SHORT: dict[str, Any] = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "learning_rate": 1e-2,
    "lora_r": 2,
}


class AtTheEnd(TrainerCallback):
    """Calls a function with the model when training ends."""

    def __init__(self, function: Callable[[nn.Module], Any]) -> None:
        self.function = function
        self.result: Any = None

    def on_train_end(self, *_: Any, model: nn.Module, **kwargs: Any) -> None:
        model.eval()
        self.result = self.function(model)


@pytest.fixture(scope="module")
def images(samples: Path) -> list[str]:
    return sorted(map(str, (samples / "images").glob("*.png")))[:2]


@pytest.fixture(scope="module")
def starts(thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """What training may start from: a generative base, an embedding model, and adapters of both."""
    folder = tmp_path_factory.mktemp("starts")
    LCOEmbedding(thinker, device="cpu").save_pretrained(folder / "embedding", create_model_card=False)
    for name, base in (("adapter of generative", thinker), ("adapter of embedding", folder / "embedding")):
        model = LCOEmbedding(base, device="cpu")
        model.add_adapter(
            LoraConfig(r=2, target_modules=model.omni.backbone.lora_targets, init_lora_weights=False, lora_alpha=8)
        )
        # Once with all that we write beside an adapter, once as PEFT leaves it.
        model.save_pretrained(folder / name) if base == thinker else model.omni.model.save_pretrained(folder / name)
    return {"generative": thinker} | {path.name: path for path in folder.iterdir()}


def pairs(images: list[str]) -> Dataset:
    return Dataset.from_list([{"anchor": f"number {n}", "positive": {"image": path}} for n, path in enumerate(images)])


def chats(images: list[str]) -> list[dict[str, Any]]:
    content = [{"type": "image", "path": images[0]}, {"type": "text", "text": "What is it?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "a red circle"}]
    return [{"messages": messages}] * 2


@pytest.mark.parametrize(
    ("start", "decoder", "towers"),
    [
        ("generative", "lora", "full"),
        ("adapter of generative", "lora", "frozen"),
        ("adapter of generative", "full", "frozen"),
        ("adapter of generative", "frozen", "full"),
        ("adapter of embedding", "frozen", "frozen"),
        ("adapter of embedding", "lora", "full"),
        ("adapter of embedding", "full", "full"),
    ],
)
def test_contrastive_training_writes_what_it_trained(
    start: str, decoder: str, towers: str, starts: Mapping[str, Path], images: list[str], tmp_path: Path
) -> None:
    inputs = ["a red circle", {"image": images[0]}]
    projection = 16 if (decoder, towers) == ("frozen", "frozen") else None
    at_the_end = AtTheEnd(lambda model: model.encode(inputs))
    options = {**SHORT, "decoder": decoder, "towers": towers, "projection": projection}
    arguments = ContrastiveArguments(model=str(starts[start]), output_dir=str(tmp_path), **options)
    if "adapter" in start and decoder == "lora":
        with pytest.raises(ValueError, match=r"is an adapter.*`lco-embedding merge .* FOLDER`"):
            train(arguments, pairs(images))
        return
    folder = train(arguments, pairs(images), callbacks=[at_the_end])
    np.testing.assert_allclose(LCOEmbedding(folder, device="cpu").encode(inputs), at_the_end.result, atol=1e-5)
    if projection is None:
        before = LCOEmbedding(starts[start], device="cpu").encode(inputs)
        moved = np.abs(before - at_the_end.result).max(axis=1)
        assert moved[1] > 1e-3
        assert (moved[0] > 1e-3) == (decoder != "frozen")


@pytest.mark.parametrize(
    ("start", "decoder", "towers"),
    [
        ("generative", "lora", "full"),
        ("adapter of generative", "lora", "frozen"),
        ("adapter of generative", "full", "full"),
        ("adapter of embedding", "full", "frozen"),
        ("adapter of embedding", "frozen", "full"),
        ("adapter of embedding", "lora", "full"),
    ],
)
def test_generative_training_writes_what_it_trained(
    start: str, decoder: str, towers: str, starts: Mapping[str, Path], images: list[str], tmp_path: Path
) -> None:
    options = {**SHORT, "decoder": decoder, "towers": towers}
    arguments = GenerativeArguments(model=str(starts[start]), output_dir=str(tmp_path), **options)
    if "adapter" in start and decoder == "lora":
        with pytest.raises(ValueError, match=r"is an adapter.*`lco-embedding merge .* FOLDER`"):
            pretrain(arguments, chats(images))
        return
    batch = ChatCollator(OmniTransformer.of_backbone(str(starts[start])))(chats(images))

    def logits(model: nn.Module) -> Tensor:
        with torch.no_grad():
            return model(**{key: value for key, value in batch.items() if key != "labels"}).logits

    at_the_end = AtTheEnd(logits)
    before = logits(load(arguments)[1])
    folder = pretrain(arguments, chats(images), callbacks=[at_the_end])
    after = logits(OmniTransformer.of_backbone(str(folder)).generation_model())
    torch.testing.assert_close(after, at_the_end.result, atol=1e-4, rtol=1e-4)
    assert (after - before).abs().max() > 1e-3


@pytest.fixture(scope="module")
def narrow(thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in bfloat16, as models are published."""
    folder = tmp_path_factory.mktemp("narrow")
    LCOEmbedding(thinker, device="cpu", model_kwargs={"dtype": "bfloat16"}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wide(narrow: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in float32."""
    folder = tmp_path_factory.mktemp("wide")
    LCOEmbedding(narrow, device="cpu", model_kwargs={"dtype": "float32"}).save_pretrained(folder)
    return folder


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


class Moved(TrainerCallback):
    """Counts the share of the trained weights that differ at the end from the beginning."""

    def on_train_begin(self, *_: Any, model: nn.Module, **kwargs: Any) -> None:
        self.before = trained(model)

    def on_train_end(self, *_: Any, model: nn.Module, optimizer: Any, **kwargs: Any) -> None:
        after = trained(model)
        moved = sum(int((after[name] != self.before[name]).sum()) for name in after)
        self.share = moved / sum(map(torch.numel, after.values()))
        unwrapped = getattr(optimizer, "optimizer", optimizer)
        states = [value for state in unwrapped.state.values() for value in state.values() if value.dim()]
        self.dtypes = {tensor.dtype for tensor in [*after.values(), *states]}


TEXTS = Dataset.from_list([{"anchor": f"number {n}", "positive": f"the sound of {n}"} for n in range(8)])
ANSWERS = [{"messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "a red circle"}]}] * 8


@pytest.mark.parametrize(("command", "decoder"), [("train", "lora"), ("train", "full"), ("pretrain", "full")])
def test_as_many_weights_move_as_in_float32(
    command: str, decoder: str, narrow: Path, wide: Path, tmp_path: Path
) -> None:
    found = []
    for number, model in enumerate((narrow, wide)):
        options = {**SHORT, "max_steps": 4, "learning_rate": 1e-5, "lora_dropout": 0.0, "decoder": decoder}
        moved = Moved()
        if command == "train":
            arguments = ContrastiveArguments(model=str(model), output_dir=str(tmp_path / f"{number}"), **options)
            folder = train(arguments, TEXTS, callbacks=[moved])
        else:
            given = GenerativeArguments(model=str(model), output_dir=str(tmp_path / f"{number}"), **options)
            folder = pretrain(given, ANSWERS, callbacks=[moved])
        assert moved.dtypes == {torch.float32}
        # What is written is of the dtype of the base.
        stored = {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()}
        assert stored == {(torch.bfloat16, torch.float32)[number]}
        assert json.loads((folder / "config.json").read_text())["dtype"] == ("bfloat16", "float32")[number]
        found.append(moved.share)
    assert found[0] > 0.3
    assert found[0] == pytest.approx(found[1], abs=0.02)


@pytest.mark.parametrize(
    ("architecture", "decoder", "towers"),
    [
        *(("thinker", decoder, towers) for decoder, towers in (("full", "frozen"), ("frozen", "full"))),
        ("thinker", "frozen", "frozen"),
        *(("llava_next", decoder, towers) for decoder, towers in (("full", "frozen"), ("frozen", "full"))),
        ("qwen2_5_vl", "full", "frozen"),
    ],
)
def test_trained_parts_in_float32_work_beside_frozen_ones_in_bfloat16(
    architecture: str, decoder: str, towers: str, checkpoints: Any, images: list[str], tmp_path: Path
) -> None:
    base = LCOEmbedding(checkpoints(architecture), device="cpu", model_kwargs={"dtype": "bfloat16"})
    base.save_pretrained(tmp_path / "base", create_model_card=False)
    projection = 16 if (decoder, towers) == ("frozen", "frozen") else None
    options = {**SHORT, "decoder": decoder, "towers": towers, "projection": projection}
    at_the_end = AtTheEnd(lambda model: {(weight.requires_grad, weight.dtype) for weight in model.parameters()})
    arguments = ContrastiveArguments(model=str(tmp_path / "base"), output_dir=str(tmp_path / "out"), **options)
    train(arguments, pairs(images), callbacks=[at_the_end])
    assert at_the_end.result == {(True, torch.float32), (False, torch.bfloat16)}


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("train", {"decoder": "full"}),
        ("train", {"decoder": "lora", "towers": "full"}),
        ("pretrain", {"decoder": "lora", "towers": "full"}),
    ],
)
def test_a_run_from_bfloat16_is_resumed_bit_for_bit(
    command: str, options: dict[str, Any], narrow: Path, images: list[str], tmp_path: Path
) -> None:
    states = []
    for name in ("whole", "resumed"):
        given = {**SHORT, "max_steps": 3, "save_strategy": "steps", "save_steps": 2, **options, "lora_dropout": 0.0}
        given |= {"model": str(narrow), "output_dir": str(tmp_path / name)}
        if name == "resumed":
            given["resume_from_checkpoint"] = str(tmp_path / "whole" / "checkpoint-2")
        at_the_end = AtTheEnd(trained)
        if command == "train":
            train(ContrastiveArguments(**given), pairs(images), callbacks=[at_the_end])
        else:
            pretrain(GenerativeArguments(**given), chats(images), callbacks=[at_the_end])
        states.append(at_the_end.result)
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_narrow_training_is_by_wish_and_told(narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("lco_embedding.training.lora.logger.warning", told.append)
    moved = Moved()
    options = {**SHORT, "decoder": "full", "dtype": "bfloat16"}
    train(ContrastiveArguments(model=str(narrow), output_dir=str(tmp_path), **options), TEXTS, callbacks=[moved])
    assert moved.dtypes == {torch.bfloat16}
    assert "100.0% of the weights that are trained are in bfloat16" in told.pop()
    moved = Moved()
    options["decoder"] = "lora"
    train(ContrastiveArguments(model=str(narrow), output_dir=str(tmp_path), **options), TEXTS, callbacks=[moved])
    assert moved.dtypes == {torch.float32}
    assert not told


def test_a_peft_that_transformers_does_not_take_is_named(thinker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lco_embedding.training.lora.MIN_PEFT_VERSION", "99.0")
    with pytest.raises(ImportError, match=r"only with peft>=99.0, and .* is installed: pip install 'lco-embedding"):
        check_start(str(thinker), None, "lora")
    check_start(str(thinker), None, "full")
