"""Video: check it, choose the frames that the model is to see, and decode them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import IO, Any, Protocol, runtime_checkable

import av
import numpy as np
import torch
from numpy.typing import NDArray

from lco_embedding.modules.media.crop import Crop, read_crop
from lco_embedding.modules.media.decoding import decode, is_restart, packets
from lco_embedding.modules.media.files import Extent, MediaError, describe, is_cover, open_container, open_reader
from lco_embedding.modules.media.images import MAX_IMAGE_PIXELS, channels_last, check_image, load_image, to_bytes
from lco_embedding.modules.media.integrity import check_complete

ROUNDING = 0.001
"""Seconds to which Matroska, WebM, FLV and ASF round the times of their frames, and what is remuxed from them keeps."""

DEFAULT_RATE = 25.0
"""Frames a second where neither the times of frames nor the header tell, as FFmpeg has it."""

UNEVEN = 0.5
"""Frames that come further than this off their even times, counted in frames, are chosen by time, not by index."""


@runtime_checkable
class VideoDecoder(Protocol):
    """A `torchcodec` video decoder, as the `datasets` library yields it."""

    metadata: Any

    def get_frames_at(self, indices: list[int]) -> Any:
        """Return an object with `data`, uint8 of shape (frames, channels, height, width)."""


@dataclass(frozen=True)
class Clip:
    """Decoded video.

    Args:
        frames: uint8 of shape (frames, height, width, 3).
        fps: Frames a second at which they were taken.
        start: When the first frame of a file is shown, in seconds on the clock of the file.
    """

    frames: NDArray[np.uint8]
    fps: float
    start: float = 0.0


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

    def indices_at(self, times: NDArray[np.float64], fps: float) -> list[int]:
        """Return which frames to take of those shown at `times`, in rising seconds, at `fps` on average.

        Where frames come unevenly, those are taken that are shown when even ones would be; one that stands long is
        then taken more than once.
        """
        total, since = len(times), times - times[0]
        indices = self.indices(total, fps)
        if not since[-1] or np.abs(since * fps - np.arange(total)).max() <= UNEVEN:
            return indices
        even = np.arange(len(indices)) * (total / len(indices) / fps)
        found: list[int] = (np.searchsorted(since, even + ROUNDING, side="right") - 1).tolist()
        return found


def check_video(value: Any) -> Extent:
    """Check the type and the header of a video.

    Returns:
        Its width and height in pixels, frames and seconds (each 0 where the header does not tell).

    Raises:
        MediaError: It is unreadable, truncated, has no video track or no frames, or a frame too large to be decoded
            safely.
    """
    if isinstance(value, VideoDecoder):
        meta = value.metadata
        return Extent(meta.width or 0, meta.height or 0, meta.num_frames or 0, meta.duration_seconds or 0.0)
    if isinstance(value, Mapping | np.ndarray | torch.Tensor | list | tuple):
        stack, fps = _frames_of(value)
        if isinstance(stack, np.ndarray):
            width, height = stack.shape[2], stack.shape[1]
        else:
            extents = [check_image(frame) for frame in stack]
            width, height = extents[0].width, extents[0].height
        return Extent(width, height, len(stack), len(stack) / fps if fps else 0.0)
    with open_reader(value) as file:
        check_complete(file)
        with open_container(file) as container:
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
        return Clip(to_bytes(channels_last(frames, ndim=4)), _rate(len(indices), total, rate, sampling))
    if isinstance(value, Mapping | np.ndarray | torch.Tensor | list | tuple):
        stack, rate = _frames_of(value)
        indices = sampling.indices(len(stack), rate)
        if isinstance(stack, np.ndarray):
            frames = to_bytes(channels_last(stack[indices], ndim=4))
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
        if fps is not None and (not isinstance(fps, Real) or not 0 < float(fps) < math.inf):
            raise MediaError(f"the fps of video_metadata must be a positive number, got {fps!r}")
    if isinstance(value, np.ndarray | torch.Tensor):
        return channels_last(value, ndim=4), fps
    if not isinstance(value, list | tuple):
        raise MediaError(f"the frames of a video must be an array or a list of images, got {describe(value)}")
    if not value:
        raise MediaError("the video has no frames")
    return value, fps


def _read_video(value: Any, sampling: Sampling, max_frame_pixels: int) -> Clip:
    with open_reader(value) as file:
        check_complete(file)
        with open_container(file) as container:
            stream = _video_track(container)
            declared, size = stream.average_rate, (stream.width, stream.height)
            shown = _packet_times(container, stream)
        file.seek(0)
        crop = read_crop(file, *size)
        # Packets plan which frames to keep. Where decoding shows others than they promise, it is done once more.
        frames: dict[int, NDArray[np.uint8]] = {}
        wanted, rate = _chosen(shown, sampling, declared)
        for threads in ("AUTO", "NONE", "NONE"):
            file.seek(0)
            planned = wanted
            frames, shown, is_damaged = _decode_frames(file, set(planned), crop, max_frame_pixels, threads)
            wanted, rate = _chosen(shown, sampling, declared)
            # Threads conceal damage differently each time; one alone does not.
            if wanted == planned and not (is_damaged and threads == "AUTO"):
                break
    if not wanted:
        raise MediaError("the video has no frames")
    if not set(wanted) <= set(frames):
        raise MediaError("the video is broken: it decodes to other frames each time")
    if len({frame.shape for frame in frames.values()}) > 1:
        raise MediaError("the frames change size within the video; re-encode it at one size")
    clip = np.stack([frames[index] for index in wanted])
    return Clip(clip, _rate(len(wanted), len(shown), rate, sampling), float(shown[0]))


def _packet_times(container: Any, stream: Any) -> NDArray[np.float64]:
    """Return the times in seconds of the packets of a video, in order, without decoding."""
    try:
        return np.sort(
            [
                float(packet.pts * packet.time_base)
                for packet in packets(container, stream)
                if packet.size and packet.pts is not None and not packet.is_discard
            ]
        )
    except av.FFmpegError as error:
        raise MediaError(f"the video can't be read: it is truncated or broken ({error})") from error


def _decode_frames(
    file: IO[bytes], wanted: set[int], crop: Crop, max_frame_pixels: int, threads: str
) -> tuple[dict[int, NDArray[np.uint8]], NDArray[np.float64], bool]:
    """Decode a video with threads of a type of FFmpeg.

    Returns:
        Those of the frames it shows whose index is wanted, the times of all in seconds, and whether any is damaged.
    """
    is_damaged = False
    frames: dict[int, NDArray[np.uint8]] = {}
    shown: list[float] = []
    decoded: list[float] = []
    with open_container(file) as container:
        stream = _video_track(container)
        stream.thread_type = threads
        usual = 1 / float(stream.average_rate or DEFAULT_RATE)
        for index, frame in enumerate(decode(container, stream)):
            is_damaged |= frame.is_corrupt
            if index in wanted:
                try:
                    frames[index] = _frame_pixels(frame, crop, 4 * max_frame_pixels)
                except (av.FFmpegError, ValueError) as error:
                    raise MediaError(f"the frames can't be converted to RGB ({error})") from error
            base = float(frame.time_base or 0)
            shown.append(math.nan if frame.pts is None else frame.pts * base)
            decoded.append(math.nan if frame.dts is None else frame.dts * base)
        # AVI states only when frames are decoded, which is the order of those that come out as well.
        clocks = [_continuous(np.asarray(times), usual, container) for times in (shown, decoded)]
    return frames, min(clocks, key=lambda clock: clock[1])[0], is_damaged


def _continuous(times: NDArray[np.float64], usual: float, container: Any) -> tuple[NDArray[np.float64], int]:
    """Return rising times of frames, in seconds, and how many steps were none: back, or to a clock begun anew."""
    steps = np.diff(times)
    # Comparisons with NaN, an unknown time, are false.
    is_step = np.array([step >= 0 and not is_restart(step, container) for step in steps], bool)
    start = times[0] if len(times) and np.isfinite(times[0]) else 0.0
    rising = start + np.concatenate([[0.0], np.cumsum(np.where(is_step, steps, usual))])
    return rising[: len(times)], int((~is_step).sum())


def _chosen(times: NDArray[np.float64], sampling: Sampling, declared: Fraction | None) -> tuple[list[int], float]:
    """Return which frames to take of those shown at `times` in seconds, and the rate of all of them."""
    total = len(times)
    if not total:
        return [], 0.0
    span = float(times[-1] - times[0])
    if not span:
        rate = float(declared or sampling.fps)
    elif declared and declared.denominator <= 1001 and abs((total - 1) / declared - span) <= ROUNDING:
        rate = float(declared)  # such as 30 or 30000 / 1001, and not what a header's length was divided into
    else:
        rate = (total - 1) / span
        steps = round(total / rate * sampling.fps)
        if abs(total / rate - steps / sampling.fps) <= 2 * ROUNDING and steps:
            rate = total / steps * sampling.fps * (1 - 1e-9)  # so that floats give `steps`, and not a little less
    return sampling.indices_at(times, rate), rate


def _frame_pixels(frame: Any, crop: Crop, max_pixels: int) -> NDArray[np.uint8]:
    """Return a frame as it is to be shown, reduced to `max_pixels`."""
    scale = min(1.0, math.sqrt(max_pixels / (frame.width * frame.height)))
    width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    left, top = int(crop.left * width / frame.width), int(crop.top * height / frame.height)
    right, bottom = int(crop.right * width / frame.width), int(crop.bottom * height / frame.height)
    pixels = pixels[top : height - bottom, left : width - right]
    matrix = frame.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
    if matrix is None:
        return pixels
    # A pixel at (x, y) is shown at (a x + c y, b x + d y). Of such a matrix only its eight turns and flips are done.
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _video_track(container: Any) -> Any:
    streams = [stream for stream in container.streams.video if not is_cover(stream)]
    if not streams:
        raise MediaError('the file has no video track; if it is sound alone, pass {"audio": ...}')
    if streams[0].codec_context is None:
        raise MediaError("the codec of the video is unknown")
    if streams[0].width * streams[0].height > MAX_IMAGE_PIXELS:
        raise MediaError(f"its frames have {streams[0].width} x {streams[0].height} pixels: too large to be decoded")
    return streams[0]
