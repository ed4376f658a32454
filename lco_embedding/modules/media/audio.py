"""Audio: check it, and decode it to one channel at the rate that the model hears."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import av
import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray

from lco_embedding.modules.media.files import Extent, MediaError, describe, open_container, open_reader

BLOCK = 1 << 18
"""Samples of each channel that are read at a time."""

MAX_CHANNELS = 32
"""An audio array whose shorter axis is longer than this has no axis of channels."""


@runtime_checkable
class AudioDecoder(Protocol):
    """A `torchcodec` audio decoder, as the `datasets` library yields it."""

    def get_all_samples(self) -> Any:
        """Return an object with `data`, float of shape (channels, samples), and `sample_rate` in Hz."""


@dataclass(frozen=True)
class Waveform:
    """Decoded audio: `samples` float32 of shape (samples,), mono, at `sampling_rate` Hz."""

    samples: NDArray[np.float32]
    sampling_rate: int


def check_audio(value: Any) -> Extent:
    """Check the type and the header of an audio input.

    Returns:
        Its length in seconds (0 where the header does not tell).

    Raises:
        MediaError: It is unreadable, empty, of no known shape, or has no sound track.
    """
    if isinstance(value, AudioDecoder):
        return Extent()
    if isinstance(value, Mapping | np.ndarray | torch.Tensor):
        wave = _wave_of(value)
        return Extent(seconds=len(wave.samples) / wave.sampling_rate if wave.sampling_rate else 0.0)
    with open_reader(value) as file:
        try:
            info = soundfile.info(file)
        except soundfile.LibsndfileError:
            pass
        else:
            if not info.frames:
                raise MediaError("the audio has no samples")
            return Extent(seconds=info.frames / info.samplerate)
        file.seek(0)
        with open_container(file) as container:
            _first_track(container)
            return Extent(seconds=container.duration / av.time_base if container.duration else 0.0)


def load_audio(value: Any, sampling_rate: int, max_seconds: float = math.inf) -> NDArray[np.float32]:
    """Decode audio to one channel at the rate that the model hears.

    Args:
        value: A path or bytes of an audio file or of a video with sound, an array of shape (samples,),
            (channels, samples) or (samples, channels) that is already at `sampling_rate`, a dict of such an
            `array` and its own `sampling_rate` in Hz, or a `torchcodec` decoder. Integers are scaled by their range.
        sampling_rate: Rate to resample to, in Hz.
        max_seconds: Decode no further than this.

    Returns:
        The waveform, float32 of shape (samples,).

    Raises:
        MediaError: As in [`check_audio`], and if samples are not finite or decoding fails.
    """
    if isinstance(value, AudioDecoder):
        decoded = value.get_all_samples()
        wave = _mono(np.asarray(decoded.data.cpu()), int(decoded.sample_rate))
    elif isinstance(value, Mapping | np.ndarray | torch.Tensor):
        wave = _wave_of(value)
    else:
        wave = _read_audio(value, max_seconds)
    rate = wave.sampling_rate or sampling_rate
    samples = wave.samples if math.isinf(max_seconds) else wave.samples[: math.ceil(max_seconds * rate)]
    if not len(samples):
        raise MediaError("the audio has no samples")
    if not np.isfinite(samples).all():
        raise MediaError("the audio holds NaN or infinite samples")
    return samples if rate == sampling_rate else soxr.resample(samples, rate, sampling_rate).astype(np.float32)


def has_sound_track(value: Any) -> bool:
    """Tell whether a video carries sound: a file has a track, in-memory frames have `audio` in their dict."""
    if isinstance(value, Mapping):
        return value.get("audio") is not None
    if not isinstance(value, str | os.PathLike | bytes):
        return False
    with open_reader(value) as file, open_container(file) as container:
        return bool(container.streams.audio)


def load_sound_track(value: Any, sampling_rate: int, max_seconds: float = math.inf) -> NDArray[np.float32] | None:
    """Decode the sound of a video as [`load_audio`] does; None if it has none."""
    if not has_sound_track(value):
        return None
    return load_audio(value["audio"] if isinstance(value, Mapping) else value, sampling_rate, max_seconds)


def _wave_of(value: Mapping[str, Any] | NDArray[Any] | torch.Tensor) -> Waveform:
    rate = 0
    array: Any = value
    if isinstance(value, Mapping):
        rate = value.get("sampling_rate", 0)
        if not isinstance(rate, int | np.integer) or rate <= 0:
            raise MediaError(f"sampling_rate must be a positive number of Hz, got {rate!r}")
        array = value.get("array")
        array = np.asarray(array) if isinstance(array, list | tuple) else array
        if not isinstance(array, np.ndarray | torch.Tensor):
            raise MediaError(f"the 'array' of an audio input must be an array, got {describe(array)}")
    return _mono(array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array, int(rate))


def _mono(array: NDArray[Any], sampling_rate: int) -> Waveform:
    if array.ndim not in (1, 2) or not array.size:
        raise MediaError(f"an array of shape {array.shape} is no audio; expected (samples,) or (channels, samples)")
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


def _read_audio(value: Any, max_seconds: float) -> Waveform:
    """Read a file block by block, each averaged over its channels at once: a header may promise a great many."""
    with open_reader(value) as file:
        try:
            with soundfile.SoundFile(file) as sound:
                frames = -1 if math.isinf(max_seconds) else math.ceil(max_seconds * sound.samplerate)
                blocks = sound.blocks(BLOCK, frames=frames, dtype="float32", always_2d=True)
                return _joined([block.mean(axis=1) for block in blocks], sound.samplerate)
        except soundfile.LibsndfileError:
            file.seek(0)
        with open_container(file) as container:
            track = _first_track(container)
            rate = int(track.rate)
            resampler = av.AudioResampler(format="fltp")
            chunks: list[NDArray[np.float32]] = []
            seconds = 0.0
            try:
                for frame in container.decode(track):
                    chunks += [plain.to_ndarray().mean(axis=0) for plain in resampler.resample(frame)]
                    seconds += frame.samples / rate
                    if seconds >= max_seconds:
                        break
            except av.FFmpegError as error:
                raise MediaError(f"the audio can't be decoded: it is truncated or broken ({error})") from error
            return _joined(chunks, rate)


def _joined(chunks: Sequence[NDArray[np.float32]], sampling_rate: int) -> Waveform:
    if not chunks:
        raise MediaError("the audio has no samples")
    return Waveform(np.concatenate(chunks), sampling_rate)


def _first_track(container: Any) -> Any:
    if not container.streams.audio:
        raise MediaError("the file has no sound track")
    return container.streams.audio[0]
