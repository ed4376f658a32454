"""Data to train on: the miniature's world, as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lco_embedding.miniature import world


@pytest.fixture(scope="session")
def written_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with some 30 scenes of all kinds, an index and chats."""
    folder = tmp_path_factory.mktemp("world")
    return world.write(folder, "train", {"image": 10, "sound": 10, "clip": 10, "document": 5}, seed=0)
