"""Rows into batches: which of them together, padding to one length, and joining the features of all media."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lco_embedding.modules.inputs import Item


@dataclass
class Row:
    """One item, ready to be put into a batch.

    Args:
        item: The item, its text cut to the limit.
        input_ids: Its token ids, without padding.
        media_ids: The token ids that stand for each of its media, in order.
        features: The features of each of its media, in order.
        hears_video: Whether its videos are heard.
        was_cut: Whether its text was cut.
    """

    item: Item
    input_ids: list[int] = field(default_factory=list)
    media_ids: list[list[int]] = field(default_factory=list)
    features: list[dict[str, Tensor]] = field(default_factory=list)
    hears_video: bool = False
    was_cut: bool = False


def plan_batches(lengths: Sequence[int], max_tokens: int, max_rows: int) -> list[list[int]]:
    """Put rows of like length together, the longest first.

    Args:
        lengths: Tokens of each row.
        max_tokens: Tokens of a batch at most, padding included; a row that alone has more is a batch of its own.
        max_rows: Rows of a batch at most.

    Returns:
        For each batch the indices of its rows.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if not batches or len(batches[-1]) == max_rows or longest * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches


def pad(tensors: Sequence[Tensor], value: int, side: Literal["left", "right"]) -> Tensor:
    """Stack tensors of shape (..., tokens) to (rows, ..., tokens), padded with `value` on one side."""
    length = max(tensor.shape[-1] for tensor in tensors)
    padded = []
    for tensor in tensors:
        gap = length - tensor.shape[-1]
        padded.append(nn.functional.pad(tensor, (gap, 0) if side == "left" else (0, gap), value=value))
    return torch.stack(padded)


def join_features(features: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Join the features of media: one tensor for each name, of all that have it, in order."""
    joined: dict[str, list[Tensor]] = {}
    for entry in features:
        for name, value in entry.items():
            joined.setdefault(name, []).append(torch.as_tensor(value))
    return {name: _concatenate(tensors) for name, tensors in joined.items()}


def _concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """Join tensors along their first axis, padding the others with zeros to the longest."""
    longest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        gaps = [size - own for size, own in zip(longest, tensor.shape[1:], strict=True)]
        widths = [width for gap in reversed(gaps) for width in (0, gap)]
        padded.append(nn.functional.pad(tensor, widths) if any(gaps) else tensor)
    return torch.cat(padded)
