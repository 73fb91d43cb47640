"""A photo and its edited pixels to bytes: from arrays only, checked again before they leave.

Promise   outside `changed` the samples are the original's; inside they are the edit's.
          What `leftovers` finds in the finished bytes is an error, never a file.
Not here  the disk (files.py).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from moretta.errors import PhotoError, UsageError, nearest, one_line
from moretta.photos.decode import decode, header_size
from moretta.photos.metadata import leftovers
from moretta.photos.photo import EXTENSION, HOLDS
from moretta.photos.wide import png16, tiff

if TYPE_CHECKING:
    from moretta.photos.photo import Mask, Metadata, Photo, Samples
    from moretta.records import Pixels

LOSSLESS = ("png", "tiff", "bmp")
_COMPARE_UP_TO = 4_000_000  # pixels; beyond that a second decoding costs too much


def encode_photo(
    photo: Photo,
    edited: Pixels,
    changed: Mask,
    *,
    format: str | None = None,  # noqa: A002
    quality: int = 95,
    metadata: Metadata = "none",
) -> bytes:
    """Return a file that shows `edited` where `changed`, and the photo's own samples elsewhere.

    edited: (H, W, 3) uint8 RGB; changed: (H, W) bool. Transparency stays as it is, but under it
    the edit replaces the original. format: None keeps the photo's own. quality: 1..100, for JPEG,
    WebP and AVIF. Raises PhotoError if the container cannot hold this photo, or if the finished
    bytes are not exactly what was meant; UsageError for a format we do not write.
    """
    if edited.shape != photo.pixels.shape or edited.dtype != np.uint8:
        raise ValueError(f"edited is {edited.shape} {edited.dtype}, the photo {photo.pixels.shape}")
    if changed.shape != edited.shape[:2] or changed.dtype != np.bool_:
        raise ValueError(f"changed is {changed.shape} {changed.dtype}, the photo {edited.shape}")
    container = photo.format if format is None else format
    icc = _checked_profile(photo, container, metadata)
    _check_container(photo, container, quality)
    lossless = _lossless(photo, container)
    samples = _as_stored(merge(photo, edited, changed), container)
    try:
        data = _encode(samples, photo, container, quality=quality, lossless=lossless, icc=icc)
    except (OSError, ValueError, RuntimeError, MemoryError) as fault:
        raise PhotoError(
            f"cannot be written as {container.upper()}: {one_line(str(fault))}",
            hint="choose another format, png holds everything",
        ) from fault
    _check(data, samples, container, lossless=lossless, metadata=metadata)
    return data


def shows_all(photo: Photo, format: str | None = None) -> bool:  # noqa: A002
    """Return whether the file shows edited pixels as they are: lossless, and in colours."""
    return _lossless(photo, format or photo.format) and not photo.kind.startswith("grey")


def as_written(
    photo: Photo,
    edited: Pixels,
    changed: Mask,
    *,
    format: str | None = None,  # noqa: A002
    quality: int = 95,
    metadata: Metadata = "none",
) -> tuple[Pixels, bytes]:
    """Return what a reader of the file will see, (H, W, 3) uint8 RGB, and the file as of `encode_photo`."""
    data = encode_photo(photo, edited, changed, format=format, quality=quality, metadata=metadata)
    most = edited.shape[0] * edited.shape[1]
    return decode(data, name="", metadata=metadata, max_pixels=most).pixels, data


def _lossless(photo: Photo, container: str) -> bool:
    """Return whether no sample changes on the way into the file."""
    return container in LOSSLESS or (
        container == "webp" and photo.format == "webp" and photo.lossless
    )


def merge(photo: Photo, edited: Pixels, changed: Mask) -> Samples:
    """Return the photo's samples with the edit in place: (H, W[, C]), the photo's own depth.

    What is changed becomes opaque.
    """
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if not len(rows):
        return photo.native
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    merged = photo.native.copy()
    drawn: Samples = edited[part]
    where = changed[part]
    if photo.kind.startswith("grey"):
        drawn = _luma(drawn)
    if photo.depth == 16:
        drawn = drawn.astype(np.uint16) * 257
    if photo.kind == "grey":
        np.copyto(merged[part], drawn, where=where)
    elif photo.kind == "grey+alpha":
        np.copyto(merged[part][..., 0], drawn, where=where)
    else:
        np.copyto(merged[part][..., :3], drawn, where=where[..., None])
    if photo.has_alpha:  # transparency can draw a face too: under the mask nothing of it stays
        merged[part][..., -1][where] = np.iinfo(merged.dtype).max
    return merged


def _luma(colours: Pixels) -> Pixels:
    """ITU-R 601 in 16-bit fixed point, so that grey stays the same grey."""
    weighted = colours.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)


def _checked_profile(photo: Photo, container: str, metadata: Metadata) -> bytes | None:
    if photo.icc is None:
        return None
    if metadata == "none":
        raise ValueError("a photo read with its profile must be written with it")
    if container == "bmp" or (container == "webp" and photo.kind.startswith("grey")):
        raise PhotoError(
            f"{container.upper()} cannot hold this photo's colour profile",
            hint="choose jpeg, png or tiff, or --metadata none, which converts to sRGB",
        )
    return photo.icc


def _check_container(photo: Photo, container: str, quality: int) -> None:
    if container not in EXTENSION:
        raise UsageError(
            f"no such output format: {container}", hint=nearest(container, list(EXTENSION))
        )
    if not 1 <= quality <= 100:
        raise UsageError(f"quality {quality} is not in 1..100", hint="95 is a good choice")
    if (photo.kind, photo.depth) not in HOLDS[container]:
        able = [name for name, kinds in HOLDS.items() if (photo.kind, photo.depth) in kinds]
        raise PhotoError(
            f"{container.upper()} cannot hold {photo.depth}-bit {photo.kind}",
            hint="formats that can: " + ", ".join(able),
        )


def _as_stored(samples: Samples, container: str) -> Samples:
    """Spread greys over three channels where the container knows colours only.

    WebP drops a transparency that nothing uses, so it is dropped before.
    """
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    if container == "webp" and channels in (2, 4) and (samples[..., -1] == 255).all():
        samples = samples[..., 0] if channels == 2 else np.ascontiguousarray(samples[..., :3])
        channels -= 1
    if container == "webp" and channels == 1:
        return np.dstack([samples] * 3)
    if container in ("webp", "avif", "heic") and channels == 2:
        return np.ascontiguousarray(samples[..., [0, 0, 0, 1]])
    return samples


def _encode(
    samples: Samples,
    photo: Photo,
    container: str,
    *,
    quality: int,
    lossless: bool,
    icc: bytes | None,
) -> bytes:
    if container == "tiff":
        return tiff(samples, icc)
    if samples.dtype == np.uint16:
        return png16(samples, icc)
    if container == "heic":
        return _encode_heic(samples, quality, icc)
    options: dict[str, Any] = {} if icc is None else {"icc_profile": icc}
    if container == "jpeg":
        options |= {"quality": quality, "optimize": False}
        if samples.ndim == 3:
            options["subsampling"] = photo.subsampling or "4:2:0"
    elif container == "png":
        options["compress_level"] = 3  # three times as fast as 6, and no larger on a noisy photo
    elif container == "webp" and lossless:
        options |= {"lossless": True, "exact": True}
    elif container in ("webp", "avif"):
        options["quality"] = quality
    written = io.BytesIO()
    Image.fromarray(samples).save(written, container.upper(), **options)
    return written.getvalue()


def _encode_heic(samples: Samples, quality: int, icc: bytes | None) -> bytes:
    try:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]
    except ImportError as fault:
        raise PhotoError(
            "HEIC needs one more package", hint='pip install "moretta[heic]"'
        ) from fault
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[1 if samples.ndim == 2 else samples.shape[2]]
    size = (samples.shape[1], samples.shape[0])
    picture = pillow_heif.from_bytes(mode, size, samples.tobytes())
    written = io.BytesIO()
    picture.save(written, quality=quality, **({} if icc is None else {"icc_profile": icc}))
    return written.getvalue()


def _check(
    data: bytes, samples: Samples, container: str, *, lossless: bool, metadata: Metadata
) -> None:
    found = leftovers(data, metadata=metadata)
    if found:
        raise PhotoError(
            f"the finished {container.upper()} holds more than pixels: {', '.join(found)}",
            hint="nothing was written; please report this as a bug",
        )
    height, width = samples.shape[:2]
    if lossless and height * width <= _COMPARE_UP_TO:
        limit = _COMPARE_UP_TO
        again = decode(data, name="the finished file", metadata=metadata, max_pixels=limit).native
        same = again.dtype == samples.dtype and np.array_equal(again, samples)
    else:  # lossy samples cannot be compared, and many would take too long
        same = container == "heic" or header_size(data, container) == (width, height)
    if not same:
        raise PhotoError(
            f"the finished {container.upper()} does not show what was meant",
            hint="nothing was written; please report this as a bug",
        )
