"""Formats: the modality that a file name stands for, and the image format that a content has.

Signatures decide what an image is, since FFmpeg would open several of them as video: HEIF and AVIF as a clip of one
tile, a camera's CR3 as a clip of its preview.
"""

from __future__ import annotations

import mimetypes
import os
import re
import struct
from typing import IO, Literal

Kind = Literal["text", "image", "audio", "video"]

EXTENSIONS: dict[str, Kind] = {
    **dict.fromkeys(("jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"), "image"),
    # HEIF needs an extra, the others are not decoded: better an error than an embedding of the name.
    **dict.fromkeys(("heic", "heif", "svg", "jp2", "jxl"), "image"),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg", "oga", "opus", "m4a", "aac", "aif", "aiff", "wma"), "audio"),
    **dict.fromkeys(("mp4", "m4v", "webm", "mkv", "mov", "avi", "mpg", "mpeg", "wmv", "flv", "3gp"), "video"),
}
"""File name endings by which a plain string is taken for a media file, existing or not."""

_REGISTERED = {
    ending.removeprefix("."): media_type.split("/")[0]
    for ending, media_type in mimetypes.MimeTypes().types_map[True].items()
}

RARE_EXTENSIONS: dict[str, Kind] = {
    **{ending: kind for ending, kind in _REGISTERED.items() if kind in ("image", "audio", "video")},  # type: ignore[misc]
    **dict.fromkeys(("apng", "avifs", "heics", "heifs", "hif", "jpe", "dib", "svgz", "eps", "psd", "psb"), "image"),
    **dict.fromkeys(("ico", "cur", "icns", "pbm", "pgm", "ppm", "pnm", "pam", "pfm", "tga", "pcx", "dds"), "image"),
    **dict.fromkeys(("exr", "hdr", "j2k", "jpx", "j2c", "jpc", "xcf", "qoi", "emf", "wmf", "djvu"), "image"),
    **dict.fromkeys(("dng", "cr2", "cr3", "crw", "nef", "arw", "orf", "rw2", "raf", "pef", "srw"), "image"),
    **dict.fromkeys(("caf", "au", "snd", "w64", "rf64", "voc", "amr", "awb", "ac3", "eac3", "dts"), "audio"),
    **dict.fromkeys(("aifc", "ape", "wv", "tta", "mka", "mp2", "m4b", "m4r", "spx", "weba", "ra"), "audio"),
    **dict.fromkeys(("mid", "midi", "gsm", "dsf", "dff", "mpc", "xwma"), "audio"),
    **dict.fromkeys(("ts", "mts", "m2ts", "m2t", "mxf", "ogv", "ogx", "3g2", "3gpp", "asf", "vob"), "video"),
    **dict.fromkeys(("qt", "mj2", "mjpg", "f4v", "rm", "rmvb", "divx", "y4m", "m1v", "m2v", "mod"), "video"),
}
"""Further endings, by which only the name of an existing file is taken for a medium."""

TEXT_EXTENSIONS = ("ts", "mts", "mod")
"""Endings of video that program texts have too (TypeScript, modules of Go): what such a file holds decides."""

AVIF_BRANDS = (b"avif", b"avis")
HEIF_BRANDS = tuple(b"heic heix heim heis hevc hevx hevm hevs jpeg jpgs avci avcs j2ki j2is vvic vvis".split())
ANY_CODEC_BRANDS = (b"mif1", b"mif2", b"mif3", b"msf1", b"miaf")
IMAGE_BRANDS = frozenset(AVIF_BRANDS + HEIF_BRANDS + ANY_CODEC_BRANDS)

SIGNATURES: tuple[tuple[str, bytes], ...] = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("GIF", rb"GIF8[79]a"),
    ("WEBP", rb"RIFF....WEBP"),
    # The size of its second header: "BM" alone begins texts as well.
    ("BMP", rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
    ("camera raw", rb"II\*\0.{4}CR|IIRO|IIRS|MMOR|IIU\0|FUJIFILMCCD-RAW|FOVb|\0MRM"),
    ("TIFF", rb"II[*+]\0|MM\0[*+]"),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    ("JPEG 2000", rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n.{4}ftypjp"),
    ("Photoshop", rb"8BPS\0[\x01\x02]"),
    ("PNM", rb"P[1-6]\s(?:\s*#[^\n]*\n)*\s*\d+\s+\d+\s|P7\nWIDTH|P[Ff]\n\d+ \d+\n"),
    ("ICO", rb"\0\0[\x01\x02]\0[\x01-\xff]\0.{3}\0"),
    ("ICNS", rb"icns\0"),
    ("SVG", rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.*?\?>\s*)?(?:<!--.*?-->\s*)*(?:<svg[\s>:]|<!DOCTYPE\s+svg\s)"),
    ("OpenEXR", rb"v/1\x01"),
    ("Radiance HDR", rb"#\?(?:RADIANCE|RGBE)\s"),
    ("DDS", rb"DDS \x7c"),
    ("QOI", rb"qoif\0"),
    ("XCF", rb"gimp xcf "),
    ("DjVu", rb"AT&TFORM"),
)
"""Image formats and what their files begin with, as regular expressions of bytes; the first match decides."""

_SIGNATURES = [(name, re.compile(pattern, re.DOTALL)) for name, pattern in SIGNATURES]

HEAD = 4096
"""Bytes from which a format is told."""

MAX_BOXES = 64
"""Boxes of an ISO file that are looked through for a movie."""


def kind_of_path(name: str | os.PathLike[str], rare: bool = False) -> Kind | None:
    """Return the modality that the ending of a file name stands for, None where it stands for none.

    Args:
        name: A name or a path; the file need not exist.
        rare: Whether [`RARE_EXTENSIONS`] count.
    """
    ending = ending_of(name)
    return EXTENSIONS.get(ending) or (RARE_EXTENSIONS.get(ending) if rare else None)


def ending_of(name: str | os.PathLike[str]) -> str:
    """Return the ending of a file name, in lower case and without its dot."""
    return os.path.splitext(os.fspath(name))[1].lower().removeprefix(".")


def image_format(file: IO[bytes]) -> str | None:
    """Name the format of an image by its first bytes, as Pillow names it where it reads it; None: it is no image."""
    file.seek(0)
    head = file.read(HEAD)
    if head[4:8] == b"ftyp":
        return _iso_format(head, file)
    return next((name for name, pattern in _SIGNATURES if pattern.match(head)), None)


def is_text(file: IO[bytes]) -> bool:
    """Tell whether a file begins as UTF-8 text does."""
    file.seek(0)
    head = file.read(HEAD)
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # The last character may be cut.
        if len(head) < HEAD or error.start < HEAD - 3:
            return False
    return b"\0" not in head


def _iso_format(head: bytes, file: IO[bytes]) -> str | None:
    """Name the format of an ISO base media file by its brands (ISO/IEC 23008-12, annex B); None for a movie."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    major, *others = (head[start : start + 4] for start in (8, *range(16, size - 3, 4)))
    if major == b"crx ":
        return "camera raw"
    if major not in IMAGE_BRANDS:
        # A movie may count a still image that it holds among its other brands.
        boxes = _boxes(file)
        if b"moov" in boxes or (IMAGE_BRANDS.isdisjoint(others) and b"meta" not in boxes):
            return None
    codec = next((brand for brand in (major, *others) if brand in AVIF_BRANDS + HEIF_BRANDS), None)
    return "AVIF" if codec in AVIF_BRANDS else "HEIF"


def _boxes(file: IO[bytes]) -> set[bytes]:
    """Return the names of the boxes at the top of an ISO base media file."""
    names: set[bytes] = set()
    position = 0
    for _ in range(MAX_BOXES):
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            break
        size, name = struct.unpack(">I4s", header[:8])
        names.add(name)
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        if size < 8:
            break
        position += size
    return names
