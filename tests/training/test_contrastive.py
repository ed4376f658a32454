"""Contrastive training: what each recipe loads and trains, what comes out, and that it can be interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lco_embedding import LCOEmbedding
from lco_embedding.cli import main
from lco_embedding.data.json_lines import RowError
from lco_embedding.miniature.world.triplets import Triplets
from lco_embedding.training.arguments import RECIPES, read_recipe
from lco_embedding.training.contrastive import ContrastiveArguments, load, loss_of, train
from lco_embedding.training.generative import GenerativeArguments
from lco_embedding.training.trainer import ContrastiveTrainer


def arguments_for(model: Path, output: Path, **overrides: Any) -> ContrastiveArguments:
    """Return arguments of a short run on the CPU."""
    options: dict[str, Any] = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "learning_rate": 1e-2,
        "lora_r": 4,
        **overrides,
    }
    return ContrastiveArguments(model=str(model), output_dir=str(output), **options)


def triplets(count: int = 16) -> Dataset:
    """Return triplets of captions."""
    source = Triplets(count, seed=4)
    return Dataset.from_list([source[index] for index in range(count)])


def changed(before: Path, after: Path) -> set[str]:
    """Return the names of the weights that differ."""
    old, new = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    assert old.keys() == new.keys()
    return {name for name, tensor in new.items() if not torch.equal(tensor, old[name])}


def in_towers(names: set[str]) -> list[str]:
    """Return the names of weights of the encoders and projectors."""
    return [name for name in names if "visual" in name or "audio_tower" in name]


INPUTS = ["a red circle", {"image": np.full((84, 84, 3), 200, np.uint8)}, np.sin(np.arange(16_000) / 20)]


def test_text_only_never_loads_the_towers_and_puts_the_decoder_back(thinker: Path, tmp_path: Path) -> None:
    absent = train(arguments_for(thinker, tmp_path / "absent", towers="absent"), triplets())
    frozen = train(arguments_for(thinker, tmp_path / "frozen", towers="frozen"), triplets())
    names = changed(thinker, absent)
    assert names
    assert not in_towers(names)
    record = json.loads((absent / "training_record.json").read_text())
    assert f"| steps | {record['steps']} |" in (absent / "README.md").read_text()
    assert record["parameters"]["trained"] > 0
    assert record["arguments"]["towers"] == "absent"
    ours = LCOEmbedding(absent, device="cpu").encode(INPUTS)
    np.testing.assert_allclose(ours, LCOEmbedding(frozen, device="cpu").encode(INPUTS), atol=1e-5)
    np.testing.assert_allclose(ours[:2], SentenceTransformer(str(absent), device="cpu").encode(INPUTS[:2]), atol=1e-5)
    assert np.abs(ours - LCOEmbedding(thinker, device="cpu").encode(INPUTS)).max() > 1e-3


@pytest.mark.parametrize("architecture", ["full_omni", "qwen2_5_vl", "llava_next"])
def test_text_only_on_every_backbone(architecture: str, checkpoints: Any, tmp_path: Path) -> None:
    folder = checkpoints(architecture)
    result = train(arguments_for(folder, tmp_path, towers="absent"), triplets(8))
    inputs = INPUTS[:2]
    before, after = (LCOEmbedding(path, device="cpu").encode(inputs) for path in (folder, result))
    assert np.abs(before - after).max() > 1e-3
    stock = SentenceTransformer(str(result), device="cpu").encode(inputs[:1])
    np.testing.assert_allclose(after[:1], stock, atol=1e-5)


def test_what_has_no_towers_takes_text_alone(thinker: Path, tmp_path: Path) -> None:
    model = LCOEmbedding(thinker, device="cpu", model_kwargs={"load_towers": False})
    whole = LCOEmbedding(thinker, device="cpu")
    np.testing.assert_allclose(model.encode(INPUTS[:1]), whole.encode(INPUTS[:1]), atol=1e-6)
    with pytest.raises(ValueError, match="takes text, not image"):
        model.encode(INPUTS[:2])
    with pytest.raises(ValueError, match="towers are not loaded"):
        model.save_pretrained(tmp_path)
    loaded = sum(parameter.numel() for parameter in model.parameters())
    assert loaded + model.omni.unloaded_parameters == sum(parameter.numel() for parameter in whole.parameters())


def test_text_only_learns_the_weights_that_the_whole_model_would(thinker: Path, tmp_path: Path) -> None:
    options = {"keep": "adapter", "lora_dropout": 0.1, "lora_alpha": 24}
    whole, alone = (train(arguments_for(thinker, tmp_path / t, towers=t, **options), triplets()) for t in TOWERS)
    expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (whole, alone))
    assert max(tensor.abs().max() for key, tensor in expected.items() if "lora_B" in key) > 1e-3
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, msg=name)


TOWERS = ("frozen", "absent")


def test_alpha_and_targets_survive(thinker: Path, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 1, "keep": "adapter", "lora_alpha": 24, "towers": "absent"}
    folder = train(arguments_for(thinker, tmp_path, max_steps=1, **options), triplets(8))
    for path in (folder, folder / "checkpoint-1"):
        config = json.loads((path / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (4, 24)
        model = LCOEmbedding(path, device="cpu")
        layers = {name: m for name, m in model.omni.model.named_modules() if isinstance(m, BaseTunerLayer)}
        assert {name.rpartition(".")[2] for name in layers} == LINEAR
        assert all(name.startswith("language_model.layers.") for name in layers)
        assert all(layer.scaling["default"] == 24 / 4 for layer in layers.values())


LINEAR = {*("q_proj", "k_proj", "v_proj", "o_proj"), *("gate_proj", "up_proj", "down_proj")}


def test_the_best_checkpoint_is_what_is_merged(thinker: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.jsonl"
    rows = [{key: side["text"] if isinstance(side, dict) else side for key, side in row.items()} for row in triplets(6)]
    held_out.write_text("\n".join(map(json.dumps, rows)))
    options: dict[str, Any] = {"towers": "absent", "eval_data": [str(held_out)], "eval_retrieval": True}
    options |= {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    # The loss falls, so that by the highest the first step is the best.
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    folder = train(arguments_for(thinker, tmp_path / "out", **options), triplets())
    state = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())
    evaluated = {entry["step"]: entry for entry in state["log_history"] if "eval_loss" in entry}
    best = max(evaluated, key=lambda step: evaluated[step]["eval_loss"])
    assert state["best_global_step"] == best != 3
    assert all(0 < entry["eval_cosine_ndcg@10"] <= 1 for entry in evaluated.values())
    texts = ["a red circle", "a low flute"]
    found, expected, last = (
        LCOEmbedding(path, device="cpu").encode(texts)
        for path in (folder, folder / f"checkpoint-{best}", folder / "checkpoint-3")
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - last).max() > 1e-3
    figures = json.loads((folder / "training_record.json").read_text())["figures"]
    assert figures["eval_loss"] == pytest.approx(evaluated[best]["eval_loss"], rel=1e-4)


def test_a_best_checkpoint_that_is_gone_is_an_error(thinker: Path, tmp_path: Path) -> None:
    arguments = arguments_for(thinker, tmp_path)
    model = load(arguments)
    trainer = ContrastiveTrainer(model, arguments, triplets(4), loss=loss_of(model, arguments))
    trainer.state.best_model_checkpoint, trainer.state.best_metric = str(tmp_path / "checkpoint-1"), 0.0
    with pytest.raises((OSError, ValueError)):
        trainer._load_best_model()


def test_events_are_written_for_tensorboard(thinker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    options = {"report_to": "tensorboard", "logging_steps": 1, "max_steps": 2, "towers": "absent"}
    train(arguments_for(thinker, tmp_path / "out", **options), triplets(8))
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]


def test_missing_tensorboard_names_the_remedy(thinker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lco_embedding.training.arguments.is_tensorboard_available", lambda: False)
    with pytest.raises(ImportError, match=r'pip install "lco-embedding\[tensorboard\]"'):
        arguments_for(thinker, tmp_path, report_to="tensorboard")


def test_any_to_any_rows_of_all_kinds_train(thinker: Path, written_world: Path, tmp_path: Path) -> None:
    index = str(written_world / "index.jsonl")
    options = {"data": [index], "eval_data": [index], "mini_batch_size": 2, "false_negative_margin": 0.0}
    folder = train(arguments_for(thinker, tmp_path, **options))
    names = changed(thinker, folder)
    assert names
    assert not in_towers(names)
    assert json.loads((folder / "training_record.json").read_text())["figures"]["eval_loss"] > 0


def test_full_training_and_projection(thinker: Path, tmp_path: Path) -> None:
    everything = train(arguments_for(thinker, tmp_path / "clip", decoder="full", towers="full"), triplets(8))
    assert changed(thinker, everything)
    projected = train(arguments_for(thinker, tmp_path / "dense", decoder="frozen", projection=24), triplets(8))
    assert not changed(thinker, projected)
    embeddings = LCOEmbedding(projected, device="cpu").encode(INPUTS[:1])
    assert embeddings.shape == (1, 24)
    np.testing.assert_allclose(
        embeddings, SentenceTransformer(str(projected), device="cpu").encode(INPUTS[:1]), atol=1e-5
    )


def test_an_adapter_can_be_kept(thinker: Path, tmp_path: Path) -> None:
    options = {"keep": "adapter", "towers": "absent"}
    adapter = train(arguments_for(thinker, tmp_path / "adapter", **options), triplets(8))
    merged = train(arguments_for(thinker, tmp_path / "merged", towers="absent"), triplets(8))
    assert (adapter / "adapter_model.safetensors").is_file()
    assert not (adapter / "model.safetensors").exists()
    expected = LCOEmbedding(merged, device="cpu").encode(INPUTS)
    np.testing.assert_allclose(LCOEmbedding(adapter, device="cpu").encode(INPUTS), expected, atol=1e-5)


@pytest.mark.parametrize("towers", ["absent", "frozen"])
def test_an_interrupted_run_goes_on_bit_for_bit(towers: str, thinker: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"towers": towers, "lora_dropout": 0.2, "max_steps": 6, "keep": "adapter"}
    options |= {"save_strategy": "steps", "save_steps": 5}
    # Two epochs of four steps: it is interrupted in the second.
    whole = train(arguments_for(thinker, tmp_path / "whole", **options), triplets())
    options["resume_from_checkpoint"] = str(tmp_path / "whole" / "checkpoint-5")
    resumed = train(arguments_for(thinker, tmp_path / "resumed", **options), triplets())
    expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_bad_rows_are_named_before_the_first_step(thinker: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [
        {"anchor": {"text": "a"}, "positive": {"image_path": "nowhere.png"}},
        {"anchor": {"text": "a"}, "positive": {"text": "b"}},
        {"anchor": {"audio_path": "nowhere.wav"}, "positive": {"text": "b"}},
    ]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(RowError, match=r"2 input\(s\)") as caught:
        train(arguments_for(thinker, tmp_path / "out", data=[str(data)]))
    assert "rows.jsonl:1: positive" in str(caught.value)
    assert "rows.jsonl:3: anchor" in str(caught.value)
    data.write_text('{"anchor": {"text": "a"}, "positive": {"text": "b"}}\n{"anchor": 1, "positive": {"text": "c"}}')
    with pytest.raises(Exception, match=r"rows.jsonl:2"):
        train(arguments_for(thinker, tmp_path / "out", data=[str(data)]))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"towers": "absent", "decoder": "full"}, "needs decoder=lora"),
        ({"decoder": "frozen"}, "nothing is trained"),
        ({"load_in_4bit": True, "decoder": "full"}, "can't be trained"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], reason: str, thinker: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        arguments_for(thinker, tmp_path, **options)


def test_every_recipe_is_understood(tmp_path: Path) -> None:
    names = {path.stem for path in RECIPES.glob("*.yaml")}
    generative = {"miniature", "seadoc_like"}
    assert names >= generative | {"text_only", "multimodal", "full", "projection", "clip_style", "qlora"}
    for name in names:
        cls = GenerativeArguments if name in generative else ContrastiveArguments
        options = {**read_recipe(name, cls), "output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
        assert cls(**options).learning_rate > 0


def test_a_mistyped_option_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "text_only", "--temprature", "1", "--output_dir", str(tmp_path)]) == 2
    assert "unknown: --temprature 1" in capsys.readouterr().err


def test_the_command_trains(thinker: Path, written_world: Path, tmp_path: Path) -> None:
    data = str(written_world / "index.jsonl")
    recipe = tmp_path / "short.yaml"
    recipe.write_text("towers: frozen\nlora_r: 4\nmax_steps: 4\nper_device_train_batch_size: 2\nreport_to: none\n")
    options = ["--data", data, data, "--weights", "1", "0.5", "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    assert main(["train", str(recipe), "--model", str(thinker), *options, "--max_steps", "1"]) == 0
    record = json.loads((tmp_path / "out" / "training_record.json").read_text())
    assert record["steps"] == 1
    assert record["recipe"] == "short"
    assert record["base"] == thinker.name
    assert record["data"] == ["index.jsonl"] * 2
    assert record["arguments"]["seed"] == 42
    assert {"torch", "transformers", "sentence-transformers", "peft", "lco-embedding"} <= record["versions"].keys()
    recipe.write_text("temprature: 0.1\n")
    assert main(["train", str(recipe), "--output_dir", str(tmp_path / "x")]) == 2


def test_streaming_trains(thinker: Path, written_world: Path, tmp_path: Path) -> None:
    options = {"data": [str(written_world / "index.jsonl")], "streaming": True}
    assert changed(thinker, train(arguments_for(thinker, tmp_path, **options)))


INTERRUPTED = """
import sys
from tests.training.test_contrastive import arguments_for, triplets
from lco_embedding.training.contrastive import train
from transformers import TrainerCallback

class Tell(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("step", state.global_step, flush=True)

train(arguments_for(sys.argv[1], sys.argv[2], max_steps=500), triplets(), callbacks=[Tell()])
"""


def test_an_interrupt_leaves_a_checkpoint(thinker: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(thinker), str(tmp_path / "out")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("step"):
        assert process.poll() is None, process.stderr and process.stderr.read()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode != 0
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    assert LCOEmbedding(checkpoint, device="cpu").encode(INPUTS).shape[0] == 3
