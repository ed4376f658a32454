"""Media as they come: every format, layout and rate decodes to what was written, and the broken say why."""

from __future__ import annotations

import base64
import io
import itertools
import math
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import Qwen2VLVideoProcessor
from transformers.video_utils import VideoMetadata

from lco_embedding.modules import media
from lco_embedding.modules.media import Extent, MediaError, Sampling
from tests.media_files import (
    copy_packets,
    counting_frames,
    pitch,
    png_bomb,
    quarters,
    sine,
    write_audio,
    write_image,
    write_video,
)

RATE = 16_000
ALL = Sampling(fps=1000.0, max_frames=1000, multiple=1)
"""Takes every frame."""
LARGE = 10**9


def close(found: Any, expected: Any, tolerance: float = 0) -> bool:
    """Tell whether two pictures have one shape and differ by `tolerance` levels on average, no more."""
    found, expected = np.asarray(found), np.asarray(expected)
    return found.shape == expected.shape and float(np.abs(found - expected.astype(np.float64)).mean()) <= tolerance


# --- images ---------------------------------------------------------------------------------------------------------

IMAGE_FILES: dict[str, tuple[float, dict[str, Any]]] = {
    "jpg": (6.0, {"quality": 95}),
    "png": (0.0, {}),
    "webp": (0.0, {"lossless": True}),
    "gif": (0.0, {}),
    "bmp": (0.0, {}),
    "tiff": (0.0, {}),
    "avif": (3.0, {"quality": 95}),
}


@pytest.fixture(params=IMAGE_FILES)
def image_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, float]:
    """A picture in each format, and how far its levels may be off."""
    tolerance, options = IMAGE_FILES[request.param]
    return write_image(tmp_path / f"quarters.{request.param}", quarters(), **options), tolerance


def test_image_files_decode_from_path_string_bytes_and_pil(image_file: tuple[Path, float]) -> None:
    path, tolerance = image_file
    with Image.open(path) as opened:
        for value in (path, str(path), path.read_bytes(), opened):
            loaded = media.load_image(value)
            assert loaded.mode == "RGB"
            assert close(loaded, quarters(), tolerance)
            assert media.check_image(value) == Extent(width=64, height=64)


def test_image_format_is_told_by_content_not_by_name(image_file: tuple[Path, float]) -> None:
    path, tolerance = image_file
    assert close(media.load_image(path.rename(path.with_suffix(".png"))), quarters(), tolerance)


@pytest.mark.parametrize("size", [(64, 64), (7, 5), (5, 1), (1, 5), (1, 1)], ids=str)
@pytest.mark.parametrize(
    "convert",
    [
        pytest.param(lambda rgb: rgb, id="uint8-hwc"),
        pytest.param(lambda rgb: rgb.astype(np.uint16) * 257, id="uint16"),
        pytest.param(lambda rgb: rgb.astype(np.int64), id="int64"),
        pytest.param(lambda rgb: (rgb / 255).astype(np.float32), id="float32"),
        pytest.param(lambda rgb: (rgb / 255).astype(np.float64), id="float64"),
        pytest.param(lambda rgb: torch.from_numpy(rgb.copy()), id="torch-uint8"),
        pytest.param(lambda rgb: torch.from_numpy(rgb / 255).requires_grad_(), id="torch-with-gradient"),
    ],
)
def test_arrays_of_any_type_become_the_same_picture(convert: Any, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert close(media.load_image(convert(picture)), picture)
    assert media.check_image(convert(picture)) == Extent(*size)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor, lambda chw: (chw / 255).astype(np.float32)])
def test_channels_first_equals_channels_last(convert: Any) -> None:
    picture = quarters()[:40]
    channels_first = np.ascontiguousarray(picture.transpose(2, 0, 1))
    assert close(media.load_image(convert(channels_first)), picture)
    assert media.check_image(convert(channels_first)) == Extent(width=64, height=40)


@pytest.mark.parametrize("shape", [(40, 64), (40, 64, 1), (1, 40, 64)], ids=str)
def test_grey_arrays_become_three_equal_channels(shape: tuple[int, ...]) -> None:
    grey = quarters()[:40, :, 0]
    assert close(media.load_image(grey.reshape(shape)), np.stack([grey] * 3, axis=-1))


def test_bool_array_is_black_and_white() -> None:
    mask = quarters()[..., 0] > 100
    assert close(media.load_image(mask), np.stack([mask * 255] * 3, axis=-1))


def test_bfloat16_tensor_decodes() -> None:
    picture = torch.from_numpy(quarters() / 255).to(torch.bfloat16)
    assert close(media.load_image(picture), quarters(), tolerance=1)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.transpose(1, 0, 2)),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: np.rot90(stored, 2).transpose(1, 0, 2)),
        (8, lambda stored: np.rot90(stored, 1)),
    ],
)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff"])
def test_exif_orientation_is_applied(tmp_path: Path, ending: str, orientation: int, upright: Any) -> None:
    stored = quarters()[:48]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_image(tmp_path / f"turned.{ending}", stored, exif=exif, **IMAGE_FILES[ending][1])
    assert close(media.load_image(path), upright(stored), tolerance=6)


def halves(mode: str) -> Image.Image:
    """Return a picture, opaque at the left and fully transparent, but not white beneath, at the right."""
    image = Image.new("RGBA", (32, 32), (200, 200, 200, 255))
    image.paste((10, 10, 10, 0), (16, 0, 32, 32))
    if mode == "P":
        palette = Image.new("P", (32, 32), 0)
        palette.putpalette([200, 200, 200, 10, 10, 10])
        palette.paste(1, (16, 0, 32, 32))
        palette.info["transparency"] = 1
        return palette
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "ending"), [("RGBA", "png"), ("LA", "png"), ("P", "png"), ("P", "gif"), ("RGBA", "webp"), ("RGBA", "tiff")]
)
def test_transparency_lies_over_white(tmp_path: Path, mode: str, ending: str) -> None:
    image = halves(mode)
    path = tmp_path / f"halves.{ending}"
    image.save(path, **({"lossless": True} if ending == "webp" else {}))
    expected = np.full((32, 32, 3), 255)
    expected[:, :16] = 200
    assert close(media.load_image(path), expected)
    assert close(media.load_image(image), expected)


def test_alpha_of_an_array_lies_over_white() -> None:
    half = np.full((8, 8, 4), 128, dtype=np.uint8)
    half[..., :3] = 0
    assert close(media.load_image(half), np.full((8, 8, 3), 127), tolerance=1)
    assert close(media.load_image(half.transpose(2, 0, 1)), np.full((8, 8, 3), 127), tolerance=1)


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    path = write_image(tmp_path / "print.jpg", quarters(), mode="CMYK", quality=95)
    with Image.open(path) as stored:
        assert stored.mode == "CMYK"
    assert close(media.load_image(path), quarters(), tolerance=8)


@pytest.mark.parametrize("ending", ["png", "tiff"])
@pytest.mark.parametrize("top", [65535, 20_000, 200])
def test_16_bit_grey_keeps_its_tones(tmp_path: Path, ending: str, top: int) -> None:
    ramp = np.linspace(0, top, 64).round().astype(np.uint16)
    path = write_image(tmp_path / f"ramp.{ending}", np.tile(ramp, (8, 1)))
    expected = np.broadcast_to((ramp / 257)[None, :, None], (8, 64, 3))
    assert close(media.load_image(path), expected, tolerance=1)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_float_images_of_pil_keep_their_tones(top: float) -> None:
    ramp = np.tile(np.linspace(0, top, 64, dtype=np.float32), (8, 1))
    assert close(media.load_image(Image.fromarray(ramp)), (ramp / top * 255)[..., None].repeat(3, -1), tolerance=1)


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_animation_gives_its_first_frame(tmp_path: Path, ending: str) -> None:
    first, *others = [Image.fromarray(np.roll(quarters(), shift, axis=0)) for shift in (0, 16, 32)]
    path = tmp_path / f"animation.{ending}"
    first.save(path, save_all=True, append_images=others, **({"lossless": True} if ending == "webp" else {}))
    with Image.open(path) as stored:
        assert stored.n_frames == 3
    assert close(media.load_image(path), quarters())


def test_picture_of_several_views_gives_its_first(tmp_path: Path) -> None:
    # Telephones write such JPEG files, of the format MPO, with a depth map or a second view at the end.
    path = tmp_path / "views.jpg"
    others = [Image.fromarray(quarters()[::-1])]
    Image.fromarray(quarters()).save(path, format="MPO", save_all=True, append_images=others, quality=95)
    assert close(media.load_image(path), quarters(), tolerance=6)


def test_loading_leaves_the_callers_image_as_it_was() -> None:
    image = halves("RGBA")
    before = image.copy()
    media.load_image(image)
    assert image.mode == before.mode
    assert image.tobytes() == before.tobytes()


def test_truncated_images_are_refused(image_file: tuple[Path, float]) -> None:
    path, _ = image_file
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = write_image(path, noise).read_bytes()
    half = content[: len(content) // 2]
    with pytest.raises(MediaError, match=r"truncated or broken|not a readable image"):
        media.load_image(half)


def test_truncated_pil_image_is_refused(tmp_path: Path) -> None:
    content = write_image(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    with (
        Image.open(io.BytesIO(content.read_bytes()[:4000])) as image,
        pytest.raises(MediaError, match="truncated or broken"),
    ):
        media.load_image(image)


@pytest.mark.parametrize("check", [media.check_image, media.load_image])
def test_files_that_are_no_images_say_why(tmp_path: Path, check: Any) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("This is a letter, not a picture.")
    for path, reason in (
        (tmp_path / "empty.png", "empty"),
        (tmp_path / "text.png", "not a readable image"),
        (tmp_path / "missing.png", "no such file"),
        (tmp_path, "no regular file"),
        ("a\0b.png", "no such file|can't be read"),
        (b"", "no bytes"),
        (b"hello", "not a readable image"),
        (None, "no path"),
        (7, "no path"),
        (Image.new("RGB", (0, 5)), "no pixels"),
    ):
        with pytest.raises(MediaError, match=reason):
            check(path)


@pytest.mark.parametrize("check", [media.check_image, media.load_image])
@pytest.mark.parametrize("side", [14_000, 50_000])
def test_decompression_bomb_is_refused_by_its_header(check: Any, side: int) -> None:
    with pytest.raises(MediaError, match=r"too large|more than"):
        check(png_bomb(side, side))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((4, 4, 3), np.nan), "not all finite"),
        (np.full((4, 4, 3), np.inf, np.float32), "not all finite"),
        (np.full((4, 4, 3), -0.5), "range from -0.5"),
        (np.full((4, 4, 3), 300.0), "to 300"),
        (np.full((4, 4, 3), -1), "range from -1"),
        (np.full((4, 4, 3), 256), "to 256"),
        (np.full((4, 4, 3), "x"), "not all finite"),
        (np.ones((4, 4, 3), np.complex64), "not all finite"),
    ],
    ids=str,
)
def test_pixels_out_of_range_are_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        media.load_image(array)
    if array.dtype.kind == "f":
        with pytest.raises(MediaError, match=reason):
            media.load_image(torch.from_numpy(array))


@pytest.mark.parametrize("check", [media.check_image, media.load_image])
@pytest.mark.parametrize("shape", [(), (9,), (9, 9, 7), (2, 9, 9, 3), (0, 9, 3), (9, 0), (2, 9, 9)], ids=str)
def test_arrays_that_are_no_image_show_their_shape(check: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(MediaError, match="an array of shape"):
        check(np.zeros(shape, dtype=np.uint8))


def corruptions(content: bytes, count: int, reach: int = 400) -> Iterator[bytes]:
    """Yield copies of a file with a few random bytes changed among the first `reach`."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        corrupt = bytearray(content)
        for position in generator.integers(0, min(len(content), reach), 4):
            corrupt[position] = generator.integers(256)
        yield bytes(corrupt)


def outcome(load: Callable[..., Any], *arguments: Any) -> str:
    """Tell whether something decoded or was refused with a reason; any other exception passes through."""
    try:
        load(*arguments)
        return "decoded"
    except MediaError as error:
        return "refused" if str(error) else "no reason"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_corrupted_images_decode_or_raise_media_error(image_file: tuple[Path, float]) -> None:
    outcomes = [outcome(media.load_image, corrupt) for corrupt in corruptions(image_file[0].read_bytes(), 60)]
    assert set(outcomes) <= {"decoded", "refused"}
    assert "refused" in outcomes


# --- audio ----------------------------------------------------------------------------------------------------------

# File ending -> encoder of FFmpeg (None: soundfile), sample format of soundfile, largest error of a sample.
AUDIO_FILES: dict[str, tuple[str, str | None, str | None, float]] = {
    "wav-8": ("wav", None, "PCM_U8", 0.01),
    "wav-16": ("wav", None, "PCM_16", 1e-4),
    "wav-24": ("wav", None, "PCM_24", 1e-6),
    "wav-32": ("wav", None, "PCM_32", 1e-6),
    "wav-float": ("wav", None, "FLOAT", 1e-6),
    "wav-double": ("wav", None, "DOUBLE", 1e-6),
    "aiff": ("aiff", None, "PCM_16", 1e-4),
    "flac": ("flac", None, "PCM_16", 1e-4),
    "mp3": ("mp3", None, None, 0.05),
    "mp3-ffmpeg": ("mp3", "libmp3lame", None, 0.05),
    "ogg-vorbis": ("ogg", None, "VORBIS", 0.05),
    "ogg-opus": ("ogg", None, "OPUS", 0.05),
    "opus-ffmpeg": ("opus", "libopus", None, 0.05),
    "m4a": ("m4a", "aac", None, 0.05),
    "aac": ("aac", "aac", None, 0.05),
    "mka": ("mka", "flac", None, 1e-4),
}


@pytest.mark.parametrize("name", AUDIO_FILES)
@pytest.mark.parametrize("channels", [1, 2])
def test_audio_files_decode_to_what_was_written(tmp_path: Path, name: str, channels: int) -> None:
    ending, codec, subtype, tolerance = AUDIO_FILES[name]
    written = sine(440, 1.0, RATE)
    # The left channel is louder: only the mean of both gives back the wave.
    stereo = np.stack([1.5 * written, 0.5 * written], axis=1) if channels == 2 else written
    path = write_audio(tmp_path / f"wave.{ending}", stereo, RATE, codec, subtype)
    loaded = media.load_audio(path, RATE)
    assert loaded.dtype == np.float32
    assert abs(len(loaded) - len(written)) <= 0.15 * RATE
    assert math.isclose(pitch(loaded[: len(written)], RATE), 440, abs_tol=2)
    if tolerance < 0.05:
        assert np.abs(loaded - written).max() <= tolerance
    # The middle, away from the padding that lossy codecs add to both ends.
    assert math.isclose(np.abs(loaded[4000:12000]).max(), 0.5, abs_tol=0.05)
    for value in (str(path), path.read_bytes()):
        assert np.array_equal(media.load_audio(value, RATE), loaded)
    if name != "aac":  # a raw stream has no header to tell its length
        assert math.isclose(media.check_audio(path).seconds, 1.0, abs_tol=0.15)


@pytest.mark.parametrize("ending", ["wav", "mp3", "m4a", "opus"])
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
def test_pitch_and_length_survive_resampling(tmp_path: Path, rate: int, ending: str) -> None:
    if ending == "opus" and rate == 44_100:
        rate = 24_000  # Opus knows no 44.1 kHz
    codec = {"wav": None, "mp3": "libmp3lame", "m4a": "aac", "opus": "libopus"}[ending]
    path = write_audio(tmp_path / f"wave.{ending}", sine(700, 2.0, rate), rate, codec)
    loaded = media.load_audio(path, RATE)
    assert math.isclose(len(loaded) / RATE, 2.0, abs_tol=0.2)
    assert math.isclose(pitch(loaded, RATE), 700, abs_tol=2)
    assert math.isclose(np.abs(loaded[8000:24_000]).max(), 0.5, abs_tol=0.05)


@pytest.mark.parametrize(
    ("ending", "video_codec", "audio_codec", "rate"),
    [("mp4", "libx264", "aac", 44_100), ("webm", "libvpx-vp9", "libopus", 48_000), ("mkv", "libx264", "flac", 16_000)],
)
def test_sound_track_of_a_video(tmp_path: Path, ending: str, video_codec: str, audio_codec: str, rate: int) -> None:
    sound = (np.stack([sine(300, 1.0, rate)] * 2, axis=1), rate, audio_codec)
    path = write_video(tmp_path / f"clip.{ending}", counting_frames(8), codec=video_codec, sound=sound)
    assert media.has_sound_track(path)
    assert media.has_sound_track(path.read_bytes())
    track = media.load_sound_track(path, RATE)
    assert track is not None
    assert math.isclose(len(track) / RATE, 1.0, abs_tol=0.1)
    assert math.isclose(pitch(track, RATE), 300, abs_tol=2)
    assert np.array_equal(media.load_audio(path, RATE), track)
    assert len(media.load_video(path, ALL, LARGE).frames) == 8


def test_sound_track_beside_frames_in_memory() -> None:
    wave, frames = sine(300, 1.0, RATE), list(counting_frames(4))
    value = {"array": frames, "audio": {"array": wave, "sampling_rate": RATE}}
    assert media.has_sound_track(value)
    assert np.array_equal(media.load_sound_track(value, RATE), wave)
    assert not media.has_sound_track({"array": frames})
    assert media.load_sound_track(frames, RATE) is None
    assert media.load_sound_track({"array": frames, "audio": None}, RATE) is None


def test_sound_track_of_a_silent_video_is_none(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", counting_frames(4))
    assert not media.has_sound_track(path)
    assert media.load_sound_track(path, RATE) is None
    assert media.check_sound_track(path) == Extent()


def shift_sound(source: Path, target: Path, seconds: float) -> Path:
    """Copy a clip with its sound moved by some seconds against its frames."""

    def change(packet: Any) -> bool:
        moved = round(seconds / packet.time_base) if packet.stream.type == "audio" else 0
        packet.pts, packet.dts = packet.pts + moved, packet.dts + moved
        return True

    return copy_packets(source, target, change)


# Container -> encoders of frames and sound, and the rate of the sound.
HEARD_FILES = {
    "mp4": ("libx264", "aac", 44_100),
    "mov": ("libx264", "aac", 44_100),
    "webm": ("libvpx-vp9", "libopus", 48_000),
    "mkv": ("libvpx-vp9", "flac", 16_000),
}


@pytest.fixture(params=HEARD_FILES)
def heard_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Three seconds of frames with a tone that turns from 300 to 900 Hz after the first second, in each container."""
    codec, audio_codec, rate = HEARD_FILES[request.param]
    wave = np.concatenate([sine(300, 1.0, rate), sine(900, 2.0, rate)])
    return write_video(
        tmp_path / f"heard.{request.param}", counting_frames(24), codec=codec, sound=(wave, rate, audio_codec)
    )


def test_sound_that_begins_with_the_frames_is_taken_as_it_is(heard_file: Path) -> None:
    start = media.load_video(heard_file, ALL, LARGE).start
    aligned, plain = media.load_sound_track(heard_file, RATE, start=start), media.load_sound_track(heard_file, RATE)
    assert plain is not None
    assert np.array_equal(aligned, plain)
    assert math.isclose(media.check_sound_track(heard_file).seconds, 3.0, abs_tol=0.1)


def test_sound_that_begins_late_is_preceded_by_silence(heard_file: Path, tmp_path: Path) -> None:
    late = shift_sound(heard_file, tmp_path / f"late{heard_file.suffix}", 0.75)
    start = media.load_video(late, ALL, LARGE).start
    plain, aligned = media.load_sound_track(late, RATE), media.load_sound_track(late, RATE, start=start)
    assert plain is not None
    assert aligned is not None
    silence = len(aligned) - len(plain)
    assert math.isclose(silence / RATE, 0.75, abs_tol=0.05)
    assert np.abs(aligned[: silence - 100]).max() < 1e-4  # a resampler rings
    # Resampled at another phase, the wave is off by a part of a sample.
    assert np.abs(aligned[silence + 1000 :] - plain[1000:]).max() < 0.05
    short = media.load_sound_track(late, RATE, max_seconds=0.5, start=start)
    assert short is not None
    assert len(short) == RATE // 2
    assert np.abs(short).max() < 1e-4


def test_sound_that_begins_early_is_cut(heard_file: Path, tmp_path: Path) -> None:
    # All is a second later than the clock, so that the sound can be moved ahead of the frames.
    codec, audio_codec, rate = HEARD_FILES[heard_file.suffix[1:]]
    wave = np.concatenate([sine(300, 1.0, rate), sine(900, 2.0, rate)])
    path = tmp_path / f"early{heard_file.suffix}"
    write_video(path, counting_frames(16), codec=codec, sound=(wave, rate, audio_codec), times=range(8, 24))
    start = media.load_video(path, ALL, LARGE).start
    assert math.isclose(start, 1.0, abs_tol=0.01)
    plain, aligned = media.load_sound_track(path, RATE), media.load_sound_track(path, RATE, start=start)
    assert plain is not None
    assert aligned is not None
    assert math.isclose((len(plain) - len(aligned)) / RATE, 1.0, abs_tol=0.05)
    assert math.isclose(pitch(aligned[: RATE // 2], RATE), 900, abs_tol=3)
    short = media.load_sound_track(path, RATE, max_seconds=0.5, start=start)
    assert short is not None
    assert len(short) == RATE // 2
    assert math.isclose(pitch(short, RATE), 900, abs_tol=3)


@pytest.mark.parametrize("sound", [np.full(RATE, np.nan, np.float32), 3, {"array": np.zeros(9)}, Path("gone.wav")])
def test_header_check_of_sound_in_memory_finds_what_decoding_finds(sound: Any) -> None:
    with pytest.raises(MediaError):
        media.check_sound_track({"array": counting_frames(4), "audio": sound})


def test_length_of_a_track_is_its_own_not_that_of_the_file(tmp_path: Path) -> None:
    for ending, (codec, audio_codec, rate) in HEARD_FILES.items():
        sound = (sine(300, 1.0, rate), rate, audio_codec)
        path = write_video(tmp_path / f"clip.{ending}", counting_frames(24), codec=codec, sound=sound)
        assert math.isclose(media.check_audio(path).seconds, 1.0, abs_tol=0.1), ending
        assert math.isclose(media.check_sound_track(path).seconds, 1.0, abs_tol=0.1), ending


@pytest.mark.parametrize(
    "convert",
    [
        pytest.param(lambda wave: wave, id="float32"),
        pytest.param(lambda wave: wave.astype(np.float64), id="float64"),
        pytest.param(lambda wave: wave.astype(np.float16), id="float16"),
        pytest.param(lambda wave: (wave * 2**15).astype(np.int16), id="int16"),
        pytest.param(lambda wave: (wave.astype(np.float64) * 2**31).astype(np.int32), id="int32"),
        pytest.param(lambda wave: (wave * 128 + 128).astype(np.uint8), id="uint8"),
        pytest.param(lambda wave: torch.from_numpy(wave), id="torch"),
        pytest.param(lambda wave: torch.from_numpy(wave).bfloat16(), id="torch-bfloat16"),
        pytest.param(lambda wave: wave[None], id="(1, N)"),
        pytest.param(lambda wave: wave[:, None], id="(N, 1)"),
        pytest.param(lambda wave: np.stack([1.5 * wave, 0.5 * wave]), id="(2, N)"),
        pytest.param(lambda wave: np.stack([1.5 * wave, 0.5 * wave], axis=1), id="(N, 2)"),
        pytest.param(lambda wave: torch.from_numpy(np.stack([wave] * 6)), id="torch (6, N)"),
    ],
)
@pytest.mark.parametrize("rate", [None, RATE, 44_100])
def test_audio_arrays_of_any_type_and_layout(convert: Any, rate: int | None) -> None:
    wave = sine(500, 0.5, rate or RATE)
    value = convert(wave) if rate is None else {"array": convert(wave), "sampling_rate": rate}
    loaded = media.load_audio(value, RATE)
    assert loaded.dtype == np.float32
    assert abs(len(loaded) - 0.5 * RATE) <= 1
    assert np.abs(loaded[500:-500] - sine(500, 0.5, RATE)[500:-500][: len(loaded) - 1000]).max() < 0.02
    assert math.isclose(media.check_audio(value).seconds, 0.5 if rate else 0.0, abs_tol=0.001)


def test_audio_lists_and_numpy_rates() -> None:
    wave = sine(500, 0.5, RATE)
    value = {"array": wave.tolist(), "sampling_rate": np.int64(RATE)}
    assert np.array_equal(media.load_audio(value, RATE), wave)


@dataclass
class FakeSamples:
    data: torch.Tensor
    sample_rate: int


@dataclass
class FakeAudioMetadata:
    duration_seconds_from_header: float | None


@dataclass
class FakeAudioDecoder:
    samples: FakeSamples
    metadata: FakeAudioMetadata

    def get_all_samples(self) -> FakeSamples:
        return self.samples


def test_audio_decoder_objects() -> None:
    samples = FakeSamples(torch.from_numpy(np.stack([sine(500, 1.0, 8000)] * 2)), 8000)
    decoder = FakeAudioDecoder(samples, FakeAudioMetadata(None))
    loaded = media.load_audio(decoder, RATE)
    assert len(loaded) == RATE
    assert math.isclose(pitch(loaded, RATE), 500, abs_tol=2)
    assert media.check_audio(decoder) == Extent()
    assert media.check_audio(FakeAudioDecoder(samples, FakeAudioMetadata(1.5))).seconds == 1.5


@pytest.mark.parametrize(
    ("ending", "codec"), [("wav", None), ("flac", None), ("mp3", None), ("m4a", "aac"), ("mka", "flac")]
)
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_max_seconds_gives_the_start(tmp_path: Path, ending: str, codec: str | None, rate: int) -> None:
    # The pitch rises after the first second, so that what comes later is told from the start.
    wave = np.concatenate([sine(400, 1.0, rate), sine(1500, 3.0, rate)])
    path = write_audio(tmp_path / f"wave.{ending}", wave, rate, codec)
    start = media.load_audio(path, RATE, max_seconds=0.9)
    assert abs(len(start) - 0.9 * RATE) <= 1
    assert math.isclose(pitch(start, RATE), 400, abs_tol=3)
    whole = media.load_audio(path, RATE)
    assert np.abs(start[:12_000] - whole[:12_000]).max() < 0.01
    assert math.isclose(len(media.load_audio(path, RATE, max_seconds=60)), len(whole))


@pytest.mark.parametrize(("ending", "codec"), [("wav", None), ("m4a", "aac")])
def test_max_seconds_stops_reading_early(tmp_path: Path, ending: str, codec: str | None) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * RATE)
    path = write_audio(tmp_path / f"long.{ending}", noise, RATE, codec)

    class CountingFile(io.FileIO):
        total = 0

        def readinto(self, buffer: Any) -> int:
            count = super().readinto(buffer) or 0
            CountingFile.total += count
            return count

    def open_counting(self: Path, mode: str) -> io.BufferedReader:
        return io.BufferedReader(CountingFile(str(self), mode))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", open_counting)
        assert len(media.load_audio(path, RATE, max_seconds=1.0)) == RATE
    assert 0 < CountingFile.total < 0.6 * path.stat().st_size


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_audio_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    wave = sine(500, 0.5, RATE)
    wave[100] = value
    path = write_audio(tmp_path / "wave.wav", wave, RATE, subtype="FLOAT")
    for source in (wave, torch.from_numpy(wave), {"array": wave, "sampling_rate": 8000}, path):
        with pytest.raises(MediaError, match="NaN or infinite"):
            media.load_audio(source, RATE)


@pytest.mark.parametrize("check", [media.check_audio, lambda value: media.load_audio(value, RATE)])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros(0, np.float32), "no audio"),
        (np.zeros((2, 0), np.float32), "no audio"),
        (np.array(1, np.float32), "no audio"),
        (np.zeros((2, 3, 4), np.float32), "no audio"),
        (np.zeros((100, 100), np.float32), "no axis of channels"),
        (np.zeros(9, bool), "bool"),
        (np.zeros(9, np.uint16), "uint16"),
        (np.zeros(9, np.complex64), "complex64"),
        (np.array(["a", "b"]), "floats or signed integers"),
        ({"array": np.zeros(9), "sampling_rate": 0}, "sampling_rate must be"),
        ({"array": np.zeros(9), "sampling_rate": -1}, "sampling_rate must be"),
        ({"array": np.zeros(9), "sampling_rate": None}, "sampling_rate must be"),
        ({"array": np.zeros(9), "sampling_rate": "16000"}, "sampling_rate must be"),
        ({"array": np.zeros(9)}, "sampling_rate must be"),
        ({"array": None, "sampling_rate": RATE}, "must be an array"),
        ({"sampling_rate": RATE}, "must be an array"),
        ({"array": [], "sampling_rate": RATE}, "no audio"),
        ({"array": [[1.0, 2.0], [3.0]], "sampling_rate": RATE}, "array"),
        (None, "no path"),
        (b"", "no bytes"),
        (b"hello", "can't be read as audio or video"),
    ],
    ids=str,
)
def test_values_that_are_no_audio_say_why(check: Any, value: Any, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        check(value)


@pytest.mark.parametrize("check", [media.check_audio, lambda value: media.load_audio(value, RATE)])
def test_files_that_are_no_audio_say_why(tmp_path: Path, check: Any) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("This is a letter, not a sound. " * 20)
    silent = write_video(tmp_path / "silent.mp4", counting_frames(4))
    for path, reason in (
        (tmp_path / "empty.wav", "empty"),
        (tmp_path / "text.wav", "can't be read as audio or video"),
        (tmp_path / "missing.wav", "no such file"),
        (tmp_path, "no regular file"),
        (write_audio(tmp_path / "none.wav", np.zeros(0, np.float32), RATE), "no samples"),
        (silent, "no sound track"),
        (write_image(tmp_path / "picture.png", quarters()), "can't be read as audio or video|no sound track"),
    ):
        with pytest.raises(MediaError, match=reason):
            check(path)


@pytest.mark.parametrize("peak", [1, 9_000, 32_768])
@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_16_bit_values_in_32_bit_integers_are_refused(convert: Any, peak: int) -> None:
    wave = np.array([0, -peak, peak // 2] * 100, np.int32)
    for read in (media.check_audio, lambda value: media.load_audio(value, RATE)):
        with pytest.raises(MediaError, match=f"reach only {peak} are 16-bit ones; pass array.astype"):
            read(convert(wave))
    assert np.abs(media.load_audio(convert((wave // 2).astype(np.int16)), RATE)).max() > 0
    assert not media.load_audio(convert(np.zeros(300, np.int32)), RATE).any()
    assert np.abs(media.load_audio(convert(wave * 40_000), RATE)).max() > 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_floats_that_were_never_scaled_are_refused_with_their_peak(tmp_path: Path, dtype: Any) -> None:
    wave = (sine(440, 0.5, RATE) * 2 * 9000).astype(dtype)
    values = [wave, torch.from_numpy(wave), {"array": wave, "sampling_rate": 8000}]
    for value in values:
        for read in (media.check_audio, lambda value: media.load_audio(value, RATE)):
            with pytest.raises(MediaError, match=r"peaks at (9000|8999|8998|8992|8996).*must be in \[-1, 1\]"):
                read(value)
    path = write_audio(tmp_path / "wave.wav", wave.astype(np.float32), RATE, subtype="FLOAT")
    with pytest.raises(MediaError, match="peaks at"):
        media.load_audio(path, RATE)
    # Loud is not wrong: intermediate results of a mix may well be above 1.
    assert np.abs(media.load_audio(sine(440, 0.5, RATE) * 20, RATE)).max() > 5


# File ending, encoder of FFmpeg (None: soundfile), sample format of soundfile.
CUT_FILES = {
    "aiff": ("aiff", None, "PCM_16"),
    "aiff-24": ("aiff", None, "PCM_24"),
    "ogg-vorbis": ("ogg", None, "VORBIS"),
    "ogg-opus": ("ogg", None, "OPUS"),
    "opus-ffmpeg": ("opus", "libopus", None),
    "ogg-flac": ("ogg", "flac", None),
    "mka-flac": ("mka", "flac", None),
    "webm-opus": ("webm", "libopus", None),
}


@pytest.mark.parametrize("check", [media.check_audio, lambda value: media.load_audio(value, RATE)])
@pytest.mark.parametrize("name", CUT_FILES)
def test_truncated_audio_is_refused_by_its_header(tmp_path: Path, name: str, check: Any) -> None:
    ending, codec, subtype = CUT_FILES[name]
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)
    content = write_audio(tmp_path / f"whole.{ending}", noise, RATE, codec, subtype).read_bytes()
    check(content)
    for kept in (0.3, 0.5, 0.8, 0.95):
        with pytest.raises(MediaError, match="truncated"):
            check(content[: int(len(content) * kept)])
    with pytest.raises(MediaError, match="truncated"):
        check(content[:-100])


def test_ogg_that_ends_between_two_pages_is_taken_as_far_as_it_goes(tmp_path: Path) -> None:
    # Recordings that were broken off lack the page that ends a stream, and so do some published files.
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)
    content = write_audio(tmp_path / "whole.ogg", noise, RATE, subtype="VORBIS").read_bytes()
    whole, cut = media.load_audio(content, RATE), media.load_audio(content[: content.rindex(b"OggS")], RATE)
    assert 2 * RATE < len(cut) < len(whole)
    assert np.abs(whole[: len(cut) - 500] - cut[:-500]).max() < 1e-4


@pytest.mark.parametrize("tail", [bytes(500), b"TAG" + bytes(125), bytes(100_000)], ids=["zeros", "tag", "many"])
def test_what_follows_an_ogg_stream_does_not_matter(tmp_path: Path, tail: bytes) -> None:
    content = write_audio(tmp_path / "whole.ogg", sine(440, 1.0, RATE), RATE, subtype="VORBIS").read_bytes()
    assert len(media.load_audio(content + tail, RATE)) == len(media.load_audio(content, RATE))


@pytest.mark.parametrize("size", [0, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_aiff_of_unknown_length_is_read(tmp_path: Path, size: int) -> None:
    content = bytearray(write_audio(tmp_path / "wave.aiff", sine(440, 1.0, RATE), RATE, subtype="PCM_16").read_bytes())
    content[4:8] = struct.pack(">I", size)
    assert len(media.load_audio(bytes(content), RATE)) == RATE


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}], ids=["moov-at-the-end", "moov-at-the-front"])
def test_truncated_m4a_is_refused(tmp_path: Path, options: dict[str, str]) -> None:
    path = tmp_path / "whole.mp4"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)
    write_video(path, counting_frames(4), sound=(noise, RATE, "aac"), options=options)
    sound_only = tmp_path / "whole.m4a"
    with av.open(str(path)) as source, av.open(str(sound_only), "w", options=options) as target:
        track = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = track
                target.mux(packet)
    content = sound_only.read_bytes()
    assert math.isclose(len(media.load_audio(content, RATE)) / RATE, 4.0, abs_tol=0.1)
    with pytest.raises(MediaError, match=r"truncated|can't be read"):
        media.load_audio(content[: len(content) * 6 // 10], RATE)


def test_header_of_an_absurd_rate_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "slow.wav", sine(440, 1.0, RATE), 1)
    assert len(media.load_audio(path, RATE, max_seconds=10)) == 10 * RATE


@pytest.mark.parametrize("check", [media.check_audio, lambda value: media.load_audio(value, RATE)])
def test_sound_in_an_unknown_code_is_refused(tmp_path: Path, check: Any) -> None:
    content = bytearray(write_audio(tmp_path / "wave.wav", sine(440, 0.5, RATE), RATE, subtype="PCM_16").read_bytes())
    assert content[20:22] == b"\x01\x00"
    content[20:22] = b"\x34\x12"
    with pytest.raises(MediaError, match=r"codec|decod|can't be read"):
        check(bytes(content))


@pytest.mark.parametrize("name", ["wav-16", "flac", "mp3", "ogg-vorbis", "m4a"])
def test_corrupted_audio_decodes_or_raises_media_error(tmp_path: Path, name: str) -> None:
    ending, codec, subtype, _ = AUDIO_FILES[name]
    content = write_audio(tmp_path / f"wave.{ending}", sine(440, 0.3, RATE), RATE, codec, subtype).read_bytes()
    outcomes = [outcome(media.load_audio, corrupt, RATE) for corrupt in corruptions(content, 20, reach=1000)]
    assert set(outcomes) <= {"decoded", "refused"}


# --- video ----------------------------------------------------------------------------------------------------------

VIDEO_FILES: dict[str, tuple[str, str]] = {
    "mp4-h264": ("mp4", "libx264"),
    "mp4-mpeg4": ("mp4", "mpeg4"),
    "webm-vp9": ("webm", "libvpx-vp9"),
    "mkv-h264": ("mkv", "libx264"),
    "mkv-vp9": ("mkv", "libvpx-vp9"),
    "mov-h264": ("mov", "libx264"),
    "avi-mpeg4": ("avi", "mpeg4"),
    "avi-h264": ("avi", "libx264"),
    "avi-mjpeg": ("avi", "mjpeg"),
}


def levels(frames: np.ndarray) -> np.ndarray:
    """Return the mean level of each frame."""
    return np.asarray(frames, dtype=np.float64).reshape(len(frames), -1).mean(axis=1)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds at 8 frames a second, the level of each frame telling its index."""
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", counting_frames(24))


@pytest.mark.parametrize("name", VIDEO_FILES)
@pytest.mark.parametrize("sampling", [Sampling(), ALL, Sampling(fps=3.0, max_frames=5)], ids=["2fps", "all", "few"])
def test_sampled_frames_are_the_right_ones(tmp_path: Path, name: str, sampling: Sampling) -> None:
    ending, codec = VIDEO_FILES[name]
    written = counting_frames(24)
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / f"clip.{ending}", written, codec=codec, pix_fmt=pix_fmt)
    clip = media.load_video(path, sampling, LARGE)
    wanted = sampling.indices(24, 8.0)
    assert clip.frames.dtype == np.uint8
    assert clip.frames.shape == (len(wanted), 48, 64, 3)
    # Neighbouring frames are 9 levels apart.
    assert np.abs(levels(clip.frames) - levels(written[wanted])).max() < 4
    assert math.isclose(clip.fps, len(wanted) / 24 * 8, rel_tol=1e-3)
    extent = media.check_video(path)
    assert (extent.width, extent.height) == (64, 48)
    assert abs(extent.frames - 24) <= 1
    assert math.isclose(extent.seconds, 3.0, abs_tol=0.2)


def test_colours_and_places_of_a_frame_survive(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", [quarters()] * 4, crf="10")
    clip = media.load_video(str(path), ALL, LARGE)
    for frame in clip.frames:
        assert close(frame, quarters(), tolerance=8)


def test_path_string_and_bytes_give_the_same_clip(clip_file: Path) -> None:
    first, *others = [
        media.load_video(value, Sampling(), LARGE) for value in (clip_file, str(clip_file), clip_file.read_bytes())
    ]
    for other in others:
        assert np.array_equal(first.frames, other.frames)
        assert first.fps == other.fps


def test_sampling_equals_the_qwen_processor() -> None:
    processor, compared = Qwen2VLVideoProcessor(), 0
    for total in [*range(2, 140), 239, 240, 241, 500, 719, 720, 1000, 1799, 4321, 100_000]:
        for fps in (
            0.5,
            1.0,
            2.0,
            3.0,
            7.99,
            8.0,
            10.0,
            12.5,
            15.0,
            23.976,
            24.0,
            25.0,
            29.97,
            30.0,
            59.94,
            60.0,
            120.0,
        ):
            expected = processor.sample_frames(
                metadata=VideoMetadata(total_num_frames=total, fps=fps),
                fps=2.0,
                max_frames=64,
                min_frames=4,
                temporal_patch_size=2,
            ).tolist()
            # Where rounding makes the upstream step end on the total itself, that one too many can't be decoded.
            assert Sampling().indices(total, fps) == [index for index in expected if index < total], (total, fps)
            compared += len(expected) == len([index for index in expected if index < total])
    assert compared > 2000


@pytest.mark.parametrize("fps", [None, 0.25, 2.0, 30.0, 1000.0])
def test_sampled_indices_rise_within_the_video(fps: float | None) -> None:
    for sampling in (Sampling(), Sampling(fps=1.0, min_frames=2, max_frames=7), ALL, Sampling(max_frames=1)):
        for total in (*range(1, 80), 1000):
            indices = sampling.indices(total, fps)
            assert indices
            assert indices[0] == 0
            assert all(low < high for low, high in itertools.pairwise(indices))
            assert indices[-1] < total
            assert len(indices) <= max(sampling.max_frames, 1)


def test_frames_of_unknown_rate_are_kept() -> None:
    assert Sampling().indices(5, None) == [0, 1, 2, 3, 4]
    assert Sampling().indices(64, None) == list(range(64))
    assert Sampling().indices(128, None) == list(range(0, 128, 2))


def test_long_video_is_thinned_to_max_frames(tmp_path: Path) -> None:
    written = counting_frames(300, size=(32, 32))
    path = write_video(tmp_path / "long.mp4", written, fps=5, crf="10")
    clip = media.load_video(path, Sampling(max_frames=16), LARGE)
    assert len(clip.frames) == 16
    assert np.abs(levels(clip.frames) - levels(written[[index * 300 // 16 for index in range(16)]])).max() < 4
    assert math.isclose(clip.fps, 16 / 60, rel_tol=1e-3)


@pytest.mark.parametrize("name", VIDEO_FILES)
def test_video_of_one_frame(tmp_path: Path, name: str) -> None:
    ending, codec = VIDEO_FILES[name]
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / f"one.{ending}", quarters()[None], codec=codec, pix_fmt=pix_fmt)
    clip = media.load_video(path, Sampling(), LARGE)
    assert clip.frames.shape == (1, 64, 64, 3)
    assert close(clip.frames[0], quarters(), tolerance=12)
    assert math.isclose(clip.fps, 8.0, rel_tol=0.01)


def test_rate_is_measured_where_frames_come_unevenly(tmp_path: Path) -> None:
    # The header says 8 frames a second; ten frames are spread over 9 x 4 ticks of an eighth of a second.
    path = write_video(tmp_path / "slow.mp4", counting_frames(10), times=[4 * index for index in range(10)])
    clip = media.load_video(path, ALL, LARGE)
    assert np.abs(levels(clip.frames) - levels(counting_frames(10))).max() < 4
    assert math.isclose(clip.fps, 2.0, rel_tol=0.01)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "webm"])
def test_frames_that_come_unevenly_are_chosen_by_their_times(tmp_path: Path, ending: str) -> None:
    # 16 frames within the first two seconds, then one a second until the tenth.
    times = [*range(16), *range(16, 80, 8)]
    written = counting_frames(24)
    codec = "libvpx-vp9" if ending == "webm" else "libx264"
    path = write_video(tmp_path / f"uneven.{ending}", written, codec=codec, times=times)
    clip = media.load_video(path, Sampling(fps=1.0), LARGE)
    seconds = np.arange(len(clip.frames)) / clip.fps
    shown = [max(index for index, time in enumerate(times) if time / 8 <= second + 0.01) for second in seconds]
    assert np.abs(levels(clip.frames) - levels(written[shown])).max() < 4
    assert shown != Sampling(fps=1.0).indices(24, 23 / 9)
    assert math.isclose(len(clip.frames) / clip.fps, 9 * 24 / 23, rel_tol=0.01)


def test_chosen_times_rise_by_one_step_however_frames_come() -> None:
    generator = np.random.default_rng(0)
    for total in (2, 7, 60, 500):
        times = np.sort(generator.uniform(3, 3 + total / 10, total))
        fps = (total - 1) / (times[-1] - times[0])
        for sampling in (Sampling(), Sampling(fps=5.0, max_frames=20), ALL):
            indices = sampling.indices_at(times, fps)
            assert len(indices) == len(sampling.indices(total, fps))
            grid = times[0] + np.arange(len(indices)) * (total / fps / len(indices))
            assert indices[0] == 0
            assert all(low <= high for low, high in itertools.pairwise(indices))
            assert (times[indices] <= grid + 0.002).all()
            following = np.append(times, np.inf)[np.asarray(indices) + 1]
            assert (following > grid).all()


@pytest.mark.parametrize("jitter", [0.0, 0.0005, 0.004])
@pytest.mark.parametrize("fps", [2.0, 23.976, 29.97, 60.0])
def test_even_frames_are_chosen_by_index_as_stock_does(fps: float, jitter: float) -> None:
    for total in (1, 2, 5, 24, 100, 719, 4321):
        times = np.sort(7 + np.arange(total) / fps + np.random.default_rng(0).uniform(-jitter, jitter, total))
        assert Sampling().indices_at(times, fps) == Sampling().indices(total, fps)


@pytest.mark.parametrize("between", ["0", "2"])
def test_frames_before_an_edit_are_not_counted(tmp_path: Path, between: str) -> None:
    # Frames before time zero are cut off by an edit list, as in trimmed videos of telephones.
    written = counting_frames(32)
    path = write_video(
        tmp_path / "trimmed.mp4", written, times=range(-8, 24), options={"avoid_negative_ts": "disabled"}, bf=between
    )
    with av.open(str(path)) as container:
        shown = sum(1 for _ in container.decode(video=0))
    assert shown == 24
    clip = media.load_video(path, Sampling(), LARGE)
    expected = [8 + index for index in Sampling().indices(24, 8.0)]
    assert len(clip.frames) == len(expected)
    assert np.abs(levels(clip.frames) - levels(written[expected])).max() < 4


@pytest.mark.parametrize(("degrees", "turns"), [(90, -1), (180, 2), (270, 1)])
def test_rotation_of_the_display_matrix_is_applied(tmp_path: Path, degrees: int, turns: int) -> None:
    stored = quarters()[:48]
    path = write_video(tmp_path / "turned.mp4", [stored] * 4, crf="10")
    content = bytearray(path.read_bytes())
    cosine, sine_ = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    # In the track header a 3 x 3 matrix follows 40 bytes; a point goes to (a x + c y, b x + d y): clockwise, y down.
    start = content.index(b"tkhd") + 4 + 40
    matrix = (cosine * one, sine_ * one, 0, -sine_ * one, cosine * one, 0, 0, 0, 1 << 30)
    content[start : start + 36] = struct.pack(">9i", *matrix)
    clip = media.load_video(bytes(content), ALL, LARGE)
    assert close(clip.frames[0], np.rot90(stored, turns), tolerance=8)


@pytest.mark.parametrize("total", [4, 6])
@pytest.mark.parametrize("metadata", [{"fps": 8.0}, {"fps": 8}, None])
def test_frames_in_memory_give_the_same_clip(tmp_path: Path, metadata: Any, total: int) -> None:
    written = counting_frames(total, size=(20, 16))
    paths = [write_image(tmp_path / f"{index}.png", frame) for index, frame in enumerate(written)]
    forms = {
        "thwc": written,
        "tchw": written.transpose(0, 3, 1, 2),
        "thw": written[..., 0],
        "float": (written / 255).astype(np.float32),
        "torch": torch.from_numpy(written),
        "torch-tchw": torch.from_numpy(written).permute(0, 3, 1, 2) / 255,
        "rgba": np.concatenate([written, np.full((*written.shape[:3], 1), 255, np.uint8)], axis=-1),
        "pil": [Image.fromarray(frame) for frame in written],
        "arrays": list(written),
        "tensors": tuple(torch.from_numpy(written).permute(0, 3, 1, 2)),
        "paths": [str(path) for path in paths],
        "path-objects": paths,
    }
    wanted = Sampling().indices(total, metadata and metadata["fps"])
    for name, form in forms.items():
        value = form if metadata is None else {"array": form, "video_metadata": metadata}
        clip = media.load_video(value, Sampling(), LARGE)
        assert np.array_equal(clip.frames, written[wanted]), name
        assert math.isclose(clip.fps, len(wanted) / total * (2.0 if metadata is None else 8.0)), name
        extent = media.check_video(value)
        assert (extent.width, extent.height, extent.frames) == (20, 16, total), name
        assert math.isclose(extent.seconds, 0.0 if metadata is None else total / 8), name


def test_frames_without_metadata_are_all_kept_up_to_max_frames() -> None:
    written = counting_frames(70, size=(8, 8))
    clip = media.load_video(list(written[:5]), Sampling(), LARGE)
    assert np.array_equal(clip.frames, written[:5])
    assert clip.fps == 2.0
    assert len(media.load_video(written, Sampling(), LARGE).frames) == 64
    for value in ({"array": written[:5]}, {"array": written[:5], "video_metadata": {"fps": None}}):
        assert np.array_equal(media.load_video(value, Sampling(), LARGE).frames, written[:5])


@pytest.mark.parametrize(
    "fps", [np.float32(8), np.float64(8), np.int64(8), Fraction(8)], ids=lambda fps: type(fps).__name__
)
def test_rates_of_numpy_and_pyav(fps: Any) -> None:
    clip = media.load_video({"array": counting_frames(16), "video_metadata": {"fps": fps}}, Sampling(), LARGE)
    assert np.array_equal(levels(clip.frames), levels(counting_frames(16)[::4]))
    assert math.isclose(clip.fps, 2.0)


@dataclass
class FakeFrames:
    data: torch.Tensor


@dataclass
class FakeMetadata:
    num_frames: int
    average_fps: float
    width: int = 20
    height: int = 16
    duration_seconds: float = 3.0


@dataclass
class FakeVideoDecoder:
    frames: torch.Tensor
    metadata: FakeMetadata

    def get_frames_at(self, indices: list[int]) -> FakeFrames:
        return FakeFrames(self.frames[indices])


def test_video_decoder_objects() -> None:
    written = counting_frames(24, size=(20, 16))
    decoder = FakeVideoDecoder(torch.from_numpy(written).permute(0, 3, 1, 2), FakeMetadata(24, 8.0))
    clip = media.load_video(decoder, Sampling(), LARGE)
    assert np.array_equal(clip.frames, written[Sampling().indices(24, 8.0)])
    assert clip.fps == 2.0
    assert media.check_video(decoder) == Extent(20, 16, 24, 3.0)
    decoder.metadata = FakeMetadata(0, 8.0)
    with pytest.raises(MediaError, match="no frames"):
        media.load_video(decoder, Sampling(), LARGE)


def test_large_frames_are_reduced_while_decoding(tmp_path: Path) -> None:
    picture = np.kron(quarters(), np.ones((5, 10, 1), dtype=np.uint8))  # 640 x 320
    path = write_video(tmp_path / "large.mp4", [picture] * 2, crf="10")
    clip = media.load_video(path, ALL, max_frame_pixels=80 * 40)
    assert clip.frames.shape == (2, 80, 160, 3)
    reduced = np.asarray(Image.fromarray(picture).resize((160, 80), Image.Resampling.BOX))
    assert close(clip.frames[0], reduced, tolerance=8)
    # Up to four times the area, frames are left as they are.
    assert media.load_video(path, ALL, max_frame_pixels=320 * 160).frames.shape == (2, 320, 640, 3)


def noisy_clip(path: Path, options: dict[str, str], total: int = 24) -> Path:
    """Write a clip whose frames take many bytes each."""
    frames = np.random.default_rng(0).integers(0, 256, (total, 64, 64, 3), dtype=np.uint8)
    return write_video(path, frames, options=options)


@pytest.mark.parametrize("kept", [0.5, 0.9])
@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}], ids=["moov-at-the-end", "moov-at-the-front"])
def test_truncated_mp4_is_refused(tmp_path: Path, options: dict[str, str], kept: float) -> None:
    content = noisy_clip(tmp_path / "whole.mp4", options).read_bytes()
    assert len(media.load_video(content, ALL, LARGE).frames) == 24
    with pytest.raises(MediaError, match=r"truncated|can't be read"):
        media.load_video(content[: int(len(content) * kept)], Sampling(), LARGE)


@pytest.mark.parametrize("ending", ["webm", "mkv", "avi"])
def test_clips_of_other_containers_cut_in_half_are_refused(tmp_path: Path, ending: str) -> None:
    content = noisy_clip(tmp_path / "whole.mkv", {}).read_bytes() if ending == "mkv" else None
    if content is None:
        codec = "libvpx-vp9" if ending == "webm" else "mpeg4"
        frames = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
        content = write_video(tmp_path / f"whole.{ending}", frames, codec=codec).read_bytes()
    assert len(media.load_video(content, ALL, LARGE).frames) == 24
    with pytest.raises(MediaError, match=r"truncated|can't be read"):
        media.load_video(content[: len(content) // 2], Sampling(), LARGE)


@pytest.mark.parametrize("check", [media.check_video, lambda value: media.load_video(value, Sampling(), LARGE)])
@pytest.mark.parametrize("ending", ["webm", "mkv"])
def test_truncated_matroska_with_sound_is_refused_by_its_header(tmp_path: Path, ending: str, check: Any) -> None:
    codec, audio_codec, rate = HEARD_FILES[ending]
    frames = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    sound = (sine(300, 3.0, rate), rate, audio_codec)
    content = write_video(tmp_path / f"whole.{ending}", frames, codec=codec, sound=sound).read_bytes()
    check(content)
    for kept in (0.5, 0.9, 0.99):
        with pytest.raises(MediaError, match="truncated"):
            check(content[: int(len(content) * kept)])
        with pytest.raises(MediaError, match="truncated"):
            media.check_audio(content[: int(len(content) * kept)])


@pytest.mark.parametrize("ending", ["webm", "mkv"])
def test_live_recordings_that_declare_no_length_are_read(tmp_path: Path, ending: str) -> None:
    codec, audio_codec, rate = HEARD_FILES[ending]
    sound = (sine(300, 3.0, rate), rate, audio_codec)
    path = tmp_path / f"live.{ending}"
    content = write_video(path, counting_frames(24), codec=codec, sound=sound, options={"live": "1"}).read_bytes()
    with av.open(io.BytesIO(content)) as container:
        assert not container.duration
    assert media.check_video(content).width == 64
    assert len(media.load_video(content, ALL, LARGE).frames) == 24
    assert len(media.load_audio(content, RATE)) >= 2.9 * RATE
    media.check_audio(content)
    # Broken off in the middle, it is still all that there is.
    assert 0 < len(media.load_video(content[: len(content) * 2 // 3], ALL, LARGE).frames) < 24


@pytest.mark.parametrize("head", [b"", bytes(60), b"\x01" * 60, b"\xa3" + bytes(35) + b"\x18\x53\x80\x67"], ids=len)
def test_heads_of_matroska_that_are_broken_are_no_more_than_refused(head: bytes) -> None:
    assert outcome(media.check_video, b"\x1a\x45\xdf\xa3" + head) == "refused"


@pytest.mark.parametrize("check", [media.check_video, lambda value: media.load_video(value, Sampling(), LARGE)])
def test_video_in_an_unknown_code_is_refused(clip_file: Path, check: Any) -> None:
    content = clip_file.read_bytes()
    assert content.count(b"avc1") >= 1
    with pytest.raises(MediaError, match=r"codec|decod|can't be read"):
        check(content.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))


def test_video_that_changes_its_frame_size_is_refused(tmp_path: Path) -> None:
    parts = [write_video(tmp_path / f"{side}.ts", counting_frames(8, size=(side, side))) for side in (64, 32)]
    with pytest.raises(MediaError, match="size"):
        media.load_video(b"".join(part.read_bytes() for part in parts), ALL, LARGE)


@pytest.mark.parametrize("check", [media.check_video, lambda value: media.load_video(value, Sampling(), LARGE)])
def test_files_that_are_no_video_say_why(tmp_path: Path, check: Any) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("This is a letter, not a film. " * 20)
    for path, reason in (
        (tmp_path / "empty.mp4", "empty"),
        (tmp_path / "text.mp4", "can't be read as audio or video"),
        (tmp_path / "missing.mp4", "no such file"),
        (tmp_path, "no regular file"),
        (write_audio(tmp_path / "sound.mp4", sine(440, 0.5, RATE), RATE, "aac"), "no video track"),
        (write_audio(tmp_path / "sound.wav", sine(440, 0.5, RATE), RATE), "no video track"),
        (b"", "no bytes"),
        (b"hello", "can't be read as audio or video"),
        (None, "no path"),
    ):
        with pytest.raises(MediaError, match=reason):
            check(path)


@pytest.mark.parametrize("read", [media.sniff, media.check_video, media.check_audio, media.has_sound_track])
@pytest.mark.parametrize("script", ["hls-file", "hls-http", "concat", "dash", "sdp"])
def test_files_that_name_other_files_are_refused(clip_file: Path, tmp_path: Path, read: Any, script: str) -> None:
    # The clip is where the scripts look for it, so that only the refusal keeps it from being read.
    shutil.copy(clip_file, tmp_path / "secret.mp4")
    playlist = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:3\n#EXTINF:3.0,\n{}\n#EXT-X-ENDLIST\n"
    content = {
        "hls-file": playlist.format((tmp_path / "secret.mp4").as_posix()),
        "hls-http": playlist.format("http://127.0.0.1:9/secret.ts"),
        "concat": "ffconcat version 1.0\nfile secret.mp4\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period/></MPD>',
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    }[script]
    path = tmp_path / "playlist.mp4"
    path.write_text(content)
    for value in (path, content.encode()):
        with pytest.raises(MediaError, match="can't be read as audio or video"):
            read(value)


def test_names_that_are_protocols_of_ffmpeg_are_only_paths(clip_file: Path) -> None:
    for name in (f"file:{clip_file}", f"concat:{clip_file}", f"subfile,,start,0,end,0,,:{clip_file}"):
        with pytest.raises(MediaError, match="no such file"):
            media.check_video(name)


@pytest.mark.parametrize("check", [media.check_video, lambda value: media.load_video(value, Sampling(), LARGE)])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "no frames"),
        ({"array": []}, "no frames"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no pixels"),
        (np.zeros((2, 8, 8, 7), np.uint8), "an array of shape"),
        (np.zeros((8, 8), np.uint8), "is no video"),
        ({"array": None}, "must be an array or a list of images"),
        ({"video_metadata": {"fps": 8}}, "must be an array or a list of images"),
        ({"array": np.zeros((2, 8, 8, 3), np.uint8), "video_metadata": {"fps": 0}}, "fps"),
        ({"array": np.zeros((2, 8, 8, 3), np.uint8), "video_metadata": {"fps": math.nan}}, "fps"),
        ({"array": np.zeros((2, 8, 8, 3), np.uint8), "video_metadata": {"fps": math.inf}}, "fps"),
        ({"array": np.zeros((2, 8, 8, 3), np.uint8), "video_metadata": {"fps": "8"}}, "fps"),
        ({"array": np.zeros((2, 8, 8, 3), np.uint8), "video_metadata": 8}, "must be a dict"),
        (["no_such_frame.png"], "no such file"),
        ([Image.new("RGB", (8, 8)), None], "no path"),
    ],
    ids=str,
)
def test_frames_that_are_no_video_say_why(check: Any, value: Any, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        check(value)


def test_frames_that_differ_in_size_are_refused() -> None:
    with pytest.raises(MediaError, match="differ in size"):
        media.load_video([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))], Sampling(), LARGE)


@pytest.mark.parametrize("level", [np.nan, -0.5, 300.0])
def test_pixels_of_frames_out_of_range_are_refused(level: float) -> None:
    with pytest.raises(MediaError, match=r"finite|range"):
        media.load_video(np.full((2, 8, 8, 3), level), Sampling(), LARGE)


@pytest.mark.parametrize("name", VIDEO_FILES)
def test_corrupted_video_decodes_or_raises_media_error(tmp_path: Path, name: str) -> None:
    ending, codec = VIDEO_FILES[name]
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    content = write_video(tmp_path / f"clip.{ending}", counting_frames(8), codec=codec, pix_fmt=pix_fmt).read_bytes()
    for corrupt in corruptions(content, 20, reach=10_000):
        assert outcome(media.load_video, corrupt, Sampling(), LARGE) in ("decoded", "refused")
        assert outcome(media.check_video, corrupt) in ("decoded", "refused")


# --- telling what something is --------------------------------------------------------------------------------------


def test_sniff_tells_images(image_file: tuple[Path, float]) -> None:
    path, _ = image_file
    assert media.sniff(path.read_bytes()) == "image"
    assert media.sniff(path.rename(path.with_suffix(".bin"))) == "image"


@pytest.mark.parametrize("name", AUDIO_FILES)
def test_sniff_tells_sounds(tmp_path: Path, name: str) -> None:
    ending, codec, subtype, _ = AUDIO_FILES[name]
    path = write_audio(tmp_path / f"wave.{ending}", sine(440, 0.5, RATE), RATE, codec, subtype)
    assert media.sniff(path.read_bytes()) == "audio"
    assert media.sniff(path.rename(path.with_suffix(".bin"))) == "audio"


@pytest.mark.parametrize("name", VIDEO_FILES)
def test_sniff_tells_clips(tmp_path: Path, name: str) -> None:
    ending, codec = VIDEO_FILES[name]
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / f"clip.{ending}", counting_frames(4), codec=codec, pix_fmt=pix_fmt)
    assert media.sniff(path.read_bytes()) == "video"
    assert media.sniff(path.rename(path.with_suffix(".bin"))) == "video"


def test_sniff_takes_music_with_a_cover_for_audio(tmp_path: Path) -> None:
    plain = write_audio(tmp_path / "plain.mp3", sine(440, 0.5, RATE), RATE, "libmp3lame").read_bytes()
    cover = io.BytesIO()
    Image.fromarray(quarters()).save(cover, "JPEG")
    # An ID3 tag of version 2.3 holds the picture: encoding, media type, kind 3 (front cover), no description.
    body = b"\x00image/jpeg\x00\x03\x00" + cover.getvalue()
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\x00\x00" + body
    length = bytes((len(frame) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    music = b"ID3\x03\x00\x00" + length + frame + plain[plain.index(b"\xff\xf3" if b"\xff\xf3" in plain else b"\xff") :]
    with av.open(io.BytesIO(music)) as container:
        assert container.streams.video
    assert media.sniff(music) == "audio"
    assert math.isclose(pitch(media.load_audio(music, RATE), RATE), 440, abs_tol=3)
    with pytest.raises(MediaError, match="no video track"):
        media.check_video(music)


@pytest.mark.parametrize("content", [b"hello", b"%PDF-1.7 " * 20, b"<html><svg></svg></html>", bytes(99)])
def test_sniff_refuses_what_is_no_medium(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(content)
    for value in (content, tmp_path / "file.bin"):
        with pytest.raises(MediaError, match=r"can't be read|no image, audio or video"):
            media.sniff(value)


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_data_uri_gives_kind_and_bytes(kind: str) -> None:
    content = bytes(range(256))
    text = f"data:{kind}/x-anything;charset=utf8;base64," + base64.b64encode(content).decode()
    assert media.decode_data_uri(text) == (kind, content)


def test_data_uri_of_another_kind_has_none() -> None:
    assert media.decode_data_uri("data:application/octet-stream;base64,aGk=") == (None, b"hi")
    assert media.decode_data_uri("data:;base64,aGk=") == (None, b"hi")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data:image/png,hello", "base64-encoded"),
        ("data:image/png", "base64-encoded"),
        ("data:image/png;base64,a", "broken"),
        ("data:image/png;base64,a*b=", "broken"),
        ("data:image/png;base64,ä", "broken"),
    ],
)
def test_broken_data_uri_says_why(text: str, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        media.decode_data_uri(text)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.png", "image"),
        ("photos/A.JPG", "image"),
        (os.path.join("some.folder", "b.jpeg"), "image"),
        ("c.tar.webp", "image"),
        ("a.wav", "audio"),
        ("a.M4A", "audio"),
        ("a.opus", "audio"),
        ("a.mp4", "video"),
        ("a.WebM", "video"),
        ("a.txt", None),
        ("mp4", None),
        (".png", None),
        ("a.png.bak", None),
        ("", None),
    ],
)
def test_kind_of_path(name: str, kind: str | None) -> None:
    assert media.kind_of_path(name) == kind


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a.png", "'a.png'"),
        (Path("a.png"), "'a.png'"),
        (b"abc", "3 bytes"),
        (np.zeros((2, 3)), "ndarray of shape (2, 3)"),
        (torch.zeros(2, 3), "Tensor of shape (2, 3)"),
        ({"b": 1, "a": 2}, "dict with keys ['a', 'b']"),
        (math.nan, "nan (a missing value?)"),
        (None, "NoneType"),
    ],
    ids=str,
)
def test_describe_names_a_value(value: Any, expected: str) -> None:
    assert media.describe(value) == expected


def test_describe_shortens_long_strings() -> None:
    assert len(media.describe("x" * 10_000)) < 100


def test_written_files_hold_what_the_tests_say(tmp_path: Path) -> None:
    """The helpers themselves, read back without the code under test."""
    path = write_audio(tmp_path / "wave.wav", sine(440, 0.5, RATE), RATE)
    assert math.isclose(pitch(soundfile.read(path)[0], RATE), 440, abs_tol=2)
    clip = write_video(tmp_path / "clip.mp4", counting_frames(5))
    with av.open(str(clip)) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.abs(levels(decoded) - levels(counting_frames(5))).max() < 4


def test_streamed_flac_of_unknown_length_is_read(tmp_path: Path) -> None:
    path = tmp_path / "stream.flac"
    write_audio(path, sine(440, 1.0, 16_000), 16_000)
    content = bytearray(path.read_bytes())
    # The last 36 bits of these 8 bytes of STREAMINFO count the samples; zero means that the writer did not know.
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    assert len(media.load_audio(bytes(content), 16_000)) == 16_000
