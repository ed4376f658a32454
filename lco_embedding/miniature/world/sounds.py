"""Sounds: tones and spoken words, one alone or two in a row."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lco_embedding.miniature.world.captions import halves_of
from lco_embedding.miniature.world.scenes import Scene
from lco_embedding.miniature.world.spoken_words import SLOT, SPEEDS, VOICES, recording

RATE = 16_000
"""Samples a second."""

SAMPLES = 25_600
"""Samples of a sound: 1.6 s, of which each of two parts has a half."""

PITCHES = {"low": (180.0, 230.0), "high": (1150.0, 1400.0)}
"""Range of the lowest frequency of a tone, in Hz."""

SWEEP = 1.7
"""Ratio of the highest to the lowest frequency of a tone that rises or falls."""

HARMONICS: dict[str, dict[str, tuple[float, ...]]] = {
    "flute": {"low": (1.0, 0.15), "high": (1.0, 0.1)},
    "buzz": {"low": tuple(1 / index for index in range(1, 17)), "high": (0.7, 1.0, 0.8)},
    "beep": {"low": (1.0, 0.0, 0.35), "high": (1.0, 0.0, 0.2)},
}
"""Strength of each harmonic of the timbres that have more than one; all of them stay below half the sampling rate."""

# Sine waves are read from tables: far faster than to compute them.
_TABLE = 4096
_NOISE = 1 << 17
_FADE = 240


def play_sound(scene: Scene, rng: np.random.Generator) -> NDArray[np.float32]:
    """Play a sound.

    Args:
        scene: A scene of kind sound.
        rng: Draws voice, speed, frequency, loudness, onset and background noise within what the scene says.

    Returns:
        The waveform at 16 kHz, float32 in [-1, 1] of shape (25600,).
    """
    sound = 0.002 * rng.uniform(0.2, 1.0) * _slice(_noise(1), SAMPLES, rng)
    halves = halves_of(scene)
    length = SAMPLES // len(halves)
    for index, prefix in enumerate(halves):
        part = sound[index * length : (index + 1) * length]
        gain = rng.uniform(0.6, 1.0)
        if prefix + "word" in scene:
            word = recording(scene[prefix + "word"], int(rng.integers(len(VOICES))), int(rng.integers(len(SPEEDS))))
            start = int(rng.integers(length - SLOT + 1))
            part[start : start + SLOT] += gain * word
        else:
            pitch, timbre, pattern = (scene[prefix + name] for name in ("pitch", "timbre", "pattern"))
            part += 0.4 * gain * play_tone(pitch, timbre, pattern, length, rng)
    return sound


def play_tone(pitch: str, timbre: str, pattern: str, length: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Play a tone.

    Args:
        pitch: low or high.
        timbre: One of the timbres of the world.
        pattern: rising, falling, steady or pulsing.
        length: Samples: a half or the whole of a sound.
        rng: Draws the frequency and what is random in a timbre.

    Returns:
        The waveform, float32 in [-1, 1] of shape (length,), faded at both ends.
    """
    hertz = rng.uniform(*PITCHES[pitch])
    turns = _turns(pattern, timbre == "flute", length) * np.float32(hertz)
    wave: NDArray[np.float32] = _wave(timbre, pitch)[turns.astype(np.int32) & (_TABLE - 1)]
    if timbre in ("hiss", "rattle"):
        noise = _slice(_noise(96 if pitch == "low" else 12), length, rng)
        # Blows are too short for noise alone to tell its pitch.
        wave *= noise if timbre == "hiss" else np.float32(0.7) * noise + np.float32(0.3)
    if timbre in ("beep", "rattle"):
        wave *= _strokes(timbre, length)
    wave *= _envelope(pattern, length)
    return wave


@lru_cache
def _wave(timbre: str, pitch: str) -> NDArray[np.float32]:
    """Return one period of a timbre, of shape (4096,), with a peak of 1."""
    turn = 2 * np.pi * np.arange(_TABLE) / _TABLE
    strengths = HARMONICS[timbre][pitch] if timbre in HARMONICS else (1.0,)
    wave = np.sum([gain * np.sin((index + 1) * turn) for index, gain in enumerate(strengths)], axis=0)
    period: NDArray[np.float32] = (wave / np.abs(wave).max()).astype(np.float32)
    return period


@lru_cache
def _turns(pattern: str, has_vibrato: bool, length: int) -> NDArray[np.float32]:
    """Return the phase of a tone of 1 Hz, in steps of the table, of shape (length,)."""
    index = np.arange(length)
    part = index / length
    ratio = {"rising": SWEEP**part, "falling": SWEEP ** (1 - part)}.get(pattern, np.full(length, SWEEP**0.3))
    if has_vibrato:
        ratio = ratio * (1 + 0.04 * np.sin(2 * np.pi * 6 * index / RATE))
    return (np.cumsum(ratio) * _TABLE / RATE).astype(np.float32)


@lru_cache
def _envelope(pattern: str, length: int) -> NDArray[np.float32]:
    """Return the loudness of a pattern, of shape (length,): faded at the ends, and pulsing four times a second."""
    index = np.arange(length)
    fade = np.minimum(1.0, np.minimum(index, length - 1 - index) / _FADE)
    if pattern == "pulsing":
        fade = fade * (0.5 - 0.5 * np.cos(2 * np.pi * 3.75 * index / RATE))
    return fade.astype(np.float32)


@lru_cache
def _strokes(timbre: str, length: int) -> NDArray[np.float32]:
    """Return the loudness of beeps (ten a second) or of the blows of a rattle (twelve), of shape (length,)."""
    seconds = np.arange(length) / RATE
    if timbre == "beep":
        return (seconds * 10 % 1 < 0.55).astype(np.float32)
    return np.exp(-(seconds * 12 % 1) / 12 / 0.015).astype(np.float32)


@lru_cache
def _noise(smoothing: int) -> NDArray[np.float32]:
    """Return eight seconds of noise, the mean of so many samples, of shape (131072,) in [-1, 1]."""
    noise = np.random.default_rng(smoothing).standard_normal(_NOISE + smoothing - 1)
    noise = np.convolve(noise, np.ones(smoothing), mode="valid") / np.sqrt(smoothing)
    clipped: NDArray[np.float32] = np.clip(noise / 2, -1, 1).astype(np.float32)
    return clipped


def _slice(noise: NDArray[np.float32], length: int, rng: np.random.Generator) -> NDArray[np.float32]:
    start = int(rng.integers(_NOISE - length))
    part: NDArray[np.float32] = noise[start : start + length]
    return part
