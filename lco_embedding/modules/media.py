"""Open, check and decode media: any file, array, bytes or decoder object becomes pixels or a waveform.

The first of the four rooms on the way from an input to its embedding. Media are untrusted: containers and image
formats are restricted to a list, sizes are checked before anything is decoded, and no file can refer to another.
Everything is decoded by wheels alone: Pillow, soundfile and PyAV.

Each kind has a `check_*`, which reads types and headers only and costs little, and a `load_*`, which decodes.
Both raise [`MediaError`] with the reason and the remedy; the caller knows which input it was.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol, runtime_checkable

import av
import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Kind = Literal["text", "image", "audio", "video"]

EXTENSIONS: dict[str, Kind] = {
    **dict.fromkeys(("jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"), "image"),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg", "oga", "opus", "m4a", "aac", "aif", "aiff", "wma"), "audio"),
    **dict.fromkeys(("mp4", "m4v", "webm", "mkv", "mov", "avi", "mpg", "mpeg", "wmv", "flv", "3gp"), "video"),
}
"""File name endings by which a plain string is taken for a media file."""

MAX_IMAGE_PIXELS = 178_956_970
"""Images above this area are refused as decompression bombs; the area at which Pillow refuses by default."""

MAX_CHANNELS = 32
"""An audio array whose shorter axis is longer than this has no axis of channels."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

# What FFmpeg may open: plain containers. Playlists and scripts, which name other files or hosts, are not among them.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts,gif,wav,mp3,flac,ogg,aac,aiff"

IMAGE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")


class MediaError(ValueError):
    """A media input that can't be used; the message holds the reason and the remedy."""


@runtime_checkable
class AudioDecoder(Protocol):
    """A `torchcodec` audio decoder, as the `datasets` library yields it."""

    def get_all_samples(self) -> Any:
        """Return an object with `data`, float of shape (channels, samples), and `sample_rate` in Hz."""


@runtime_checkable
class VideoDecoder(Protocol):
    """A `torchcodec` video decoder, as the `datasets` library yields it."""

    metadata: Any

    def get_frames_at(self, indices: list[int]) -> Any:
        """Return an object with `data`, uint8 of shape (frames, channels, height, width)."""


@dataclass(frozen=True)
class Waveform:
    """Decoded audio: `samples` float32 of shape (samples,), mono, at `sampling_rate` Hz."""

    samples: NDArray[np.float32]
    sampling_rate: int


@dataclass(frozen=True)
class Clip:
    """Decoded video: `frames` uint8 of shape (frames, height, width, 3), taken at `fps` frames a second."""

    frames: NDArray[np.uint8]
    fps: float


@dataclass(frozen=True)
class Extent:
    """What a header tells of a medium; zero where it tells nothing or the kind has no such extent."""

    width: int = 0
    height: int = 0
    frames: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Sampling:
    """How the frames of a video are chosen.

    Args:
        fps: Frames a second to take.
        min_frames: Take at least so many, if the video has them.
        max_frames: Take at most so many, spread evenly.
        multiple: Take a multiple of so many, the number of frames that the backbone joins into one.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 64
    multiple: int = 2

    def indices(self, total: int, fps: float | None) -> list[int]:
        """Return which of `total` frames at `fps` frames a second to take, as the Qwen video processors choose.

        Frames of unknown rate (`fps` is None) count as already sampled: only `max_frames` thins them out.
        """
        if fps is None and total <= self.max_frames:
            return list(range(total))
        wanted = total if fps is None else max(total / fps * self.fps, self.min_frames)
        count = max(1, int(min(wanted, self.max_frames, total)) // self.multiple * self.multiple)
        # The step is a float and each position is cut: the same positions as torch.arange(0, total, step).int().
        return torch.arange(0, total, total / count).int()[:count].tolist()


def describe(value: object) -> str:
    """Name a media value in an error: its path, or its type and shape."""
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:60] + "...")
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, np.ndarray | torch.Tensor):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"dict with keys {sorted(map(str, value))}"
    if isinstance(value, float) and math.isnan(value):
        return "nan (a missing value?)"
    return type(value).__name__


def kind_of_path(name: str) -> Kind | None:
    """Return the kind that the ending of a file name stands for, None where it stands for none."""
    return EXTENSIONS.get(os.path.splitext(name)[1].lower().removeprefix("."))


def sniff(value: bytes | os.PathLike[str]) -> Kind:
    """Tell from its first bytes and streams what kind of medium a file or a byte string is.

    Raises:
        MediaError: The content is of no known kind.
    """
    with _reader(value) as file:
        head = file.read(16)
        if head.startswith(IMAGE_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
            return "image"
        if head[4:12] == b"ftypavif":
            return "image"
        file.seek(0)
        with _container(file) as container:
            if any(not _is_cover(stream) for stream in container.streams.video):
                return "video"
            if container.streams.audio:
                return "audio"
    raise MediaError("the content is no image, audio or video that can be decoded")


def decode_data_uri(text: str) -> tuple[Kind | None, bytes]:
    """Split a data URI into the kind its media type names (None: neither image, audio nor video) and its bytes."""
    header, _, payload = text.partition(",")
    if not header.endswith(";base64"):
        raise MediaError("data URIs must be base64-encoded ('data:image/png;base64,...')")
    kind = header.removeprefix("data:").split("/")[0]
    return (kind if kind in ("image", "audio", "video") else None), decode_base64(payload)  # type: ignore[return-value]


def decode_base64(payload: str) -> bytes:
    """Decode base64 text, raising [`MediaError`] where it is not that."""
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"the base64 content is broken ({error})") from error


# --- images ---------------------------------------------------------------------------------------------------------


def check_image(value: Any) -> Extent:
    """Check the type and the header of an image.

    Returns:
        Its width and height in pixels.

    Raises:
        MediaError: It is unreadable, empty, or too large to be decoded safely.
    """
    if isinstance(value, np.ndarray | torch.Tensor):
        height, width = _pixels(value, ndim=3).shape[:2]
        return Extent(width, height)
    with _open_image(value) as image:
        return Extent(*image.size)


def load_image(value: Any) -> Image.Image:
    """Decode an image to RGB: upright by its EXIF orientation, transparency over white, the first frame of several.

    Args:
        value: A PIL image, path, bytes, or an array of shape (height, width), (height, width, channels) or
            (channels, height, width) with 1, 3 or 4 channels: integers, or floats in [0, 1].

    Raises:
        MediaError: As in [`check_image`], and if the data are truncated or broken.
    """
    if isinstance(value, np.ndarray | torch.Tensor):
        return _rgb(Image.fromarray(_bytes_of(_pixels(value, ndim=3)).squeeze()))
    with _open_image(value) as image:
        try:
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise MediaError(f"the image can't be decoded: it is truncated or broken ({error})") from error


@contextmanager
def _open_image(value: Any) -> Iterator[Image.Image]:
    if isinstance(value, Image.Image):
        yield _check_area(value)
        return
    with _reader(value) as file:
        try:
            image = Image.open(file, formats=IMAGE_FORMATS)
        except Image.DecompressionBombError as error:
            raise MediaError(f"the image is too large to be decoded safely ({error})") from error
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise MediaError("the file is not a readable image (formats: " + ", ".join(IMAGE_FORMATS) + ")") from error
        with image:
            yield _check_area(image)


def _check_area(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise MediaError(
            f"the image has {image.width} x {image.height} pixels, more than {MAX_IMAGE_PIXELS:,}; make it smaller"
        )
    if not image.width or not image.height:
        raise MediaError("the image has no pixels")
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips these to 8 bits instead of scaling them.
        values = np.asarray(image, dtype=np.float64)
        top = 1.0 if image.mode == "F" and values.max() <= 1.0 else 255.0 if values.max() <= 255 else 65535.0
        image = Image.fromarray(np.clip(values / top * 255, 0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _pixels(value: NDArray[Any] | torch.Tensor, ndim: int) -> NDArray[Any]:
    """Return an array of an image (`ndim` 3) or a video (`ndim` 4) with its channels last."""
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    if array.ndim == ndim - 1:
        array = array[..., None]
    if array.ndim != ndim:
        raise MediaError(f"an array of shape {array.shape} is no {'image' if ndim == 3 else 'video'}")
    if array.shape[-1] not in (1, 3, 4):
        array = np.moveaxis(array, -3, -1)
    if array.shape[-1] not in (1, 3, 4) or not array.size:
        raise MediaError(f"an array of shape {value.shape} has no axis of 1, 3 or 4 channels, or no pixels")
    return array


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale pixels of any dtype to 0..255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return (array / 257).round().astype(np.uint8)
    if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
        raise MediaError(f"the pixels ({array.dtype}) are not all finite numbers")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 255:
        raise MediaError(f"the pixels range from {low:g} to {high:g}; floats must be in [0, 1], integers in [0, 255]")
    scale = 255 if np.issubdtype(array.dtype, np.floating) and high <= 1 else 1
    return (array * scale).round().astype(np.uint8)


# --- audio ----------------------------------------------------------------------------------------------------------


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
    with _reader(value) as file:
        try:
            info = soundfile.info(file)
        except soundfile.LibsndfileError:
            pass
        else:
            if not info.frames:
                raise MediaError("the audio has no samples")
            return Extent(seconds=info.frames / info.samplerate)
        file.seek(0)
        with _container(file) as container:
            _sound_track(container)
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
    with _reader(value) as file, _container(file) as container:
        return bool(container.streams.audio)


def load_sound_track(value: Any, sampling_rate: int, max_seconds: float = math.inf) -> NDArray[np.float32] | None:
    """Decode the sound of a video as [`load_audio`] does; None if it has none."""
    if not has_sound_track(value):
        return None
    return load_audio(value["audio"] if isinstance(value, Mapping) else value, sampling_rate, max_seconds)


def _wave_of(value: Mapping[str, Any] | NDArray[Any] | torch.Tensor) -> Waveform:
    rate = 0
    if isinstance(value, Mapping):
        rate = value.get("sampling_rate", 0)
        if not isinstance(rate, int | np.integer) or rate <= 0:
            raise MediaError(f"sampling_rate must be a positive number of Hz, got {rate!r}")
        value = value.get("array")
        value = np.asarray(value) if isinstance(value, list | tuple) else value
        if not isinstance(value, np.ndarray | torch.Tensor):
            raise MediaError(f"the 'array' of an audio input must be an array, got {describe(value)}")
    return _mono(value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value, int(rate))


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
    with _reader(value) as file:
        try:
            with soundfile.SoundFile(file) as sound:
                frames = -1 if math.isinf(max_seconds) else math.ceil(max_seconds * sound.samplerate)
                return _mono(sound.read(frames, dtype="float32", always_2d=True), sound.samplerate)
        except soundfile.LibsndfileError:
            file.seek(0)
        with _container(file) as container:
            track = _sound_track(container)
            rate = int(track.rate)
            resampler = av.AudioResampler(format="fltp")
            chunks, seconds = [], 0.0
            try:
                for frame in container.decode(track):
                    chunks += [plain.to_ndarray() for plain in resampler.resample(frame)]
                    seconds += frame.samples / rate
                    if seconds >= max_seconds:
                        break
            except av.FFmpegError as error:
                raise MediaError(f"the audio can't be decoded: it is truncated or broken ({error})") from error
            if not chunks:
                raise MediaError("the audio has no samples")
            return Waveform(np.concatenate(chunks, axis=1).mean(axis=0, dtype=np.float32), rate)


def _sound_track(container: Any) -> Any:
    if not container.streams.audio:
        raise MediaError("the file has no sound track")
    return container.streams.audio[0]


# --- video ----------------------------------------------------------------------------------------------------------


def check_video(value: Any) -> Extent:
    """Check the type and the header of a video.

    Returns:
        Its width and height in pixels, frames and seconds (each 0 where the header does not tell).

    Raises:
        MediaError: It is unreadable, has no video track or no frames, or a frame too large to be decoded safely.
    """
    if isinstance(value, VideoDecoder):
        meta = value.metadata
        return Extent(meta.width or 0, meta.height or 0, meta.num_frames or 0, meta.duration_seconds or 0.0)
    if isinstance(value, Mapping | np.ndarray | torch.Tensor | list | tuple):
        frames, fps = _frames_of(value)
        if isinstance(frames, np.ndarray):
            extent = Extent(frames.shape[2], frames.shape[1])
        else:
            extent = [check_image(frame) for frame in frames][0]
        return Extent(extent.width, extent.height, len(frames), len(frames) / fps if fps else 0.0)
    with _reader(value) as file, _container(file) as container:
        stream = _video_track(container)
        seconds = container.duration / av.time_base if container.duration else 0.0
        frames = stream.frames or round(seconds * float(stream.average_rate or 0))
        return Extent(stream.width, stream.height, frames, seconds)


def load_video(value: Any, sampling: Sampling, max_frame_pixels: int) -> Clip:
    """Decode the frames of a video that the model is to see.

    Args:
        value: A path or bytes of a video file, a list of images, an array of shape (frames, height, width, channels)
            or (frames, channels, height, width), a dict of such an `array` and its `video_metadata` with `fps`, or
            a `torchcodec` decoder. Without a rate, frames count as already sampled at `sampling.fps`.
        sampling: Which frames to take.
        max_frame_pixels: Frames of a file more than four times this area are reduced while they are decoded, so that
            a clip of large frames does not fill the memory; the processor then makes the final size.

    Returns:
        The frames, and the true rate at which they were taken.

    Raises:
        MediaError: As in [`check_video`], and if the file ends early or decoding fails.
    """
    if isinstance(value, VideoDecoder):
        total, rate = int(value.metadata.num_frames or 0), value.metadata.average_fps
        if not total:
            raise MediaError("the video has no frames")
        indices = sampling.indices(total, rate)
        frames = np.asarray(value.get_frames_at(indices).data.cpu())
        return Clip(_bytes_of(_pixels(frames, ndim=4)), _rate(len(indices), total, rate, sampling))
    if isinstance(value, Mapping | np.ndarray | torch.Tensor | list | tuple):
        stack, rate = _frames_of(value)
        indices = sampling.indices(len(stack), rate)
        if isinstance(stack, np.ndarray):
            frames = _bytes_of(_pixels(stack[indices], ndim=4))
            frames = frames if frames.shape[-1] == 3 else np.stack([np.asarray(load_image(frame)) for frame in frames])
        else:
            images = [np.asarray(load_image(stack[index])) for index in indices]
            if len({image.shape for image in images}) > 1:
                raise MediaError("the frames differ in size; make them equal")
            frames = np.stack(images)
        return Clip(frames, _rate(len(indices), len(stack), rate, sampling))
    return _read_video(value, sampling, max_frame_pixels)


def _rate(taken: int, total: int, fps: float | None, sampling: Sampling) -> float:
    return taken / total * (sampling.fps if fps is None else float(fps))


def _frames_of(value: Any) -> tuple[NDArray[Any] | Sequence[Any], float | None]:
    """Return the frames of an in-memory video, an array with channels last or a list of images, and their rate."""
    fps = None
    if isinstance(value, Mapping):
        metadata = value.get("video_metadata") or {}
        if not isinstance(metadata, Mapping):
            raise MediaError(f"video_metadata must be a dict, got {describe(metadata)}")
        fps, value = metadata.get("fps"), value.get("array")
        if fps is not None and (not isinstance(fps, int | float) or not 0 < fps < math.inf):
            raise MediaError(f"the fps of video_metadata must be a positive number, got {fps!r}")
    if isinstance(value, np.ndarray | torch.Tensor):
        return _pixels(value, ndim=4), fps
    if not isinstance(value, list | tuple):
        raise MediaError(f"the frames of a video must be an array or a list of images, got {describe(value)}")
    if not value:
        raise MediaError("the video has no frames")
    return value, fps


def _read_video(value: Any, sampling: Sampling, max_frame_pixels: int) -> Clip:
    with _reader(value) as file:
        with _container(file) as container:
            stream = _video_track(container)
            declared, average_rate = stream.frames, stream.average_rate
            times = sorted(float(packet.pts * packet.time_base) for packet in _packets(container, stream))
        total = len(times)
        if not total:
            raise MediaError("the video has no frames")
        if total < declared:
            raise MediaError(f"the video is truncated: it holds {total} of {declared} frames")
        span = times[-1] - times[0]
        rate = (total - 1) / span if span > 0 else float(average_rate or sampling.fps)
        wanted = sampling.indices(total, rate)
        file.seek(0)
        frames: list[NDArray[np.uint8]] = []
        with _container(file) as container:
            stream = _video_track(container)
            stream.thread_type = "AUTO"
            try:
                for index, frame in enumerate(container.decode(stream)):
                    if index == wanted[len(frames)]:
                        frames.append(_frame_pixels(frame, 4 * max_frame_pixels))
                    if len(frames) == len(wanted):
                        break
            except av.FFmpegError as error:
                raise MediaError(f"the video can't be decoded: it is truncated or broken ({error})") from error
    if len(frames) < len(wanted):
        raise MediaError(f"only {len(frames)} of {len(wanted)} sampled frames can be decoded: the video is broken")
    return Clip(np.stack(frames), _rate(len(wanted), total, rate, sampling))


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    try:
        yield from (packet for packet in container.demux(stream) if packet.size and packet.pts is not None)
    except av.FFmpegError as error:
        raise MediaError(f"the video can't be read: it is truncated or broken ({error})") from error


def _frame_pixels(frame: Any, max_pixels: int) -> NDArray[np.uint8]:
    scale = min(1.0, math.sqrt(max_pixels / (frame.width * frame.height)))
    width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    return np.rot90(pixels, k=round(frame.rotation / 90) % 4)


def _video_track(container: Any) -> Any:
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        raise MediaError("the file has no video track")
    if streams[0].width * streams[0].height > MAX_IMAGE_PIXELS:
        raise MediaError(f"its frames have {streams[0].width} x {streams[0].height} pixels: too large to be decoded")
    return streams[0]


def _is_cover(stream: Any) -> bool:
    """Tell whether a video stream is only the cover picture of a piece of music."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


# --- files ----------------------------------------------------------------------------------------------------------


@contextmanager
def _reader(value: Any) -> Iterator[IO[bytes]]:
    """Open a path or bytes for reading; FFmpeg gets the open file, so that a name is never read as a protocol."""
    if isinstance(value, bytes | bytearray | memoryview):
        if not len(value):
            raise MediaError("there are no bytes")
        yield io.BytesIO(value)
        return
    if not isinstance(value, str | os.PathLike):
        raise MediaError(f"{describe(value)} is no path, bytes, array or decoder")
    path = Path(value)
    try:
        size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError) as error:
        raise MediaError(f"the path can't be read ({error})") from error
    if size is None:
        raise MediaError("there is no such file")
    if not size:
        raise MediaError("the file is empty (0 bytes)")
    try:
        file = path.open("rb")
    except OSError as error:
        raise MediaError(f"the file can't be opened ({error.strerror})") from error
    with file:
        yield file


@contextmanager
def _container(file: IO[bytes]) -> Iterator[Any]:
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        container = av.open(file, options=options, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"the file can't be read as audio or video ({error})") from error
    with container:
        yield container
