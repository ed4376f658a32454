"""Images: check them, and decode them to RGB."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from lco_embedding.modules.media.files import Extent, MediaError, as_numpy, open_reader
from lco_embedding.modules.media.formats import image_format

T = TypeVar("T")

MAX_IMAGE_PIXELS = 178_956_970
"""Images above this area are refused as decompression bombs; the area at which Pillow refuses by default."""

# What Pillow's plugins and pillow-heif raise for broken files.
BROKEN = (
    Image.DecompressionBombError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)

OPENERS: dict[str, Callable[[IO[bytes], str], Image.Image]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
"""What reads the header of each format; `Image.open` would keep a plugin's reason for refusing a file to itself."""

IMAGE_FORMATS = (*OPENERS, "HEIF")

TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""

MAX_OVERSHOOT = 2.0
"""Floats that reach just above 1, as filters leave them, are no levels up to 255."""

# Tags of TIFF 6.0 and DNG.
SUBFILE_TYPE, BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT, DNG_VERSION = 254, 258, 262, 339, 50706
REDUCED = 1
"""The bit of SUBFILE_TYPE by which a picture is the thumbnail of another one in its file."""
WHITE_IS_ZERO = 0
SIGNED = 2

PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""Chunks of a PNG that Pillow refuses above a size, and that no pixel depends on."""

# Pillow scales grey levels of 2 and 4 bits to 8, but not the one that stands for transparency.
TRANSPARENCY_SCALE = {"L;2": 85, "L;4": 17}


def check_image(value: Any) -> Extent:
    """Check the type and the header of an image.

    Returns:
        Its width and height in pixels, as they are stored.

    Raises:
        MediaError: It is unreadable, empty, or too large to be decoded safely.
    """
    if isinstance(value, np.ndarray | torch.Tensor):
        height, width = channels_last(value, ndim=3).shape[:2]
        return Extent(width, height)
    return _with_image(value, lambda image: Extent(*image.size))


def load_image(value: Any) -> Image.Image:
    """Decode an image to RGB: upright by its EXIF orientation, transparency over white, the first frame of several.

    Args:
        value: A PIL image, path, bytes, or an array of shape (height, width), (height, width, channels) or
            (channels, height, width) with 1, 3 or 4 channels: integers, or floats in [0, 1].

    Raises:
        MediaError: As in [`check_image`], and if the data are truncated or broken, or no levels of brightness.
    """
    if isinstance(value, np.ndarray | torch.Tensor):
        pixels = to_bytes(channels_last(value, ndim=3))
        return _rgb(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    return _with_image(value, _decode)


def _with_image(value: Any, use: Callable[[Image.Image], T]) -> T:
    """Open an image, and return what `use` makes of it."""
    if isinstance(value, Image.Image):
        return _use(value, use)
    with open_reader(value) as file:
        name = image_format(file)
        if name not in IMAGE_FORMATS:
            reason = f"{name} images are not supported" if name else "the file is not a readable image"
            raise MediaError(f"{reason} (formats: {', '.join(IMAGE_FORMATS)})")
        try:
            return _use_file(file, name, use)
        except MediaError as error:
            # Pillow refuses text that is long when unpacked, as image generators write it; the pixels are whole.
            if name != "PNG" or type(error.__cause__) is not ValueError:
                raise
            return _use_file(_without_text(file), name, use)


def _use_file(file: IO[bytes], name: str, use: Callable[[Image.Image], T]) -> T:
    file.seek(0)
    opener = _opener(name)
    try:
        image = opener(file, "")
    except BROKEN as error:
        raise MediaError(f"the file is not a readable image of the format {name} ({_reason(error)})") from error
    with image:
        tags = _tags(image)
        if DNG_VERSION in tags or _number(tags.get(SUBFILE_TYPE, 0)) & REDUCED:
            raise MediaError("the file holds a camera's raw data or a thumbnail first; convert it, for example to JPEG")
        return _use(image, use)


def _opener(name: str) -> Callable[[IO[bytes], str], Image.Image]:
    if name != "HEIF":
        return OPENERS[name]
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise MediaError("HEIF images need pillow-heif: pip install 'lco-embedding[heif]'") from error
    # libheif turns the image upright as its file says, and the plugin sets the EXIF orientation to 1.
    plugin: Callable[[IO[bytes], str], Image.Image] = HeifImageFile
    return plugin


def _use(image: Image.Image, use: Callable[[Image.Image], T]) -> T:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise MediaError(
            f"the image has {image.width} x {image.height} pixels, more than {MAX_IMAGE_PIXELS:,}; make it smaller"
        )
    if not image.width or not image.height:
        raise MediaError("the image has no pixels")
    return use(image)


def _decode(image: Image.Image) -> Image.Image:
    tiles = getattr(image, "tile", None)
    stored = str(tiles[0].args) if tiles else ""
    try:
        image.load()
    except BROKEN as error:
        raise MediaError(f"the image can't be decoded: it is truncated or broken ({_reason(error)})") from error
    rgb = _rgb(image, stored)
    transposition = TRANSPOSITIONS.get(_orientation(image))
    return rgb if transposition is None else rgb.transpose(transposition)


def _orientation(image: Image.Image) -> Any:
    # `ImageOps.exif_transpose` would also rewrite the EXIF data, and fail where a tag of no concern is odd.
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except BROKEN:
        return None


def _rgb(image: Image.Image, stored: str = "") -> Image.Image:
    """Convert an image to RGB, transparency over white.

    Args:
        image: A decoded image.
        stored: How its pixels are stored, as Pillow names it (raw mode).

    Raises:
        MediaError: Its pixels are no levels of brightness, or of a mode that does not convert.
    """
    transparent = image.info.get("transparency")
    if image.mode.startswith("I") or image.mode == "F" or _is_signed(image):
        levels = _levels(image)
        if isinstance(transparent, int):
            opaque = np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8)
            image = Image.merge("LA", [Image.fromarray(levels), Image.fromarray(opaque)])
        else:
            image = Image.fromarray(levels)
    elif image.mode == "L" and isinstance(transparent, int):
        image = image.copy()
        image.info["transparency"] = transparent * TRANSPARENCY_SCALE.get(stored, 1)
    elif image.mode == "RGB" and isinstance(transparent, tuple) and stored.startswith("RGB;16"):
        image = image.copy()
        image.info["transparency"] = tuple(level >> 8 for level in transparent)
    try:
        if image.mode == "La":
            image = image.convert("LA")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except BROKEN as error:
        raise MediaError(f"the pixels are of a mode that is not supported: {image.mode} ({_reason(error)})") from error


def _levels(image: Image.Image) -> NDArray[np.uint8]:
    """Scale grey pixels of more than 8 bits, or signed ones, to 0..255, by the range of their type.

    A TIFF states the type and whether zero is white. Without such tags integers are of 16 bits, as Pillow converts
    and saves them; floats are as [`to_bytes`] takes them.
    """
    tags = _tags(image)
    values = np.asarray(image)
    if image.mode == "F":
        levels = to_bytes(values)
    else:
        bits, is_signed = _number(tags.get(BITS_PER_SAMPLE, 16)), _is_signed(image)
        if image.mode == "L":
            values = values.view(np.int8)
        elif bits == 32 and not is_signed:
            values = values.view(np.uint32)
        top = 2 ** (bits - is_signed) - 1
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > top:
            raise MediaError(f"the pixels range from {low} to {high}, but those of {bits} bits must be in [0, {top}]")
        if bits == 32 and 0 < high < 1 << 16:
            raise MediaError(f"32-bit pixels that reach only {high} of {top} are black; store them with 16 bits")
        scaled = np.multiply(values, 255 / top, dtype=np.float32)
        levels = scaled.round(out=scaled).astype(np.uint8)
    # Of integers up to 8 bits Pillow has inverted them.
    inverted: NDArray[np.uint8] = 255 - levels if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else levels
    return inverted


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of an image that is read from a TIFF file, and none of another."""
    return image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}


def _is_signed(image: Image.Image) -> bool:
    return _number(_tags(image).get(SAMPLE_FORMAT, 1)) == SIGNED


def _number(value: Any) -> int:
    """Return the integer of a tag, the first of several; 0 for what is none."""
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else 0


def _without_text(file: IO[bytes]) -> IO[bytes]:
    """Return a PNG without its texts and its colour profile."""
    file.seek(0)
    kept = [file.read(8)]
    while len(header := file.read(8)) == 8:
        size, name = struct.unpack(">I4s", header)
        content = file.read(size + 4)
        if name not in PNG_TEXT:
            kept += [header, content]
    return io.BytesIO(b"".join(kept))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def channels_last(value: NDArray[Any] | torch.Tensor, ndim: int) -> NDArray[Any]:
    """Return an array of an image (`ndim` 3) or a video (`ndim` 4) with its channels last."""
    array = as_numpy(value)
    if array.ndim == ndim - 1:
        array = array[..., None]
    if array.ndim != ndim:
        raise MediaError(f"an array of shape {array.shape} is no {'image' if ndim == 3 else 'video'}")
    if array.shape[-1] not in (1, 3, 4):
        array = np.moveaxis(array, -3, -1)
    if array.shape[-1] not in (1, 3, 4) or not array.size:
        raise MediaError(f"an array of shape {value.shape} has no axis of 1, 3 or 4 channels, or no pixels")
    return array


def to_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale pixels of any dtype to 0..255."""
    scaled: NDArray[np.uint8] = _scaled(array)
    return scaled


def _scaled(array: NDArray[Any]) -> Any:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return (array / 257).round().astype(np.uint8)
    is_real = np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)
    if not is_real or not np.isfinite(array).all():
        raise MediaError(f"the pixels ({array.dtype}) are not all finite numbers")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 255:
        raise MediaError(f"the pixels range from {low:g} to {high:g}; floats must be in [0, 1], integers in [0, 255]")
    is_float = np.issubdtype(array.dtype, np.floating)
    if is_float and 1 < high <= MAX_OVERSHOOT:
        raise MediaError(f"the pixels reach {high:g}; clip floats to [0, 1], since of [0, 255] they would be black")
    scale = 255 if is_float and high <= 1 else 1
    return (array * scale).round().astype(np.uint8)
