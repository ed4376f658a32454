"""Make the sample files that the README embeds: images, sounds, clips, sentences and an index of mixtures.

    python scripts/make_samples.py --output samples

Everything is drawn, synthesised or spoken here, from a fixed seed, so that the samples are free of anyone's rights.
The spoken words come from Debian's `espeak-ng`. The name of a file says what is in it.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 84
"""Width and height of images and clips in pixels: three patches of 28, the smallest unit of the Qwen processors."""

FPS = 8
SECONDS = 2
RATE = 16_000
SEED = 0

COLOURS = {
    "red": (220, 30, 30),
    "blue": (30, 70, 220),
    "green": (30, 160, 60),
    "yellow": (245, 205, 20),
    "purple": (140, 50, 170),
    "orange": (245, 130, 20),
}

# Images are listed as (path, colour, shape, background).
IMAGES: list[tuple[str, str, str, str]] = [
    ("images/red_circle.png", "red", "circle", "white"),
    ("images/blue_square.jpg", "blue", "square", "white"),
    ("images/green_star.webp", "green", "star", "white"),
    ("images/yellow_triangle.png", "yellow", "triangle", "black"),
    ("images/purple_ring.jpg", "purple", "ring", "white"),
    ("images/orange_cross.webp", "orange", "cross", "black"),
]

SENTENCES = {
    "images/red_circle.png": "a red circle",
    "images/blue_square.jpg": "a blue square",
    "images/green_star.webp": "a green star",
    "images/yellow_triangle.png": "a yellow triangle on a black ground",
    "images/purple_ring.jpg": "a purple ring",
    "images/orange_cross.webp": "an orange cross on a black ground",
    "sounds/voice_seven.wav": "a voice says seven",
    "sounds/voice_hello.flac": "a voice says hello",
    "sounds/low_flute.mp3": "a low flute holds one note",
    "sounds/high_beeps.ogg": "four high beeps",
    "sounds/hiss.m4a": "a steady hiss",
    "clips/red_circle_moves_right.mp4": "a red circle that moves to the right",
    "clips/blue_square_grows.mp4": "a blue square that grows",
    "clips/green_star_blinks.webm": "a green star that blinks",
    "clips/yellow_triangle_falls_while_a_tone_falls.mp4": "a yellow triangle that falls while a tone falls",
}

MIXTURES: list[dict[str, str]] = [
    {"id": "circle-in-blue", "image": "images/red_circle.png", "text": "the same shape, but in blue"},
    {"id": "seven-squares", "image": "images/blue_square.jpg", "audio": "sounds/voice_seven.wav", "text": "how many"},
    {"id": "circle-with-flute", "video": "clips/red_circle_moves_right.mp4", "audio": "sounds/low_flute.mp3"},
    {"id": "star-to-star", "video": "clips/green_star_blinks.webm", "image": "images/green_star.webp", "text": "stars"},
]


# --- drawing --------------------------------------------------------------------------------------------------------


def draw(
    shape: str, colour: str, background: str = "white", x: float = 0.5, y: float = 0.5, radius: float = 0.3
) -> Image.Image:
    """Draw one shape on a plain ground.

    Args:
        shape: One of circle, square, star, triangle, ring, cross.
        colour: A key of `COLOURS`.
        background: A colour that Pillow knows by name.
        x: Centre from the left, as a part of the width.
        y: Centre from the top, as a part of the height.
        radius: Half the extent of the shape, as a part of the width.

    Returns:
        An RGB image of `SIZE` x `SIZE` pixels.
    """
    scale = 4  # drawn larger and reduced, for smooth edges
    side = SIZE * scale
    image = Image.new("RGB", (side, side), background)
    pen, fill = ImageDraw.Draw(image), COLOURS[colour]
    cx, cy, r = x * side, y * side, radius * side
    box = (cx - r, cy - r, cx + r, cy + r)
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "square":
        pen.rectangle(box, fill=fill)
    elif shape == "ring":
        pen.ellipse(box, outline=fill, width=round(r * 0.4))
    elif shape == "cross":
        arm = r / 3
        pen.rectangle((cx - r, cy - arm, cx + r, cy + arm), fill=fill)
        pen.rectangle((cx - arm, cy - r, cx + arm, cy + r), fill=fill)
    elif shape in ("star", "triangle"):
        corners, inner = (10, 0.4) if shape == "star" else (3, 1.0)
        reach = [r * (inner if corner % 2 else 1.0) for corner in range(corners)]
        angles = [2 * math.pi * corner / corners - math.pi / 2 for corner in range(corners)]
        pen.polygon(
            [(cx + d * math.cos(angle), cy + d * math.sin(angle)) for d, angle in zip(reach, angles, strict=True)],
            fill=fill,
        )
    else:
        raise ValueError(f"there is no shape {shape!r}; expected circle, square, star, triangle, ring or cross")
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def film(frame: Callable[[float], Image.Image]) -> list[Image.Image]:
    """Draw the frames of a clip: `frame` is called with the time, from 0 at the first frame to 1 at the last."""
    total = FPS * SECONDS
    return [frame(index / (total - 1)) for index in range(total)]


# --- sounds ---------------------------------------------------------------------------------------------------------


def speak(words: str, seconds: float = 1.2) -> NDArray[np.float32]:
    """Let `espeak-ng` say something.

    Args:
        words: What to say, in English.
        seconds: Length to which the speech is cut or padded.

    Returns:
        The waveform, of shape (samples,), at `RATE`.

    Raises:
        SystemExit: `espeak-ng` is not installed.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise SystemExit("espeak-ng, which speaks the words, is not installed: apt-get install espeak-ng")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run([program, "-v", "en", "-s", "130", "-w", str(path), words], check=True)
        samples, rate = soundfile.read(path, dtype="float32")
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    samples = soxr.resample(samples[loud[0] : loud[-1] + 1], rate, RATE)
    total, start = round(seconds * RATE), RATE // 10
    samples = np.pad(samples, (start, total))[:total]
    return level(samples)


def level(samples: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Scale a waveform to a peak of 0.7, and fade its ends over 20 ms."""
    fade = np.minimum(1.0, np.minimum(np.arange(len(samples)), np.arange(len(samples))[::-1]) / (0.02 * RATE))
    return (0.7 * samples / np.abs(samples).max() * fade).astype(np.float32)


def clock(seconds: float) -> NDArray[np.float64]:
    """Return the time of each sample, in seconds."""
    return np.arange(round(seconds * RATE)) / RATE


def flute(hertz: float = 220.0, seconds: float = 1.6) -> NDArray[np.float32]:
    """Return a flute-like note: few harmonics, a soft start and a vibrato of 5 Hz."""
    time = clock(seconds)
    phase = 2 * np.pi * hertz * time + 0.25 * np.sin(2 * np.pi * 5 * time)
    note = sum(gain * np.sin(harmonic * phase) for harmonic, gain in ((1, 1.0), (2, 0.25), (3, 0.08)))
    return level(note * (1 - np.exp(-time / 0.08)))


def beeps(hertz: float = 2000.0, seconds: float = 1.2, count: int = 4) -> NDArray[np.float32]:
    """Return `count` short beeps, each followed by as long a silence."""
    time = clock(seconds)
    return level(np.sin(2 * np.pi * hertz * time) * (time * count / seconds % 1 < 0.5))


def hiss(seconds: float = 1.0) -> NDArray[np.float32]:
    """Return white noise, soft enough that the lossy code does not exceed full scale."""
    return 0.4 * level(np.random.default_rng(SEED).uniform(-1, 1, round(seconds * RATE)))


def falling_tone(high: float = 1200.0, low: float = 300.0, seconds: float = SECONDS) -> NDArray[np.float32]:
    """Return a tone that falls from `high` to `low` Hz."""
    hertz = np.geomspace(high, low, round(seconds * RATE))
    return level(np.sin(2 * np.pi * np.cumsum(hertz) / RATE))


# --- files ----------------------------------------------------------------------------------------------------------


def encode(
    path: Path,
    frames: Sequence[Image.Image] = (),
    samples: NDArray[np.float32] | None = None,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
) -> None:
    """Write a file of pictures, of sound, or of both, with PyAV.

    Args:
        path: Where to write; its ending decides the container.
        frames: RGB images of one size, shown at `FPS`; none for a file of sound alone.
        samples: A waveform of shape (samples,) at `RATE`; None for silence.
        video_codec: FFmpeg's name of the encoder of the frames.
        audio_codec: FFmpeg's name of the encoder of the waveform.
    """
    # Bit-exact: without creation times, random identifiers and versions, so that the same bytes come out each time.
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        video = audio = None
        if frames:
            options = {"crf": "24", "flags": "+bitexact"} | ({"b": "0"} if video_codec == "libvpx-vp9" else {})
            video = container.add_stream(video_codec, rate=FPS, options=options)
            video.codec_context.thread_count = 1  # with more, the bytes vary from run to run
            video.width, video.height, video.pix_fmt = *frames[0].size, "yuv420p"
        if samples is not None:
            audio = container.add_stream(audio_codec, rate=RATE, layout="mono", bit_rate=48_000)
            audio.options = {"flags": "+bitexact"}
        if video is not None:
            for image in frames:
                container.mux(video.encode(av.VideoFrame.from_image(image).reformat(format="yuv420p")))
            container.mux(video.encode())
        if audio is not None and samples is not None:
            sound = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            sound.sample_rate, sound.time_base, sound.pts = RATE, Fraction(1, RATE), 0
            container.mux(audio.encode(sound))
            container.mux(audio.encode())


def write_images(folder: Path) -> None:
    """Write the images, each in the format of its ending."""
    for name, colour, shape, background in IMAGES:
        draw(shape, colour, background).save(folder / name, quality=90)


def write_sounds(folder: Path) -> None:
    """Write the sounds: 16 kHz, one channel, each in the format of its ending."""
    soundfile.write(folder / "sounds/voice_seven.wav", speak("seven"), RATE, subtype="PCM_16")
    soundfile.write(folder / "sounds/voice_hello.flac", speak("hello"), RATE, subtype="PCM_16")
    encode(folder / "sounds/low_flute.mp3", samples=flute(), audio_codec="libmp3lame")
    encode(folder / "sounds/high_beeps.ogg", samples=beeps(), audio_codec="libopus")
    encode(folder / "sounds/hiss.m4a", samples=hiss())


def write_clips(folder: Path) -> None:
    """Write the clips: two seconds at 8 frames a second, one of them with sound."""
    clips = folder / "clips"
    encode(
        clips / "red_circle_moves_right.mp4", film(lambda time: draw("circle", "red", x=0.2 + 0.6 * time, radius=0.15))
    )
    encode(clips / "blue_square_grows.mp4", film(lambda time: draw("square", "blue", radius=0.05 + 0.35 * time)))
    encode(
        clips / "green_star_blinks.webm",
        film(lambda time: draw("star", "green", radius=0.0 if int(time * 7.99) % 2 else 0.35)),
        video_codec="libvpx-vp9",
    )
    encode(
        clips / "yellow_triangle_falls_while_a_tone_falls.mp4",
        film(lambda time: draw("triangle", "yellow", "black", y=0.2 + 0.6 * time, radius=0.18)),
        falling_tone(),
    )


def main() -> None:
    """Write every sample, the sentences and the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "samples", help="folder to write to")
    folder = parser.parse_args().output
    for name in ("images", "sounds", "clips"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_images(folder)
    write_sounds(folder)
    write_clips(folder)
    (folder / "sentences.txt").write_text("".join(f"{line}\n" for line in SENTENCES.values()), encoding="utf8")
    (folder / "index.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in MIXTURES), encoding="utf8")
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in paths:
        print(f"{path.stat().st_size:8,} {path.relative_to(folder)}")
    print(f"{sum(path.stat().st_size for path in paths):8,} in all")


if __name__ == "__main__":
    main()
