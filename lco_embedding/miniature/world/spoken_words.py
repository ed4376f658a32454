"""Spoken words: recordings of twenty words in ten voices and two speeds, made by `scripts/record_words.py`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from lco_embedding.miniature.world.scenes import SPOKEN_WORDS

RECORDINGS = Path(__file__).with_name("words.ogg")
"""The recordings, one after another in slots of equal length, ordered by word, voice and speed."""

VOICES = (
    *("en-us+m1", "en-us+m3", "en-us+f2", "en-us+f4", "en-gb+m4", "en-gb+f1"),
    *("en-gb-scotland+m7", "en-gb-x-rp+f3", "en-us+Annie", "en-gb-x-gbclan+m8"),
)
"""Voices and their variants, as espeak-ng names them."""

SPEEDS = (150, 190)
"""Words a minute."""

SLOT = 11_200
"""Samples of a slot at 16 kHz: 0.7 s."""


def recording(word: str, voice: int, speed: int) -> NDArray[np.float32]:
    """Return a recording.

    Args:
        word: One of the spoken words.
        voice: Index of one of the `VOICES`.
        speed: Index of one of the `SPEEDS`.

    Returns:
        The waveform at 16 kHz, float32 in [-1, 1] of shape (11200,), silent after the word.
    """
    samples: NDArray[np.int16] = recordings()[SPOKEN_WORDS.index(word), voice, speed]
    return (samples / 32768).astype(np.float32)


@lru_cache(maxsize=1)
def recordings() -> NDArray[np.int16]:
    """Return all recordings, of shape (words, voices, speeds, 11200), read-only."""
    # As integers: decoders may differ in the last bits of their floats.
    samples: NDArray[np.int16] = soundfile.read(RECORDINGS, dtype="int16")[0]
    shape = (len(SPOKEN_WORDS), len(VOICES), len(SPEEDS), SLOT)
    if samples.size != np.prod(shape):
        raise ValueError(
            f"{RECORDINGS} holds {samples.size} samples instead of {np.prod(shape)}; record the words anew"
        )
    samples = samples.reshape(shape)
    samples.flags.writeable = False
    return samples
