"""Audio: check it, and decode it to one channel at the rate that the model hears."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from lco_embedding.modules.media.decoding import decode, is_restart, joined_files
from lco_embedding.modules.media.files import (
    Extent,
    MediaError,
    as_numpy,
    declared_seconds,
    describe,
    open_container,
    open_reader,
)
from lco_embedding.modules.media.integrity import check_complete, has_length_tag

MAX_SECONDS = 3600.0
"""Longest audio that is decoded unless more is asked for: a header may promise years."""

MAX_OVERSTATED = 0.25
"""Seconds by which a FLAC file, which states its samples and not its bytes, may hold less than it states."""

TIMED = ("mov", "matroska", "mpeg", "asf", "flv", "ogg")
"""First words of the names of containers that state when their packets are heard. In others, FFmpeg counts on from the
first packet at one rate, so that these times are wrong where the rate changes."""

RAW = ("mp3", "aac", "amr")
"""Formats without a header, whose length FFmpeg guesses from the first bit rates unless an MP3 file states it."""

MAX_OVERLAP = 1.0
"""Seconds by which times may run behind the samples; a further step back begins the clock anew."""

MIN_SHIFT = 0.04
"""Seconds of audio of one token in the Qwen2.5-Omni models. Shifts and gaps below it are rounding, not silence."""

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


@dataclass
class Segment:
    """Decoded samples without a gap, at one rate.

    Args:
        sampling_rate: In Hz; 0: that of the model.
        start: Time of the first sample in seconds.
        chunks: float32 arrays of shape (samples,), mono, one after the other.
    """

    sampling_rate: int
    start: float = 0.0
    chunks: list[NDArray[np.float32]] = field(default_factory=list)


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
        samples, rate = _samples_of(value)
        _check_range(samples)
        return Extent(seconds=len(samples) / rate if rate else 0.0)
    with open_reader(value) as file:
        check_complete(file)
        is_stated = has_length_tag(file)
        with open_container(file) as container:
            seconds = declared_seconds(container, _first_track(container))
            return Extent(seconds=seconds, is_estimate=container.format.name in RAW and not is_stated)


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
        samples, rate = _mono(as_numpy(decoded.data)), int(decoded.sample_rate)
    elif isinstance(value, Mapping | np.ndarray | torch.Tensor):
        samples, rate = _samples_of(value)
    else:
        with open_reader(value) as file:
            check_complete(file)
            waveform = _read_track(file, sampling_rate, max_seconds)
        if not len(waveform):
            raise MediaError("the audio has no samples")
        return waveform
    return _waveform([Segment(rate, chunks=[samples])], 0.0, sampling_rate, max_seconds)


def _waveform(segments: list[Segment], start: float, sampling_rate: int, max_seconds: float) -> NDArray[np.float32]:
    """Place segments on one time line of `sampling_rate` that begins at `start`, with silence between them."""
    placed = []
    for segment in segments:
        rate = segment.sampling_rate or sampling_rate
        skipped = max(0, round((start - segment.start) * rate))
        samples = np.concatenate(segment.chunks)[skipped : skipped + math.ceil(max_seconds * rate)]
        if len(samples):
            _check_range(samples)
            samples = samples if rate == sampling_rate else soxr.resample(samples, rate, sampling_rate)
            placed.append((max(0, round((segment.start - start) * sampling_rate)), samples))
    length = max((place + len(samples) for place, samples in placed), default=0)
    length = min(length, math.ceil(max_seconds * sampling_rate))
    waveform = np.zeros(length, np.float32)
    for place, samples in placed:
        waveform[place : place + len(samples)] = samples[: max(0, length - place)]
    return waveform


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
    """Decode the sound of a video as [`load_audio`] does; None if it has none, or a track without samples.

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
    with open_reader(value) as file:
        with open_container(file) as container:
            if not container.streams.audio:
                return None
        file.seek(0)
        waveform = _read_track(file, sampling_rate, max_seconds, start)
        return waveform if len(waveform) else None


def _samples_of(value: Mapping[str, Any] | NDArray[Any] | torch.Tensor) -> tuple[NDArray[np.float32], int]:
    """Return the mono samples of in-memory audio and their rate in Hz, 0 where it is unknown."""
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
    return _mono(as_numpy(array)), round(float(rate))


def _mono(array: NDArray[Any]) -> NDArray[np.float32]:
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
    return np.ascontiguousarray(array, dtype=np.float32)


def _check_range(samples: NDArray[np.float32]) -> None:
    peak = float(np.abs(samples).max())
    if not math.isfinite(peak):
        raise MediaError("the audio holds NaN or infinite samples")
    if peak > MAX_PEAK:
        raise MediaError(
            f"the audio peaks at {peak:g}, but floats must be in [-1, 1]; divide 16-bit values by 32768, "
            "or pass them as int16"
        )


def _read_track(
    file: IO[bytes], sampling_rate: int, max_seconds: float, start: float | None = None
) -> NDArray[np.float32]:
    """Decode the first sound track of a file, from `start` seconds of its clock or else from its first sample."""
    segments: list[Segment] = []
    origin = end = 0.0
    for frame, begin in _placed_frames(file):
        seconds = frame.samples / frame.sample_rate
        if not segments:
            if start is not None and begin + seconds <= start:
                continue
            origin = begin if start is None or abs(begin - start) < MIN_SHIFT else start
        if not segments or begin != end or frame.sample_rate != segments[-1].sampling_rate:
            segments.append(Segment(frame.sample_rate, begin))
        segments[-1].chunks.append(_mono_frame(frame))
        end = begin + seconds
        if end - origin >= max_seconds:
            break
    return _waveform(segments, origin, sampling_rate, max_seconds)


def _placed_frames(file: IO[bytes]) -> Iterator[tuple[Any, float]]:
    """Yield each frame of the first sound track of a file with the time in seconds at which it begins.

    That is the time that the file states for it, or else the end of the frame before.

    Raises:
        MediaError: There is no sound track, it can't be decoded, or it holds less than its header counts.
    """
    end: float | None = None
    for part in joined_files(file):
        with open_container(part) as container:
            track = _first_track(container)
            is_timed = container.format.name.startswith(TIMED)
            offset: float | None = None
            held = 0.0
            for frame in decode(container, track):
                if end is None:
                    end = frame.time or 0.0
                begin = end
                if is_timed and frame.time is not None:
                    if offset is None:  # each of several files has a clock of its own
                        offset = end - frame.time
                    gap = frame.time + offset - end
                    if gap < -MAX_OVERLAP or is_restart(gap, container):
                        offset -= gap
                    elif gap >= MIN_SHIFT:
                        begin = end + gap
                yield frame, begin
                held += frame.samples / frame.sample_rate
                end = begin + frame.samples / frame.sample_rate
            declared = declared_seconds(container, track) if container.format.name == "flac" else 0.0
            if held < declared - MAX_OVERSTATED:
                raise MediaError(f"the audio is truncated: it holds {held:.1f} of {declared:.1f} s")


def _mono_frame(frame: Any) -> NDArray[np.float32]:
    """Return the mean of the channels of a decoded frame, in [-1, 1] where its samples are integers."""
    try:
        array = frame.to_ndarray()  # (channels, samples) if planar, else (1, samples * channels)
    except ValueError as error:
        raise MediaError(f"audio samples of the format {frame.format.name} are not supported") from error
    if not frame.format.is_planar:
        array = array.reshape(frame.samples, -1).T
    samples: NDArray[np.float32] = array.mean(axis=0, dtype=np.float32)
    if array.dtype == np.uint8:
        samples = samples / np.float32(128) - 1
    elif array.dtype.kind == "i":
        samples = samples / -np.float32(np.iinfo(array.dtype).min)
    return samples


def _first_track(container: Any) -> Any:
    if not container.streams.audio:
        raise MediaError("the file has no sound track")
    if container.streams.audio[0].codec_context is None:
        raise MediaError("the codec of the audio is unknown")
    return container.streams.audio[0]
