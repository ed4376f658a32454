"""The checkpoints that ship in the package, by name."""

from __future__ import annotations

import os
from pathlib import Path

HOME = Path(__file__).parents[1] / "miniature"

NAME = "miniature"
"""The name that stands for the miniature wherever a model is asked for."""

CHECKPOINTS = {"embedding": HOME / "checkpoint", "base": HOME / "base"}
"""The embedding model, and the generative model that it was made of."""

STAGES = HOME / "stages"
"""Folder of the checkpoints on the way to the base, named by their steps of pretraining, such as `step-0200`."""


def checkpoint_of(model: str | os.PathLike[str], part: str = "embedding") -> str:
    """Return the folder or Hub id that a name of a model stands for.

    Args:
        model: Folder, Hub id, or "miniature".
        part: Which checkpoint of the miniature is meant: "embedding", "base", or one of `STAGES`.
    """
    return str(CHECKPOINTS.get(part, STAGES / part)) if model == NAME else os.fspath(model)
