"""Tell a file that was cut off by what it says of itself, from a few bytes at its ends.

Decoders fill up what is missing, or embed a file as far as it goes. A file that declares no length, as a live
recording does, is taken as it is.
"""

from __future__ import annotations

import io
import struct
from typing import IO

from lco_embedding.modules.media.files import MediaError

HEAD = 256
"""Bytes at the start of a file within which the headers read here stand: the EBML header of Matroska takes some 40,
and a Xing header stands at most so far into the first MPEG frame."""

MIN_MPEG_FRAME = 24
"""Bytes of the smallest frame of an MP3 file: 8 kbit/s at 24 kHz."""

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
"""The elements at the top of a Matroska or WebM file (RFC 8794 and RFC 9559)."""

OGG_PAGE = b"OggS\0"
"""How a page of an Ogg file begins, its version included (RFC 3533)."""

OGG_HEADER, OGG_LAST = 27, 4
"""Bytes of the header of an Ogg page before its table of segments, and the flag of the last page of a stream."""

MAX_OGG_PAGE = OGG_HEADER + 255 + 255 * 255
"""Bytes of the longest Ogg page."""


def check_complete(file: IO[bytes]) -> None:
    """Check that an MP3, Matroska, WebM or Ogg file is as long as its own header says, and rewind it.

    Raises:
        MediaError: It is truncated.
    """
    head = file.read(HEAD)
    length = file.seek(0, io.SEEK_END)
    if head.startswith(EBML):
        _check_matroska(head, length)
    elif head.startswith(OGG_PAGE):
        file.seek(max(0, length - MAX_OGG_PAGE))
        _check_ogg(file.read())
    else:
        start = 0
        if head.startswith(b"ID3"):
            start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
        file.seek(start)
        _check_mp3(file.read(HEAD), length - start)
    file.seek(0)


def _check_length(length: int, declared: int) -> None:
    if length < declared:
        raise MediaError(f"the file is truncated: it holds {length} of {declared} bytes")


def _check_mp3(frame: bytes, length: int) -> None:
    """Check the length of what follows the tag of an MP3 file against the Xing header in its first frame."""
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:1] != b"\xff" or place < 0:
        return
    flags, count, declared = struct.unpack(">III", frame[place + 4 : place + 16].ljust(12, b"\0"))
    if flags & 1 and count * MIN_MPEG_FRAME > length:
        raise MediaError("the audio is broken: its header promises more than the file can hold")
    if flags & 3 == 3:
        _check_length(length, declared)


def _check_matroska(head: bytes, length: int) -> None:
    """Check the length of a file against the size of its one segment."""
    size, place = _matroska_size(head, len(EBML))
    if size is None or not head.startswith(SEGMENT, place + size):
        return
    size, place = _matroska_size(head, place + size + len(SEGMENT))
    if size is not None:
        _check_length(length, place + size)


def _matroska_size(head: bytes, place: int) -> tuple[int | None, int]:
    """Read the size of an element, None if it states none, and return it with the place after it."""
    first = head[place] if place < len(head) else 0
    width = 9 - first.bit_length()  # the zeros before the first one bit count the bytes that follow
    value = int.from_bytes(head[place : place + width], "big") & ((1 << 7 * width) - 1)
    is_stated = first and value != (1 << 7 * width) - 1  # all ones: it ends where it ends
    return (value if is_stated else None), place + width


def _check_ogg(tail: bytes) -> None:
    """Check that the last page of an Ogg file is whole and ends its stream."""
    place = tail.rfind(OGG_PAGE)
    if place < 0:
        return
    page = tail[place:].ljust(OGG_HEADER, b"\0")
    flags, count = page[5], page[OGG_HEADER - 1]
    needed = OGG_HEADER + count + sum(page[OGG_HEADER : OGG_HEADER + count])
    if len(tail) - place < needed or not flags & OGG_LAST:
        raise MediaError(
            "the file is truncated: it lacks the page that ends an Ogg stream; if the recording was broken off and all "
            "of it is there, write it anew (ffmpeg -i old.ogg -c copy new.ogg)"
        )
