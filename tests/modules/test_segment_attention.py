"""Attention within segments: what a loop over them gives, in the towers that have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from lco_embedding import LCOEmbedding
from lco_embedding.modules import segment_attention
from lco_embedding.modules.segment_attention import attend_within_segments
from tests.conftest import noise, tone


@pytest.mark.parametrize("lengths", [[4], [3, 3, 3], [5, 1, 5, 2, 1, 7], [2, 0, 2]])
def test_segments_see_themselves_alone(lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, sum(lengths), 8, generator=generator)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    found, weights = attend_within_segments(nn.Identity(), query, key, value, scaling=0.3, cu_seq_lens_q=bounds)
    parts = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    expected = torch.cat([scaled_dot_product_attention(*part, scale=0.3) for part in parts], dim=2).transpose(1, 2)
    assert weights is None
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("architecture", ["thinker", "qwen2_5_vl"])
def test_towers_use_it_and_give_what_they_gave(
    architecture: str, checkpoints: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs: list[object] = [noise(84, 112, 3), noise(140, 56, 3)]
    if architecture == "thinker":
        inputs += [{"array": tone(seconds), "sampling_rate": 16_000} for seconds in (0.4, 5.0, 0.4)]
    folder = checkpoints(architecture)
    stacked = LCOEmbedding(folder, device="cpu")
    configs = [
        tower.config for name in stacked.omni.backbone.towers if (tower := stacked.omni.model.get_submodule(name))
    ]
    assert {config._attn_implementation for config in configs} == {"sdpa"}
    calls: list[int] = []
    monkeypatch.setattr(
        segment_attention, "_attend", lambda *args, attend=segment_attention._attend: calls.append(1) or attend(*args)
    )
    found = stacked.encode(inputs)
    assert calls
    calls.clear()
    looping = LCOEmbedding(folder, device="cpu", model_kwargs={"attn_implementation": "eager"})
    torch.testing.assert_close(torch.tensor(found), torch.tensor(looping.encode(inputs)), atol=1e-5, rtol=0)
    assert not calls
