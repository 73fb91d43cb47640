"""What tells a picture from others: its exact 8-bit samples, and a hash that survives re-encoding.

Not here  the hash over the samples (privacy/envelope.py).
Sources   dHash: Krawetz 2013, "Kind of Like That".
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from moretta.photos.decode import header_size
from moretta.photos.photo import sniff

if TYPE_CHECKING:
    from moretta.photos.photo import Samples

NEAR = 10  # bits: a picture whose dHash differs by no more is taken for a copy of the other
_MODES = ("L", "LA", "RGB", "RGBA")


def exact_samples(content: bytes, *, max_pixels: int = 250_000_000) -> Samples | None:
    """Return a lossless file's samples as they are stored, (height, width, channels) uint8.

    Nothing is turned and no colour converted, so any lossless file of the same samples gives the same
    array. None for lossy containers, other depths, palettes, and what cannot be read.
    """
    picture = _opened(content, ("png", "bmp", "tiff", "webp"), max_pixels)
    if picture is None:
        return None
    samples = np.asarray(picture)
    return samples.reshape(*samples.shape[:2], -1)


def lossless(content: bytes) -> bool:
    """Whether a file is PNG, BMP or TIFF of 8 bits a sample: one that `exact_samples` reads."""
    return sniff(content[:512]) != "webp" and exact_samples(content) is not None


def dhash(content: bytes, *, max_pixels: int = 250_000_000) -> int | None:
    """Return 64 bits that say where a small grey copy grows darker to the right, or None."""
    picture = _opened(content, None, max_pixels)
    if picture is None:
        return None
    grey = np.asarray(picture.convert("RGB").convert("L"))
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(int)
    return int("".join("1" if bit else "0" for bit in (small[:, :-1] > small[:, 1:]).ravel()), 2)


def near(one: int, other: int) -> bool:
    """Whether two dHashes are those of copies.

    >>> near(0b1111, 0b0), near(0xFFFF, 0)
    (True, False)
    """
    return (one ^ other).bit_count() <= NEAR


def _opened(
    content: bytes, containers: tuple[str, ...] | None, max_pixels: int
) -> Image.Image | None:
    """Return the decoded picture; with `containers`, only one of 8 bits a sample in one of them."""
    container = sniff(content[:512])
    if container is None or (containers and container not in containers):
        return None
    try:
        width, height = header_size(content, container)
        if not 0 < width * height <= max_pixels:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(content))
            if containers and (picture.mode not in _MODES or not _eight_bits(picture, content)):
                return None
            picture.load()
    except Exception:  # noqa: BLE001 - decoders raise anything on hostile bytes
        return None
    return picture


def _eight_bits(picture: Image.Image, content: bytes) -> bool:
    if picture.format == "PNG":
        return content[24] == 8
    if picture.format == "TIFF":
        return set(picture.tag_v2.get(258, (1,))) == {8}  # type: ignore[attr-defined]
    return True
