"""Images: check them, and decode them to RGB."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lco_embedding.modules.media.files import Extent, MediaError, as_numpy, open_reader

MAX_IMAGE_PIXELS = 178_956_970
"""Images above this area are refused as decompression bombs; the area at which Pillow refuses by default."""

# What Pillow's plugins raise for broken files, its UnidentifiedImageError (an OSError) included.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error)

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def check_image(value: Any) -> Extent:
    """Check the type and the header of an image.

    Returns:
        Its width and height in pixels.

    Raises:
        MediaError: It is unreadable, empty, or too large to be decoded safely.
    """
    if isinstance(value, np.ndarray | torch.Tensor):
        height, width = channels_last(value, ndim=3).shape[:2]
        return Extent(width, height)
    with _open_image(value) as image:
        return Extent(*image.size)


def load_image(value: Any) -> Image.Image:
    """Decode an image to RGB: upright by its EXIF orientation, transparency over white, the first frame of several.

    Args:
        value: A PIL image, path, bytes, or an array of shape (height, width), (height, width, channels) or
            (channels, height, width) with 1, 3 or 4 channels: integers, or floats in [0, 1].

    Raises:
        MediaError: As in [`check_image`], and if the data are truncated or broken.
    """
    if isinstance(value, np.ndarray | torch.Tensor):
        pixels = to_bytes(channels_last(value, ndim=3))
        return _rgb(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    with _open_image(value) as image:
        try:
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
        except (*BROKEN, Image.DecompressionBombError) as error:
            raise MediaError(f"the image can't be decoded: it is truncated or broken ({error})") from error


@contextmanager
def _open_image(value: Any) -> Iterator[Image.Image]:
    if isinstance(value, Image.Image):
        yield _check_area(value)
        return
    with open_reader(value) as file:
        try:
            image = Image.open(file, formats=IMAGE_FORMATS)
        except Image.DecompressionBombError as error:
            raise MediaError(f"the image is too large to be decoded safely ({error})") from error
        except BROKEN as error:
            raise MediaError("the file is not a readable image (formats: " + ", ".join(IMAGE_FORMATS) + ")") from error
        with image:
            yield _check_area(image)


def _check_area(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise MediaError(
            f"the image has {image.width} x {image.height} pixels, more than {MAX_IMAGE_PIXELS:,}; make it smaller"
        )
    if not image.width or not image.height:
        raise MediaError("the image has no pixels")
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips these to 8 bits instead of scaling them.
        values = np.asarray(image, dtype=np.float64)
        if image.mode.startswith("I;16"):
            top = 65535.0
        else:
            top = next((top for top in (1.0, 255.0) if image.mode == "F" and values.max() <= top), 65535.0)
        image = Image.fromarray(np.clip(values / top * 255, 0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


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
    if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
        raise MediaError(f"the pixels ({array.dtype}) are not all finite numbers")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 255:
        raise MediaError(f"the pixels range from {low:g} to {high:g}; floats must be in [0, 1], integers in [0, 255]")
    scale = 255 if np.issubdtype(array.dtype, np.floating) and high <= 1 else 1
    return (array * scale).round().astype(np.uint8)
