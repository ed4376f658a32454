"""Two processes learn what one learns from their batches together, write once, and stop together."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch.utils.data import BatchSampler, SequentialSampler
from transformers.integrations import deepspeed

from lco_embedding import LCOEmbedding
from lco_embedding.training.contrastive import ContrastiveArguments, train
from lco_embedding.training.trainer import holding
from tests.conftest import SAMPLES

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "lco_embedding" / "training" / "launch"
TEXTS = [
    f"{size} {colour} {shape}" for size in ("small", "large") for colour in ("red", "blue") for shape in ("x", "o")
]
MEDIA = [
    str(SAMPLES / name)
    for name in ("images/red_circle.png", "sounds/voice_seven.wav", "clips/red_circle_moves_right.mp4")
]
STEPS = 3


def in_order(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> BatchSampler:
    """Return batches of rows as they come, so that it is known which process gets which."""
    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)


def text_rows() -> Dataset:
    rows = [(TEXTS[n % 8], TEXTS[(3 * n + 1) % 8], TEXTS[(5 * n + 2) % 8]) for n in range(4 * STEPS)]
    return Dataset.from_list([dict(zip(("anchor", "positive", "negative"), row, strict=True)) for row in rows])


def rows_of_other_kinds() -> Dataset:
    """Return rows of which the first process gets text, the second images, audio and video."""
    rows = []
    for n in range(2 * STEPS):
        text = {"anchor": {"text": TEXTS[n]}, "positive": {"text": TEXTS[(n + 3) % 8]}}
        medium = {"anchor": {"text": TEXTS[n + 1]}, "positive": {"medium": MEDIA[n % 3]}}
        rows.append((text, medium))
    keys = {".png": "image_path", ".wav": "audio_path", ".mp4": "video_path"}
    sides = dict.fromkeys(("text", *keys.values()), "")
    flat = [row for n in range(0, 2 * STEPS, 2) for kind in (0, 1) for row in (rows[n][kind], rows[n + 1][kind])]

    def side(value: dict[str, str]) -> dict[str, str]:
        path = value.get("medium")
        return {**sides, **({keys[Path(path).suffix]: path} if path else value)}

    return Dataset.from_list([{name: side(value) for name, value in row.items()} for row in flat])


RUNS: dict[str, tuple[Callable[[], Dataset], dict[str, Any]]] = {
    "text, plain": (text_rows, {"towers": "absent"}),
    "text, cached": (text_rows, {"towers": "absent", "mini_batch_size": 1}),
    "kinds, plain": (rows_of_other_kinds, {}),
    "kinds, cached": (rows_of_other_kinds, {"mini_batch_size": 1}),
    "text, masked": (text_rows, {"towers": "absent", "false_negative_margin": -0.1}),
}


def run(name: str, model: str, output: Path, processes: int, **overrides: Any) -> Path:
    """Train by one of the runs, in which all processes together have batches of four rows."""
    rows, options = RUNS[name]
    arguments = ContrastiveArguments(
        **{
            **{"model": model, "output_dir": str(output), "max_steps": STEPS, "use_cpu": True},
            **{"per_device_train_batch_size": 4 // processes, "optim": "sgd", "learning_rate": 0.5},
            **{"max_grad_norm": 0.0, "lora_r": 4, "lora_dropout": 0.0, "logging_steps": 1, "keep": "adapter"},
            **{"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "batch_sampler": in_order},
            **options,
            **overrides,
        }
    )
    return train(arguments, rows())


WORKER = """
import os, sys
from pathlib import Path
from tests.training.test_distributed import RUNS, run

model, output, rank = sys.argv[1], Path(sys.argv[2]), os.environ["RANK"]
for name in RUNS:
    run(name, model, output / name, 2)
run("text, plain", model, output / ("writes" + rank), 2, save_strategy="steps", save_steps=2, keep="merged")
data = output.parent / "eval.jsonl"
best = {"eval_data": [str(data)], "eval_retrieval": True, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
best["per_device_eval_batch_size"] = 1
best |= {"save_strategy": "steps", "load_best_model_at_end": True, "metric_for_best_model": "cosine_ndcg@10"}
run("kinds, plain", model, output / "best", 2, **best)
"""


def torchrun(*command: str) -> subprocess.Popen[str]:
    """Start two processes on this machine."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def trained(thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes have trained."""
    home = tmp_path_factory.mktemp("distributed")
    rows = [{"anchor": TEXTS[n], "positive": {"image": MEDIA[0]} if n == 2 else TEXTS[n + 1]} for n in range(5)]
    (home / "eval.jsonl").write_text("\n".join(map(json.dumps, rows)))
    script = home / "worker.py"
    script.write_text(WORKER)
    process = torchrun(str(script), str(thinker), str(home / "out"))
    output, _ = process.communicate(timeout=550)
    assert process.returncode == 0, output[-5000:]
    return home / "out"


def losses_of(folder: Path) -> list[float]:
    return [entry["loss"] for entry in json.loads((folder / "training_record.json").read_text())["losses"]]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_as_one_with_their_batches(name: str, trained: Path, thinker: Path, tmp_path: Path) -> None:
    alone = run(name, str(thinker), tmp_path / "alone", 1)
    expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (alone, trained / name))
    assert expected.keys() == found.keys()
    learned = max(tensor.abs().max() for key, tensor in expected.items() if "lora_B" in key)
    assert learned > 1e-3, "nothing was learned"
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, atol=1e-4 * float(learned), rtol=1e-4, msg=key)
    np.testing.assert_allclose(losses_of(trained / name), losses_of(alone), rtol=1e-4)
    record = json.loads((trained / name / "training_record.json").read_text())
    assert record["processes"] == 2


def test_only_process_zero_writes(trained: Path) -> None:
    """Each process was given a folder of its own; of the second, its random state alone is to be written."""
    first, second = (
        {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        for folder in (trained / "writes0", trained / "writes1")
    )
    assert second <= {f"checkpoint-{step}/rng_state_1.pth" for step in (2, 3)}
    assert {"model.safetensors", "modules.json", "training_record.json", "checkpoint-2/adapter_config.json"} <= first
    embeddings = SentenceTransformer(str(trained / "writes0"), device="cpu").encode(TEXTS)
    expected = LCOEmbedding(trained / "text, plain", device="cpu").encode(TEXTS)
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def test_evaluation_and_the_best_checkpoint_work_in_two(trained: Path) -> None:
    state = json.loads((trained / "best" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    scores = {entry["step"]: entry["eval_cosine_ndcg@10"] for entry in state["log_history"] if "eval_loss" in entry}
    assert len(scores) == STEPS
    step = state["best_global_step"]
    assert scores[step] == max(scores.values())
    best = load_file(trained / "best" / f"checkpoint-{step}" / "adapter_model.safetensors")
    written = load_file(trained / "best" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, written[key]) for key, tensor in best.items())


def test_an_interrupt_stops_both(thinker: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps({"anchor": text, "positive": text}) for text in TEXTS * 4))
    process = torchrun(
        *("-m", "lco_embedding.cli", "train", "--model", str(thinker), "--data", str(data), "--use_cpu"),
        *("--output_dir", str(tmp_path / "out"), "--max_steps", "10000", "--per_device_train_batch_size", "2"),
        *("--save_steps", "2", "--save_total_limit", "1", "--towers", "absent", "--logging_steps", "1"),
        *("--disable_tqdm", "true"),
    )
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if "'loss'" in line:
            break
    else:
        pytest.fail("".join(lines)[-5000:])
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "SIGKILL" not in output
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    assert LCOEmbedding(checkpoint, device="cpu").encode(TEXTS).shape[0] == len(TEXTS)


# --- configurations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ddp", "fsdp", "zero2"])
def test_accelerate_reads_the_configurations(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    assert config.num_processes == 8
    given = yaml.safe_load((LAUNCH / f"{name}.yaml").read_text())
    assert str(config.distributed_type).endswith(given["distributed_type"])


def test_accelerate_launches_fsdp_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    arguments = ["--config_file", str(LAUNCH / "fsdp.yaml"), "-m", "lco_embedding.cli", "train"]
    parsed, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    for key, value in prepare_multi_gpu_env(parsed).items():
        monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)
    assert plugin.min_num_params == 20_000_000


def test_accelerate_reads_zero2() -> None:
    """As far as can be told without DeepSpeed: what is left to the arguments is what transformers fills in."""
    from accelerate.utils.deepspeed import HfDeepSpeedConfig

    config = HfDeepSpeedConfig(str(LAUNCH / "zero2.json"))
    assert config.is_zero2()
    assert not config.is_offload()
    source = inspect.getsource(deepspeed.HfTrainerDeepSpeedConfig)
    automatic = [key for key, value in config.config.items() if value == "auto"]
    assert {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_clipping"} <= set(automatic)
    assert all(f'"{key}"' in source for key in automatic)
    assert "use_node_local_storage" in source, "--save_on_each_node no longer keeps parts on each node"


def test_whole_tensors_are_saved_in_the_place_of_shards(model: LCOEmbedding, tmp_path: Path) -> None:
    before = dict(model.named_parameters())
    gathered = {name: parameter.detach() + 1 for name, parameter in before.items() if "q_proj" in name}
    assert gathered
    with holding(model, gathered):
        model.save_pretrained(tmp_path, create_model_card=False)
    saved = dict(LCOEmbedding(tmp_path, device="cpu").named_parameters())
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    for name, parameter in saved.items():
        torch.testing.assert_close(parameter, gathered.get(name, before[name]), msg=name)
