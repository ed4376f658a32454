"""Attention within segments, for towers that read all media of a batch as one long row.

The towers of Qwen2.5-VL and Qwen2.5-Omni cut that row into windows, images and stretches of sound, which do not see
each other. Without flash attention, transformers 5.23 attends to one segment after the other in a Python loop:
thousands of small calls for a batch of pictures. Here segments of equal length are stacked, attended to in one call.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME = "lco_segments_as_flash"
"""Of the attention function. With "flash" in it, transformers hands over the whole row and where its segments begin."""


def attend_within_segments(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute attention of which every segment sees itself alone.

    Args:
        module: The layer that asks.
        query: Shape (1, heads, tokens, size of a head).
        key: The same shape.
        value: The same shape.
        attention_mask: None; the segments take its place.
        scaling: Factor of the scores.
        dropout: Share of the attention weights that are dropped.
        cu_seq_lens_q: Where each segment begins, and where the last ends; shape (segments + 1,).
        **kwargs: What flash attention takes beside this; unused.

    Returns:
        Shape (1, tokens, heads, size of a head), and None for the weights.
    """
    # (tokens, heads, size): as it lies in memory, so that the rows of a segment are copied whole.
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    starts = cu_seq_lens_q[:-1]
    lengths = cu_seq_lens_q.diff()
    groups = [(length, starts[lengths == length]) for length in sorted(set(lengths.tolist())) if length]
    if len(groups) == 1:
        return _attend(rows, groups[0][0], scaling, dropout)[None], None
    output = torch.empty_like(rows[0])
    for length, begins in groups:
        index = (begins[:, None] + torch.arange(length, device=begins.device)).flatten()
        parts = [tensor.index_select(0, index) for tensor in rows]
        output.index_copy_(0, index, _attend(parts, length, scaling, dropout))
    return output[None], None


def _attend(rows: list[Tensor], length: int, scaling: float | None, dropout: float) -> Tensor:
    """Attend within segments of one length that lie end to end.

    Args:
        rows: Query, key and value of shape (tokens, heads, size).
        length: Tokens of a segment.
        scaling: As in `attend_within_segments`.
        dropout: As in `attend_within_segments`.

    Returns:
        The same shape.
    """
    tokens, heads, size = rows[0].shape
    query, key, value = (tensor.reshape(-1, length, heads, size).transpose(1, 2) for tensor in rows)
    attended = scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scaling)
    return attended.transpose(1, 2).reshape(tokens, heads, size)


def use_segment_attention(tower: nn.Module) -> None:
    """Make a tower attend within stacked segments, where it would loop over them.

    Towers that were loaded with another implementation than "sdpa" keep it. Only the attention layers are told, by a
    configuration of their own: models that are built from that of the tower are not to ask for flash attention.
    """
    if not isinstance(tower, PreTrainedModel) or tower.config._attn_implementation != "sdpa":
        return
    config = deepcopy(tower.config)
    config._attn_implementation = NAME
    for module in tower.modules():
        if type(module).__name__.endswith("Attention"):
            module.config = config


# At import, as models that are sent to worker processes name it.
AttentionInterface.register(NAME, attend_within_segments)
