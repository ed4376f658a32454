"""Padding rows, and joining the features of media."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from lco_embedding.modules.batching import join_features, pad, plan_batches


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shape", [(), (3,)], ids=["tokens", "3 x tokens"])
def test_padding_keeps_each_row_on_its_side(side: Literal["left", "right"], shape: tuple[int, ...]) -> None:
    rows = [torch.arange(1, length + 1).expand(*shape, length) for length in (3, 1, 5)]
    padded = pad(rows, 0, side)
    assert padded.shape == (3, *shape, 5)
    for row, whole in zip(rows, padded, strict=True):
        length = row.shape[-1]
        kept, rest = (
            (whole[..., -length:], whole[..., :-length]) if side == "left" else whole.split([length, 5 - length], -1)
        )
        assert torch.equal(kept, row)
        assert not rest.any()


def test_joined_features_are_those_of_each_medium_in_order() -> None:
    image = {"pixel_values": torch.ones(4, 6), "image_grid_thw": torch.tensor([[1, 2, 2]])}
    short = {"input_features": torch.ones(1, 8, 30), "feature_attention_mask": torch.ones(1, 30)}
    long = {"input_features": torch.full((1, 8, 50), 2.0), "feature_attention_mask": torch.ones(1, 50)}
    other = {"pixel_values": torch.zeros(2, 6), "image_grid_thw": torch.tensor([[1, 1, 2]])}
    joined = join_features([image, short, long, other])
    assert torch.equal(joined["pixel_values"], torch.cat([image["pixel_values"], other["pixel_values"]]))
    assert joined["image_grid_thw"].tolist() == [[1, 2, 2], [1, 1, 2]]
    assert joined["input_features"].shape == (2, 8, 50)
    assert joined["feature_attention_mask"].sum(-1).tolist() == [30, 50]
    assert not joined["input_features"][0, :, 30:].any()
    assert torch.equal(joined["input_features"][1], long["input_features"][0])
    assert join_features([]) == {}


def test_one_medium_joins_to_itself() -> None:
    features = {"input_features": torch.rand(1, 8, 30), "video_second_per_grid": [1.0]}
    joined = join_features([features])
    assert torch.equal(joined["input_features"], features["input_features"])
    assert joined["video_second_per_grid"].tolist() == [1.0]


@pytest.mark.parametrize("lengths", [[], [7], [3, 9, 1, 9, 4, 4, 2], list(range(1, 60))])
def test_plans_hold_like_with_like(lengths: list[int]) -> None:
    batches = plan_batches(lengths, max_tokens=20, max_rows=4)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= 4
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= 20
    ordered = [lengths[index] for batch in batches for index in batch]
    assert ordered == sorted(lengths, reverse=True)
