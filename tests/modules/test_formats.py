"""What a file is, by its name and its content; which strings are files and which are texts."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lco_embedding.modules import media
from lco_embedding.modules.inputs import Block, parse_input
from lco_embedding.modules.media import MediaError
from tests.media_files import counting_frames, quarters, sine, write_audio, write_image, write_video

RATE = 16_000


def block(value: Any) -> Block:
    ((found,),) = [message.blocks for message in parse_input(value)]
    return found


def boxes(major: bytes, *brands: bytes, then: tuple[bytes, ...] = (b"meta", b"mdat")) -> bytes:
    """Return the outline of an ISO base media file."""
    head = struct.pack(">I4s4sI", 16 + 4 * len(brands), b"ftyp", major, 0) + b"".join(brands)
    return head + b"".join(struct.pack(">I4s", 24, name) + bytes(16) for name in then)


IMAGES: dict[str, bytes] = {
    "HEIF": boxes(b"heic", b"mif1", b"heic"),
    "HEIF of any codec": boxes(b"mif1", b"heic"),
    "HEIF sequence": boxes(b"hevc", b"msf1", then=(b"meta", b"moov", b"mdat")),
    "HEIF told by another brand": boxes(b"isom", b"mif1", b"heic"),
    "HEIF of an unknown brand": boxes(b"abcd"),
    "camera raw, CR3": boxes(b"crx ", b"isom", then=(b"moov", b"mdat")),
    "camera raw, CR2": b"II*\0\x10\0\0\0CR\2\0" + bytes(99),
    "camera raw, Fuji": b"FUJIFILMCCD-RAW 0201" + bytes(99),
    "JPEG XL": b"\xff\x0a" + bytes(99),
    "JPEG XL in boxes": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 " + bytes(99),
    "JPEG 2000 stream": b"\xff\x4f\xff\x51" + bytes(99),
    "Photoshop": b"8BPS\0\1" + bytes(99),
    "PNM": b"P6\n# made by hand\n8 8\n255\n" + bytes(192),
    "PNM, text": b"P1 2 2 0 1 1 0",
    "ICO": b"\0\0\1\0\1\0\x10\x10\0\0\1\0" + bytes(99),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "SVG with a prolog": b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- by hand -->\n<!DOCTYPE svg PUBLIC "">\n<svg/>',
    "OpenEXR": b"v/1\1" + bytes(99),
}


@pytest.mark.parametrize("name", IMAGES)
def test_no_image_becomes_a_clip_or_a_text(name: str, tmp_path: Path) -> None:
    content = IMAGES[name]
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    for value in (content, path, str(path), {"bytes": content, "path": "photo"}, {"path": str(path)}):
        assert block(value).kind == "image"
    reason = name.split(",")[0].split(" of ")[0].split(" in ")[0].split(" told ")[0].split(" with ")[0]
    with pytest.raises(MediaError, match=reason.removesuffix(" stream").removesuffix(" sequence")):
        media.check_image(content)
    for check in (media.check_video, media.check_audio):
        with pytest.raises(MediaError, match="it is an image"):
            check(content)


def test_a_movie_with_a_still_image_is_a_video(tmp_path: Path) -> None:
    content = write_video(tmp_path / "clip.mp4", counting_frames(8)).read_bytes()
    size = int.from_bytes(content[:4], "big")
    # FFmpeg writes the movie last, at places that the sample tables name: the brands take no room of their own.
    marked = content[:16] + b"mif1" + content[20:size] + content[size:]
    assert content[16:20] != b"mif1"
    assert media.sniff(marked) == "video"


@pytest.mark.parametrize("text", [b"BMW is a make of cars.", b"P1 is the first of them.", b"<html><svg></svg></html>"])
def test_texts_that_begin_like_images_are_texts(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_bytes(text * 40)
    assert block(str(tmp_path / "notes.md")).kind == "text"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((f"a.{ending}", "audio") for ending in ("caf", "au", "amr")),
        *((f"a.{ending}", "image") for ending in ("PSD", "ppm", "ico", "dng", "xbm")),
        *((f"a.{ending}", "video") for ending in ("m2ts", "ogv")),
    ],
)
def test_existing_files_of_rare_endings_are_no_texts(name: str, kind: str, tmp_path: Path) -> None:
    assert block(str(tmp_path / name)).kind == "text"
    (tmp_path / name).write_bytes(b"what no decoder knows")
    found = block(str(tmp_path / name))
    assert found.kind == kind
    check = {"image": media.check_image, "audio": media.check_audio, "video": media.check_video}[kind]
    with pytest.raises(MediaError, match=r"not a readable|can't be read"):
        check(found.value)
    assert block({"text": str(tmp_path / name)}).kind == "text"


@pytest.mark.parametrize("ending", ["caf", "au", "w64"])
def test_sounds_of_rare_endings_are_read(ending: str, tmp_path: Path) -> None:
    path = write_audio(tmp_path / f"sound.{ending}", sine(440, 1, RATE), RATE)
    found = block(str(path))
    assert found.kind == "audio"
    assert media.check_audio(found.value).seconds == 1


def test_endings_that_stand_for_texts_too_are_told_by_content(tmp_path: Path) -> None:
    path = tmp_path / "main.ts"
    assert block(str(path)).kind == "text"
    path.write_text("const grüße: string = 'ä';\n" * 400, encoding="utf-8")
    assert block(str(path)).kind == "text"
    write_video(tmp_path / "clip.ts", counting_frames(8)).replace(path)
    assert block(str(path)).kind == "video"
    path.write_bytes(bytes(range(256)) * 20)
    assert block(str(path)).kind == "video"


@pytest.mark.parametrize(("ending", "codec"), [("webm", "libopus"), ("mp4", "aac"), ("3gp", "aac"), ("mkv", "flac")])
def test_a_container_of_video_with_sound_alone_is_audio(ending: str, codec: str, tmp_path: Path) -> None:
    path = write_audio(tmp_path / f"message.{ending}", sine(440, 1, 48_000), 48_000, codec)
    content = path.read_bytes()
    uri = f"data:video/{ending};base64," + base64.b64encode(content).decode()
    for value in (str(path), path, content, uri, {"bytes": content, "path": path.name}, {"path": str(path)}):
        assert block(value).kind == "audio"
        assert len(media.load_audio(block(value).value, RATE)) == pytest.approx(RATE, abs=0.1 * RATE)
    with pytest.raises(MediaError, match=r'no video track; if it is sound alone, pass \{"audio": ...\}'):
        media.check_video(path)
    silent = write_video(tmp_path / "silent.mp4", counting_frames(8))
    assert block(str(silent)).kind == "video"


def test_a_picture_named_like_a_video_is_a_picture(tmp_path: Path) -> None:
    path = write_image(tmp_path / "photo.png", quarters()).rename(tmp_path / "photo.mp4")
    assert block(str(path)).kind == block(path).kind == "image"
    assert np.array_equal(np.asarray(media.load_image(path)), quarters())


def test_broken_files_keep_the_modality_of_their_name(tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(write_video(tmp_path / "clip.mp4", counting_frames(8)).read_bytes()[:500])
    for value in (tmp_path / "cut.mp4", tmp_path / "gone.mp4"):
        assert block(value).kind == "video"
