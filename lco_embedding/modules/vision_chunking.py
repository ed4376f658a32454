"""The vision towers of Qwen2.5-VL and Qwen2.5-Omni, run on some frames at a time.

A tower reads all images and videos of a batch as one long row of patches, in which no frame sees another: what is
computed for one does not depend on the others. In pieces, the intermediate states of a long video take no more memory
than those of a piece, and on a CPU they stay in its caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

CPU_PIECE, PIECE = 2048, 32_768
"""Patches of a piece on a CPU, where twice and half as many are no faster, and on an accelerator, which is busy with
so many."""

Grid = list[list[int]]


def read_in_pieces(tower: nn.Module) -> None:
    """Make a tower that reads grids of patches take them in pieces; others stay as they are."""
    if "grid_thw" in signature(tower.forward).parameters:
        tower.forward = partial(_forward, tower.forward)


def _forward(
    whole: Callable[..., Any], hidden_states: Tensor, grid_thw: Tensor, **kwargs: Any
) -> BaseModelOutputWithPooling | Any:
    """Run a tower in pieces; whole if more is asked for than its output.

    Args:
        whole: The tower's own forward.
        hidden_states: Patches of all images and videos, frame after frame: (patches, values of a patch).
        grid_thw: Frames, rows and columns of each: (images and videos, 3).
        **kwargs: Of the tower.
    """
    most = CPU_PIECE if hidden_states.device.type == "cpu" else PIECE
    pieces = list(split_grid(grid_thw.tolist(), most))
    if len(pieces) == 1 or any(kwargs.get(name) for name in ("output_hidden_states", "output_attentions")):
        return whole(hidden_states, grid_thw=grid_thw, **kwargs)
    sizes = [sum(frames * height * width for frames, height, width in piece) for piece in pieces]
    outputs = [
        whole(patches, grid_thw=grid_thw.new_tensor(piece), **{**kwargs, "return_dict": True})
        for patches, piece in zip(torch.split(hidden_states, sizes), pieces, strict=True)
    ]
    return BaseModelOutputWithPooling(
        last_hidden_state=torch.cat([output.last_hidden_state for output in outputs]),
        pooler_output=torch.cat([output.pooler_output for output in outputs]),
    )


def split_grid(grid: Grid, most: int) -> Iterator[Grid]:
    """Cut images and videos into pieces of at most so many patches, or of one frame where that has more.

    Args:
        grid: Frames, rows and columns of each.
        most: Patches of a piece.

    Yields:
        The grid of a piece; a video may go over several.
    """
    piece: Grid = []
    room = most
    for frames, height, width in grid:
        size = height * width
        while frames:
            taken = min(frames, max(room // size, 0 if piece else 1))
            if taken:
                piece.append([taken, height, width])
                room -= taken * size
                frames -= taken
            if frames:
                yield piece
                piece, room = [], most
    if piece:
        yield piece
