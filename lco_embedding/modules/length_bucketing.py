"""Rows of text of like length in passes of their own, so that short ones are not computed at the width of the longest.

In training a batch is as the sampler made it: sentences beside pages. Padding them to one length may double the work
and the memory; `encode`, which sorts its inputs first, has little to gain. Losses see one batch all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

PASS_TOKENS = 256
"""What a pass costs beside its tokens, in tokens: about as many as it takes until an accelerator computes for longer
than it reads weights (its operations in bf16 by its bytes a second)."""

TOKEN_KEYS = ("input_ids", "attention_mask", "mm_token_type_ids")
"""Features of shape (rows, tokens) that a batch of text has."""

Features = dict[str, Any]


def forward_by_length(forward: Callable[[Features], Features], features: Features) -> Features | None:
    """Run rows of like length together.

    Args:
        forward: Returns features with `token_embeddings` of shape (rows, tokens, dimension).
        features: A batch of text.

    Returns:
        The features with `token_embeddings` for all rows, zeros where there is padding; None if one pass is best, or
        the batch has other tensors than those of text.
    """
    if any(isinstance(value, Tensor) and key not in TOKEN_KEYS for key, value in features.items()):
        return None
    mask = features["attention_mask"].bool()
    lengths = mask.sum(dim=1).cpu().numpy()
    groups = group_by_length(lengths, mask.shape[1])
    if len(groups) < 2:
        return None
    hidden: Tensor | None = None
    ends = mask.shape[1] - mask.flip(1).int().argmax(dim=1)
    for rows, width in groups:
        index = torch.from_numpy(rows).to(mask.device)
        # Each row's own tokens at the right end; on the left, what is masked.
        columns = ends[index, None] - width + torch.arange(width, device=mask.device)
        part = _part(features, index, columns)
        output = forward(part)["token_embeddings"]
        if hidden is None:
            hidden = output.new_zeros(*mask.shape, output.shape[-1])
        row, column = part["attention_mask"].nonzero(as_tuple=True)
        hidden[index[row], columns[row, column]] = output[row, column]
    features["token_embeddings"] = hidden
    return features


def _part(features: Mapping[str, Any], rows: Tensor, columns: Tensor) -> Features:
    """Take some columns of some rows; those before the first are masked."""
    inside = columns >= 0
    part: Features = {}
    for key, value in features.items():
        part[key] = value[rows[:, None], columns.clamp(min=0)] if isinstance(value, Tensor) else value
    part["attention_mask"] = part["attention_mask"] * inside
    return part


def group_by_length(lengths: np.ndarray[Any, np.dtype[np.int64]], width: int) -> list[tuple[Any, int]]:
    """Group rows so that the passes cost the least: their tokens with padding, and `PASS_TOKENS` each.

    Args:
        lengths: Tokens of each row, of shape (rows,).
        width: Tokens of a row as they are padded now.

    Returns:
        For each group the indices of its rows and its width, the shortest first; one group if more do not pay.
    """
    order = np.argsort(lengths, kind="stable")
    sizes, counts = np.unique(lengths, return_counts=True)
    # best[j]: the least cost of the rows of the j shortest lengths; start[j]: where their last group begins.
    until = np.concatenate([[0], np.cumsum(counts)])
    best, start = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1, dtype=np.int64)
    for j, size in enumerate(sizes, start=1):
        costs = best[:j] + (until[j] - until[:j]) * size + PASS_TOKENS
        start[j] = costs.argmin()
        best[j] = costs[start[j]]
    if best[-1] >= len(lengths) * width + PASS_TOKENS:
        return [(order, width)]
    groups: list[tuple[Any, int]] = []
    j = len(sizes)
    while j:
        groups.append((order[until[start[j]] : until[j]], int(sizes[j - 1])))
        j = int(start[j])
    return groups[::-1]
