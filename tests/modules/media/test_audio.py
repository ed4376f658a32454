"""Audio whose headers, rates, channels and times are not what they seem is heard whole, in pitch and in time."""

from __future__ import annotations

import math
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from lco_embedding.modules import media
from lco_embedding.modules.media import MediaError
from tests.media_files import copy_packets, counting_frames, pitch, sine, write_audio, write_video

RATE = 16_000
NO_HEADER = {"write_xing": "0", "id3v2_version": "0"}


def seconds(samples: NDArray[np.float32]) -> float:
    return len(samples) / RATE


def hertz(samples: NDArray[np.float32], begin: float, end: float) -> float:
    """Return the pitch between two times in seconds."""
    return pitch(samples[round(begin * RATE) : round(end * RATE)], RATE)


def uneven_mp3(path: Path) -> Path:
    """Write ten seconds of varying bit rate without a header: silence, which takes few bytes, before noise."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8 * RATE).astype(np.float32)
    wave = np.concatenate([np.zeros(2 * RATE, np.float32), noise])
    quality = {"flags": "+qscale", "global_quality": str(2 * 118)}
    return write_audio(path, wave, RATE, "libmp3lame", options=NO_HEADER, **quality)


def test_mp3_of_varying_bit_rate_without_a_header_is_heard_whole(tmp_path: Path) -> None:
    path = uneven_mp3(tmp_path / "uneven.mp3")
    extent, loaded = media.check_audio(path), media.load_audio(path, RATE)
    assert extent.is_estimate
    assert abs(extent.seconds - 10) > 1  # the estimate is as bad as the test needs it
    assert math.isclose(seconds(loaded), 10, abs_tol=0.1)
    assert np.abs(loaded[:RATE]).max() < 0.01
    assert np.abs(loaded[-RATE:]).max() > 0.2
    assert np.array_equal(loaded, media.load_audio(path, RATE))


def test_mp3_that_states_its_length_is_no_estimate(tmp_path: Path) -> None:
    extent = media.check_audio(write_audio(tmp_path / "wave.mp3", sine(440, 3.0, RATE), RATE, "libmp3lame"))
    assert not extent.is_estimate
    assert math.isclose(extent.seconds, 3.0, abs_tol=0.1)


# Ending, encoder, rates of the two parts, options of the container.
JOINED = {
    "mp3": ("mp3", "libmp3lame", (44_100, 22_050), NO_HEADER),
    "mp3-with-headers": ("mp3", "libmp3lame", (44_100, 44_100), {}),
    "aac": ("aac", "aac", (44_100, 22_050), {}),
    "aac-rising": ("aac", "aac", (22_050, 44_100), {}),
    "ogg-vorbis": ("ogg", None, (44_100, 22_050), {}),
    "ogg-opus": ("ogg", "libopus", (48_000, 48_000), {}),
    "ogg-flac": ("ogg", "flac", (44_100, 16_000), {}),
    "flac": ("flac", "flac", (44_100, 16_000), {}),
    "ts": ("ts", "aac", (44_100, 44_100), {}),
}


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", JOINED)
def test_joined_files_are_heard_one_after_the_other(tmp_path: Path, name: str, channels: int) -> None:
    ending, codec, rates, options = JOINED[name]
    waves = [sine(440, 2.0, rates[0]), sine(880, 2.0, rates[1])]
    if channels == 2:
        waves[1] = np.stack([1.5 * waves[1], 0.5 * waves[1]], axis=1)
    parts = [
        write_audio(tmp_path / f"{index}.{ending}", wave, rate, codec, options=options)
        for index, (wave, rate) in enumerate(zip(waves, rates, strict=True))
    ]
    loaded = media.load_audio(b"".join(part.read_bytes() for part in parts), RATE)
    first = seconds(media.load_audio(parts[0], RATE))
    assert math.isclose(seconds(loaded), first + seconds(media.load_audio(parts[1], RATE)), abs_tol=0.1)
    assert math.isclose(hertz(loaded, 0.2, 1.8), 440, abs_tol=3)
    assert math.isclose(hertz(loaded, first + 0.2, first + 1.8), 880, abs_tol=3)
    assert math.isclose(loaded[round((first + 0.5) * RATE) :][:RATE].std(), 0.5 / math.sqrt(2), rel_tol=0.1)
    start = media.load_audio(b"".join(part.read_bytes() for part in parts), RATE, max_seconds=3.0)
    assert len(start) == 3 * RATE
    assert np.abs(start[: 2 * RATE] - loaded[: 2 * RATE]).max() < 1e-3


def test_bit_rates_of_joined_files_do_not_matter(tmp_path: Path) -> None:
    waves = {"256000": sine(440, 2.0, RATE * 2), "32000": sine(880, 2.0, RATE * 2)}
    parts = [
        write_audio(tmp_path / f"{rate}.mp3", wave, RATE * 2, "libmp3lame", options=NO_HEADER, b=rate).read_bytes()
        for rate, wave in waves.items()
    ]
    for content in (parts[0] + parts[1], parts[1] + parts[0]):
        assert math.isclose(seconds(media.load_audio(content, RATE)), 4.0, abs_tol=0.2)
        assert abs(media.check_audio(content).seconds - 4.0) > 1
        assert media.check_audio(content).is_estimate


@pytest.mark.parametrize("size", [0, 10**9, 2 * 10**9, 1 << 30, 0x7FFF_F000, 0x7FFF_FFFF, 0xFFFF_FFFF, RATE * 2 + 44])
def test_wav_that_was_written_into_a_pipe_is_taken_as_far_as_it_goes(tmp_path: Path, size: int) -> None:
    path = write_audio(tmp_path / "wave.wav", sine(440, 1.0, RATE), RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", size)
    for total in {len(content) - 8, min(size + 36, 0xFFFF_FFFF)}:
        content[4:8] = struct.pack("<I", total)
        assert np.array_equal(media.load_audio(bytes(content), RATE), media.load_audio(path, RATE))
        assert math.isclose(media.check_audio(bytes(content)).seconds, 1.0, abs_tol=0.01)


def test_aiff_that_was_written_into_a_pipe_is_taken_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "wave.aiff", sine(440, 1.0, RATE), RATE, "pcm_s16be")
    content = bytearray(path.read_bytes())
    for name in (b"FORM", b"SSND"):
        place = content.index(name) + 4
        content[place : place + 4] = bytes(4)
    assert np.array_equal(media.load_audio(bytes(content), RATE), media.load_audio(path, RATE))


@pytest.mark.parametrize("check", [media.check_audio, lambda value: media.load_audio(value, RATE)])
@pytest.mark.parametrize(
    ("ending", "codec"), [("wav", None), ("caf", None), ("au", None), ("m4a", "aac"), ("wma", "wmav2")]
)
def test_truncated_files_are_refused_by_their_bytes(tmp_path: Path, ending: str, codec: str | None, check: Any) -> None:
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)
    options = {"movflags": "faststart"} if ending == "m4a" else None
    content = write_audio(tmp_path / f"whole.{ending}", wave, RATE, codec, options=options, b="64000").read_bytes()
    check(content)
    for kept in (0.3, 0.9, 0.99):
        with pytest.raises(MediaError, match=r"the file is truncated: it holds \d+ of \d+ bytes"):
            check(content[: int(len(content) * kept)])


def test_truncated_flac_is_refused_by_its_count_of_samples(tmp_path: Path) -> None:
    content = write_audio(tmp_path / "whole.flac", sine(440, 4.0, RATE), RATE).read_bytes()
    with pytest.raises(MediaError, match=r"truncated: it holds 3\.\d of 4\.0 s"):
        media.load_audio(content[: int(len(content) * 0.9)], RATE)


@pytest.mark.parametrize("ending", ["caf", "au", "w64", "voc"])
def test_further_formats_are_read(tmp_path: Path, ending: str) -> None:
    wave = sine(440, 1.0, RATE)
    loaded = media.load_audio(write_audio(tmp_path / f"wave.{ending}", wave, RATE, subtype="PCM_16"), RATE)
    assert math.isclose(len(loaded), len(wave), abs_tol=0.01 * RATE)
    assert math.isclose(pitch(loaded, RATE), 440, abs_tol=3)


GAPPED = {"mkv": "flac", "mka": "libopus", "webm": "libopus", "mp4": "aac", "ts": "aac"}


@pytest.mark.parametrize("ending", GAPPED)
def test_gaps_are_silent(tmp_path: Path, ending: str) -> None:
    rate = 48_000
    wave = np.concatenate([sine(440, 1.0, rate), sine(880, 1.0, rate)])
    whole = write_audio(tmp_path / f"whole.{ending}", wave, rate, GAPPED[ending])

    def delay(packet: Any) -> bool:
        if packet.pts * packet.time_base - begin >= 1:
            packet.pts, packet.dts = (time + round(2 / packet.time_base) for time in (packet.pts, packet.dts))
        return True

    with av.open(str(whole)) as container:
        begin = container.start_time / av.time_base
    loaded = media.load_audio(copy_packets(whole, tmp_path / f"gap.{ending}", delay), RATE)
    assert math.isclose(seconds(loaded), 4.0, abs_tol=0.1)
    assert math.isclose(hertz(loaded, 0.1, 0.9), 440, abs_tol=3)
    assert not loaded[round(1.2 * RATE) : round(2.8 * RATE)].any()
    assert math.isclose(hertz(loaded, 3.1, 3.9), 880, abs_tol=3)


@pytest.mark.parametrize("jitter", [0.005, 0.035])
def test_jitter_of_times_is_no_gap(tmp_path: Path, jitter: float) -> None:
    whole = write_audio(tmp_path / "whole.mka", sine(440, 3.0, 48_000), 48_000, "flac")
    generator = np.random.default_rng(0)

    def shake(packet: Any) -> bool:
        packet.pts += round(generator.uniform(0, jitter) / packet.time_base)
        packet.dts = packet.pts
        return True

    shaken = media.load_audio(copy_packets(whole, tmp_path / "shaken.mka", shake), RATE)
    assert np.array_equal(shaken, media.load_audio(whole, RATE))


def test_damaged_packet_costs_itself_alone(tmp_path: Path) -> None:
    wave = sine(440, 4.0, 48_000)
    content = bytearray(write_audio(tmp_path / "wave.ts", wave, 48_000, "aac").read_bytes())
    with av.open(str(tmp_path / "wave.ts")) as container:
        track = container.streams.audio[0]
        middle = [packet.pos for packet in container.demux(track) if packet.pos][40]
    content[middle + 30 : middle + 180] = bytes(150)
    loaded = media.load_audio(bytes(content), RATE)
    whole = media.load_audio(tmp_path / "wave.ts", RATE)
    assert 0 <= len(whole) - len(loaded) <= 0.04 * RATE
    assert np.abs(loaded[-RATE:] - whole[-RATE:]).max() < 0.05
    broken = bytearray(content)
    broken[200:] = np.random.default_rng(0).integers(0, 255, len(broken) - 200, dtype=np.uint8).tobytes()
    with pytest.raises(MediaError):
        media.load_audio(bytes(broken), RATE)


def odd_sound(content: bytes, track: int, payload: bytes | None) -> bytes:
    """Overwrite the payload of a track of a transport stream, or take its packets out (None)."""
    packets = [bytearray(content[start : start + 188]) for start in range(0, len(content), 188)]
    for packet in packets:
        if int.from_bytes(packet[1:3], "big") & 0x1FFF != track:
            continue
        if payload is None:
            packet[1:3] = b"\x1f\xff"
            continue
        start = 4 + (packet[4] + 1 if packet[3] & 0x20 else 0) + (14 if packet[1] & 0x40 else 0)
        packet[start:] = (payload * 188)[: max(0, 188 - start)]
    return b"".join(packets)


@pytest.mark.parametrize("payload", [None, b"\0", b"\xa5\x17\x99"], ids=["missing", "zeros", "noise"])
def test_transport_stream_with_odd_sound(tmp_path: Path, payload: bytes | None) -> None:
    sound = (sine(440, 3.0, 44_100), 44_100, "aac")
    path = write_video(tmp_path / "clip.ts", counting_frames(24), sound=sound)
    with av.open(str(path)) as container:
        track = container.streams.audio[0].id
    content = odd_sound(path.read_bytes(), track, payload)
    assert media.sniff(content) == "video"
    assert len(media.load_video(content, media.Sampling(), 10**9).frames) == 6
    media.check_sound_track(content)
    with pytest.raises(MediaError, match="no samples" if payload is None else "can't be decoded"):
        media.load_audio(content, RATE)
    if payload is None:
        assert media.load_sound_track(content, RATE) is None


def test_streams_that_appear_on_the_way_do_not_matter(tmp_path: Path) -> None:
    silent = write_video(tmp_path / "silent.ts", counting_frames(48)).read_bytes()
    sound = (sine(440, 6.0, 44_100), 44_100, "aac")
    heard = write_video(tmp_path / "heard.ts", counting_frames(48), sound=sound).read_bytes()
    # FFmpeg looks for streams within the first 5 MB or 5 s.
    content = silent + silent + heard
    for _ in range(5):  # PyAV reads memory there that it did not write
        assert len(media.load_video(content, media.Sampling(), 10**9).frames) == 36


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize(
    "name", ["uneven.mp3", "wave.ogg", "wave.opus", "wave.m4a", "wave.flac", "wave.wma", "wave.mka", "wave.ts"]
)
def test_samples_equal_those_of_ffmpeg(tmp_path: Path, name: str) -> None:
    codecs = {
        "ogg": None, "opus": "libopus", "m4a": "aac", "flac": "flac", "wma": "wmav2", "mka": "flac", "ts": "aac"
    }  # fmt: skip
    path, ending = tmp_path / name, name.split(".")[1]
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (3 * 48_000, 2)).astype(np.float32)
    uneven_mp3(path) if ending == "mp3" else write_audio(path, wave, 48_000, codecs[ending], b="96000")
    rate = RATE if ending == "mp3" else 48_000
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "f32le", "-"]
    output = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.float32)
    expected = output.reshape(-1, 1 if ending == "mp3" else 2).mean(axis=1)
    loaded = media.load_audio(path, rate)
    assert abs(len(loaded) - len(expected)) <= 0.1 * rate  # versions of FFmpeg differ in the padding they cut off
    shorter = min(len(loaded), len(expected))
    assert np.abs(loaded[:shorter] - expected[:shorter]).mean() < 1e-3


STAMPS = sorted(Path("/usr/share/tuxpaint/stamps").rglob("*.ogg"))
"""Sounds of Debian's package tuxpaint-stamps-default: thousands of recordings by many people with many programs."""


@pytest.mark.skipif(not STAMPS or shutil.which("ffmpeg") is None, reason="tuxpaint-stamps-default is not installed")
@pytest.mark.parametrize("path", STAMPS[::400], ids=lambda path: path.stem)
def test_recordings_of_others_equal_those_of_ffmpeg(path: Path) -> None:
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        rate, channels = track.rate, track.channels
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "f32le", "-"]
    output = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.float32)
    expected = output.reshape(-1, channels).mean(axis=1)
    loaded = media.load_audio(path, rate)
    assert abs(len(loaded) - len(expected)) <= 0.03 * rate
    shorter = min(len(loaded), len(expected))
    assert np.abs(loaded[:shorter] - expected[:shorter]).max() < 1e-3
