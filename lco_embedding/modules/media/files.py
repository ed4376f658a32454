"""Open files and bytes safely, and tell what they are.

Media are untrusted: containers are restricted to a list, and no file can refer to another.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import av
import numpy as np
import torch
from numpy.typing import NDArray

from lco_embedding.modules.media.formats import (
    TEXT_EXTENSIONS,
    Kind,
    ending_of,
    image_format,
    is_text,
    kind_of_path,
)

# What FFmpeg may open: plain containers. Playlists and scripts, which name other files or hosts, are not among them.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts,gif,wav,mp3,flac,ogg,aac,aiff,caf,au,w64,voc,amr"
)

DURATION = re.compile(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d+)?)")
"""The tag in which Matroska files state the length of each stream: hours, minutes and seconds."""


class MediaError(ValueError):
    """A media input that can't be used; the message holds the reason and the remedy."""


@dataclass(frozen=True)
class Extent:
    """What a header tells of a medium; zero where it tells nothing or the kind has no such extent.

    Args:
        width: In pixels.
        height: In pixels.
        frames: Number of frames of a video.
        seconds: Length of audio or video.
        is_estimate: Whether the header states no length and `seconds` follows from the first bit rates, which is
            enough to plan with and too little to refuse a file.
    """

    width: int = 0
    height: int = 0
    frames: int = 0
    seconds: float = 0.0
    is_estimate: bool = False


@runtime_checkable
class Stream(Protocol):
    """An open file, or what reads like one: `io.BytesIO`, a member of an archive, a remote file."""

    def read(self, size: int = -1, /) -> Any:
        """Return the next `size` bytes, or all that follow."""

    def seek(self, offset: int, whence: int = 0, /) -> Any:
        """Go to a place."""


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


def as_numpy(value: NDArray[Any] | torch.Tensor) -> NDArray[Any]:
    """Return an array of a tensor on any device, of any dtype."""
    if not isinstance(value, torch.Tensor):
        return value
    tensor = value.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def sniff(value: bytes | os.PathLike[str]) -> Kind:
    """Tell from its first bytes and streams what modality a file or a byte string is.

    Raises:
        MediaError: The content is of no known modality.
    """
    with open_reader(value) as file:
        if image_format(file):
            return "image"
        with open_container(file) as container:
            if any(not is_cover(stream) for stream in container.streams.video):
                return "video"
            if container.streams.audio:
                return "audio"
    raise MediaError("the content is no image, audio or video that can be decoded")


def settle_kind(named: Kind | None, value: bytes | os.PathLike[str]) -> Kind:
    """Return the modality of a content whose name or media type stands for `named`, or for none.

    Containers of video may hold sound alone, so there the streams decide.

    Raises:
        MediaError: `named` is None, and the content is of no known modality.
    """
    if named in ("image", "audio"):
        return named
    try:
        return sniff(value)
    except MediaError:
        if named is None:
            raise
        return named


def kind_of_file(path: os.PathLike[str]) -> Kind | None:
    """Return the modality of an existing file by its name and its content; None where neither is of a medium."""
    named = kind_of_path(path, rare=True)
    try:
        if ending_of(path) in TEXT_EXTENSIONS:
            with open_reader(path) as file:
                if is_text(file):
                    return None
        return settle_kind(named, path)
    except MediaError:
        return named


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


def read_stream(stream: Stream) -> bytes:
    """Return all bytes of an open file, from its start, wherever it stands.

    Raises:
        MediaError: It is closed, can't be rewound, or yields text.
    """
    try:
        stream.seek(0)
        content = stream.read()
    except (OSError, ValueError) as error:
        raise MediaError(f"the open file can't be read from its start ({error}); pass its path or its bytes") from error
    if not isinstance(content, bytes):
        raise MediaError('the open file yields text; open it with mode "rb"')
    return content


@contextmanager
def open_reader(value: Any) -> Iterator[IO[bytes]]:
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
        raise MediaError("it is no regular file" if path.exists() else "there is no such file")
    if not size:
        raise MediaError("the file is empty (0 bytes)")
    try:
        file = path.open("rb")
    except OSError as error:
        raise MediaError(f"the file can't be opened ({error.strerror})") from error
    with file:
        yield file


@contextmanager
def open_container(file: IO[bytes]) -> Iterator[Any]:
    """Open a file as an audio or video container, from its start.

    Raises:
        MediaError: It is none, or of a format that is not allowed, or an image other than a GIF.
    """
    name = image_format(file)
    if name not in (None, "GIF"):
        raise MediaError(f'the file can\'t be read as audio or video: it is an image ({name}); pass {{"image": ...}}')
    file.seek(0)
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        container = av.open(_with_sizes(file), options=options, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"the file can't be read as audio or video ({error})") from error
    with container:
        yield container


def _with_sizes(file: IO[bytes]) -> IO[bytes]:
    """Give the sizes that AIFF files lack which were written into a pipe: FFmpeg takes a size of zero for the end."""
    head = file.read(12)
    file.seek(0)
    if not re.match(rb"FORM\0{4}AIF[FC]", head):
        return file
    content = bytearray(file.read())
    content[4:8] = b"\x7f\xff\xff\xff"
    place = content.find(b"SSND\0\0\0\0")
    if place > 0:
        content[place + 4 : place + 8] = (len(content) - place - 8).to_bytes(4, "big")
    return io.BytesIO(content)


def declared_seconds(container: Any, stream: Any) -> float:
    """Return how long the header says a stream is; 0 where it does not, or only for all streams of a file together."""
    if stream.duration:
        seconds = float(stream.duration * stream.time_base)
        bits = stream.codec_context.bit_rate if stream.codec_context.name.startswith("pcm") else 0
        # Headers that were written into a pipe state far more samples than follow.
        return min(seconds, 8 * container.size / bits) if bits else seconds
    if tag := DURATION.fullmatch(stream.metadata.get("DURATION", "")):
        return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])
    alone = len(container.streams) == 1
    return float(container.duration / av.time_base) if container.duration and alone else 0.0


def is_cover(stream: Any) -> bool:
    """Tell whether a video stream is only the cover picture of a piece of music."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)
