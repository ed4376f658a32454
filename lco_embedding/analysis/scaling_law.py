"""The generation-representation scaling law: what a model generates before contrastive training tells how it embeds.

    scores = generation_scores("base", {"ocr": JsonLines("ocr.jsonl")})      # nll, accuracy, exact
    points = [Point("base", "text to image", -scores["ocr"]["nll"], 0.71), ...]
    law = fit(points)
    law.pearson                 # 0.943 [0.811, 0.998]

LCO-Emb (arXiv 2510.11693) states it for each pair of modalities. Its own points are published as a figure alone, so
none of them are here: what would be read off a picture is no source.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lco_embedding.evaluation.retrieval import CONFIDENCE, Estimate

Array = NDArray[np.float64]

LEAST_MODELS = 3
"""Models without which a line through points says nothing."""


@dataclass(frozen=True)
class Point:
    """What one model scores.

    Args:
        model: Its name; points of one name (seeds of one base) are resampled and left out together.
        pair: The pair of modalities, such as "text to image".
        generation: Score of generation before contrastive training, higher for better (so the negated loss).
        representation: Score of the embeddings after it, higher for better.
    """

    model: str
    pair: str
    generation: float
    representation: float


@dataclass(frozen=True)
class LeftOut:
    """What the law says of a model that it has not seen.

    Args:
        predicted: The representation score, from a line through all other models.
        actual: The mean of its own points.
        pearson: The correlation of the others.
    """

    predicted: float
    actual: float
    pearson: float


@dataclass(frozen=True)
class ScalingLaw:
    """A line through points, and how well it holds.

    Args:
        points: What it was fitted to.
        slope: Representation for each unit of generation.
        intercept: Representation at a generation score of 0.
        pearson: Linear correlation, with the percentile bootstrap interval over models.
        spearman: Correlation of ranks, likewise.
        left_out: For each model, what the others tell of it.
    """

    points: tuple[Point, ...]
    slope: float
    intercept: float
    pearson: Estimate
    spearman: Estimate
    left_out: Mapping[str, LeftOut]

    def predict(self, generation: float) -> float:
        """Return the representation score that the line gives for a generation score."""
        return self.intercept + self.slope * generation


def fit(points: Sequence[Point], bootstrap: int = 2000, seed: int = 0) -> ScalingLaw:
    """Fit the law to the points of one pair of modalities.

    Args:
        points: At least three models; several points of a model count as one whole in resampling.
        bootstrap: How often models are resampled. Draws of models that all generate or all embed alike, of which there
            is no correlation, are left out.
        seed: Seed of the resampling.

    Raises:
        ValueError: There are too few models, several pairs, scores that are not finite, or no variation.
    """
    pairs = sorted({point.pair for point in points})
    models = list(dict.fromkeys(point.model for point in points))
    if len(pairs) != 1 or len(models) < LEAST_MODELS:
        raise ValueError(f"expected {LEAST_MODELS} models or more of one pair; got {models} of {pairs}")
    scores = np.array([(point.generation, point.representation) for point in points])
    if not np.isfinite(scores).all() or (np.ptp(scores, axis=0) == 0).any():
        raise ValueError(f"scores of {pairs[0]} must be finite and must differ between models")
    owners = np.array([models.index(point.model) for point in points])
    line = stats.linregress(*scores.T)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(bootstrap):
        chosen = rng.integers(len(models), size=len(models))
        drawn = np.concatenate([scores[owners == index] for index in chosen])
        if (np.ptp(drawn, axis=0) > 0).all():
            draws.append(_correlations(drawn))
    low, high = np.quantile(np.array(draws), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    values = _correlations(scores)
    linear, ranked = (Estimate(*map(float, each)) for each in zip(values, low, high, strict=True))
    left_out = {model: _leave_out(scores, owners == index) for index, model in enumerate(models)}
    return ScalingLaw(tuple(points), float(line.slope), float(line.intercept), linear, ranked, left_out)


def fit_pairs(points: Sequence[Point], bootstrap: int = 2000, seed: int = 0) -> dict[str, ScalingLaw]:
    """Fit the law of each pair of modalities."""
    pairs = dict.fromkeys(point.pair for point in points)
    return {pair: fit([point for point in points if point.pair == pair], bootstrap, seed) for pair in pairs}


def generation_scores(
    checkpoint: str, datasets: Mapping[str, Any], batch_size: int = 64, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Measure how well a generative checkpoint answers: captions, transcriptions, questions.

    Args:
        checkpoint: Folder or Hub id, with a language head.
        datasets: For each name, rows with "messages" whose last is the answer: `JsonLines` of a file, or a list.
        batch_size: Chats at once.
        seed: Of the trainer, which draws nothing here.

    Returns:
        For each name `nll`, nats for a token of an answer, whose negative is the score of the law; `accuracy`, the
        share of those tokens that are the most likely ones; `exact`, the share of answers that greedy generation
        would give.
    """
    from lco_embedding.training.generative import ChatCollator, GenerativeArguments, GenerativeTrainer, load

    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        arguments = GenerativeArguments(
            model=checkpoint,
            dtype="float32",
            output_dir=folder,
            per_device_eval_batch_size=batch_size,
            report_to="none",
            disable_tqdm=True,
            seed=seed,
            remove_unused_columns=False,
        )
        omni, whole = load(arguments)
        trainer = GenerativeTrainer(
            whole, whole.get_output_embeddings(), args=arguments, data_collator=ChatCollator(omni)
        )
        for name, rows in datasets.items():
            measured = trainer.evaluate(rows)
            figures[name] = {key: float(measured[f"eval_{key}"]) for key in ("nll", "accuracy", "exact")}
    return figures


def _correlations(scores: Array) -> tuple[float, float]:
    """Return the linear correlation and that of ranks."""
    return float(stats.pearsonr(*scores.T).statistic), float(stats.spearmanr(*scores.T).statistic)


def _leave_out(scores: Array, own: NDArray[np.bool_]) -> LeftOut:
    others = scores[~own]
    actual = float(scores[own, 1].mean())
    if (np.ptp(others, axis=0) == 0).any():
        return LeftOut(float(others[:, 1].mean()), actual, float("nan"))
    line = stats.linregress(*others.T)
    return LeftOut(float(line.intercept + line.slope * scores[own, 0].mean()), actual, float(line.rvalue))
