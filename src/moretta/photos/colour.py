"""Colour profiles: everything is turned into sRGB, unless the profile is to be kept.

Whether a profile is sRGB is measured, not read from its name: a grid of colours goes through it,
and if none moves by more than two levels the pixels stay untouched.
Source    Pillow's ImageCms (LittleCMS), relative colorimetric with black point compensation.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms

from moretta.errors import PhotoError

if TYPE_CHECKING:
    from moretta.photos.photo import Depth, Kind, Metadata, Samples
    from moretta.records import Pixels

_BROKEN = "the colour profile is broken and was ignored"
_FAULTS = (ImageCms.PyCMSError, OSError, ValueError, TypeError)
_LEVELS = 2  # of 255: a profile that moves no colour further than this is sRGB


def settle(
    native: Samples, *, kind: Kind, depth: Depth, icc: bytes | None, metadata: Metadata, name: str
) -> tuple[Samples, bytes | None, tuple[str, ...]]:
    """Return (samples, profile to keep, notes): in sRGB, or as they were with their profile.

    native: (H, W) or (H, W, 2|3|4). Raises PhotoError for 16-bit colours in another space, because
    the conversion has 8 bits only.
    """
    if icc is None:
        return native, None, ()
    try:
        space = _space(icc)
        if metadata == "profile":
            if space == ("GRAY" if kind.startswith("grey") else "RGB"):
                return native, icc, ()
            return native, None, ("the colour profile is of another colour space: ignored",)
        if space not in ("GRAY", "RGB") or (space == "GRAY" and not kind.startswith("grey")):
            return native, None, ("the colour profile is of another colour space: ignored",)
        if _is_srgb(icc):
            return native, None, ()
        if depth == 16:
            if kind.startswith("grey"):
                return native, None, ("colour profile dropped, grey values kept",)
            raise PhotoError(
                f"{name}: 16-bit colours with a profile of their own cannot be converted to sRGB without loss",
                hint="--metadata profile keeps the colours and their profile as they are",
            )
        return _convert(native, icc, space), None, ("colour profile converted to sRGB",)
    except _FAULTS:
        return native, None, (_BROKEN,)


def from_cmyk(picture: Image.Image, icc: bytes | None) -> tuple[Pixels, tuple[str, ...]]:
    """Return (H, W, 3) sRGB for a CMYK picture, and how it was made."""
    note = "CMYK without a profile converted by the plain formula"
    if icc is not None:
        try:
            if _space(icc) == "CMYK":
                turned = ImageCms.applyTransform(picture, _transform(icc, "CMYK"))
                if turned is not None:
                    return np.asarray(turned), ("CMYK converted to sRGB by its profile",)
        except _FAULTS:
            note = f"{_BROKEN}; CMYK converted by the plain formula"
    return np.asarray(picture.convert("RGB")), (note,)


def _convert(native: Samples, icc: bytes, space: str) -> Samples:
    grey = native if native.ndim == 2 else native[..., 0] if native.shape[2] == 2 else None
    colours = native[..., :3] if grey is None else grey
    picture = Image.fromarray(np.ascontiguousarray(colours))
    if grey is not None and space == "RGB":
        picture = picture.convert("RGB")
    turned = ImageCms.applyTransform(picture, _transform(icc, picture.mode))
    converted: Samples = np.asarray(turned)
    if grey is not None:
        converted = np.ascontiguousarray(converted[..., 1])
    if native.ndim == 3 and native.shape[2] in (2, 4):
        return np.dstack([converted, native[..., -1]])
    return converted


def _open(icc: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(icc))


def _space(icc: bytes) -> str:
    return str(_open(icc).profile.xcolor_space).strip()


@lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        _open(icc),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


@lru_cache(maxsize=64)
def _is_srgb(icc: bytes) -> bool:
    steps = np.linspace(0, 255, 6).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(6, 36, 3)
    if _space(icc) == "GRAY":
        grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
        moved = _convert(grey, icc, "GRAY").astype(int) - grey
    else:
        moved = _convert(grid, icc, "RGB").astype(int) - grid
    return bool(np.abs(moved).max() <= _LEVELS)
