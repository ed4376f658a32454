"""Keys and values of the tokens that begin every chat, computed once and put before those of each row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer


class PrefixLayer(DynamicLayer):  # type: ignore[misc]
    """The prefix in one layer of the decoder: keys and values of shape (1, heads, prefix tokens, size of a head).

    It keeps nothing of the rows that follow, so that it serves any number of batches.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self.keys, self.values = keys, values
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the prefix with the states of each row after it; both of shape (rows, heads, tokens, size)."""
        rows = len(key_states)
        keys, values = (part.expand(rows, -1, -1, -1) for part in (self.keys, self.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def cache_prefix(decoder: nn.Module, ids: list[int]) -> Cache:
    """Run a decoder on the tokens of a prefix.

    Args:
        decoder: The language decoder, without its head.
        ids: Token ids of the prefix.

    Returns:
        A cache for rows that follow it; their positions go on at `len(ids)`.
    """
    device = next(decoder.parameters()).device
    cache = DynamicCache(config=decoder.config)
    decoder(input_ids=torch.tensor([ids], device=device), past_key_values=cache, use_cache=True)
    return Cache(layers=[PrefixLayer(layer.keys, layer.values) for layer in cache.layers])
