"""Video whose headers, packets and times are not what they seem: the frames that are shown, when they are shown."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from lco_embedding.modules import media
from lco_embedding.modules.media import MediaError, Sampling
from lco_embedding.modules.media.video import _chosen
from tests.media_files import copy_packets, counting_frames, quarters, sine, write_video

ALL = Sampling(fps=1000.0, max_frames=1000, multiple=1)
LARGE = 10**9
RATES = (15, 24, 25, 29.97, 30, 48, 50, 60)
CODECS = {"mp4": "mpeg4", "mkv": "mpeg4", "avi": "mpeg4", "webm": "libvpx"}


def levels(frames: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean level of each frame."""
    return np.asarray(frames, dtype=np.float64).reshape(len(frames), -1).mean(axis=1)


@pytest.mark.parametrize("ending", CODECS)
@pytest.mark.parametrize("fps", RATES)
def test_frames_of_a_file_are_chosen_as_those_of_an_array(tmp_path: Path, ending: str, fps: float) -> None:
    fast = {"deadline": "realtime", "cpu-used": "8"} if ending == "webm" else {}
    for seconds in (3, 5):
        frames = counting_frames(round(fps * seconds), size=(16, 16))
        path = write_video(tmp_path / f"{seconds}.{ending}", frames, fps, CODECS[ending], **fast)
        expected = media.load_video({"array": frames, "video_metadata": {"fps": fps}}, Sampling(), LARGE)
        clip = media.load_video(path, Sampling(), LARGE)
        assert len(clip.frames) == len(expected.frames) == 2 * seconds
        assert np.abs(levels(clip.frames) - levels(expected.frames)).max() < 6
        assert abs(clip.fps - expected.fps) < 0.001


@pytest.mark.parametrize("unit", [0.001, 1 / 90_000, 0.0])
@pytest.mark.parametrize("fps", RATES)
def test_rounding_of_times_changes_no_choice(fps: float, unit: float) -> None:
    for seconds in np.arange(3, 32.5, 0.5):
        total = round(fps * seconds)
        times = 1.5 + np.arange(total) / fps
        times = np.round(times / unit) * unit if unit else times
        expected = Sampling().indices(total, fps)
        assert _chosen(times, Sampling(), Fraction(fps).limit_denominator(1001))[0] == expected, seconds
        # A header's length is rounded as well, and so is the rate that follows from it; some have no rate.
        for declared in (None, Fraction(total * 1000, round(total / fps * 1000) + 1)):
            if fps != 29.97:
                assert _chosen(times, Sampling(), declared)[0] == expected, (seconds, declared)


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
def test_avi_with_empty_chunks_is_read(tmp_path: Path, codec: str) -> None:
    # Frames that were dropped are empty chunks, which the header counts.
    times = [0, *range(2, 20), *range(24, 50)]
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    written = counting_frames(len(times))
    path = write_video(tmp_path / "clip.avi", written, codec=codec, pix_fmt=pix_fmt, times=times)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 50
    assert len(media.load_video(path, ALL, LARGE).frames) == len(times)
    clip = media.load_video(path, Sampling(), LARGE)
    even = np.arange(len(clip.frames)) / clip.fps * 8
    shown = [max(index for index, time in enumerate(times) if time <= due + 0.01) for due in even]
    assert np.abs(levels(clip.frames) - levels(written[shown])).max() < 4


def test_packets_that_show_nothing_are_no_frames(tmp_path: Path) -> None:
    # Alternate reference frames of VP8: packets of their own, whose flag says that they are not shown.
    written = counting_frames(108)
    hidden = list(range(5, 108, 13))[:8]
    visible = tmp_path / "visible.webm"
    write_video(visible, written, 25, "libvpx", deadline="realtime", **{"cpu-used": "8", "lag-in-frames": "0"})
    seen: list[bool] = []

    def hide(packet: Any) -> bool:
        is_hidden = len(seen) in hidden
        if is_hidden:
            content = bytearray(bytes(packet))
            content[0] &= 0xEF
            packet.update(bytes(content))
        packet.pts = packet.dts = 40 * (len(seen) - sum(seen)) - is_hidden
        seen.append(is_hidden)
        return True

    path = copy_packets(visible, tmp_path / "hidden.webm", hide)
    with av.open(str(path)) as container:
        assert sum(1 for packet in container.demux(video=0) if packet.size) == 108
    shown = np.delete(written, hidden, axis=0)
    clip = media.load_video(path, Sampling(), LARGE)
    assert np.abs(levels(clip.frames) - levels(shown[Sampling().indices(100, 25)])).max() < 6
    assert abs(clip.fps - 2.0) < 0.001


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "webm", "wmv", "flv"])
def test_dropped_frames_are_a_longer_stand(tmp_path: Path, ending: str) -> None:
    codecs = {"webm": "libvpx-vp9", "wmv": "wmv2", "flv": "flv"}
    times = [*range(16), *range(40, 56)]
    written = counting_frames(len(times))
    path = write_video(tmp_path / f"clip.{ending}", written, codec=codecs.get(ending, "libx264"), times=times)
    clip = media.load_video(path, Sampling(), LARGE)
    even = np.arange(len(clip.frames)) / clip.fps * 8
    shown = [max(index for index, time in enumerate(times) if time <= due + 0.01) for due in even]
    assert np.abs(levels(clip.frames) - levels(written[shown])).max() < 4


@pytest.mark.parametrize("ending", ["ts", "mpg"])
def test_joined_broadcasts_are_seen_one_after_the_other(tmp_path: Path, ending: str) -> None:
    codec, fps = ("libx264", 8) if ending == "ts" else ("mpeg2video", 25)
    written = counting_frames(4 * fps)
    parts = []
    for index, frames in enumerate(np.split(written, 2)):
        sound = (sine(440 * (index + 1), 2.0, 44_100), 44_100, "mp2")
        parts.append(write_video(tmp_path / f"{index}.{ending}", frames, fps, codec, sound=sound).read_bytes())
    clip = media.load_video(b"".join(parts), Sampling(), LARGE)
    assert np.abs(levels(clip.frames) - levels(written[Sampling().indices(4 * fps, fps)])).max() < 6
    assert abs(clip.fps - 2.0) < 0.02
    sound = media.load_sound_track(b"".join(parts), 16_000, start=clip.start)
    assert sound is not None
    assert abs(len(sound) - 4 * 16_000) < 0.15 * 16_000


def test_broadcast_that_begins_between_two_key_frames_is_read(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (48, 64, 64, 3), dtype=np.uint8)
    content = write_video(tmp_path / "clip.ts", frames, g="12", bf="0").read_bytes()
    cut = len(content) // 188 // 8 * 188
    clip = media.load_video(content[cut:], ALL, LARGE)
    assert 30 <= len(clip.frames) < 48


def shown_by(matrix: tuple[int, int, int, int], stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what a display matrix (a, b, c, d) makes of a picture, pixel by pixel."""
    a, b, c, d = matrix
    places = {(a * x + c * y, b * x + d * y): stored[y, x] for y in range(len(stored)) for x in range(stored.shape[1])}
    left, top = (min(place[axis] for place in places) for axis in (0, 1))
    width, height = (max(place[axis] for place in places) + 1 for axis in (0, 1))
    picture = np.zeros((height - top, width - left, 3), np.uint8)
    for (x, y), pixel in places.items():
        picture[y - top, x - left] = pixel
    return picture


@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
        (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0),
    ],
    ids=str,
)  # fmt: skip
def test_turns_and_flips_of_the_display_matrix_are_done(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    stored = quarters()[:48]
    content = bytearray(write_video(tmp_path / "turned.mp4", [stored] * 4, crf="10").read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    start = content.index(b"tkhd") + 4 + 40
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    shown, expected = media.load_video(bytes(content), ALL, LARGE).frames[0], shown_by(matrix, stored)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected.astype(np.float64)).mean() < 8


def with_clap(content: bytes, width: int, height: int, right: int, down: int) -> bytes:
    """Insert a clean aperture at the end of the entry of the one track of an MP4 file, whose `moov` is its end."""
    values = (width, 1, height, 1, 2 * right, 2, down, 1)
    clap = struct.pack(">I4s8i", 40, b"clap", *values)
    changed = bytearray(content)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        place = content.rindex(name) - 4
        size = int.from_bytes(content[place : place + 4], "big")
        changed[place : place + 4] = (size + len(clap)).to_bytes(4, "big")
    end = place + size
    return bytes(changed[:end] + clap + changed[end:])


def test_crops_of_mp4_are_applied(tmp_path: Path) -> None:
    content = write_video(tmp_path / "clip.mp4", [quarters()] * 4, crf="10").read_bytes()
    for width, height, right, down in ((64, 64, 0, 0), (32, 64, 16, 0), (40, 20, -12, 10)):
        frames = media.load_video(with_clap(content, width, height, right, down), ALL, LARGE).frames
        left, top = (64 - width) // 2 + right, (64 - height) // 2 + down
        expected = quarters()[top : top + height, left : left + width]
        assert frames.shape[1:] == expected.shape
        assert np.abs(frames[0] - expected.astype(np.float64)).mean() < 8
    # A crop that leaves nothing is none.
    assert media.load_video(with_clap(content, 0, 64, 0, 0), ALL, LARGE).frames.shape[1:3] == (64, 64)


@pytest.mark.parametrize(
    ("element", "rows", "columns"),
    [
        (b"\x54\xcc", slice(0, 64), slice(24, 64)),
        (b"\x54\xbb", slice(24, 64), slice(0, 64)),
        (b"\x54\xdd", slice(0, 64), slice(0, 40)),
        (b"\x54\xaa", slice(0, 40), slice(0, 64)),
    ],
    ids=["left", "top", "right", "bottom"],
)
def test_crops_of_matroska_are_applied(tmp_path: Path, element: bytes, rows: slice, columns: slice) -> None:
    content = write_video(tmp_path / "clip.mkv", [quarters()] * 4, crf="10").read_bytes()
    unit = b"\x54\xb2\x81\x04"  # of the size on the display: unknown
    assert content.count(unit) == 1
    frames = media.load_video(content.replace(unit, element + b"\x81\x18"), ALL, LARGE).frames
    expected = quarters()[rows, columns]
    assert frames.shape[1:] == expected.shape
    assert np.abs(frames[0] - expected.astype(np.float64)).mean() < 8


@pytest.mark.parametrize("ending", ["mp4", "avi", "wmv"])
@pytest.mark.parametrize("check", [media.check_video, lambda value: media.load_video(value, Sampling(), LARGE)])
def test_truncated_clips_are_refused_by_their_bytes(tmp_path: Path, ending: str, check: Any) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    codec = {"mp4": "libx264", "avi": "mpeg4", "wmv": "wmv2"}[ending]
    options = {"movflags": "faststart"} if ending == "mp4" else None
    content = write_video(tmp_path / f"whole.{ending}", frames, codec=codec, options=options).read_bytes()
    check(content)
    for kept in (0.5, 0.9):
        with pytest.raises(MediaError, match=r"the file is truncated: it holds \d+ of \d+ bytes"):
            check(content[: int(len(content) * kept)])


def test_only_wanted_frames_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lco_embedding.modules.media import video

    converted = []
    pixels = video._frame_pixels
    monkeypatch.setattr(
        video, "_frame_pixels", lambda frame, *more: converted.append(frame.pts) or pixels(frame, *more)
    )
    path = write_video(tmp_path / "long.mp4", counting_frames(300, size=(16, 16)), fps=30, codec="mpeg4")
    media.load_video(path, Sampling(max_frames=8), LARGE)
    assert len(converted) == 8


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_damaged_clips_give_the_same_frames_each_time(tmp_path: Path, codec: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (48, 96, 96, 3), dtype=np.uint8)
    content = bytearray(write_video(tmp_path / "clip.mp4", frames, codec=codec).read_bytes())
    start = content.index(b"mdat") + 4
    for place in np.random.default_rng(1).integers(start, content.rindex(b"moov") - 4, 20):
        content[place] ^= 0x55
    clips = [media.load_video(bytes(content), Sampling(), LARGE) for _ in range(5)]
    for clip in clips[1:]:
        assert np.array_equal(clip.frames, clips[0].frames)
