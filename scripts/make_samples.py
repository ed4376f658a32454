"""Make the sample files that the README embeds: images, sounds, clips, sentences and an index of mixtures.

    python scripts/make_samples.py --output samples

The scenes are of the miniature's world, kept out of its training, in the file formats that people have. The name of
a file says what is in it. Everything follows from a fixed seed and is free of anyone's rights.
"""

from __future__ import annotations

import argparse
import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from lco_embedding.miniature import world
from lco_embedding.miniature.world import Scene

SEED = 0

IMAGES: dict[str, dict[str, str]] = {
    "red_circle.png": {"colour": "red", "shape": "circle", "size": "large", "place": "left", "background": "plain"},
    "blue_square.jpg": {"colour": "blue", "shape": "square", "size": "small", "place": "top", "background": "dotted"},
    "green_star.webp": {"colour": "green", "shape": "star", "size": "large", "place": "right", "background": "plain"},
    "yellow_triangle.png": {
        "colour": "yellow",
        "shape": "triangle",
        "size": "small",
        "place": "bottom",
        "background": "striped",
    },
    "purple_ring.jpg": {
        "colour": "purple",
        "shape": "ring",
        "size": "large",
        "place": "centre",
        "background": "checkered",
    },
    "orange_cross.webp": {
        "colour": "orange",
        "shape": "cross",
        "size": "large",
        "place": "centre",
        "background": "plain",
    },
}

SOUNDS: dict[str, dict[str, str]] = {
    "voice_seven.wav": {"word": "seven"},
    "voice_hello.flac": {"word": "hello"},
    "low_flute.mp3": {"pitch": "low", "timbre": "flute", "pattern": "steady"},
    "high_beeps.ogg": {"pitch": "high", "timbre": "beep", "pattern": "pulsing"},
    "hiss_then_buzz.m4a": {
        "pitch": "high",
        "timbre": "hiss",
        "pattern": "falling",
        "next_pitch": "low",
        "next_timbre": "buzz",
        "next_pattern": "rising",
    },
}

CLIPS: dict[str, dict[str, str]] = {
    "red_circle_moves_right.mp4": {
        "colour": "red",
        "shape": "circle",
        "motion": "right",
        "shade": "bright",
        "background": "plain",
    },
    "blue_square_grows.mp4": {
        "colour": "blue",
        "shape": "square",
        "motion": "growing",
        "shade": "bright",
        "background": "dotted",
    },
    "green_star_blinks.webm": {
        "colour": "green",
        "shape": "star",
        "motion": "blinking",
        "shade": "dark",
        "background": "plain",
    },
    "yellow_triangle_falls_while_a_tone_falls.mp4": {
        "colour": "yellow",
        "shape": "triangle",
        "motion": "down",
        "shade": "dark",
        "background": "striped",
    },
}

FALLING_TONE = {"pitch": "low", "timbre": "flute", "pattern": "falling"}

MIXTURES: list[dict[str, str]] = [
    {"id": "circle-in-blue", "image": "images/red_circle.png", "text": "the same, but the colour is blue"},
    {"id": "seven-squares", "image": "images/blue_square.jpg", "audio": "sounds/voice_seven.wav", "text": "how many"},
    {"id": "circle-with-flute", "video": "clips/red_circle_moves_right.mp4", "audio": "sounds/low_flute.mp3"},
    {"id": "star-to-star", "video": "clips/green_star_blinks.webm", "image": "images/green_star.webp", "text": "stars"},
]


def write_sound(path: Path, samples: NDArray[np.float32]) -> None:
    """Write a waveform of shape (samples,); the ending of the path decides the format."""
    if path.suffix != ".m4a":
        kwargs = {"subtype": "PCM_16"} if path.suffix in (".wav", ".flac") else {}
        soundfile.write(path, samples, world.RATE, **kwargs)
        return
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        _mux_sound(container, container.add_stream("aac", rate=world.RATE, layout="mono"), samples)


def write_clip(path: Path, frames: NDArray[np.uint8], sound: NDArray[np.float32] | None = None) -> None:
    """Write a clip with or without sound.

    Args:
        path: `.mp4` or `.webm`.
        frames: Shape (frames, height, width, 3).
        sound: Shape (samples,).
    """
    codec, options = ("libvpx-vp9", {"crf": "20", "b": "0"}) if path.suffix == ".webm" else ("libx264", {"crf": "14"})
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        video: Any = container.add_stream(codec, rate=world.FPS, options={**options, "flags": "+bitexact"})
        video.height, video.width = frames.shape[1:3]
        video.codec_context.thread_count = 1
        video.pix_fmt, video.codec_context.time_base = "yuv420p", Fraction(1, world.FPS)
        audio: Any = None if sound is None else container.add_stream("aac", rate=world.RATE, layout="mono")
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, world.FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound is not None:
            _mux_sound(container, audio, sound)


def _mux_sound(container: Any, stream: Any, samples: NDArray[np.float32]) -> None:
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = world.RATE, 0, Fraction(1, world.RATE)
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def main() -> None:
    """Write the samples in place of the old ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "samples")
    folder = parser.parse_args().output
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("images", "sounds", "clips"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(SEED)
    sentences = []
    for name, attributes in IMAGES.items():
        scene = Scene.of("image", **attributes)
        Image.fromarray(world.render(scene, rng)).save(folder / "images" / name, quality=92)
        sentences.append(world.caption(scene, rng, "test"))
    for name, attributes in SOUNDS.items():
        scene = Scene.of("sound", **attributes)
        write_sound(folder / "sounds" / name, world.render(scene, rng))
        sentences.append(world.caption(scene, rng, "test"))
    for name, attributes in CLIPS.items():
        scene = Scene.of("clip", **attributes)
        sound = world.render(Scene.of("sound", **FALLING_TONE), rng) if name.endswith("tone_falls.mp4") else None
        write_clip(folder / "clips" / name, world.render(scene, rng), sound)
        sentences.append(world.caption(scene, rng, "test"))
    (folder / "sentences.txt").write_text("".join(f"{text}\n" for text in sentences), encoding="utf8")
    index = "".join(f"{json.dumps(mixture)}\n" for mixture in MIXTURES)
    (folder / "index.jsonl").write_text(index, encoding="utf8")


if __name__ == "__main__":
    main()
