"""How much goes into a batch and how many threads prepare batches, by the device and its free memory."""

from __future__ import annotations

import os

import torch
from transformers import PreTrainedModel

CPU_BATCH_TOKENS = 1024
"""Tokens of a batch on a CPU: more do not run faster (`benchmarks/encode.py`), and take more memory."""

MEMORY_SHARE = 0.5
MIN_BATCH_TOKENS, MAX_BATCH_TOKENS = 2048, 65_536
"""On an accelerator a batch may take this share of the free memory, within these bounds of tokens."""

MAX_WORKERS = 8


def find_workers(device: torch.device) -> int:
    """Return how many threads prepare batches: most cores beside an accelerator.

    None beside a model on the CPU, which takes all cores: a thread only makes its matrix products wait.
    """
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores - 1, MAX_WORKERS))


def find_max_tokens(model: PreTrainedModel, device: torch.device) -> int:
    """Return how many tokens a batch may have, from the free memory and the width of the decoder."""
    if device.type != "cuda":
        return CPU_BATCH_TOKENS
    text = model.config.get_text_config()
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    # What lives at once in a layer: its input, its norm, queries, keys, values and their rotation; and three of the
    # feed-forward network. A tower takes about as much for the four patches of a token.
    numbers = 8 * text.hidden_size + 3 * text.intermediate_size
    tokens = int(MEMORY_SHARE * free / (2 * numbers * model.dtype.itemsize))
    return max(MIN_BATCH_TOKENS, min(tokens, MAX_BATCH_TOKENS))
