"""Rows of like length are computed together; what comes out is the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from lco_embedding import LCOEmbedding
from lco_embedding.modules import length_bucketing
from lco_embedding.modules.length_bucketing import group_by_length

TEXTS = ["x " * count for count in (1, 90, 3, 120, 2, 100, 1, 4)]


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Passes cost little, and the widths of those that are run."""
    monkeypatch.setattr(length_bucketing, "PASS_TOKENS", 16)
    seen: list[int] = []
    part = length_bucketing._part

    def watched(*args: Any) -> Any:
        taken = part(*args)
        seen.append(taken["input_ids"].shape[1])
        return taken

    monkeypatch.setattr(length_bucketing, "_part", watched)
    return seen


@pytest.mark.parametrize("architecture", ["thinker", "qwen2_5_vl", "llava_next"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_grouping_changes_neither_embeddings_nor_gradients(
    architecture: str, side: str, checkpoints: Callable[[str], Path], tmp_path: Path, widths: list[int]
) -> None:
    model = LCOEmbedding(checkpoints(architecture), device="cpu")
    model.save_pretrained(tmp_path, create_model_card=False)
    stock = SentenceTransformer(str(tmp_path), device="cpu")
    results = []
    for encoder in (model, stock):
        model.tokenizer.padding_side = side
        features = model.preprocess(TEXTS)
        # As losses do that join columns: padding on both sides.
        features = {
            key: torch.nn.functional.pad(value, (0, 5)) if isinstance(value, torch.Tensor) else value
            for key, value in features.items()
        }
        output = encoder(features)
        output["sentence_embedding"].square()[:, :7].sum().backward()
        weight = encoder[0].model.get_input_embeddings().weight
        results.append((output["sentence_embedding"].detach(), output["token_embeddings"], weight.grad.clone()))
    (ours, hidden, gradient), (expected, stock_hidden, stock_gradient) = results
    assert len(widths) > 1
    assert max(widths) <= features["attention_mask"].sum(dim=1).max()
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    seen = features["attention_mask"].bool()
    torch.testing.assert_close(hidden[seen], stock_hidden[seen], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(gradient, stock_gradient, atol=1e-5, rtol=1e-3)


def test_batches_of_media_stay_whole(shared_model: LCOEmbedding, widths: list[int]) -> None:
    shared_model(shared_model.preprocess([{"image": np.zeros((84, 84, 3), np.uint8)}, *TEXTS]))
    assert not widths
    shared_model(shared_model.preprocess(TEXTS))
    assert len(widths) > 1


def test_what_is_asked_for_beyond_embeddings_is_of_one_pass(shared_model: LCOEmbedding, widths: list[int]) -> None:
    shared_model.omni(shared_model.preprocess(TEXTS), output_attentions=False)
    assert not widths


def test_groups_cost_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(length_bucketing, "PASS_TOKENS", 10)
    rng = np.random.default_rng(0)
    for _ in range(20):
        lengths = rng.integers(1, 60, 7)
        groups = group_by_length(lengths, int(lengths.max()))
        assert sorted(np.concatenate([rows for rows, _ in groups]).tolist()) == list(range(7))
        assert all(lengths[rows].max() == width for rows, width in groups)
        cost = sum(len(rows) * width + 10 for rows, width in groups)
        # Every way to cut the sorted rows.
        ordered = np.sort(lengths)
        costs = []
        for cuts in range(2**6):
            bounds = [0, *(place + 1 for place in range(6) if cuts >> place & 1), 7]
            pairs = itertools.pairwise(bounds)
            costs.append(sum((stop - start) * ordered[stop - 1] + 10 for start, stop in pairs))
        assert cost == min(costs)
    even = np.full(5, 9)
    assert len(group_by_length(even, 9)) == 1
    assert len(group_by_length(even, 12)) == 1 or group_by_length(even, 12)[0][1] == 9
