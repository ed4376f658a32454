"""Write real media files for the tests: pictures, sounds and clips whose content is known."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image


def sine(hertz: float, seconds: float, rate: int, gain: float = 0.5) -> NDArray[np.float32]:
    """Return a sine of shape (samples,)."""
    return (gain * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def pitch(samples: NDArray[np.floating[Any]], rate: int) -> float:
    """Return the strongest frequency of a waveform, in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


def quarters(size: int = 64) -> NDArray[np.uint8]:
    """Return a picture, uint8 of shape (size, size, 3), no turn or flip of which equals it.

    Its quarters are red, green (right), blue (below) and grey; each is flat, so that lossy codecs keep its level.
    """
    picture = np.zeros((size, size, 3), dtype=np.uint8)
    half = size // 2
    picture[:half, :half] = (200, 40, 40)
    picture[:half, half:] = (40, 160, 40)
    picture[half:, :half] = (40, 40, 200)
    picture[half:, half:] = (128, 128, 128)
    return picture


def counting_frames(total: int, size: tuple[int, int] = (64, 48)) -> NDArray[np.uint8]:
    """Return grey frames, uint8 of shape (total, height, width, 3), whose level tells their index.

    Args:
        total: Number of frames.
        size: Width and height in pixels.
    """
    levels = np.linspace(20, 235, total).round().astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (total, size[1], size[0], 3)).copy()


def write_image(path: Path, array: NDArray[Any], mode: str | None = None, **options: Any) -> Path:
    """Write an array of shape (height, width) or (height, width, channels) as an image in the format of the ending.

    Args:
        path: Where to write.
        array: Pixels as Pillow takes them.
        mode: Pillow mode to convert to before saving.
        options: Passed to `Image.save`.
    """
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def write_audio(
    path: Path,
    samples: NDArray[Any],
    rate: int,
    codec: str | None = None,
    subtype: str | None = None,
    options: Mapping[str, str] | None = None,
    **codec_options: str,
) -> Path:
    """Write a waveform of shape (samples,) or (samples, channels).

    Args:
        path: Where to write; the ending decides the container.
        samples: Floats in [-1, 1].
        rate: Sampling rate in Hz.
        codec: An encoder of FFmpeg; None: let soundfile write.
        subtype: The sample format of soundfile, such as PCM_24.
        options: Options of the container, such as `{"write_xing": "0"}`.
        codec_options: Options of the encoder.
    """
    if codec is None:
        soundfile.write(path, samples, rate, subtype=subtype)
        return path
    with av.open(str(path), "w", options=dict(options or {})) as container:
        _mux_audio(container, _add_audio(container, codec, samples, rate, codec_options), samples, rate)
    return path


def copy_packets(source: Path, target: Path, change: Callable[[Any], bool]) -> Path:
    """Copy the packets of a file into another one as they are.

    Args:
        source: File to read.
        target: File to write; the ending decides the container.
        change: Gets each packet, may change it, and tells whether to keep it.
    """
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        tracks = [new.add_stream_from_template(stream) for stream in old.streams]
        for packet in old.demux():
            if packet.dts is not None and packet.pts is not None and change(packet):
                packet.stream = tracks[packet.stream_index]
                new.mux(packet)
    return target


def write_video(
    path: Path,
    frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    fps: float = 8,
    codec: str = "libx264",
    sound: tuple[NDArray[Any], int, str] | None = None,
    options: Mapping[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    **codec_options: str,
) -> Path:
    """Write a clip.

    Args:
        path: Where to write; the ending decides the container.
        frames: RGB frames, uint8 of shape (frames, height, width, 3).
        fps: Frames a second.
        codec: An encoder of FFmpeg.
        sound: A waveform as in [`write_audio`], its rate in Hz, and an encoder for it.
        options: Options of the container, such as `{"movflags": "faststart"}`.
        pix_fmt: Pixel format of FFmpeg.
        times: When each frame is shown, in units of 1 / `fps`; None: one after another.
        codec_options: Options of the encoder of the frames.
    """
    rate = Fraction(fps).limit_denominator(10_000)
    with av.open(str(path), "w", options=dict(options or {})) as container:
        video = container.add_stream(codec, rate=rate, options=codec_options)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt, video.codec_context.time_base = pix_fmt, 1 / rate
        audio = _add_audio(container, sound[2], *sound[:2]) if sound else None
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pix_fmt)
            picture.pts, picture.time_base = index if times is None else times[index], 1 / rate
            container.mux(video.encode(picture))
        container.mux(video.encode())
        if audio is not None and sound is not None:
            _mux_audio(container, audio, *sound[:2])
    return path


def _add_audio(
    container: Any, codec: str, samples: NDArray[Any], rate: int, options: Mapping[str, str] | None = None
) -> Any:
    layout = "stereo" if samples.ndim == 2 and samples.shape[1] == 2 else "mono"
    return container.add_stream(codec, rate=rate, layout=layout, options=dict(options or {}))


def _mux_audio(container: Any, stream: Any, samples: NDArray[Any], rate: int) -> None:
    planes = np.ascontiguousarray(np.atleast_2d(samples.T), dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout="stereo" if len(planes) == 2 else "mono")
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
    # Encoders that take other sample formats or rates get them here; the end is flushed with None.
    resampler = av.AudioResampler(stream.format, stream.layout, stream.rate)
    for source in (frame, None):
        for converted in resampler.resample(source):
            container.mux(stream.encode(converted))
    container.mux(stream.encode())


def png(pixels: NDArray[Any], depth: int, colour_type: int, chunks: Mapping[bytes, bytes] | None = None) -> bytes:
    """Return a PNG file of any bit depth, which Pillow would not write.

    Args:
        pixels: Integers of shape (height, width, channels).
        depth: Bits of a channel: 1, 2, 4, 8 or 16.
        colour_type: As the header states it: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
        chunks: Chunks that stand before the pixels, by name.
    """
    height, width = pixels.shape[:2]
    lines = pixels.reshape(height, -1)
    if depth < 8:
        bits = (lines[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        lines = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    content = b"".join(b"\0" + line.astype(">u2" if depth == 16 else np.uint8).tobytes() for line in lines)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    inner = b"".join(png_chunk(name, data) for name, data in (chunks or {}).items())
    data = png_chunk(b"IDAT", zlib.compress(content)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + inner + data


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def tiff(pixels: NDArray[Any], tags: Mapping[int, int | bytes] | None = None) -> bytes:
    """Return an uncompressed TIFF file, its bytes in the order of the dtype.

    Args:
        pixels: Of shape (height, width) or (height, width, channels), of any dtype.
        tags: Further tags by number: integers, which every channel has, or text.
    """
    height, width, channels = (*pixels.shape, 1)[:3]
    order = ">" if pixels.dtype.byteorder == ">" else "<"
    formats = {"u": 1, "i": 2, "f": 3}
    data = pixels.tobytes()
    fields: dict[int, Any] = {256: width, 257: height, 259: 1, 262: 1, 273: 8, 277: channels, 278: height}
    fields |= {279: len(data), **(tags or {})}
    fields |= {258: (pixels.dtype.itemsize * 8,) * channels, 339: (formats[pixels.dtype.kind],) * channels}
    values = b""
    directory = struct.pack(order + "H", len(fields))
    start = 8 + len(data)
    for tag, value in sorted(fields.items()):
        if isinstance(value, bytes):
            count, kind, packed = len(value), 2, value
        else:
            several = value if isinstance(value, tuple) else (value,)
            kind = 3 if isinstance(value, tuple) or tag not in (256, 257, 273, 278, 279) else 4
            count, packed = len(several), struct.pack(f"{order}{len(several)}{'H' if kind == 3 else 'I'}", *several)
        if len(packed) > 4:
            values, packed = values + packed, struct.pack(order + "I", start + len(values))
        directory += struct.pack(order + "HHI", tag, kind, count) + packed.ljust(4, b"\0")
    magic = b"MM\0*" if order == ">" else b"II*\0"
    return magic + struct.pack(order + "I", start + len(values)) + data + values + directory + bytes(4)


def png_bomb(width: int = 50_000, height: int = 50_000) -> bytes:
    """Return a PNG of a few bytes whose header claims a huge picture."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    inner = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + inner + png_chunk(b"IEND", b"")
