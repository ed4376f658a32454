"""Draw the pictures of `docs/world.md`, and count the scenes of each split.

    python scripts/show_world.py --output docs/world

Everything is drawn from a fixed seed.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lco_embedding.miniature import world
from lco_embedding.miniature.world.scenes import DOMAINS, SHAPES, TIMBRES

SEED = 0
SCALE = 2
"""Pixels that one pixel of a picture or of a spectrogram takes, along each axis. Clips are drawn as they are: so a
strip is as wide as a sound, and as two pictures."""

GAP, LETTERS, LINE = 12, 13, 17
"""Space between cells, size of letters and distance of lines, in pixels."""

WINDOW, HOP, BANDS = 512, 150, 64
"""Samples of a window of a spectrogram and between two of them, and its number of mel bands."""

DECIBELS = 50.0
"""How far below the loudest band silence begins."""

HEAT = np.array([(12, 10, 40), (90, 20, 110), (200, 60, 80), (250, 160, 50), (252, 250, 190)])
"""Red, green and blue from silent to loud."""


# --- spectrograms ---------------------------------------------------------------------------------------------------


def log_mel(sound: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the loudness of a sound in mel bands.

    Args:
        sound: A waveform of shape (samples,) at the rate of the world.

    Returns:
        From 0 (silent) to 1 (loudest), of shape (bands, windows), the lowest band last.
    """
    padded = np.pad(sound.astype(np.float64), WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(windows)) ** 2
    edges = 700 * (np.exp(np.linspace(0, np.log1p(world.RATE / 2 / 700), BANDS + 2)) - 1)
    hertz = np.linspace(0, world.RATE / 2, WINDOW // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    # The lowest bands are narrower than the distance of two frequencies: each takes at least the nearest.
    bands = np.clip(np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)), 0, None)
    bands[np.arange(BANDS), np.abs(hertz - middle).argmin(axis=1)] += 1e-2
    loudness = 10 * np.log10(bands / bands.sum(axis=1, keepdims=True) @ power.T + 1e-9)
    levels: NDArray[np.float64] = np.clip((loudness - loudness.max()) / DECIBELS + 1, 0, 1)
    return levels[::-1]


def heat(levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Turn levels from 0 to 1, of shape (height, width), into colours of shape (height, width, 3)."""
    anchors = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(levels, anchors, HEAT[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)


# --- cells and sheets -----------------------------------------------------------------------------------------------


def show(scene: world.Scene, rng: np.random.Generator) -> Image.Image:
    """Render a scene as a picture: a clip as a strip of its frames, a sound as its spectrogram."""
    rendered: NDArray[Any] = world.render(scene, rng)
    if scene.kind == "clip":
        frames = [np.pad(frame, ((0, 0), (0, 2), (0, 0)), constant_values=255) for frame in rendered]
        return Image.fromarray(np.concatenate(frames, axis=1)[:, :-2])
    image = Image.fromarray(heat(log_mel(rendered)) if scene.kind == "sound" else rendered)
    return image.resize((SCALE * image.width, SCALE * image.height), Image.Resampling.NEAREST)


def with_caption(image: Image.Image, text: str) -> Image.Image:
    """Write a text under a picture, in as many lines as it takes."""
    font = ImageFont.load_default(LETTERS)
    rows = [""]
    for word in text.split():
        longer = f"{rows[-1]} {word}".strip()
        if font.getlength(longer) <= image.width:
            rows[-1] = longer
        else:
            rows.append(word)
    cell = Image.new("RGB", (image.width, image.height + 5 + len(rows) * LINE), "white")
    cell.paste(image)
    pen = ImageDraw.Draw(cell)
    for index, row in enumerate(rows):
        pen.text((0, image.height + 4 + index * LINE), row, fill=(40, 40, 40), font=font)
    return cell


def sheet(cells: Sequence[Image.Image], columns: int) -> Image.Image:
    """Lay cells out in rows; a row is as high as its highest cell, all columns are as wide as the widest cell."""
    width = max(cell.width for cell in cells)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    size = (columns * (width + GAP) + GAP, sum(heights) + GAP * (len(rows) + 1))
    page, top = Image.new("RGB", size, "white"), GAP
    for row, height in zip(rows, heights, strict=True):
        for index, cell in enumerate(row):
            page.paste(cell, (GAP + index * (width + GAP), top))
        top += height + GAP
    return page


# --- the sheets -----------------------------------------------------------------------------------------------------


def told(scenes: Sequence[world.Scene], columns: int, rng: np.random.Generator) -> Image.Image:
    """Draw scenes with their captions."""
    return sheet([with_caption(show(scene, rng), world.caption(scene, rng)) for scene in scenes], columns)


def images(rng: np.random.Generator) -> Image.Image:
    """Draw an image of each shape, alone or as the first of two."""
    return told([world.sample("image", "train", rng, shape=shape) for shape in SHAPES], 4, rng)


def clips(rng: np.random.Generator) -> Image.Image:
    """Draw a clip of each motion."""
    return told([world.sample("clip", "train", rng, motion=motion) for motion in DOMAINS["motion"]], 2, rng)


def sounds(rng: np.random.Generator) -> Image.Image:
    """Draw sounds that hold each timbre, a word, and two words."""
    scenes = [world.sample("sound", "train", rng, timbre=timbre) for timbre in TIMBRES]
    scenes.append(world.Scene.of("sound", word="seven"))
    scenes += [world.sample("sound", "train", rng, word="hello", next_word=word) for word in ("music", "water")]
    return told(scenes, 2, rng)


def documents(rng: np.random.Generator) -> Image.Image:
    """Draw documents in Latin letters, and below them the same in runes."""
    latin = [world.sample("document", "train", rng, script="latin") for _ in range(4)]
    return told([*latin, *(scene.changed("script", "runes") for scene in latin)], 4, rng)


def hard_negatives(rng: np.random.Generator) -> Image.Image:
    """Draw scenes, and beside each what differs from it in one attribute."""
    pictures, strips = (
        [each for kind in kinds for each in with_negative(kind, rng)]
        for kinds in (("image", "document"), ("clip", "sound"))
    )
    upper, lower = told(pictures, 4, rng), told(strips, 2, rng)
    page = Image.new("RGB", (max(upper.width, lower.width), upper.height + lower.height), "white")
    page.paste(upper)
    page.paste(lower, (0, upper.height))
    return page


def with_negative(kind: world.Kind, rng: np.random.Generator) -> tuple[world.Scene, world.Scene]:
    """Draw a scene and a hard negative of it."""
    scene = world.sample(kind, "train", rng)
    return scene, world.hard_negative(scene, rng)


SHEETS = (images, clips, sounds, documents, hard_negatives)


def counts() -> str:
    """Count the scenes of each kind in each split, as a table in Markdown; the script of a document counts once."""
    lines = ["| kind | scenes | train | dev | test |", "|---|---|---|---|---|"]
    for kind in world.KINDS:
        scenes = world.scenes_of(kind, **({"script": "latin"} if kind == "document" else {}))
        splits = Counter(map(world.split_of, scenes))
        lines.append(f"| {kind} | {len(scenes):,} | " + " | ".join(f"{splits[each]:,}" for each in world.SPLITS) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write a picture for each sheet, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "world", help="folder")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for number, draw in enumerate(SHEETS):
        path = folder / f"{draw.__name__}.png"
        page = draw(np.random.default_rng([SEED, number]))
        # A palette of 256 colours is enough here, and takes a third of the space.
        page.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path.stat().st_size:8,} {path}")
    print(counts())


if __name__ == "__main__":
    main()
