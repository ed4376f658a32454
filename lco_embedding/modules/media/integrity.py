"""Integrity check of a file: whether it was cut off, by the bytes that it states itself.

Only counts of bytes refuse a file here. Lengths in seconds and counts of frames are often off in files that are whole.
Decoders fill up what is missing, or stop where the file does. A file that states no size, such as a live recording, is
taken as it is.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from lco_embedding.modules.media.files import MediaError

HEAD = 256
"""Bytes at the start of a file within which the headers read here stand: the EBML header of Matroska takes some 40,
and a Xing header stands at most so far into the first MPEG frame."""

UNKNOWN_BYTES = 10**9
"""Bytes of samples from which on a stated size stands for "unknown": writers into a pipe state 1 GiB, 2,000,000,000,
2 GiB or 4 GiB, less the header. What is truly as large lasts longer than any model listens."""

OVERSTATED_BYTES = 64
"""Bytes by which a chunk may overstate its size: some writers count the header among the samples."""

MAX_CHUNKS = 10_000
"""Chunks at the top of a file that are looked at."""

MIN_MPEG_FRAME = 24
"""Bytes of the smallest frame of an MP3 file: 8 kbit/s at 24 kHz."""

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
"""The elements at the top of a Matroska or WebM file (RFC 8794 and RFC 9559)."""

OGG_PAGE = b"OggS\0"
"""How a page of an Ogg file begins, its version included (RFC 3533)."""

OGG_HEADER = 27
"""Bytes of the header of an Ogg page before its table of segments."""

MAX_OGG_PAGE = OGG_HEADER + 255 + 255 * 255
"""Bytes of the longest Ogg page."""


ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""The object of an ASF, WMA or WMV file that states its size (ASF specification, section 3.2)."""

CONTENT_BOXES = (b"mdat", b"moov", b"moof")
"""The boxes of an MP4 or QuickTime file that hold its content (ISO/IEC 14496-12)."""

BOXES = (*CONTENT_BOXES, b"ftyp", b"styp", b"free", b"skip", b"wide")
"""The boxes with which such a file may begin."""

MP3_TAGS = (b"Xing", b"Info", b"VBRI")
"""The headers in the first frame of an MP3 file that state how long it is."""


@dataclass(frozen=True)
class Chunks:
    """How a file of chunks is laid out.

    Args:
        start: Bytes before its first chunk.
        size: `struct` format of the size of a chunk, which follows its name of 4 bytes.
        align: Multiple of bytes to which a chunk is padded.
        content: Names of the chunks that hold samples or frames.
    """

    start: int
    size: str
    align: int
    content: tuple[bytes, ...]


CHUNKS = {
    b"RIFF": Chunks(12, "<I", 2, (b"data", b"LIST")),
    b"FORM": Chunks(12, ">I", 2, (b"SSND",)),
    b"caff": Chunks(8, ">q", 1, (b"data",)),
}
"""First bytes of WAV and AVI, of AIFF, and of CAF files -> their layout."""


def check_complete(file: IO[bytes]) -> None:
    """Check that a file holds the bytes that it states itself, and rewind it.

    Formats that state none, or that are not known here, pass.

    Raises:
        MediaError: It is truncated, or has room for samples and none in it.
    """
    head = file.read(HEAD)
    length = file.seek(0, io.SEEK_END)
    if head.startswith(EBML):
        _check_matroska(head, length)
    elif head.startswith(OGG_PAGE):
        _check_ogg(file, length)
    elif head[:4] in CHUNKS:
        _check_chunks(file, length, CHUNKS[head[:4]])
    elif head.startswith(b".snd"):
        _check_au(head, length)
    elif head[4:8] in BOXES:
        _check_boxes(file, length)
    elif ASF_PROPERTIES in head:
        _check_asf(head[head.index(ASF_PROPERTIES) :], length)
    else:
        start = _mp3_start(head)
        file.seek(start)
        _check_mp3(file.read(HEAD), length - start)
    file.seek(0)


def has_length_tag(file: IO[bytes]) -> bool:
    """Tell whether the first frame of an MP3 file states how long the file is, and rewind it."""
    file.seek(_mp3_start(file.read(HEAD)))
    frame = file.read(HEAD)
    file.seek(0)
    return any(tag in frame for tag in MP3_TAGS)


def _check_length(length: int, declared: int) -> None:
    if length < declared:
        raise MediaError(f"the file is truncated: it holds {length} of {declared} bytes")


def _check_chunks(file: IO[bytes], length: int, layout: Chunks) -> None:
    """Check the chunks that hold the content of a file against its end."""
    place, width = layout.start, struct.calcsize(layout.size)
    for _ in range(MAX_CHUNKS):
        if place + 4 + width > length:
            return
        file.seek(place)
        head = file.read(4 + width + 4)
        name, (size,) = head[:4], struct.unpack(layout.size, head[4 : 4 + width])
        place += 4 + width
        if name in layout.content and (name != b"LIST" or head[-4:] == b"movi"):
            if place == length and name != b"LIST":
                raise MediaError("the audio has no samples")
            if 0 < size < UNKNOWN_BYTES:
                _check_length(length, place + size - min(size, OVERSTATED_BYTES))
            return
        place += max(0, size) + -size % layout.align


def _check_au(head: bytes, length: int) -> None:
    """Check the samples of an AU file against its end."""
    start, size = struct.unpack(">II", head[4:12].ljust(8, b"\0"))
    if size < UNKNOWN_BYTES:
        _check_length(length, start + size - min(size, OVERSTATED_BYTES))


def _check_boxes(file: IO[bytes], length: int) -> None:
    """Check the boxes at the top of an MP4 or QuickTime file against its end."""
    for name, _, end in boxes(file, 0, length):
        if name in CONTENT_BOXES:
            _check_length(length, end)


def boxes(file: IO[bytes], start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each box of an MP4 or QuickTime file between two places, and where its content lies."""
    for _ in range(MAX_CHUNKS):
        if start + 8 > end:
            return
        file.seek(start)
        head = file.read(16)
        size, width = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, width = int.from_bytes(head[8:16], "big"), 16
        if size < width:  # 0: up to the end of the file
            return
        yield head[4:8], start + width, start + size
        start += size


def _check_asf(properties: bytes, length: int) -> None:
    """Check the length of an ASF file against its file properties."""
    if len(properties) >= 92:
        (size,), flags = struct.unpack("<Q", properties[40:48]), properties[88]
        if not flags & 1:  # 1: a broadcast, whose size was not known
            _check_length(length, size)


def _mp3_start(head: bytes) -> int:
    """Return where the first frame of an MP3 file stands, behind its ID3 tag."""
    if not head.startswith(b"ID3"):
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))


def _check_mp3(frame: bytes, length: int) -> None:
    """Check the length of what follows the tag of an MP3 file against the Xing header in its first frame."""
    place = max(frame.find(tag) for tag in MP3_TAGS[:2])
    if frame[:1] != b"\xff" or place < 0:
        return
    flags, count, declared = struct.unpack(">III", frame[place + 4 : place + 16].ljust(12, b"\0"))
    if flags & 1 and count * MIN_MPEG_FRAME > length:
        raise MediaError("the audio is broken: its header promises more than the file can hold")
    if flags & 3 == 3:
        _check_length(length, declared)


def _check_matroska(head: bytes, length: int) -> None:
    """Check the length of a file against the size of its one segment."""
    size, place = matroska_size(head, len(EBML))
    if size is None or not head.startswith(SEGMENT, place + size):
        return
    size, place = matroska_size(head, place + size + len(SEGMENT))
    if size is not None:
        _check_length(length, place + size)


def matroska_size(head: bytes, place: int) -> tuple[int | None, int]:
    """Read the size of an element, None if it states none, and return it with the place after it."""
    first = head[place] if place < len(head) else 0
    width = 9 - first.bit_length()  # the zeros before the first one bit count the bytes that follow
    value = int.from_bytes(head[place : place + width], "big") & ((1 << 7 * width) - 1)
    is_stated = first and value != (1 << 7 * width) - 1  # all ones: it ends where it ends
    return (value if is_stated else None), place + width


def _check_ogg(file: IO[bytes], length: int) -> None:
    """Check that the last page of an Ogg file is whole; a recording that was broken off lacks the flag that ends it."""
    start = file.seek(max(0, length - MAX_OGG_PAGE))
    tail = file.read()
    place = tail.rfind(OGG_PAGE)
    if place >= 0:
        page = tail[place:].ljust(OGG_HEADER, b"\0")
        count = page[OGG_HEADER - 1]
        # Segments that are cut off as well hold up to 255 bytes each.
        size = OGG_HEADER + count + sum(page[OGG_HEADER : OGG_HEADER + count].ljust(count, b"\xff"))
        _check_length(length, start + place + size)
