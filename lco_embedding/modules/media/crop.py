"""The crop that a container states for its frames: FFmpeg reads it, and PyAV does not hand it on."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

from lco_embedding.modules.media.integrity import BOXES, EBML, SEGMENT, boxes, matroska_size

MAX_HEAD = 1 << 16
"""Bytes at the start of a Matroska file within which its tracks are looked for."""

TRACK_PATH = (b"\x16\x54\xae\x6b", b"\xae", b"\xe0")
"""The elements of Matroska that lead to the settings of a video track: Tracks, TrackEntry, Video (RFC 9559)."""

CROP_ELEMENTS = (b"\x54\xcc", b"\x54\xbb", b"\x54\xdd", b"\x54\xaa")
"""PixelCropLeft, -Top, -Right and -Bottom."""

ENTRY_PATH = (b"mdia", b"minf", b"stbl", b"stsd")
"""The boxes of a track of MP4 that lead to the entry of its codec (ISO/IEC 14496-12)."""

STSD_HEAD, ENTRY_HEAD = 8, 78
"""Bytes in `stsd` before its first entry, and in the entry of a video track before the boxes in it."""


class Crop(NamedTuple):
    """Pixels to take off each side of a frame as it is stored."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


def read_crop(file: IO[bytes], width: int, height: int) -> Crop:
    """Read the crop of the first video track of a Matroska (`PixelCrop`) or MP4 file (`clap`), and rewind it.

    Args:
        file: Open file, at its start.
        width: Of the frames as they are stored, in pixels.
        height: As `width`.

    Returns:
        The crop; none where the file states none, or an impossible one.
    """
    head = file.read(MAX_HEAD)
    crop = Crop()
    if head.startswith(EBML):
        crop = _matroska_crop(head)
    elif head[4:8] in BOXES:
        crop = _mp4_crop(file, width, height)
    file.seek(0)
    fits = min(crop) >= 0 and crop.left + crop.right < width and crop.top + crop.bottom < height
    return crop if fits else Crop()


def _matroska_crop(head: bytes) -> Crop:
    size, place = matroska_size(head, len(EBML))
    place += size or 0
    if not head.startswith(SEGMENT, place):
        return Crop()
    spans = [(matroska_size(head, place + len(SEGMENT))[1], len(head))]
    for name in TRACK_PATH:
        spans = [found for span in spans for found in _elements(head, *span, name)]
    sides = []
    for name in CROP_ELEMENTS:
        sides.append(0)
        for start, end in spans[:1]:
            sides[-1] = sum(int.from_bytes(head[a:b], "big") for a, b in _elements(head, start, end, name))
    return Crop(*sides)


def _elements(data: bytes, place: int, end: int, wanted: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the contents of the elements of one name lie."""
    while place < end and data[place]:
        width = 9 - data[place].bit_length()
        name = data[place : place + width]
        size, place = matroska_size(data, place + width)
        if size is None:
            return
        if name == wanted:
            yield place, min(place + size, end)
        place += size


def _mp4_crop(file: IO[bytes], width: int, height: int) -> Crop:
    length = file.seek(0, io.SEEK_END)
    moov = _inner(file, [(0, length)], b"moov")
    for track in _inner(file, moov, b"trak"):
        spans = [track]
        for name in ENTRY_PATH:
            spans = _inner(file, spans, name)
        entries = [(start, end) for span in spans for _, start, end in boxes(file, span[0] + STSD_HEAD, span[1])]
        for start, _ in _inner(file, [(start + ENTRY_HEAD, end) for start, end in entries], b"clap"):
            file.seek(start)
            values = struct.unpack(">8i", file.read(32).ljust(32, b"\0"))
            if 0 in values[1::2]:
                return Crop()
            clean_width, clean_height, right, down = (a / b for a, b in zip(values[::2], values[1::2], strict=True))
            # The offsets are those of the middle of what is shown from the middle of what is stored.
            left, top = round((width - clean_width) / 2 + right), round((height - clean_height) / 2 + down)
            return Crop(left, top, round(width - clean_width) - left, round(height - clean_height) - top)
    return Crop()


def _inner(file: IO[bytes], spans: list[tuple[int, int]], wanted: bytes) -> list[tuple[int, int]]:
    """Return where the contents of the boxes of one name within others lie."""
    return [(start, end) for span in spans for name, start, end in boxes(file, *span) if name == wanted]
