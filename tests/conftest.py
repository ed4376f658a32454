"""Tiny checkpoints and sample inputs, made once per session and offline."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lco_embedding import LCOEmbedding
from tests import tiny

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that builds the tiny checkpoint of an architecture, once."""
    built: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in built:
            built[name] = getattr(tiny, f"build_{name}")(tmp_path_factory.mktemp(name))
        return built[name]

    return build


@pytest.fixture(scope="session")
def thinker(checkpoints: Callable[[str], Path]) -> Path:
    """The raw generative checkpoint of a tiny Qwen2.5-Omni thinker."""
    return checkpoints("thinker")


@pytest.fixture(scope="session")
def shared_model(thinker: Path) -> LCOEmbedding:
    """The embedding model of the tiny thinker; not to be changed."""
    return LCOEmbedding(thinker, device="cpu")


@pytest.fixture
def model(thinker: Path) -> LCOEmbedding:
    """An embedding model of the tiny thinker that a test may change."""
    return LCOEmbedding(thinker, device="cpu")


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of sample files."""
    return SAMPLES


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def tone(seconds: float = 1.0, frequency: float = 440.0, rate: int = 16_000) -> NDArray[np.float32]:
    """A sine wave."""
    times = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def clip(frames: int = 32, fps: float = 8.0, seed: int = 0) -> dict[str, object]:
    """An in-memory video of random pixels."""
    metadata = {"fps": fps, "total_num_frames": frames, "duration": frames / fps}
    return {"array": noise(frames, 60, 90, 3, seed=seed), "video_metadata": metadata}


def mixed_inputs() -> list[object]:
    """One input of each kind and some mixtures, in no order."""
    return [
        "a red circle to the left of a blue square.",
        {"image": noise(84, 84, 3), "text": "what is this?"},
        {"array": tone(0.7), "sampling_rate": 16_000},
        noise(120, 50, 3, seed=1),
        "x",
        {"video": clip()},
        {"audio": {"array": tone(1.3, 300), "sampling_rate": 16_000}, "image": [noise(84, 84, 3), noise(50, 90, 3)]},
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "before"}, {"type": "image", "image": noise(84, 84, 3)}],
            }
        ],
    ]
