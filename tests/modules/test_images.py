"""Pixel values by mode and tags, HEIF, odd metadata: every image is what a browser shows of it, or says why not."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lco_embedding.modules import media
from lco_embedding.modules.media import Extent, MediaError
from tests.media_files import png, png_chunk, quarters, tiff

RAMP = np.tile(np.linspace(0, 1, 8), (4, 1))
"""Brightness of shape (height, width), from black to white."""


def levels(value: Any) -> NDArray[np.int64]:
    """Decode an image, and return its first row, of shape (width, 3)."""
    return np.asarray(media.load_image(value)).astype(int)[0]


@pytest.mark.parametrize("dtype", ["<u1", "<u2", ">u2", "<u4", "<i1", ">i1", "<i2", ">i2", "<i4", ">i4", "<f4", ">f4"])
def test_grey_tiff_of_any_type_has_its_range_for_black_to_white(dtype: str) -> None:
    top = 1 if dtype[1] == "f" else np.iinfo(dtype).max
    content = tiff((RAMP * top).astype(dtype))
    # Signed bytes have half as many levels.
    assert np.abs(levels(content) - RAMP[0, :, None] * 255).max() <= (1 if dtype[1:] != "i1" else 2)
    # The same as an opened image, whose tags Pillow keeps.
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(levels(image), levels(content))


@pytest.mark.parametrize("dtype", ["<u1", "<u2", "<f4", ">f4"])
def test_tiff_whose_white_is_zero_is_inverted(dtype: str) -> None:
    top = 1 if dtype[1] == "f" else np.iinfo(dtype).max
    assert np.abs(levels(tiff((RAMP * top).astype(dtype), {262: 0})) - (1 - RAMP[0, :, None]) * 255).max() <= 1


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.where(RAMP == 0, np.nan, RAMP).astype("<f4"), "not all finite"),
        (np.where(RAMP == 0, -np.inf, RAMP).astype("<f4"), "not all finite"),
        ((RAMP * 3000).astype("<f4"), "range from 0 to 3000"),
        ((RAMP - 0.5).astype("<f4"), "range from -0.5"),
        ((RAMP * 1.02).astype("<f4"), r"reach 1\.02"),
        ((RAMP * 300 - 100).astype("<i2"), r"range from -100 to 200, but those of 16 bits must be in \[0, 32767\]"),
        ((RAMP * 100 - 50).astype("<i1"), r"range from -50"),
        ((RAMP * 65535).astype("<u4"), "reach only 65535 of 4294967295"),
        ((RAMP * 4).astype("<i4"), "reach only 4 of 2147483647"),
        (RAMP.astype("<f8"), r"TIFF \(unknown pixel mode\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.dtype.str,
)
def test_pixels_that_are_no_brightness_are_refused(pixels: NDArray[Any], reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        media.load_image(tiff(pixels))
    if pixels.dtype == np.float32:
        for value in (pixels, Image.fromarray(pixels)):
            with pytest.raises(MediaError, match=reason):
                media.load_image(value)


def test_integers_of_pillow_are_of_16_bits() -> None:
    image = Image.fromarray((RAMP * 65535).astype(np.int32))
    assert image.mode == "I"
    assert np.abs(levels(image) - RAMP[0, :, None] * 255).max() <= 1
    with pytest.raises(MediaError, match=r"to 70000, but those of 16 bits"):
        media.load_image(Image.fromarray((RAMP * 70_000).astype(np.int32)))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_grey_level_of_a_png(depth: int) -> None:
    top = 2**depth - 1
    grey = np.array([[[0], [top // 3], [top]]] * 2)
    for index in (0, 2):
        content = png(grey, depth, 0, {b"tRNS": struct.pack(">H", grey[0, index, 0])})
        expected = (grey[0] / top * 255).round().astype(int).repeat(3, axis=-1)
        expected[grey[0, :, 0] == grey[0, index, 0]] = 255
        assert np.array_equal(levels(content), expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_colour_of_a_png(depth: int) -> None:
    top = 2**depth - 1
    pixels = np.array([[[top, 0, 0], [0, top // 5, 0], [0, 0, top]]] * 2)
    content = png(pixels, depth, 2, {b"tRNS": struct.pack(">HHH", *pixels[0, 1])})
    assert np.array_equal(levels(content), [[255, 0, 0], [255, 255, 255], [0, 0, 255]])


@pytest.mark.parametrize(("extra", "over_white"), [(0, False), (1, True), (2, True)])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_of_a_tiff_counts_as_its_tag_says(channels: int, extra: int, over_white: bool) -> None:
    # Half covered: of associated alpha (1), the colours are stored as multiplied by it.
    stored = 64 if extra == 1 else 128
    pixels = np.full((2, 2, channels), stored, np.uint8)
    pixels[..., -1] = 128
    found = levels(tiff(pixels, {338: extra, 262: 1 if channels == 2 else 2}))
    assert np.abs(found - (191 if over_white else stored)).max() <= 1


def odd_exif() -> bytes:
    """Return EXIF data that turn an image right and hold a resolution that is text, as some cameras write it."""
    return b"Exif\0\0" + tiff(np.zeros((1, 1), np.uint8), {274: 6, 282: b"72 dpi\0"})


@pytest.mark.parametrize("ending", ["jpeg", "png", "webp"])
def test_orientation_beside_odd_tags_is_applied(ending: str) -> None:
    picture = quarters()[:48]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, ending, exif=odd_exif(), quality=100, lossless=True)
    found = np.asarray(media.load_image(file.getvalue())).astype(int)
    assert found.shape == (64, 48, 3)
    assert np.abs(found - np.rot90(picture, -1)).mean() < 4
    with Image.open(file) as image:
        assert np.array_equal(np.asarray(media.load_image(image)), found)


def test_broken_exif_is_passed_over() -> None:
    file = io.BytesIO()
    Image.fromarray(quarters()).save(file, "png", exif=b"Exif\0\0neither order of bytes")
    assert np.array_equal(np.asarray(media.load_image(file.getvalue())), quarters())


@pytest.mark.parametrize("name", [b"iTXt", b"zTXt"])
@pytest.mark.parametrize("is_last", [False, True])
def test_long_text_in_a_png_does_not_matter(name: bytes, is_last: bool) -> None:
    packed = zlib.compress(b"A prompt and its workflow. " * 80_000)
    text = {b"iTXt": b"workflow\0\1\0\0\0", b"zTXt": b"workflow\0\0"}[name] + packed
    content = png(quarters(), 8, 2, None if is_last else {name: text})
    if is_last:
        end = content.rindex(b"IEND") - 4
        content = content[:end] + png_chunk(name, text) + content[end:]
    with pytest.raises(ValueError, match="too large"), Image.open(io.BytesIO(content)) as image:
        image.load()
    assert media.check_image(content) == Extent(64, 64)
    assert np.array_equal(np.asarray(media.load_image(content)), quarters())
    # A user's own image can't be read again: Pillow's reason is told.
    if is_last:
        with Image.open(io.BytesIO(content)) as image, pytest.raises(MediaError, match="Decompressed data too large"):
            media.load_image(image)


def test_reason_of_a_plugin_is_told() -> None:
    content = bytearray(png(quarters(), 8, 2))
    content[16:24] = bytes(8)
    with pytest.raises(MediaError, match=r"not a readable image of the format PNG \(broken PNG file"):
        media.check_image(bytes(content))


def test_camera_raw_is_refused_rather_than_its_thumbnail() -> None:
    for tags in ({254: 1}, {50706: 257}):
        for read in (media.check_image, media.load_image):
            with pytest.raises(MediaError, match="raw data or a thumbnail"):
                read(tiff(quarters(), {262: 2, **tags}))


# --- HEIF -----------------------------------------------------------------------------------------------------------


def heif(image: Image.Image, **options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=95, **options)
    content: bytes = file.getvalue()
    return content


def test_heif_is_an_image_however_it_comes(tmp_path: Path) -> None:
    content = heif(Image.fromarray(quarters(640)), tile_size=512)
    path = tmp_path / "photo.heic"
    for name in ("photo.heic", "photo", "photo.mp4"):
        path = tmp_path / name
        path.write_bytes(content)
        assert media.kind_of_file(path) == "image"
        assert media.check_image(path) == Extent(640, 640)
        assert np.abs(np.asarray(media.load_image(path)).astype(int) - quarters(640)).mean() < 2
    assert media.sniff(content) == "image"
    for check in (media.check_video, media.check_audio):
        with pytest.raises(MediaError, match=r'it is an image \(HEIF\); pass \{"image"'):
            check(content)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["heic", "avif"])
def test_heif_and_avif_are_turned_once(ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    picture = Image.fromarray(quarters(128)[:96])
    files = {"png": io.BytesIO(), ending: io.BytesIO()}
    picture.save(files["png"], "png", exif=exif.tobytes())
    if ending == "avif":
        picture.save(files[ending], "avif", exif=exif.tobytes(), quality=95)
    else:  # as telephones write it: the container and the EXIF data both say how it is turned
        files[ending] = io.BytesIO(heif(picture, exif=exif.tobytes()))
    expected, found = (np.asarray(media.load_image(file.getvalue())).astype(int) for file in files.values())
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 3


def test_alpha_and_depth_of_heif() -> None:
    image = Image.fromarray(quarters()).convert("RGBA")
    image.putalpha(128)
    found = np.asarray(media.load_image(heif(image)))
    assert np.abs(found - (quarters() * (128 / 255) + 127)).mean() < 3
    deep = Image.fromarray((RAMP.repeat(16, 0).repeat(16, 1) * 65535).astype(np.uint16))
    assert np.abs(levels(heif(deep))[8::16] - RAMP[0, :, None] * 255).max() <= 3


def test_broken_heif_is_refused() -> None:
    content = heif(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
    for cut in (100, len(content) // 2, len(content) - 50):
        with pytest.raises(MediaError, match=r"HEIF|truncated or broken"):
            media.load_image(content[:cut])


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    content = struct.pack(">I4s4sI4s", 20, b"ftyp", b"heic", 0, b"mif1")
    assert media.sniff(content) == "image"
    with pytest.raises(MediaError, match=r"pip install 'lco-embedding\[heif\]'"):
        media.check_image(content)


def test_animated_avif_is_its_first_frame() -> None:
    frames = [Image.fromarray(np.roll(quarters(), shift, axis=0)) for shift in (0, 16, 32)]
    file = io.BytesIO()
    frames[0].save(file, "avif", save_all=True, append_images=frames[1:], quality=95)
    assert file.getvalue()[8:12] == b"avis"
    assert media.sniff(file.getvalue()) == "image"
    assert np.abs(np.asarray(media.load_image(file.getvalue())).astype(int) - quarters()).mean() < 3
    with pytest.raises(MediaError, match="it is an image"):
        media.load_video(file.getvalue(), media.Sampling(), 10**6)


# --- against ImageMagick --------------------------------------------------------------------------------------------


def magick(content: bytes, ending: str) -> NDArray[np.uint8]:
    """Return what ImageMagick shows over white, uint8 of shape (pixels * 3,)."""
    command = ["convert", f"{ending}:-[0]", "-auto-orient", "-background", "white", "-alpha", "remove"]
    result = subprocess.run(
        [*command, "-colorspace", "sRGB", "-depth", "8", "rgb:-"], input=content, capture_output=True, check=True
    )
    return np.frombuffer(result.stdout, np.uint8)


def saved(mode: str, ending: str, **options: Any) -> tuple[bytes, str]:
    file = io.BytesIO()
    Image.fromarray(quarters()).convert(mode).save(file, ending, **options)
    return file.getvalue(), ending


@pytest.mark.skipif(not shutil.which("convert"), reason="needs ImageMagick")
@pytest.mark.parametrize(
    ("content", "ending"),
    [
        saved("RGB", "jpeg", exif=odd_exif()),
        saved("CMYK", "jpeg"),
        saved("L", "jpeg"),
        saved("1", "tiff", compression="group4"),
        saved("P", "tiff", compression="tiff_lzw"),
        saved("CMYK", "tiff"),
        saved("YCbCr", "tiff"),
        saved("RGB", "bmp"),
        saved("P", "gif"),
        (tiff((RAMP * 65535).astype(">u2")), "tiff"),
        (tiff((RAMP * 65535).astype("<u2"), {262: 0}), "tiff"),
        (tiff((RAMP * (2**32 - 1)).astype("<u4")), "tiff"),
        (tiff(RAMP.astype("<f4")), "tiff"),
        *((tiff(quarters()[:48], {262: 2, 274: orientation}), "tiff") for orientation in range(1, 9)),
        (png((RAMP[..., None] * 15).astype(int), 4, 0, {b"tRNS": b"\0\3"}), "png"),
        (png((RAMP[..., None] * 65535).astype(int), 16, 0, {b"tRNS": b"\xff\xff"}), "png"),
        (png((RAMP[..., None] * [65535, 30_000, 9]).astype(int), 16, 2, {b"tRNS": bytes(6)}), "png"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pixels_equal_those_of_imagemagick(content: bytes, ending: str) -> None:
    found = np.asarray(media.load_image(content)).astype(int)
    expected = magick(content, ending)
    assert found.size == expected.size
    assert np.abs(found.reshape(-1) - expected).max() <= (3 if ending == "jpeg" else 1)
