"""Time contrastive training by `text_only` against a plain loop in the style of LCO-Emb's released code.

    python benchmarks/training.py                                  # about 15 minutes on 2 cores
    python benchmarks/training.py --size 3b --device cuda          # ours alone, random weights in bfloat16

A random Qwen2.5-Omni thinker is built and saved, and each way trains in a process of its own, in turns, so that a noisy
machine treats all alike: the same triplets in the same order, the same LoRA, optimizer and loss. Figures are samples a
second (a sample is a row of anchor, positive and negative) after a first step that is not counted, and the peak of
memory beyond what the loaded model takes: on the CPU the high-water mark of resident memory from the first counted step
on (VmHWM, reset in /proc/self/clear_refs) less what was resident after loading; on a GPU what torch allocated.

The ways:
    official    three forward passes of the generation class, for anchors, positives and negatives, with all logits and
                all hidden states, towers loaded, AdamW
    ours        `train` with the recipe `text_only`: the decoder alone, no logits, no other hidden states
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import SIZES, WORDS, build_model, describe_machine, make_words, resident

WAYS = ("official", "ours")
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second, from NVIDIA's data sheets (SXM)."""


# --- model and data ---------------------------------------------------------------------------------------------------


def make_texts(words: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """Return texts of 4 to 150 words, half of them below 15: sentences, and passages as retrieval has them."""
    lengths = np.clip(rng.lognormal(2.7, 0.9, count).astype(int), 4, 150)
    return [" ".join(words[rank] for rank in np.minimum(rng.zipf(1.3, n) - 1, WORDS - 1)) for n in lengths]


def make_triplets(words: list[str], count: int) -> list[dict[str, str]]:
    """Return rows of anchor, positive and negative."""
    texts = make_texts(words, 3 * count, np.random.default_rng(1))
    return [
        dict(zip(("anchor", "positive", "negative"), texts[at : at + 3], strict=True)) for at in range(0, len(texts), 3)
    ]


# --- memory -----------------------------------------------------------------------------------------------------------


class Meter:
    """Measures seconds and memory of all steps but the first."""

    def __init__(self, device: str) -> None:
        self.on_gpu = device.startswith("cuda")
        self.loaded = torch.cuda.memory_allocated() if self.on_gpu else resident("VmRSS")

    def start(self) -> None:
        """Begin to count."""
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")
        self.started = time.perf_counter()

    def stop(self) -> dict[str, float]:
        """Return seconds, and bytes beyond those of the loaded model and in all."""
        if self.on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self.started
        peak = torch.cuda.max_memory_allocated() if self.on_gpu else resident("VmHWM")
        return {"seconds": seconds, "memory": peak - self.loaded, "peak": peak}


# --- the ways ---------------------------------------------------------------------------------------------------------


def train_official(arguments: argparse.Namespace, rows: list[dict[str, str]]) -> dict[str, Any]:
    """Train by the plain loop."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

    from lco_embedding.modules.backbones import BACKBONES

    processor = AutoProcessor.from_pretrained(arguments.folder / "model")
    processor.tokenizer.padding_side = "left"
    network = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(arguments.folder / "model", dtype="auto")
    lora = LoraConfig(r=64, lora_alpha=16, lora_dropout=0.0, target_modules=BACKBONES[0].lora_targets)
    network = get_peft_model(network.to(arguments.device), lora).train()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=4e-4, weight_decay=0.0)
    meter = Meter(arguments.device)

    def embed(texts: list[str]) -> Tensor:
        chats = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in texts]
        rendered = processor.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=rendered, padding=True, return_tensors="pt").to(arguments.device)
        states = network(**inputs, output_hidden_states=True, return_dict=True).hidden_states[-1]
        return torch.nn.functional.normalize(states[:, -1].float(), dim=1)

    losses = []
    for step in range(arguments.steps + 1):
        if step == 1:
            meter.start()
        batch = rows[step * arguments.batch : (step + 1) * arguments.batch]
        anchors, positives, negatives = (embed([row[name] for row in batch]) for name in batch[0])
        scores = anchors @ torch.cat([positives, negatives]).T / 0.03
        loss = torch.nn.functional.cross_entropy(scores, torch.arange(len(batch), device=scores.device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return {**meter.stop(), "losses": losses}


def train_ours(arguments: argparse.Namespace, rows: list[dict[str, str]]) -> dict[str, Any]:
    """Train by the recipe `text_only`, up to the adapter: merging and saving are no part of the other way either."""
    from datasets import Dataset
    from sentence_transformers.base.sampler import BatchSamplers
    from transformers import TrainerCallback

    from lco_embedding.training import contrastive
    from lco_embedding.training.arguments import read_recipe
    from lco_embedding.training.trainer import ContrastiveTrainer

    options = {
        **read_recipe("text_only", contrastive.ContrastiveArguments),
        **{"model": str(arguments.folder / "model"), "output_dir": str(arguments.folder / "out")},
        **{"max_steps": arguments.steps + 1, "per_device_train_batch_size": arguments.batch},
        **{"lora_dropout": 0.0, "warmup_steps": 0, "lr_scheduler_type": "constant", "save_strategy": "no"},
        **{"mini_batch_size": arguments.mini_batch_size, "bf16": arguments.device != "cpu"},
        **{"use_cpu": arguments.device == "cpu", "report_to": "none", "disable_tqdm": True, "logging_steps": 1},
        **{"logging_nan_inf_filter": False, "gradient_checkpointing": arguments.gradient_checkpointing},
        "batch_sampler": BatchSamplers.BATCH_SAMPLER,
    }
    given = contrastive.ContrastiveArguments(**options)
    model = contrastive.load(given)
    meter = Meter(arguments.device)

    class Measure(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                meter.start()

    class InOrder(ContrastiveTrainer):
        def get_batch_sampler(self, dataset: Any, batch_size: int, *_: Any, **__: Any) -> Any:
            from torch.utils.data import BatchSampler, SequentialSampler

            return BatchSampler(SequentialSampler(dataset), batch_size, drop_last=True)

    trainer = InOrder(
        model, given, Dataset.from_list(rows), loss=contrastive.loss_of(model, given), callbacks=[Measure()]
    )
    trainer.train()
    measured = meter.stop()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {**measured, "losses": losses, **utilisation(model, rows, arguments, measured["seconds"])}


def utilisation(
    model: Any, rows: list[dict[str, str]], arguments: argparse.Namespace, seconds: float
) -> dict[str, float]:
    """Return which share of the card's operations the model needs, where it is known.

    Each token of a text costs 2 operations for each of the decoder's weights in the forward pass, and as many again in
    the backward pass, which goes through frozen weights to what is before them but not to themselves; attention and
    LoRA are left out, a first pass of caching or checkpointing is not counted as useful.
    """
    name = torch.cuda.get_device_name() if arguments.device != "cpu" else ""
    peak = next((flops for card, flops in PEAK_FLOPS.items() if card in name), None)
    if peak is None:
        return {}
    layers = sum(p.numel() for key, p in model.omni.model.named_parameters() if ".layers." in key and "lora" not in key)
    counted = rows[arguments.batch : (arguments.steps + 1) * arguments.batch]
    tokens = sum(
        int(model.preprocess([row[column] for row in counted])["attention_mask"].sum()) for column in counted[0]
    )
    return {"tokens_per_second": tokens / seconds, "utilisation": 4 * layers * tokens / seconds / peak}


# --- the comparison ---------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace, folder: Path, way: str) -> dict[str, Any]:
    """Run a way in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--device", arguments.device]
    command += ["--batch", str(arguments.batch), "--steps", str(arguments.steps)]
    command += ["--mini-batch-size", str(arguments.mini_batch_size)] if arguments.mini_batch_size else []
    command += ["--gradient-checkpointing"] if arguments.gradient_checkpointing else []
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**result, "samples_per_second": arguments.steps * arguments.batch / result["seconds"]}


def report(rounds: list[dict[str, dict[str, Any]]], ways: list[str]) -> dict[str, Any]:
    """Print a table, and return the medians and the ratios of each round."""
    figures: dict[str, Any] = {}
    print(f"{'':<10}{'samples/s':>12}{'GB beyond weights':>20}{'GB in all':>12}{'last loss':>12}")
    for way in ways:
        middle = {
            key: statistics.median(done[way][key] for done in rounds)
            for key in ("samples_per_second", "memory", "peak")
        }
        gigabytes = [middle[key] / 1e9 for key in ("memory", "peak")]
        shares = [done[way]["utilisation"] for done in rounds if "utilisation" in done[way]]
        figures[way] = {**middle, **({"utilisation": statistics.median(shares)} if shares else {})}
        print(
            f"{way:<10}{middle['samples_per_second']:>12.2f}{gigabytes[0]:>20.2f}{gigabytes[1]:>12.2f}"
            f"{rounds[-1][way]['losses'][-1]:>12.4f}"
            + (f"   {shares[0]:.0%} of the card's operations" if shares else "")
        )
    if len(ways) == 2:
        speed = [done["ours"]["samples_per_second"] / done["official"]["samples_per_second"] for done in rounds]
        memory = [done["ours"]["memory"] / done["official"]["memory"] for done in rounds]
        figures |= {"speed_ratios": speed, "memory_ratios": memory}
        print(f"ours / official: {statistics.median(speed):.2f} x samples/s, {statistics.median(memory):.2f} x memory")
    return figures


def main() -> None:
    """Build, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="both at the small size, else ours")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="steps that are counted")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--mini-batch-size", type=int, help="ours: rows that are embedded at once (cached loss)")
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="ours: compute states again, not keep them"
    )
    parser.add_argument("--output", type=Path, help="JSON file of the results")
    parser.add_argument("--folder", type=Path, help="where the model is kept between runs")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    words = make_words()
    if arguments.way:
        rows = make_triplets(words, arguments.batch * (arguments.steps + 1))
        print("\n" + json.dumps(globals()[f"train_{arguments.way}"](arguments, rows)))
        return
    ways = arguments.ways or (list(WAYS) if arguments.size == "small" else ["ours"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "model" / "modules.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            build_model(folder / "model", arguments.size, arguments.device)
        rounds = [{way: run(arguments, folder, way) for way in ways} for _ in range(arguments.rounds)]
        figures = report(rounds, ways)
    if arguments.output:
        setting = {
            key: getattr(arguments, key)
            for key in ("size", "device", "rounds", "steps", "batch", "mini_batch_size", "gradient_checkpointing")
        }
        result = {
            "setting": setting,
            "figures": figures,
            "rounds": rounds,
            "machine": describe_machine(arguments.device),
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
