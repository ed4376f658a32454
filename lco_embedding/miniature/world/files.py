"""Write the world to disk: real files, an any-to-any index for contrastive training, and chats for generative training.

    write("world", "train", {"image": 1000, "sound": 1000, "clip": 1000, "document": 200}, seed=0)

makes these files, and the same bytes each time:

    world/index.jsonl           {"anchor": {...}, "positive": {...}, "negative": {...}}
    world/chat.jsonl            {"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}
    world/captions.jsonl        {"anchor": "...", "positive": "...", "negative": "..."}, if captions are asked for
    world/images/000000.png     and so on, sounds/*.flac, clips/*.mp4, documents/*.png

Each side of a row of the index has `text`, `image_path`, `audio_path` and `video_path`, of which those that are absent
are "". Paths are relative to the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from lco_embedding.atomic_writes import write_text
from lco_embedding.miniature.world.captions import caption, text_of
from lco_embedding.miniature.world.clips import FPS
from lco_embedding.miniature.world.exchanges import Exchange, exchange, question, summary
from lco_embedding.miniature.world.rendering import render
from lco_embedding.miniature.world.scenes import Kind, Scene, Split, hard_negative, sample_distinct
from lco_embedding.miniature.world.sounds import RATE
from lco_embedding.miniature.world.synonyms import NOUNS
from lco_embedding.miniature.world.triplets import Triplets

Side = dict[str, str]
Row = dict[str, Any]

PLACES: dict[Kind, tuple[str, str, str]] = {
    "image": ("images/{:06}.png", "image_path", "image"),
    "sound": ("sounds/{:06}.flac", "audio_path", "audio"),
    "clip": ("clips/{:06}.mp4", "video_path", "video"),
    "document": ("documents/{:06}.png", "image_path", "image"),
}
"""For each kind: where its files go, the column of the index that names them, and the type of their chat blocks."""

X264 = "threads=1:lookahead-threads=1:sync-lookahead=0"
"""Settings of the encoder under which it writes the same bytes each time."""

DIRECTIONS = ("text to medium", "medium to text", "medium to medium", "text to text", "edited")
"""What the rows of the index ask for, in turn; an edited row goes from a medium and a text that changes it."""


def write(folder: str | Path, split: Split, counts: Mapping[Kind, int], seed: int, captions: int = 0) -> Path:
    """Write scenes of a split as files, with an index and chats.

    Args:
        folder: Where to write; made if missing.
        split: Which scenes to write, and in whose caption templates.
        counts: For each kind, how many scenes, all distinct; each gives one row of the index and four or five chats.
        seed: Seed of the scenes, their renderings and their texts.
        captions: How many triplets of captions to write, for training on text alone.

    Returns:
        The folder.

    Raises:
        ValueError: A split has fewer scenes of a kind than asked for.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    chats: list[Row] = []
    for kind, count in counts.items():
        studio = _Studio(folder, kind)
        for number, scene in enumerate(sample_distinct(kind, split, count, rng)):
            path = studio.record(scene, rng)
            rows.append(_row(DIRECTIONS[number % len(DIRECTIONS)], scene, path, studio, split, rng))
            chats += _chats(scene, path, split, rng)
    for name, lines in (("index.jsonl", rows), ("chat.jsonl", chats)):
        text = "".join(f"{json.dumps(lines[index])}\n" for index in rng.permutation(len(lines)).tolist())
        write_text(folder / name, text)
    if captions:
        triplets = Triplets(captions, seed, split)
        text = "".join(f"{json.dumps(triplets[index])}\n" for index in range(captions))
        write_text(folder / "captions.jsonl", text)
    return folder


class _Studio:
    """Writes the files of one kind, numbered in the order in which they are made."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.folder = folder
        self.pattern = PLACES[kind][0]
        self.count = 0
        (folder / self.pattern).parent.mkdir(exist_ok=True)

    def record(self, scene: Scene, rng: np.random.Generator) -> str:
        """Render a scene into the next file, and return its path relative to the folder."""
        path = self.pattern.format(self.count)
        self.count += 1
        write_medium(self.folder / path, render(scene, rng))
        return path


def write_medium(path: Path, array: NDArray[Any]) -> None:
    """Write a rendered scene as a file.

    Args:
        path: Where to write; its ending decides the format.
        array: A picture of shape (height, width, 3), the frames of a clip, of shape (frames, height, width, 3), or a
            waveform of shape (samples,), as `render` returns them.
    """
    if array.ndim == 3:
        Image.fromarray(array).save(path)
    elif array.ndim == 1:
        soundfile.write(path, array, RATE, subtype="PCM_16")
    else:
        _write_clip(path, array)


def _write_clip(path: Path, frames: NDArray[np.uint8]) -> None:
    # Bit-exact and in one thread, so that the same bytes come out each time.
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"crf": "14", "flags": "+bitexact", "x264-params": X264}
        )
        stream.codec_context.thread_count = 1
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, FPS)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _row(direction: str, scene: Scene, path: str, studio: _Studio, split: Split, rng: np.random.Generator) -> Row:
    column = PLACES[scene.kind][1]
    other = hard_negative(scene, rng)
    if direction == "text to medium":
        sides = _side(caption(scene, rng, split)), _side(**{column: path}), _side(**{column: studio.record(other, rng)})
    elif direction == "medium to text":
        sides = _side(**{column: path}), _side(caption(scene, rng, split)), _side(caption(other, rng, split))
    elif direction == "medium to medium":
        again = studio.record(scene, rng)
        sides = _side(**{column: path}), _side(**{column: again}), _side(**{column: studio.record(other, rng)})
    elif direction == "text to text":
        sides = _side(caption(scene, rng, split)), _side(caption(scene, rng, split)), _side(caption(other, rng, split))
    else:
        name = next(name for name in scene.names if scene[name] != other[name])
        text = f"the same, but the {NOUNS[name]} is {scene[name]}"
        before, again = studio.record(other, rng), studio.record(other, rng)
        sides = _side(text, **{column: before}), _side(**{column: path}), _side(**{column: again})
    return dict(zip(("anchor", "positive", "negative"), sides, strict=True))


def _side(text: str = "", **paths: str) -> Side:
    return {"text": text, "image_path": "", "audio_path": "", "video_path": "", **paths}


def _chats(scene: Scene, path: str, split: Split, rng: np.random.Generator) -> Iterator[Row]:
    """Yield a caption, a question, a summary, a transcription if there are words, and an exchange about a caption."""
    medium = {"type": PLACES[scene.kind][2], "path": path}
    exchanges = [
        exchange(scene, rng, split=split, tasks={"caption": 1.0}),
        question(scene, rng),
        summary(scene, rng),
    ]
    if text_of(scene):
        exchanges.append(exchange(scene, rng, tasks={"transcription": 1.0}))
    for each in exchanges:
        yield _chat([medium, {"type": "text", "text": each.request}], each)
    about = exchange(scene, rng, medium="text", split=split)
    yield _chat([{"type": "text", "text": f"{caption(scene, rng, split)}\n{about.request}"}], about)


def _chat(content: list[dict[str, str]], each: Exchange) -> Row:
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": each.answer}]}
