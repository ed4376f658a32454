"""Record the spoken words of the miniature's world with Debian's `espeak-ng`.

    python scripts/record_words.py

Each word is said by each voice at each speed. The recordings stand one after another in slots of equal length, ordered
by word, voice and speed, in one compressed file inside the package, which `lco_embedding.miniature.world` reads.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from lco_embedding.miniature.world.scenes import SPOKEN_WORDS
from lco_embedding.miniature.world.sounds import RATE
from lco_embedding.miniature.world.spoken_words import RECORDINGS, SLOT, SPEEDS, VOICES

COMPRESSION = 0.6
"""Of libsndfile, 0 (best sound) to 1 (smallest file)."""


def record(word: str, voice: str, speed: int) -> NDArray[np.float32]:
    """Let `espeak-ng` say a word.

    Args:
        word: An English word.
        voice: A voice and its variant, as espeak-ng names them.
        speed: Words a minute.

    Returns:
        The waveform at `RATE` without silence around it, of shape (samples,), at a root mean square of 0.12.

    Raises:
        SystemExit: `espeak-ng` is not installed, or the word is longer than a slot.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise SystemExit("espeak-ng, which speaks the words, is not installed: apt-get install espeak-ng")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run([program, "-v", voice, "-s", str(speed), "-w", str(path), word], check=True)
        samples, rate = soundfile.read(path, dtype="float32")
    samples = soxr.resample(samples, rate, RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1]
    if len(samples) > SLOT:
        raise SystemExit(f"{word!r} in the voice {voice} lasts {len(samples) / RATE:.2f} s; make SLOT longer")
    samples *= 0.12 / np.sqrt(np.mean(samples**2))
    return (samples / max(1.0, np.abs(samples).max() / 0.9)).astype(np.float32)


def main() -> None:
    """Record every word and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RECORDINGS, help="file to write to")
    path = parser.parse_args().output
    longest = 0
    # Written slot by slot: libsndfile fails on very long blocks of Vorbis.
    with soundfile.SoundFile(path, "w", RATE, 1, format="OGG", subtype="VORBIS", compression_level=COMPRESSION) as file:
        for word in SPOKEN_WORDS:
            for voice in VOICES:
                for speed in SPEEDS:
                    samples = record(word, voice, speed)
                    longest = max(longest, len(samples))
                    file.write(np.pad(samples, (0, SLOT - len(samples))))
    print(f"{path}: {path.stat().st_size:,} bytes, the longest word lasts {longest / RATE:.2f} s")


if __name__ == "__main__":
    main()
