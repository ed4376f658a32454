"""Render any scene as the array of its medium."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lco_embedding.miniature.world.clips import draw_clip
from lco_embedding.miniature.world.documents import draw_document
from lco_embedding.miniature.world.pictures import draw_picture
from lco_embedding.miniature.world.scenes import KINDS, Scene
from lco_embedding.miniature.world.sounds import play_sound


def render(scene: Scene, rng: np.random.Generator) -> NDArray[Any]:
    """Render a scene.

    Args:
        scene: What is to be seen or heard.
        rng: Draws what the scene leaves open; equal generators give equal arrays.

    Returns:
        Of an image or a document, uint8 of shape (84, 84, 3); of a clip, uint8 of shape (4, 84, 84, 3), at
        2 frames a second; of a sound, float32 of shape (25600,), at 16 kHz.

    Raises:
        ValueError: The scene is of no known kind.
    """
    if scene.kind == "image":
        return draw_picture(scene, rng)
    if scene.kind == "clip":
        return draw_clip(scene, rng)
    if scene.kind == "sound":
        return play_sound(scene, rng)
    if scene.kind == "document":
        return draw_document(scene, rng)
    raise ValueError(f"there is no kind {scene.kind!r}; expected one of {', '.join(KINDS)}")
