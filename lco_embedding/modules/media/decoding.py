"""Decoding of a stream frame by frame, for audio and video alike."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from typing import IO, Any

import av

from lco_embedding.modules.media.files import MediaError

MAX_FAILED = 0.1
"""Share of the packets of a stream that may fail to decode: a file with a damaged packet is not a broken file."""

RESTART = 10.0
"""Step in seconds above which the clock of a broadcast began anew, as FFmpeg's `dts_delta_threshold` has it."""

BLOCK = 1 << 20
"""Bytes that are searched at a time."""

OGG_PAGE, OGG_FIRST = re.compile(rb"OggS\0[\0-\7]"), 2
"""How a page of an Ogg file begins (RFC 3533); its last byte has this flag on the first page of a stream."""

FLAC_FILE = re.compile(rb"fLaC\0\0\0\x22")
"""How a FLAC file begins (RFC 9639)."""


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream, and in the end the empty one that flushes its decoder."""
    try:
        yield from container.demux(stream)
    except IndexError:
        # Once all is read, PyAV goes on to streams that appeared on the way, which it does not know.
        return


def decode(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the frames of a stream in the order of presentation.

    Packets that fail to decode are skipped: any number before the first frame, since the recording of a broadcast may
    begin anywhere, and few after it.

    Raises:
        MediaError: The file can't be read further, or more than `MAX_FAILED` of the packets fail.
    """
    total = failed = 0
    reason: Exception | None = None
    try:
        for packet in packets(container, stream):
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError) as error:
                frames, reason = [], error
                failed += bool(total)
            total += bool(total or frames)
            yield from frames
    except av.FFmpegError as error:
        reason, failed = error, total + 1
    if reason and (not total or failed > MAX_FAILED * total):
        raise MediaError(f"the {stream.type} can't be decoded: it is truncated or broken ({reason})") from reason


def is_restart(step: float, container: Any) -> bool:
    """Tell whether a step of time between two frames, in seconds, is no gap but a clock that began anew.

    Only broadcasts, and files joined of them, have such clocks; of them FFmpeg says so.
    """
    return step > RESTART and bool(av.format.Flags(container.format.flags) & av.format.Flags.ts_discont)


def joined_files(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield the files that were joined into an Ogg or FLAC file, or any other file as it is.

    FFmpeg reads beyond the first of them only while rate and channels stay the same.
    """
    head = file.read(4)
    if head == b"OggS":
        pages = [(place, bool(mark[-1] & OGG_FIRST)) for place, mark in _marks(file, OGG_PAGE)]
        # A file of several streams has a first page of each at its start.
        starts = [
            place for (_, follows), (place, is_first) in itertools.pairwise([(0, False), *pages]) if is_first > follows
        ]
        end = _page_end(file, pages[-1][0]) if pages else 0
    elif head == b"fLaC":
        starts = [place for place, _ in _marks(file, FLAC_FILE)]
        end = file.seek(0, io.SEEK_END)
    else:
        starts, end = [], 0
    if not starts:
        file.seek(0)
        yield file
    for start, stop in itertools.pairwise([*starts, end]):
        file.seek(start)
        yield io.BytesIO(file.read(stop - start))


def _marks(file: IO[bytes], pattern: re.Pattern[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield where in a file a pattern of at most 8 bytes is found, and the bytes that match."""
    place, last, tail = 0, -1, b""
    file.seek(0)
    while block := file.read(BLOCK):
        text, place = tail + block, place - len(tail)
        for match in pattern.finditer(text):
            if place + match.start() > last:
                last = place + match.start()
                yield last, match[0]
        place, tail = place + len(text), text[-8:]


def _page_end(file: IO[bytes], start: int) -> int:
    """Return where a page of an Ogg file ends."""
    file.seek(start + 26)
    count = int.from_bytes(file.read(1), "big")
    return start + 27 + count + sum(file.read(count))
