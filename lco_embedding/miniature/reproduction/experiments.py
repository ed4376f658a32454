"""The experiments: what is trained and measured for each of the paper's claims."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoConfig, Qwen2_5OmniThinkerForConditionalGeneration

from lco_embedding.analysis.pac_bayes import weight_divergence
from lco_embedding.analysis.scaling_law import generation_scores
from lco_embedding.checkpoints.builtin import STAGES, checkpoint_of
from lco_embedding.data.mixture import Mixture
from lco_embedding.miniature.activation import RECIPE, activate
from lco_embedding.miniature.reproduction.measures import gains, measure
from lco_embedding.miniature.reproduction.settings import MEDIA, Settings
from lco_embedding.miniature.reproduction.steps import Steps
from lco_embedding.miniature.world.captions import caption
from lco_embedding.miniature.world.chats import Chats, shown
from lco_embedding.miniature.world.rendering import render
from lco_embedding.miniature.world.scenes import sample
from lco_embedding.training.arguments import read_recipe
from lco_embedding.training.contrastive import ContrastiveArguments, train
from lco_embedding.training.generative import GenerativeArguments, pretrain
from lco_embedding.training.record import NAME, previous

Method = Literal["lora", "full", "projection", "clip"]
RIVALS: tuple[Method, ...] = ("full", "projection", "clip")

TRAINED: Mapping[Method, Mapping[str, Any]] = {
    "lora": {},
    "full": {"decoder": "full", "towers": "frozen"},
    "projection": {"decoder": "frozen", "towers": "frozen", "projection": 128},
    "clip": {"decoder": "full", "towers": "full"},
}
"""What each way of training changes of the recipe `miniature_text_only`."""

CONTROL_SEED = 1
DEV_COUNT = 100
"""Scenes of each kind by which learning rates are chosen."""

PRETRAINED = {"image": 0.28, "sound": 0.24, "clip": 0.25, "text": 0.23}
"""General chats that are mixed into those about documents."""


@dataclass
class Findings:
    """What the experiments gave; each measured checkpoint is what `measure` returns.

    Args:
        base: The base as it is.
        tuned: The base after text-only training, one for each seed.
        control: Random weights as they are.
        control_tuned: Random weights after text-only training.
        rivals: For each other way of training, one for each seed.
        rates: The learning rate of each way.
        divergence: For each way and seed, how far the weights went.
        stages: For each stage of pretraining, its generation scores and what was measured after training, by seed.
        documents: Without and with continual pretraining on documents: generation scores of the base, and what was
            measured before training and after it.
        seconds: What all steps took.
    """

    base: dict[str, Any] = field(default_factory=dict)
    tuned: list[dict[str, Any]] = field(default_factory=list)
    control: dict[str, Any] = field(default_factory=dict)
    control_tuned: list[dict[str, Any]] = field(default_factory=list)
    rivals: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    divergence: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0


class Experiments:
    """Runs what the claims need, each training and measurement a step that is kept.

    Args:
        steps: Keeps them.
        settings: How large they are.
    """

    def __init__(self, steps: Steps, settings: Settings) -> None:
        self.steps, self.settings = steps, settings

    def run(self) -> Findings:
        """Run all experiments."""
        found = Findings()
        base, settings = checkpoint_of("miniature", "base"), self.settings
        found.base = self._measure("base", base)
        tuned = [self._tune("base", base, "lora", seed) for seed in range(settings.seeds)]
        found.tuned = [each["measured"] for each in tuned]
        found.divergence["lora"] = [each["divergence"] for each in tuned]
        found.rates["lora"] = float(read_recipe(RECIPE, ContrastiveArguments)["learning_rate"])
        self._scale(found, base)
        self._control(found)
        self._read_documents(found, base)
        for method in RIVALS:
            rate = found.rates[method] = self._choose_rate(base, method)
            runs = [self._tune("base", base, method, seed, rate) for seed in range(settings.seeds)]
            found.rivals[method] = [each["measured"] for each in runs]
            found.divergence[method] = [each["divergence"] for each in runs]
        found.seconds = self.steps.seconds
        return found

    def _scale(self, found: Findings, base: str) -> None:
        settings = self.settings
        for stage in [*sorted(path.name for path in STAGES.iterdir() if path.is_dir()), "base"]:
            folder = checkpoint_of("miniature", stage)
            chats = {str(kind): held_out_captions(kind, settings.chats) for kind in MEDIA}
            generated = self.steps.run(
                f"generate-{stage}",
                {"chats": settings.chats},
                partial(generation_scores, folder, chats),
            )
            seeds = settings.seeds if stage == "base" else settings.stage_seeds
            runs = [self._tune(stage, folder, "lora", seed)["measured"] for seed in range(seeds)]
            found.stages[stage] = {"generation": generated, "measured": runs}

    def _control(self, found: Findings) -> None:
        with tempfile.TemporaryDirectory() as folder:
            random = randomise(checkpoint_of("miniature", "base"), folder, CONTROL_SEED)
            found.control = self._measure("control", random)
            found.control_tuned = [
                self._tune("control", random, "lora", seed)["measured"] for seed in range(self.settings.stage_seeds)
            ]

    def _read_documents(self, found: Findings, base: str) -> None:
        settings = self.settings
        sizes = {"steps": settings.document_steps, "rows": settings.document_rows, "rate": settings.document_rate}
        reader = self.steps.folder.parent / "reader-{steps}-{rows}-{rate}".format(**sizes)
        if not (reader / NAME).is_file():
            self.steps.tell(f"reading {settings.document_steps} steps of documents ...")
            read_on(base, reader, settings)
        record = previous(reader) or {}
        self.steps.seconds += 60 * float(record.get("minutes", 0))
        # What is done without pages does not depend on how many pages are read.
        for name, folder, more in (("without", base, {}), ("with", str(reader), sizes)):
            chats = {task: held_out_pages(task, settings.chats) for task in ("transcription", "question")}
            generated = self.steps.run(
                f"generate-documents-{name}",
                {"chats": settings.chats, **more},
                partial(generation_scores, folder, chats),
            )
            before = self._measure(f"documents-{name}", folder, ("runes",), more)
            runs = [
                self._tune(f"documents-{name}", folder, "lora", seed, kinds=("runes", *MEDIA), more=more)["measured"]
                for seed in range(settings.seeds)
            ]
            found.documents[name] = {"generation": generated, "before": before, "measured": runs}

    def _measure(
        self, name: str, folder: str | Path, kinds: Sequence[str] = MEDIA, more: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        sizes = {"count": self.settings.count, "kinds": list(kinds), **(more or {})}
        measured: dict[str, Any] = self.steps.run(
            f"measure-{name}", sizes, lambda: measure(folder, kinds, self.settings.count)
        )
        return measured

    def _choose_rate(self, base: str, method: Method) -> float:
        rates: tuple[float, ...] = getattr(self.settings, f"{method}_rates")
        if len(rates) == 1:
            return rates[0]
        scores = []
        for rate in rates:
            runs = self._tune("base", base, method, 0, rate, split="dev", count=DEV_COUNT)["measured"]
            scores.append(np.mean([gains(runs[kind]["text_to"]).mean() for kind in MEDIA]))
        return rates[int(np.argmax(scores))]

    def _tune(
        self,
        name: str,
        base: str | Path,
        method: Method,
        seed: int,
        rate: float | None = None,
        kinds: Sequence[str] = MEDIA,
        split: Literal["dev", "test"] = "test",
        count: int | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        settings, count = self.settings, count or self.settings.count
        options: dict[str, Any] = {
            **TRAINED[method],
            "max_steps": settings.steps,
            "warmup_steps": max(1, settings.steps // 10),
            "per_device_train_batch_size": settings.rows,
            **({} if rate is None else {"learning_rate": rate}),
        }
        key = {**options, "method": method, "seed": seed, "kinds": list(kinds), "split": split, "count": count}

        def tune_and_measure() -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as folder:
                if method == "clip":
                    train_on_media(base, folder, seed, options)
                else:
                    activate(base, folder, seed, dtype="float32", **options)
                divergence = asdict(weight_divergence(base, folder))
                return {"measured": measure(folder, kinds, count, split), "divergence": divergence}

        result: dict[str, Any] = self.steps.run(
            f"tune-{name}-{method}-{split}-{seed}", {**key, **(more or {})}, tune_and_measure
        )
        return result


def held_out_captions(kind: str, count: int) -> Chats:
    """Return chats that ask for captions of unseen scenes, in the wordings of training: seeing, not phrasing."""
    return Chats(count, 1, "dev", shares={kind: 1.0}, tasks={"caption": 1.0}, wordings="train")  # type: ignore[dict-item]


def held_out_pages(task: Literal["transcription", "question"], count: int) -> Chats:
    """Return chats about unseen pages in runes."""
    return Chats(count, 1, "dev", shares={"document": 1.0}, tasks={task: 1.0}, wordings="train", script="runes")


def randomise(base: str | Path, folder: str | Path, seed: int) -> Path:
    """Write a checkpoint like the base, with the same tokenizer, whose weights have learned nothing."""
    shutil.copytree(base, folder, dirs_exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = AutoConfig.from_pretrained(base, dtype="float32")
        Qwen2_5OmniThinkerForConditionalGeneration(config).save_pretrained(folder)
    # Its own record would tell of pretraining.
    Path(folder, NAME).unlink(missing_ok=True)
    return Path(folder)


def read_on(base: str, folder: str | Path, settings: Settings) -> None:
    """Pretrain the base on, on pages in runes with general chats mixed in."""
    total = settings.document_steps * settings.document_rows
    pages = Chats(
        total,
        5,
        shares={"document": 1.0},
        tasks={"transcription": 0.3, "question": 0.4, "detail": 0.3},
        script="runes",
    )
    general = Chats(total, 6, shares=PRETRAINED)  # type: ignore[arg-type]
    arguments = GenerativeArguments(
        **{
            **read_recipe("miniature", GenerativeArguments),
            "model": base,
            "dtype": "float32",
            "output_dir": str(folder),
            "max_steps": settings.document_steps,
            "learning_rate": settings.document_rate,
            "per_device_train_batch_size": settings.document_rows,
            "warmup_steps": max(1, min(20, settings.document_steps // 10)),
            "save_steps": 200,
            "save_total_limit": 1,
            "resume_from_checkpoint": "last",
            "dataloader_num_workers": 0,
            "use_cpu": True,
            "disable_tqdm": True,
        }
    )
    pretrain(arguments, Mixture([pages, general], [0.75, 0.25]))
    for checkpoint in Path(folder).glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def train_on_media(base: str | Path, folder: str | Path, seed: int, options: Mapping[str, Any]) -> None:
    """Train everything on pairs of a caption and its medium, as many as there are triplets for the other ways."""
    from datasets import Dataset

    arguments = ContrastiveArguments(
        **{
            **read_recipe(RECIPE, ContrastiveArguments),
            "model": str(base),
            "output_dir": str(folder),
            "seed": seed,
            "dtype": "float32",
            "use_cpu": True,
            "disable_tqdm": True,
            **options,
        }
    )
    count = arguments.max_steps * arguments.per_device_train_batch_size
    numbers = list(range(count))
    # Pairs are rendered when they are asked for: all at once would take gigabytes.
    pairs = Dataset.from_dict({"anchor": numbers, "positive": numbers}).with_transform(
        lambda batch: _pairs(batch["anchor"], seed)
    )
    train(arguments, pairs)


def _pairs(numbers: Sequence[int], seed: int) -> dict[str, list[Any]]:
    anchors, positives = [], []
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        scene = sample(MEDIA[number % len(MEDIA)], "train", rng)
        anchors.append(caption(scene, rng))
        positives.append(shown(render(scene, rng)))
    return {"anchor": anchors, "positive": positives}
