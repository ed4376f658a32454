"""Audio: check it, and decode it to one channel at the rate that the model hears."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import IO, Any, Protocol, runtime_checkable

import av
import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray

from lco_embedding.modules.media.files import (
    Extent,
    MediaError,
    as_numpy,
    declared_seconds,
    describe,
    is_measured,
    open_container,
    open_reader,
)
from lco_embedding.modules.media.truncation import check_complete

BLOCK = 1 << 18
"""Samples of each channel that are read at a time."""

MAX_SECONDS = 3600.0
"""Longest audio that is decoded unless more is asked for: a header may promise years."""

DURATION_SLACK = 0.5
"""Seconds by which a container may overstate its sound track."""

UNKNOWN_FRAMES = 1 << 62
"""libsndfile's count of samples, at least, of a streamed file that declares none; soundfile can't read it whole."""

MALFORMED = 3
"""libsndfile's error code of a known format that is broken; of others PyAV may know more."""

# In libsndfile's log of a WAV or AIFF file: the bytes of samples that its header declares, and those that are there.
DATA_SIZE = re.compile(r"(?:data|SSND) : (\d+) \(should be (\d+)\)")

MIN_SHIFT = 0.04
"""Seconds that one token of sound stands for in the Qwen2.5-Omni models; codecs begin less than that off the video."""

MAX_PEAK = 100.0
"""Floats above this are no audio in [-1, 1], however loud; they are most likely integers that were not scaled."""

MAX_CHANNELS = 32
"""An audio array whose shorter axis is longer than this has no axis of channels."""


@runtime_checkable
class AudioDecoder(Protocol):
    """A `torchcodec` audio decoder, as the `datasets` library yields it."""

    metadata: Any

    def get_all_samples(self) -> Any:
        """Return an object with `data`, float of shape (channels, samples), and `sample_rate` in Hz."""


@dataclass(frozen=True)
class Waveform:
    """Decoded audio.

    Args:
        samples: float32 of shape (samples,), mono.
        sampling_rate: In Hz; 0: unknown.
        lead: Seconds of silence before the samples.
    """

    samples: NDArray[np.float32]
    sampling_rate: int
    lead: float = 0.0


def check_audio(value: Any) -> Extent:
    """Check the type and the header of an audio input.

    Returns:
        Its length in seconds (0 where the header does not tell).

    Raises:
        MediaError: It is unreadable, truncated, empty, of no known shape, or has no sound track; or an array holds
            values that are no samples.
    """
    if isinstance(value, AudioDecoder):
        return Extent(seconds=value.metadata.duration_seconds_from_header or 0.0)
    if isinstance(value, Mapping | np.ndarray | torch.Tensor):
        wave = _wave_of(value)
        _check_range(wave.samples)
        return Extent(seconds=len(wave.samples) / wave.sampling_rate if wave.sampling_rate else 0.0)
    with open_reader(value) as file:
        with _sound_file(file) as sound:
            if sound is not None:
                if not sound.frames:
                    raise MediaError("the audio has no samples")
                return Extent(seconds=sound.frames / sound.samplerate)
        file.seek(0)
        with open_container(file) as container:
            return Extent(seconds=declared_seconds(container, _first_track(container)))


def load_audio(value: Any, sampling_rate: int, max_seconds: float = MAX_SECONDS) -> NDArray[np.float32]:
    """Decode audio to one channel at the rate that the model hears.

    Args:
        value: A path or bytes of an audio file or of a video with sound, an array of shape (samples,),
            (channels, samples) or (samples, channels) that is already at `sampling_rate`, a dict of such an
            `array` and its own `sampling_rate` in Hz, or a `torchcodec` decoder. Integers are scaled by their range.
        sampling_rate: Rate to resample to, in Hz.
        max_seconds: Decode no further than this; an hour unless given.

    Returns:
        The waveform, float32 of shape (samples,).

    Raises:
        MediaError: As in [`check_audio`], and if samples are not finite, far above 1, or decoding fails.
    """
    if isinstance(value, AudioDecoder):
        decoded = value.get_all_samples()
        wave = _mono(as_numpy(decoded.data), int(decoded.sample_rate))
    elif isinstance(value, Mapping | np.ndarray | torch.Tensor):
        wave = _wave_of(value)
    else:
        wave = _read_audio(value, max_seconds)
    return _at_rate(wave, sampling_rate, max_seconds)


def _at_rate(wave: Waveform, sampling_rate: int, max_seconds: float) -> NDArray[np.float32]:
    rate = wave.sampling_rate or sampling_rate
    samples = wave.samples[: math.ceil(max_seconds * rate)]
    if not len(samples):
        raise MediaError("the audio has no samples")
    _check_range(samples)
    if rate != sampling_rate:
        samples = soxr.resample(samples, rate, sampling_rate).astype(np.float32)
    if wave.lead:
        samples = np.pad(samples, (round(wave.lead * sampling_rate), 0))[: math.ceil(max_seconds * sampling_rate)]
    return samples


def has_sound_track(value: Any) -> bool:
    """Tell whether a video carries sound: a file has a track, in-memory frames have `audio` in their dict."""
    if isinstance(value, Mapping):
        return value.get("audio") is not None
    if not isinstance(value, str | os.PathLike | bytes):
        return False
    with open_reader(value) as file, open_container(file) as container:
        return bool(container.streams.audio)


def check_sound_track(value: Any) -> Extent:
    """Check the header of the sound of a video as [`check_audio`] does; its extent is zero if it has none."""
    if isinstance(value, Mapping):
        return Extent() if value.get("audio") is None else check_audio(value["audio"])
    if not isinstance(value, str | os.PathLike | bytes):
        return Extent()
    with open_reader(value) as file, open_container(file) as container:
        has_sound = bool(container.streams.audio)
        return Extent(seconds=declared_seconds(container, _first_track(container))) if has_sound else Extent()


def load_sound_track(
    value: Any, sampling_rate: int, max_seconds: float = MAX_SECONDS, start: float | None = None
) -> NDArray[np.float32] | None:
    """Decode the sound of a video as [`load_audio`] does; None if it has none.

    Args:
        value: A video, as `load_video` takes it.
        sampling_rate: Rate to resample to, in Hz.
        max_seconds: Decode no further than this.
        start: The time in seconds within a file at which its first frame is shown. Sound that begins later is
            preceded by silence, sound that begins earlier is cut; None: take it as it is.
    """
    if isinstance(value, Mapping):
        return None if value.get("audio") is None else load_audio(value["audio"], sampling_rate, max_seconds)
    if not isinstance(value, str | os.PathLike | bytes):
        return None
    with open_reader(value) as file, open_container(file) as container:
        if not container.streams.audio:
            return None
        return _at_rate(_read_track(container, max_seconds, start), sampling_rate, max_seconds)


def _wave_of(value: Mapping[str, Any] | NDArray[Any] | torch.Tensor) -> Waveform:
    rate = 0
    array: Any = value
    if isinstance(value, Mapping):
        rate = value.get("sampling_rate", 0)
        if not isinstance(rate, Real) or not 1 <= float(rate) < math.inf:
            raise MediaError(f"sampling_rate must be a positive number of Hz, got {rate!r}")
        array = value.get("array")
        if isinstance(array, list | tuple):
            try:
                array = np.asarray(array)
            except ValueError as error:
                raise MediaError("the lists in the 'array' of an audio input differ in length") from error
        if not isinstance(array, np.ndarray | torch.Tensor):
            raise MediaError(f"the 'array' of an audio input must be an array, got {describe(array)}")
    return _mono(as_numpy(array), round(float(rate)))


def _mono(array: NDArray[Any], sampling_rate: int) -> Waveform:
    if array.ndim not in (1, 2) or not array.size:
        raise MediaError(f"an array of shape {array.shape} is no audio; expected (samples,) or (channels, samples)")
    if array.dtype == np.int64:
        raise MediaError("64-bit integers have no range of loudness; pass int16 samples, or floats in [-1, 1]")
    if array.dtype == np.int32 and 0 < (peak := max(int(array.max()), -int(array.min()))) <= 1 << 15:
        raise MediaError(
            f"32-bit samples that reach only {peak} are 16-bit ones; pass array.astype('int16'), or floats in [-1, 1]"
        )
    if np.issubdtype(array.dtype, np.signedinteger):
        array = array / -float(np.iinfo(array.dtype).min)
    elif array.dtype == np.uint8:
        array = (array.astype(np.float32) - 128) / 128
    elif not np.issubdtype(array.dtype, np.floating):
        raise MediaError(f"audio samples must be floats or signed integers, got {array.dtype}")
    if array.ndim == 2:
        if min(array.shape) > MAX_CHANNELS:
            raise MediaError(f"an array of shape {array.shape} has no axis of channels")
        array = array.mean(axis=int(array.shape[0] > array.shape[1]))
    return Waveform(np.ascontiguousarray(array, dtype=np.float32), sampling_rate)


def _check_range(samples: NDArray[np.float32]) -> None:
    peak = float(np.abs(samples).max())
    if not math.isfinite(peak):
        raise MediaError("the audio holds NaN or infinite samples")
    if peak > MAX_PEAK:
        raise MediaError(
            f"the audio peaks at {peak:g}, but floats must be in [-1, 1]; divide 16-bit values by 32768, "
            "or pass them as int16"
        )


@contextmanager
def _sound_file(file: IO[bytes]) -> Iterator[Any]:
    """Open a file with soundfile; None if it is of a kind that only PyAV reads."""
    check_complete(file)
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.LibsndfileError as error:
        if error.code == MALFORMED:
            raise MediaError(f"the audio is truncated or broken ({error.error_string})") from error
        yield None
        return
    with sound:
        declared = DATA_SIZE.search(sound.extra_info)
        # Writers that do not know the length beforehand declare the greatest.
        if declared and int(declared[2]) < int(declared[1]) < 0x7FFF0000:
            raise MediaError(f"the audio is truncated: it holds {declared[2]} of {declared[1]} bytes")
        yield sound if sound.frames < UNKNOWN_FRAMES else None


def _read_audio(value: Any, max_seconds: float) -> Waveform:
    """Read a file block by block, each averaged over its channels at once: a header may promise a great many."""
    with open_reader(value) as file:
        with _sound_file(file) as sound:
            if sound is not None:
                return _read_sound(sound, max_seconds)
        file.seek(0)
        with open_container(file) as container:
            return _read_track(container, max_seconds)


def _read_sound(sound: Any, max_seconds: float) -> Waveform:
    rate = sound.samplerate
    frames = min(sound.frames, math.ceil(max_seconds * rate))
    try:
        blocks = sound.blocks(BLOCK, frames=frames, dtype="float32", always_2d=True)
        wave = _joined([block.mean(axis=1) for block in blocks], rate)
    except soundfile.LibsndfileError as error:
        raise MediaError("the audio can't be decoded: it is truncated or broken") from error
    if len(wave.samples) < frames:
        raise MediaError(f"the audio is truncated: it holds {len(wave.samples)} of {frames} samples")
    return wave


def _read_track(container: Any, max_seconds: float, start: float | None = None) -> Waveform:
    """Read the sound of a container, and let it begin at `start` seconds of its clock, if that is given."""
    track = _first_track(container)
    rate = int(track.rate)
    declared = 0.0 if is_measured(container) else declared_seconds(container, track)
    resampler = av.AudioResampler(format="fltp")
    chunks: list[NDArray[np.float32]] = []
    shift = decoded = kept = 0.0
    try:
        for frame in container.decode(track):
            length = frame.samples / rate
            decoded += length
            if start is not None and frame.time is not None and not chunks:
                if frame.time + length <= start:
                    continue
                shift = min(frame.time - start, max_seconds)
            chunks += [plain.to_ndarray().mean(axis=0) for plain in resampler.resample(frame)]
            kept += length
            if kept + shift >= max_seconds:
                break
        else:
            if decoded < declared - DURATION_SLACK:
                raise MediaError(f"the audio is truncated: it holds {decoded:.1f} of {declared:.1f} s")
    except av.FFmpegError as error:
        raise MediaError(f"the audio can't be decoded: it is truncated or broken ({error})") from error
    samples = _joined(chunks, rate).samples
    if abs(shift) < MIN_SHIFT:
        return Waveform(samples, rate)
    return Waveform(samples, rate, shift) if shift > 0 else Waveform(samples[round(-shift * rate) :], rate)


def _joined(chunks: Sequence[NDArray[np.float32]], sampling_rate: int) -> Waveform:
    if not chunks:
        raise MediaError("the audio has no samples")
    return Waveform(np.concatenate(chunks), sampling_rate)


def _first_track(container: Any) -> Any:
    if not container.streams.audio:
        raise MediaError("the file has no sound track")
    if container.streams.audio[0].codec_context is None:
        raise MediaError("the codec of the audio is unknown")
    return container.streams.audio[0]
