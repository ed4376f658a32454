"""Clips: one object that moves, changes size, blinks or spins on a still background."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lco_embedding.miniature.world.pictures import CONTRAST, SIZE, WHITE_LIMIT, draw_background, draw_shape, jittered
from lco_embedding.miniature.world.scenes import Scene

FRAMES = 4
"""Frames of a clip: two of the pairs that the Qwen processors join."""

FPS = 2
"""Frames a second of a clip, the rate at which video is sampled unless another is asked for: all of them are seen."""

LEVELS = {"dark": (0.0, 45.0), "bright": (160.0, 215.0)}
"""Range of the darker shade of the background, 0 to 255."""

_STEPS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


def draw_clip(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the frames of a clip.

    Args:
        scene: A scene of kind clip.
        rng: Draws place, radius, colour, extent of the motion and shade within what the scene says.

    Returns:
        Red, green and blue of each frame, uint8 of shape (4, 84, 84, 3).
    """
    low, high = LEVELS[scene["shade"]]
    if scene["colour"] == "white" and scene["shade"] == "bright":
        low, high = WHITE_LIMIT - CONTRAST, WHITE_LIMIT
    background = draw_background(scene["background"], rng.uniform(low, high), rng)
    colour = jittered(scene["colour"], rng)
    x, y = (rng.uniform(-4.0, 4.0, 2) + SIZE / 2).tolist()
    radius, motion = rng.uniform(13.0, 16.0), scene["motion"]
    reach, start = rng.uniform(18.0, 23.0), int(rng.integers(2))
    step = math.radians(rng.uniform(24.0, 36.0))
    frames = np.empty((FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    frames[:] = background
    for index, frame in enumerate(frames):
        time = index / (FRAMES - 1)
        if motion in _STEPS:
            right, down = _STEPS[motion]
            way = (2 * time - 1) * reach
            draw_shape(frame, scene["shape"], colour, x + way * right, y + way * down, radius)
        elif motion in ("growing", "shrinking"):
            part = time if motion == "growing" else 1 - time
            draw_shape(frame, scene["shape"], colour, x, y, radius - 7 + (reach - 2) * part)
        elif motion == "spinning":
            draw_shape(frame, scene["shape"], colour, x, y, radius + 4, turn=index * step)
        elif index % 2 == start:
            draw_shape(frame, scene["shape"], colour, x, y, radius + 2)
    return frames
