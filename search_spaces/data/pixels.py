"""Image files to 8-bit RGB pixels, whatever their format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset(
    {
        ".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm",
        ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
    }
)  # fmt: skip
SIXTEEN_BITS = frozenset({"PNG", "PPM"})
"""Formats whose 16-bit pixels Pillow may give as 32-bit ones."""
DRAFT = 64
"""Side to which a JPEG is decoded where only its wholeness is asked for: its blocks are then read, not computed."""


class UnreadableImage(Exception):
    """A file that is no whole image; the message says why."""


def read_rgb(path: Path) -> Image.Image:
    """The image upright, as its EXIF says; of an animation the first picture; transparency is not heeded.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    return _guarded(path, draft=False)


def trouble_with_image(path: Path) -> str:
    """Why the file cannot be decoded to its end; empty where it can."""
    try:
        _guarded(path, draft=True)
    except UnreadableImage as error:
        return str(error)
    return ""


def _guarded(path: Path, draft: bool) -> Image.Image:
    try:
        with Image.open(path) as image:
            if draft:
                image.draft("RGB", (DRAFT, DRAFT))
            if image.mode == "F" or (image.mode == "I" and image.format not in SIXTEEN_BITS):
                raise UnreadableImage("pixels of 32 bits, whose range the format does not say; save it with 8 or 16")
            return to_rgb(ImageOps.exif_transpose(image))
    except UnreadableImage:
        raise
    except Exception as error:  # noqa: BLE001 - a decoder raises whatever a broken file makes it stumble over
        raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Eight bits a channel: 16-bit grey is scaled, where Pillow would cut it off at 255."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    return image.convert("RGB")
