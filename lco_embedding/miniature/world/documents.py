"""Documents: a few words on paper, in Latin letters or in the runes of an invented alphabet."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lco_embedding.miniature.world.captions import text_of
from lco_embedding.miniature.world.pictures import SIZE
from lco_embedding.miniature.world.scenes import Scene

LETTER_SIZES = (19, 20, 21)
"""Sizes of Latin letters in pixels; runes are as high as capitals of that size."""

RUNES = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        (
            *("ae bc", "ae ad", "ae bc de", "ae cf", "ae af", "bf be", "bf ac cb", "bf cf ce", "ac cd df"),
            *("ae bf ad", "ae bf cd", "ab ae bf", "ae bf ed", "af be", "ab af", "ab be", "ef be", "ef af"),
            *("ae ef", "bf ef cb", "ac cf bf", "ad bc de", "ab ef ce ac bf", "ac bc cf", "ad bd df", "ad de bc cf"),
        ),
        strict=True,
    )
)
"""The strokes of each rune, between the points of a grid: a and b above, c and d in the middle, e and f below."""

_POINTS = {"a": (0.0, 0.0), "b": (1.0, 0.0), "c": (0.0, 0.5), "d": (1.0, 0.5), "e": (0.0, 1.0), "f": (1.0, 1.0)}


def draw_document(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Write the words of a document, one on each line.

    Args:
        scene: A scene of kind document.
        rng: Draws the size and place of the words and the shades of paper and ink.

    Returns:
        Red, green and blue, uint8 of shape (84, 84, 3).
    """
    size = LETTER_SIZES[int(rng.integers(len(LETTER_SIZES)))]
    lines = [draw_word(word, scene["script"], size) for word in text_of(scene).split()]
    paper, ink = rng.uniform(205.0, 255.0, 3), rng.uniform(0.0, 70.0, 3)
    cover = np.zeros((SIZE, SIZE, 1), dtype=np.float32)
    pitch = 26
    top = (SIZE - pitch * len(lines)) / 2 + rng.uniform(-2.0, 2.0)
    is_centred = rng.random() < 0.5
    for index, line in enumerate(lines):
        height, width = line.shape
        room = SIZE - width
        left = int(room / 2 + rng.uniform(-2.0, 2.0)) if is_centred else int(rng.uniform(2.0, 5.0))
        left, above = max(0, min(left, room)), round(top + index * pitch + (pitch - height) / 2)
        cover[above : above + height, left : left + width, 0] = line
    return (paper + cover * (ink - paper) + 0.5).astype(np.uint8)


@cache
def draw_word(word: str, script: str, size: int) -> NDArray[np.float32]:
    """Draw a word.

    Args:
        word: Lower-case letters.
        script: latin or runes.
        size: Size of the letters in pixels.

    Returns:
        How much of each pixel is ink, 0 to 1, of shape (height, width), at most as wide as a document.
    """
    if script == "runes":
        glyphs = [draw_rune(letter, size) for letter in word]
        return np.concatenate(glyphs, axis=1)[:, :SIZE]
    font = ImageFont.load_default(size)
    # All words of a size share their line, so that letters stand where a reader expects them.
    _, top, _, bottom = font.getbbox("dpl")
    left, _, right, _ = font.getbbox(word)
    image = Image.new("L", (int(right - left) + 1, int(bottom - top) + 1))
    ImageDraw.Draw(image).text((-left, -top), word, fill=255, font=font)
    return _cover(image)[:, :SIZE]


@cache
def draw_rune(letter: str, size: int) -> NDArray[np.float32]:
    """Draw the rune of a letter.

    Args:
        letter: One of a to z.
        size: Size in pixels, of which the strokes take three quarters.

    Returns:
        How much of each pixel is ink, 0 to 1, of shape (height, width), with a margin.
    """
    scale, height = 4, round(0.75 * size)  # drawn larger and reduced, for smooth strokes
    width = round(0.42 * height)
    image = Image.new("L", (scale * (width + 5), scale * (height + 5)))
    pen = ImageDraw.Draw(image)
    for stroke in RUNES[letter].split():
        ends = [
            scale * (2.5 + extent * part)
            for point in stroke
            for part, extent in zip(_POINTS[point], (width, height), strict=True)
        ]
        pen.line(ends, fill=255, width=2 * scale)
    image = image.resize((width + 5, height + 5), Image.Resampling.BOX)
    return _cover(image)


def _cover(image: Image.Image) -> NDArray[np.float32]:
    return (np.asarray(image) / 255).astype(np.float32)
