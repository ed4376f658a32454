"""Pictures: one or two objects on a background, drawn from signed distances on a grid of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lco_embedding.miniature.world.scenes import Scene

SIZE = 84
"""Width and height of pictures in pixels: three patches of 28, the unit of the Qwen processors."""

COLOUR_VALUES: dict[str, tuple[int, int, int]] = {
    "red": (220, 35, 35),
    "green": (40, 165, 60),
    "blue": (40, 80, 225),
    "yellow": (243, 208, 35),
    "purple": (140, 50, 175),
    "orange": (245, 130, 25),
    "white": (246, 246, 246),
    "cyan": (50, 205, 215),
}
"""Red, green and blue (0 to 255) of each colour, before the jitter."""

COLOUR_JITTER = 12
"""Greatest shift of each channel of an object's colour."""

CONTRAST = 34.0
"""Levels between the two shades of a background's pattern."""

WHITE_LIMIT = 150.0
"""Brightest background, in levels of 255, that a white object is drawn on."""

_RADII = {"small": (9.5, 11.5), "large": (18.0, 20.5)}
_STEPS = {"centre": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
_STEPS |= {"above": (0, -1), "below": (0, 1)}
_PERIODS = (10, 12, 14)

_GRID = np.arange(SIZE, dtype=np.float32) + 0.5

Grid = NDArray[np.floating[Any]]


def _star(u: Grid, v: Grid) -> Grid:
    """Inside at least four of the five lines that a pentagram is drawn with: the second largest distance."""
    largest: Grid = np.full(np.broadcast_shapes(u.shape, v.shape), -9.0, dtype=np.float32)
    second: Grid = largest.copy()
    for corner in range(5):
        angle = 2 * math.pi * corner / 5 - math.pi / 2
        line = math.cos(angle) * u + math.sin(angle) * v - 0.36
        np.maximum(second, np.minimum(largest, line), out=second)
        np.maximum(largest, line, out=largest)
    return second


def _cross(u: Grid, v: Grid) -> Grid:
    across, along = np.abs(u), np.abs(v)
    inside: Grid = np.maximum(np.maximum(across, along) - 1.0, np.minimum(across, along) - 0.3)
    return inside


def _crescent(u: Grid, v: Grid) -> Grid:
    inside: Grid = np.maximum(np.hypot(u, v) - 1.0, 0.85 - np.hypot(u - 0.5, v))
    return inside


# Signed distances to the edge of a shape of radius 1, negative inside, where u goes to the right and v down.
_DISTANCES: dict[str, Callable[[Grid, Grid], Grid]] = {
    "circle": lambda u, v: np.hypot(u, v) - 0.95,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.84,
    "triangle": lambda u, v: np.maximum(v - 0.7, 0.866 * np.abs(u) - 0.5 * v - 0.5),
    "star": _star,
    "cross": _cross,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.78) - 0.21,
    "diamond": lambda u, v: 0.85 * np.abs(u) + 0.5 * np.abs(v) - 0.5,
    "crescent": _crescent,
}


def draw_picture(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the picture of a scene.

    Args:
        scene: A scene of kind image.
        rng: Draws place, radius and colour within what the scene says, and the shade of the background.

    Returns:
        Red, green and blue, uint8 of shape (84, 84, 3).
    """
    is_pair = "relation" in scene
    colours = (scene["colour"], scene["other_colour"]) if is_pair else (scene["colour"],)
    level = rng.uniform(0.0, (WHITE_LIMIT if "white" in colours else 255.0) - CONTRAST)
    picture = draw_background(scene["background"], level, rng)
    if is_pair:
        right, down = _STEPS[scene["relation"]]
        x, y, other_x, other_y = rng.uniform(-3.5, 3.5, 4) + SIZE / 2
        radius, other_radius = rng.uniform(13.0, 16.0, 2)
        draw_shape(
            picture, scene["shape"], jittered(scene["colour"], rng), x + 20 * right, y + 20 * down, float(radius)
        )
        draw_shape(
            picture,
            scene["other_shape"],
            jittered(scene["other_colour"], rng),
            other_x - 20 * right,
            other_y - 20 * down,
            float(other_radius),
        )
        return picture
    right, down = _STEPS[scene["place"]]
    x, y = rng.uniform(-3.0, 3.0, 2) + SIZE / 2
    radius = rng.uniform(*_RADII[scene["size"]])
    draw_shape(picture, scene["shape"], jittered(scene["colour"], rng), x + 19 * right, y + 19 * down, radius)
    return picture


def draw_shape(
    picture: NDArray[np.uint8],
    shape: str,
    colour: NDArray[np.float32],
    x: float,
    y: float,
    radius: float,
    turn: float = 0.0,
) -> None:
    """Draw a shape with smooth edges into a picture.

    Args:
        picture: uint8 of shape (84, 84, 3), changed in place.
        shape: One of the shapes of the world.
        colour: Levels of shape (3,).
        x: Centre in pixels from the left.
        y: Centre in pixels from the top.
        radius: Distance in pixels from the centre to the furthest corner, about.
        turn: Angle in radians by which the shape is turned.
    """
    # Only the square that can hold the shape is computed; corners reach a little further than the radius.
    reach = 1.25 * radius + 2
    columns = slice(max(0, int(x - reach)), max(0, min(SIZE, int(x + reach) + 1)))
    rows = slice(max(0, int(y - reach)), max(0, min(SIZE, int(y + reach) + 1)))
    u, v = (_GRID[None, columns] - np.float32(x)) / radius, (_GRID[rows, None] - np.float32(y)) / radius
    if turn:
        cosine, sine = np.float32(math.cos(turn)), np.float32(math.sin(turn))
        u, v = cosine * u + sine * v, cosine * v - sine * u
    cover = np.clip(0.5 - radius * _DISTANCES[shape](u, v), 0.0, 1.0).astype(np.float32)[..., None]
    window = picture[rows, columns]
    window[:] = (window + cover * (colour - window) + 0.5).astype(np.uint8)


def draw_background(pattern: str, level: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a grey background with a pattern whose period, direction and phase vary.

    Args:
        pattern: One of the backgrounds of the world.
        level: The darker shade of the pattern, 0 to 255; the brighter is `CONTRAST` above.
        rng: Source of randomness.

    Returns:
        uint8 of shape (84, 84, 3).
    """
    if pattern == "plain":
        return np.full((SIZE, SIZE, 3), int(level + CONTRAST * rng.random()), dtype=np.uint8)
    tiles = _tiles(pattern)
    tile = tiles[int(rng.integers(len(tiles)))]
    left, top = rng.integers(0, _PERIODS[-1], 2).tolist()
    grey = (level + tile[top : top + SIZE, left : left + SIZE]).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def jittered(colour: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return levels of shape (3,) near those of a colour of the world."""
    levels = rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, 3) + COLOUR_VALUES[colour]
    return np.clip(levels, 0, 255).astype(np.float32)


@lru_cache
def _tiles(pattern: str) -> tuple[Grid, ...]:
    """Return grounds of a pattern, of levels above the darker shade, large enough for every phase."""
    y, x = np.mgrid[0 : SIZE + _PERIODS[-1], 0 : SIZE + _PERIODS[-1]].astype(np.float32)
    tiles = []
    for period in _PERIODS:
        across, down = (x % period) / period - 0.5, (y % period) / period - 0.5
        if pattern == "striped":
            tiles += [across < 0, down < 0]
        elif pattern == "dotted":
            tiles.append(np.clip((0.3 - np.hypot(across, down)) * period + 0.5, 0, 1))
        else:
            tiles.append((across < 0) ^ (down < 0))
    return tuple((CONTRAST * tile).astype(np.float32) for tile in tiles)
