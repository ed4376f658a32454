"""The feed-forward network of the last layer, run at the last token of each row alone.

What the last layer makes of the other tokens nobody reads: attention, which mixes tokens, is over by then. That is
most of the work of one layer: 2.4% of the decoder's in a model of 36 layers, and of its memory too where a batch is
wide.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

# One for each thread, so that a model which several threads call keeps their batches apart.
_wanted: ContextVar[Tensor | None] = ContextVar("lco_last_position", default=None)


@contextmanager
def only_at(positions: Tensor | None) -> Iterator[None]:
    """Make the last layers that `allow_last_position` prepared compute one token of each row; all if None.

    Args:
        positions: The index of the last token of each row, of shape (rows,). The hidden states of the others are then
            of no use.
    """
    token = _wanted.set(positions)
    try:
        yield
    finally:
        _wanted.reset(token)


def allow_last_position(decoder: nn.Module) -> None:
    """Prepare a decoder for `only_at`; without it, nothing changes."""
    feed_forward: nn.Module = decoder.get_submodule("layers")[-1].mlp  # type: ignore[index]
    feed_forward.register_forward_pre_hook(_keep_wanted)


def _keep_wanted(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
    """Take the wanted token of each row, as (rows, 1, dimension): added to the residual, it reaches its own place."""
    positions = _wanted.get()
    if positions is None:
        return None
    (hidden,) = args
    # The last layer may be on another device than the inputs.
    rows = torch.arange(len(hidden), device=hidden.device)
    return (hidden[rows, positions.to(hidden.device)].unsqueeze(1),)
