"""The embedding that each layer of the decoder would give: the hidden state of the last token, layer by layer.

    stack = layer_embeddings(LCOEmbedding.miniature(), ["a red circle", "photos/circle.png"])
    stack.shape     # (layers + 1, 2, dimension)

Asking a model for all hidden states keeps every token of every layer. Hooks keep the last token alone, so that memory
does not grow with the length of inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn

from lco_embedding.model import LCOEmbedding
from lco_embedding.modules.inputs import InputError
from lco_embedding.modules.processing_settings import ProcessingKwargs


@torch.inference_mode()
def layer_embeddings(
    model: LCOEmbedding,
    inputs: Sequence[Any],
    batch_size: int = 32,
    prompt: str | None = None,
    processing_kwargs: ProcessingKwargs | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Embed inputs by the hidden states of every layer, before any normalisation.

    Args:
        model: The model, with or without an adapter.
        inputs: Anything that `LCOEmbedding.encode` takes, in any order.
        batch_size: Inputs in a batch.
        prompt: A system message to put before each chat.
        processing_kwargs: Settings for this call.
        out: Where to write, such as a memory map for a stack that is larger than the memory.

    Returns:
        Float32 of shape (layers + 1, inputs, dimension), on the CPU: first what enters the decoder, then what each
        layer hands on, the last after the decoder's final norm, as in `hidden_states` of transformers. The last is
        what `encode` normalises, or what a projection of the model takes.

    Raises:
        InputError: Some inputs can't be embedded; all that types and headers show are named.
        ValueError: There are no inputs, or `out` has another shape or dtype.
    """
    if not len(inputs):
        raise ValueError("there are no inputs; expected at least one")
    reader = model.omni.reader(processing_kwargs)
    items, problems = model.omni.parse(inputs, reader)
    if problems:
        raise InputError(problems)
    decoder = model.omni.model.get_submodule(model.omni.backbone.decoder)
    shape = (len(decoder.layers) + 1, len(items), model.omni.get_embedding_dimension())
    if out is None:
        out = np.empty(shape, dtype=np.float32)
    elif out.shape != shape or out.dtype != np.float32:
        raise ValueError(f"out is {out.dtype} of shape {out.shape}; expected float32 of shape {shape}")
    last: list[Tensor] = []
    kept: dict[int, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(partial(_keep_input, kept, last, number), with_kwargs=True)
        for number, layer in enumerate(decoder.layers)
    ]
    hooks.append(decoder.norm.register_forward_hook(partial(_keep_output, kept, last, len(decoder.layers))))
    model.eval()
    try:
        # Batches of like length waste the least on padding.
        items.sort(key=lambda item: -reader.estimate_tokens(item))
        for start in range(0, len(items), batch_size):
            rows, problems = model.omni.rows(items[start : start + batch_size], reader, prompt)
            if problems:
                raise InputError(problems)
            features = batch_to_device(model.omni.collate(rows), model.device)
            mask = features["attention_mask"]
            last[:] = [mask.shape[1] - 1 - mask.to(torch.int32).flip(1).argmax(dim=1)]
            model.omni(features)
            places = [row.item.index for row in rows]
            for number, states in kept.items():
                out[number, places] = states.float().cpu().numpy()
            kept.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return out


def _keep_input(
    kept: dict[int, Tensor], last: list[Tensor], number: int, _: nn.Module, args: tuple[Any, ...], kwargs: Any
) -> None:
    kept[number] = _last_of(args[0] if args else kwargs["hidden_states"], last)


def _keep_output(
    kept: dict[int, Tensor], last: list[Tensor], number: int, _: nn.Module, args: Any, output: Tensor
) -> None:
    kept[number] = _last_of(output, last)


def _last_of(states: Tensor, last: list[Tensor]) -> Tensor:
    """Take the last token of each row: (rows, tokens, dimension) -> (rows, dimension)."""
    return states[torch.arange(len(states), device=states.device), last[0]]
