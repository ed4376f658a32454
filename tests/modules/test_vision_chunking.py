"""A vision tower gives the same for some frames at a time as for all at once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lco_embedding import LCOEmbedding
from lco_embedding.modules import vision_chunking
from lco_embedding.modules.vision_chunking import split_grid
from tests.conftest import clip, noise


@pytest.mark.parametrize(
    ("grid", "pieces"),
    [
        ([[1, 2, 2]], [[[1, 2, 2]]]),
        ([[5, 2, 2]], [[[2, 2, 2]], [[2, 2, 2]], [[1, 2, 2]]]),
        ([[1, 4, 4], [1, 2, 2], [1, 2, 2]], [[[1, 4, 4]], [[1, 2, 2], [1, 2, 2]]]),
        ([[1, 2, 2], [3, 2, 2], [1, 4, 4]], [[[1, 2, 2], [1, 2, 2]], [[2, 2, 2]], [[1, 4, 4]]]),
        ([], []),
    ],
)
def test_pieces_hold_at_most_eight_patches_or_one_frame(grid: list[list[int]], pieces: list[list[list[int]]]):
    assert list(split_grid(grid, 8)) == pieces


@pytest.mark.parametrize("architecture", ["thinker", "qwen2_5_vl"])
def test_pieces_change_nothing(
    architecture: str, checkpoints: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LCOEmbedding(checkpoints(architecture), device="cpu")
    inputs = [noise(60, 90, 3), clip(), noise(90, 60, 3), clip(frames=12)]
    expected = model.encode(inputs)
    seen: list[int] = []
    model.omni.model.visual.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    monkeypatch.setattr(vision_chunking, "CPU_PIECE", 40)
    np.testing.assert_allclose(model.encode(inputs), expected, atol=1e-5)
    # Of more frames than videos.
    assert len(seen) > len(inputs)
    count = len(seen)
    features = model.omni.preprocess([noise(90, 60, 3)])
    grid, patches = features["image_grid_thw"].repeat(3, 1), features["pixel_values"].repeat(3, 1)
    with torch.inference_mode():
        states = model.omni.model.visual(patches, grid_thw=grid, output_hidden_states=True)
    assert len(seen) == count + 1
    assert states.hidden_states is not None


def test_a_copy_reads_with_its_own_weights(thinker: Path) -> None:
    model = LCOEmbedding(thinker, device="cpu")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        before = other.encode(noise(60, 90, 3))
        with torch.no_grad():
            model.omni.model.visual.merger.ln_q.weight.mul_(1.5)
        np.testing.assert_array_equal(other.encode(noise(60, 90, 3)), before)
