"""Bytes to a Photo: upright, in sRGB, at its own depth, or a PhotoError that says why not.

The decoder is chosen by content, from a fixed list; sizes are checked before anything is decoded.
Not here  the disk (files.py), 16-bit colours (wide.py), profiles (colour.py).
"""

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from moretta.errors import PhotoError, count_of
from moretta.photos.colour import from_cmyk, settle
from moretta.photos.metadata import jpeg_segments, png_chunks, riff_chunks
from moretta.photos.photo import Photo, sniff
from moretta.photos.wide import read_wide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moretta.photos.photo import Depth, Kind, Metadata, Samples, Subsampling
    from moretta.records import Pixels

_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,  # not the factory: an MPO is read as its first picture
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
}
_ORIENTATION = 0x0112
_AGAIN = "take the photo from its source again"


def decode(data: bytes, *, name: str, metadata: Metadata, max_pixels: int) -> Photo:
    """Return the photo in `data`; `name` is for the errors.

    Raises PhotoError for everything that is not one whole picture of at most `max_pixels`.
    """
    container = _container(data, name)
    try:
        with _quiet():
            if container == "heic":
                return _decode_heic(data, name=name, metadata=metadata, max_pixels=max_pixels)
            return _decode(data, container, name=name, metadata=metadata, max_pixels=max_pixels)
    except PhotoError:
        raise
    except MemoryError as fault:
        raise PhotoError(
            f"{name}: not enough memory to read it", hint="lower --max-pixels to refuse it earlier"
        ) from fault
    except Exception as fault:  # decoders raise anything on hostile bytes
        words = str(fault) or type(fault).__name__
        cut = "cut off" if "trunc" in words or "cut off" in words else "damaged"
        raise PhotoError(f"{name}: {container.upper()} is {cut} ({words})", hint=_AGAIN) from fault


def header_size(data: bytes, container: str) -> tuple[int, int]:
    """Return (width, height) as the container's own decoder reads them from its header."""
    with _quiet():
        return _DECODERS[container](io.BytesIO(data)).size


def _container(data: bytes, name: str) -> str:
    container = sniff(data[:512])
    if not data:
        raise PhotoError(f"{name}: the file is empty", hint=_AGAIN)
    if container is None:
        words = "text" if _is_text(data[:256]) else "something else"
        raise PhotoError(
            f"{name}: not a photo, its content is {words}",
            hint="photos are JPEG, PNG, WebP, TIFF, BMP, AVIF or HEIC",
        )
    if container == "gif":
        raise PhotoError(f"{name}: GIF is not supported", hint="convert it to PNG")
    return container


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n" for byte in head)


def _decode(
    data: bytes, container: str, *, name: str, metadata: Metadata, max_pixels: int
) -> Photo:
    notes = _checked_structure(data, container, name, max_pixels)
    picture = _DECODERS[container](io.BytesIO(data))
    _check_size(name, picture.size, max_pixels)
    if container != "jpeg" and getattr(picture, "n_frames", 1) > 1:
        raise several(name, container, int(getattr(picture, "n_frames", 2)))
    orientation = 1
    if container == "tiff":  # Pillow and OpenCV turn TIFF by themselves
        notes += _turn_notes(_orientation(picture, notes))
    sampling = _sampling(picture)
    invert, wide = _tiff_samples(picture, name), _wide(picture, data, container)
    picture.load()
    if container != "tiff":
        orientation = _orientation(picture, notes)
        notes += _turn_notes(orientation)
    icc = picture.info.get("icc_profile") or None
    if wide:
        native, kind = _wide_samples(picture, data, container)
        depth: Depth = 16
    else:
        native, kind, depth, more = _samples(picture, data, name, icc)
        notes += more
        icc = None if picture.mode == "CMYK" else icc
    native = 65535 - native if invert else native
    native, icc, more = settle(
        native, kind=kind, depth=depth, icc=icc, metadata=metadata, name=name
    )
    return _photo(
        turn_upright(native, orientation),
        kind=kind,
        depth=depth,
        container=container,
        icc=icc,
        subsampling=sampling,
        lossless=_lossless(data, container),
        notes=(*notes, *more),
    )


def _photo(
    native: Samples,
    *,
    kind: Kind,
    depth: Depth,
    container: str,
    icc: bytes | None,
    subsampling: Subsampling | None = None,
    lossless: bool,
    notes: tuple[str, ...],
) -> Photo:
    pixels = _seen(native, kind)
    native.flags.writeable = False
    pixels.flags.writeable = False
    return Photo(
        pixels=pixels,
        native=native,
        kind=kind,
        depth=depth,
        format=container,
        icc=icc,
        subsampling=subsampling,
        lossless=lossless,
        notes=notes,
    )


def turn_upright(samples: Samples, orientation: int) -> Samples:
    """Return (H, W[, C]) `samples` as EXIF `orientation` 1..8 wants them shown; others as they are.

    >>> turn_upright(np.array([[1, 2]], np.uint8), 6).tolist()
    [[1], [2]]
    """
    if orientation in (5, 6, 7, 8):
        samples = cv2.transpose(samples)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)  # cv2: 1 mirrors left and right
    return samples if flip is None else cv2.flip(samples, flip)


def _seen(native: Samples, kind: Kind) -> Pixels:
    eight = native if native.dtype == np.uint8 else (native >> 8).astype(np.uint8)
    if kind == "rgb":
        return eight
    if kind == "rgba":
        return cast("Pixels", cv2.cvtColor(eight, cv2.COLOR_RGBA2RGB))
    grey = eight if kind == "grey" else np.ascontiguousarray(eight[..., 0])
    return cast("Pixels", cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))


def _checked_structure(data: bytes, container: str, name: str, max_pixels: int) -> list[str]:
    """Check that the container is whole, before any decoder sees it; return what is dropped."""
    if container == "jpeg":
        segments = list(jpeg_segments(data))
        end = segments[-1][2]
        trailer = data[end : end + 64]
        if any(marker == 0xE2 and data[at : at + 4] == b"MPF\0" for marker, at, _ in segments):
            return ["multi-picture JPEG (MPO): only the first picture is read"]
        if trailer:
            what = "a film (MP4)" if b"ftyp" in trailer else count_of(len(data) - end, "byte")
            return [f"{what} behind the picture dropped"]
    elif container == "png":
        *_, (_, _, end) = png_chunks(data)
        if end + 4 < len(data):
            return [f"{count_of(len(data) - end - 4, 'byte')} behind the picture dropped"]
    elif container == "webp":
        for kind, start, _ in riff_chunks(data):
            if kind == b"VP8X":  # the decoder takes memory for the canvas at once
                width = int.from_bytes(data[start + 4 : start + 7], "little") + 1
                height = int.from_bytes(data[start + 7 : start + 10], "little") + 1
                _check_size(name, (width, height), max_pixels)
    return []


def _check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PhotoError(
            f"{name}: {width} x {height} pixels are more than the limit of {max_pixels}",
            hint=f"--max-pixels {width * height} lets it through, if there is memory for it",
        )
    if width < 1 or height < 1:
        raise PhotoError(f"{name}: it has no pixels", hint=_AGAIN)


def several(name: str, container: str, count: int) -> PhotoError:
    """Return the refusal of a file that holds more than one picture."""
    what = "pages" if container == "tiff" else "pictures (an animation)"
    return PhotoError(
        f"{name}: {container.upper()} with {count} {what} is not supported",
        hint="save each of them as a file of its own",
    )


def _orientation(picture: Image.Image, notes: list[str]) -> int:
    try:
        found = picture.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, ArithmeticError, EOFError):
        notes.append("EXIF is broken: taken as upright")
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turn_notes(orientation: int) -> list[str]:
    return [f"turned upright from EXIF orientation {orientation}"] if orientation > 1 else []


def _sampling(picture: Image.Image) -> Subsampling | None:
    if not isinstance(picture, JpegImagePlugin.JpegImageFile):
        return None
    known: dict[int, Subsampling] = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
    return known.get(JpegImagePlugin.get_sampling(picture))


def _lossless(data: bytes, container: str) -> bool:
    if container == "webp":
        return any(kind == b"VP8L" for kind, _, _ in riff_chunks(data))
    return container in ("png", "tiff", "bmp")


def _tiff_samples(picture: Image.Image, name: str) -> bool:
    """Refuse samples that Pillow would cut; return True for 16-bit grey with white as zero."""
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return False
    tags = cast("Any", picture).tag_v2
    bits = set(tags.get(258, (1,)))
    if max(bits) > 8 and (bits != {16} or picture.mode not in _WIDE_MODES):
        raise unsupported(name, f"TIFF with {max(bits)} bits a sample in mode {picture.mode}")
    return bool(bits == {16} and picture.mode.startswith("I;16") and tags.get(262) == 0)


_WIDE_MODES = ("RGB", "RGBA", "I;16", "I;16L", "I;16B", "I;16N")


def unsupported(name: str, what: str) -> PhotoError:
    """Return the refusal of pixels of an unusual kind."""
    return PhotoError(
        f"{name}: {what} is not supported", hint="convert it to 8 or 16 bits a sample, grey or RGB"
    )


def _wide(picture: Image.Image, data: bytes, container: str) -> bool:
    if container == "png":
        return data[24] == 16 and data[25] != 0
    if container == "tiff" and picture.mode in ("RGB", "RGBA"):
        return bool(max(cast("Any", picture).tag_v2.get(258, (8,))) == 16)
    return False


def _wide_samples(picture: Image.Image, data: bytes, container: str) -> tuple[Samples, Kind]:
    native = read_wide(data)
    seen = np.asarray(picture)
    if native.ndim != 3 or native.shape[:2] != seen.shape[:2]:
        raise ValueError("two decoders disagree about its size")
    both = min(native.shape[2], seen.shape[2])  # a transparent colour adds a channel to one
    if not np.array_equal(native[..., :both] >> 8, seen[..., :both]):
        raise ValueError("two decoders disagree about its pixels")
    if container == "png" and data[25] == 4:
        return np.ascontiguousarray(native[..., [0, 3]]), "grey+alpha"
    return native, "rgb" if native.shape[2] == 3 else "rgba"


def _samples(
    picture: Image.Image, data: bytes, name: str, icc: bytes | None
) -> tuple[Samples, Kind, Depth, tuple[str, ...]]:
    mode = picture.mode
    see_through = "transparency" in picture.info
    if mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        grey = np.asarray(picture).astype(np.uint16)
        if see_through:
            alpha = np.where(grey == picture.info["transparency"], 0, 65535).astype(np.uint16)
            return np.dstack([grey, alpha]), "grey+alpha", 16, ()
        return grey, "grey", 16, ()
    if mode in ("1", "L"):
        if not see_through:
            return np.asarray(picture.convert("L")), "grey", 8, ()
        grey, key = np.asarray(picture.convert("L")), int(picture.info["transparency"])
        if mode == "L" and picture.format == "PNG":
            key = key * 255 // ((1 << data[24]) - 1)  # Pillow widens 2 and 4 bits, not the key
        alpha = np.where(grey == key, 0, 255).astype(np.uint8)
        return np.dstack([grey, alpha]), "grey+alpha", 8, ()
    if mode in ("LA", "La"):
        return np.asarray(picture.convert("LA")), "grey+alpha", 8, ()
    if mode in ("P", "PA"):
        clear = see_through or mode == "PA" or cast("Any", picture).palette.mode == "RGBA"
        opened = np.asarray(picture.convert("RGBA" if clear else "RGB"))
        note = ("palette expanded to RGB",)
        return opened, "rgba" if clear else "rgb", 8, note
    if mode in ("RGBA", "RGBa") or (mode == "RGB" and see_through):
        return np.asarray(picture.convert("RGBA")), "rgba", 8, ()
    if mode == "CMYK":
        pixels, notes = from_cmyk(picture, icc)
        return pixels, "rgb", 8, notes
    if mode in ("RGB", "RGBX", "YCbCr"):
        return np.asarray(picture.convert("RGB")), "rgb", 8, ()
    raise unsupported(name, f"pixel mode {mode}")


def _decode_heic(data: bytes, *, name: str, metadata: Metadata, max_pixels: int) -> Photo:
    try:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]
    except ImportError as fault:
        raise PhotoError(
            f"{name}: HEIC needs one more package", hint='pip install "moretta[heic]"'
        ) from fault
    opened = pillow_heif.open_heif(io.BytesIO(data))
    if len(opened) > 1:
        raise several(name, "heic", len(opened))
    _check_size(name, opened.size, max_pixels)
    kinds: dict[str, Kind] = {"L": "grey", "LA": "grey+alpha", "RGB": "rgb", "RGBA": "rgba"}
    if opened.mode not in kinds:
        raise unsupported(name, f"pixel mode {opened.mode}")
    kind, icc = kinds[opened.mode], opened.info.get("icc_profile") or None
    bits = int(opened.info.get("bit_depth", 8))
    notes = (f"{bits} bits a sample cut to 8",) if bits > 8 else ()
    native: Samples = np.array(opened)  # libheif has turned it already
    if opened.mode == "LA":
        native = np.ascontiguousarray(native[..., :2])
    native, icc, more = settle(native, kind=kind, depth=8, icc=icc, metadata=metadata, name=name)
    return _photo(
        native, kind=kind, depth=8, container="heic", icc=icc, lossless=False, notes=notes + more
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings and lift its size limit: ours has been checked already."""
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
