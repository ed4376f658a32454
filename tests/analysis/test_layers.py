"""Embeddings by layer: those of transformers, whatever the batch; the last is what encode normalises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lco_embedding import InputError, LCOEmbedding
from lco_embedding.analysis.layers import layer_embeddings
from tests.conftest import mixed_inputs


@pytest.mark.parametrize("name", ["thinker", "qwen2_5_vl", "llava_next"])
def test_layers_are_the_hidden_states_of_transformers(name: str, checkpoints) -> None:
    model = LCOEmbedding(checkpoints(name), device="cpu")
    inputs = ["x", "a red circle to the left of a blue square", {"image": mixed_inputs()[3], "text": "what?"}]
    stack = layer_embeddings(model, inputs, batch_size=3)
    features = model.preprocess(inputs)
    features.pop("modality", None)
    known = {key: value for key, value in features.items() if not key.startswith("num_")}
    with torch.inference_mode():
        states = model.omni.model(**known, output_hidden_states=True).hidden_states
    assert len(states) == len(stack) > 2
    for ours, theirs in zip(stack, states, strict=True):
        # Rows are padded on the left, so that the last token is in the last place.
        np.testing.assert_allclose(ours, theirs[:, -1].numpy(), atol=2e-5)


def test_the_last_layer_is_what_encode_normalises(shared_model: LCOEmbedding) -> None:
    inputs = mixed_inputs()
    last = layer_embeddings(shared_model, inputs, batch_size=3)[-1]
    expected = shared_model.encode(inputs)
    np.testing.assert_allclose(last / np.linalg.norm(last, axis=1, keepdims=True), expected, atol=1e-5)


def test_batches_of_one_equal_batches_of_many_in_the_order_given(shared_model: LCOEmbedding) -> None:
    inputs = mixed_inputs()
    many, one = (layer_embeddings(shared_model, inputs, batch_size=size) for size in (8, 1))
    assert many.dtype == np.float32
    np.testing.assert_allclose(many, one, atol=2e-5)


def test_hooks_are_gone_afterwards_even_after_an_error(model: LCOEmbedding) -> None:
    def hooks() -> list[object]:
        return [[*m._forward_hooks.values(), *m._forward_pre_hooks.values()] for m in model.omni.model.modules()]

    before = hooks()
    layer_embeddings(model, ["x"])
    with pytest.raises(InputError, match=r"nope\.png"):
        layer_embeddings(model, ["x", "nope.png"])
    assert hooks() == before


def test_a_stack_can_be_written_to_disk(shared_model: LCOEmbedding, tmp_path: Path) -> None:
    expected = layer_embeddings(shared_model, ["a", "b c"])
    out = np.lib.format.open_memmap(tmp_path / "stack.npy", "w+", np.float32, expected.shape)
    assert layer_embeddings(shared_model, ["a", "b c"], out=out) is out
    out.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "stack.npy"), expected)
    with pytest.raises(ValueError, match="expected float32 of shape"):
        layer_embeddings(shared_model, ["a"], out=out)


def test_nothing_is_an_error(shared_model: LCOEmbedding) -> None:
    with pytest.raises(ValueError, match="no inputs"):
        layer_embeddings(shared_model, [])
