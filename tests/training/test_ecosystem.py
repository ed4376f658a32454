"""The trainer, losses, samplers and evaluators of Sentence Transformers work on our model as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Audio, Dataset
from peft import LoraConfig
from PIL import Image
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)

from lco_embedding import LCOEmbedding
from tests.conftest import noise, tone

TEXTS = ["a red circle", "a low flute", "seven", "a star moves up"]
PICTURES = [Image.fromarray(noise(56, 56, 3, seed=seed)) for seed in range(4)]
SOUNDS = [{"array": tone(0.3, 200.0 * k), "sampling_rate": 16_000} for k in range(1, 5)]
METADATA = {"fps": 4.0, "total_num_frames": 4, "duration": 1.0}
CLIPS = [{"array": noise(4, 56, 56, 3, seed=seed), "video_metadata": METADATA} for seed in range(4)]
MIXED: list[dict[str, Any]] = [
    {"image": PICTURES[0], "text": "what is this?"},
    {"text": "only text"},
    {"image": PICTURES[1]},
    {"image": PICTURES[2], "text": "and this?"},
]
COLUMNS = {
    "text": TEXTS[::-1],
    "image": PICTURES,
    "audio": SOUNDS,
    "video": CLIPS,
    "mixed": MIXED,
    "several kinds": [{"audio": SOUNDS[0]}, {"text": "x", "audio": SOUNDS[1]}, {"text": "y"}, {"audio": SOUNDS[2]}],
}


def dataset_of(kind: str) -> Dataset:
    """Return texts and a column of a kind, as the datasets library keeps it."""
    return Dataset.from_dict({"anchor": TEXTS, "positive": COLUMNS[kind]})


def trained(model: LCOEmbedding, folder: Path, dataset: Dataset, loss: Any, **options: Any) -> dict[str, float]:
    """Train an adapter by stock means; return the figures of the last evaluation, or of the training."""
    model.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=model.omni.backbone.lora_targets))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    evaluator = options.pop("evaluator", None)
    arguments = SentenceTransformerTrainingArguments(
        **{"output_dir": str(folder), "max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2},
        **{"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, **options},
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=dataset, loss=loss, evaluator=evaluator
    )
    figures = trainer.train().metrics
    assert np.isfinite(figures["train_loss"])
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all("lora" in name for name in changed)
    return trainer.evaluate() if evaluator else figures


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_every_kind_train(model: LCOEmbedding, tmp_path: Path, kind: str) -> None:
    trained(model, tmp_path, dataset_of(kind), MultipleNegativesRankingLoss(model, scale=1 / 0.03))


def test_undecoded_media_of_datasets_train(model: LCOEmbedding, tmp_path: Path, samples: Path) -> None:
    sounds = [str(path) for path in sorted((samples / "sounds").iterdir())[:4]]
    dataset = Dataset.from_dict({"anchor": TEXTS[: len(sounds)], "positive": sounds})
    dataset = dataset.cast_column("positive", Audio(decode=False))
    trained(model, tmp_path, dataset, MultipleNegativesRankingLoss(model))


@pytest.mark.parametrize("kind", ["text", "image", "mixed"])
def test_stock_losses_with_caching_and_prefixes_train(model: LCOEmbedding, tmp_path: Path, kind: str) -> None:
    loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=1)
    trained(model, tmp_path, dataset_of(kind), MatryoshkaLoss(model, loss, matryoshka_dims=[64, 16]))


@pytest.mark.parametrize("kind", ["text", "mixed"])
def test_batches_without_duplicates(model: LCOEmbedding, tmp_path: Path, kind: str) -> None:
    sampler = {"batch_sampler": BatchSamplers.NO_DUPLICATES}
    trained(model, tmp_path, dataset_of(kind), MultipleNegativesRankingLoss(model), **sampler)


def test_a_stock_evaluator_searches_media(model: LCOEmbedding, tmp_path: Path) -> None:
    ids = [str(number) for number in range(4)]
    corpus = dict(zip(ids, [PICTURES[0], SOUNDS[1], CLIPS[2], MIXED[3]], strict=True))
    evaluator = InformationRetrievalEvaluator(dict(zip(ids, TEXTS, strict=True)), corpus, {i: {i} for i in ids})
    figures = trained(
        model, tmp_path, dataset_of("image"), MultipleNegativesRankingLoss(model), evaluator=evaluator, eval_steps=1
    )
    assert 0 < figures["eval_cosine_ndcg@10"] <= 1
