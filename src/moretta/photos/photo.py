"""One photo in memory, and which containers there are.

Not here  reading (decode.py), writing (encode.py), the disk (files.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from moretta.records import Pixels

    Samples = npt.NDArray[Any]  # (H, W) or (H, W, 2|3|4), uint8 or uint16
    Mask = npt.NDArray[np.bool_]  # (H, W)

Kind = Literal["grey", "grey+alpha", "rgb", "rgba"]
Depth = Literal[8, 16]
Metadata = Literal["none", "profile"]
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]

SUFFIXES = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jpe": "jpeg",
    ".jfif": "jpeg",
    ".png": "png",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
    ".avif": "avif",
    ".heic": "heic",
    ".heif": "heic",
    ".gif": "gif",  # so that it is refused by name
}

EXTENSION = {
    "jpeg": ".jpg",
    "png": ".png",
    "webp": ".webp",
    "tiff": ".tif",
    "bmp": ".bmp",
    "avif": ".avif",
    "heic": ".heic",
}

_EIGHT: frozenset[tuple[Kind, Depth]] = frozenset(
    {("grey", 8), ("grey+alpha", 8), ("rgb", 8), ("rgba", 8)}
)
_PLAIN: frozenset[tuple[Kind, Depth]] = frozenset({("grey", 8), ("rgb", 8)})
_SIXTEEN: frozenset[tuple[Kind, Depth]] = frozenset({("grey", 16), ("rgb", 16), ("rgba", 16)})

HOLDS: dict[str, frozenset[tuple[Kind, Depth]]] = {  # what each container can keep
    "jpeg": _PLAIN,
    "png": _EIGHT | _SIXTEEN | {("grey+alpha", 16)},
    "webp": _EIGHT,  # greys are stored as colours
    "tiff": _EIGHT | _SIXTEEN,
    "bmp": _PLAIN,
    "avif": _EIGHT,
    "heic": _EIGHT,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Photo:
    """One photo, upright. Its arrays are read-only."""

    pixels: Pixels  # (H, W, 3) RGB: what detectors and methods see; transparency is ignored
    native: Samples  # (H, W) or (H, W, 2|3|4), uint8 or uint16: what is kept outside the faces
    kind: Kind
    depth: Depth  # bits a sample
    format: str  # a key of EXTENSION: the container it came from
    icc: bytes | None = None  # the profile to write when metadata == "profile"
    subsampling: Subsampling | None = None  # of a JPEG's colours; None: unusual, or no JPEG
    lossless: bool = False  # the container kept every sample exactly
    notes: tuple[str, ...] = ()  # what had to be done to read it

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel says how opaque a pixel is."""
        return self.kind in ("grey+alpha", "rgba")

    def looks(self) -> list[Pixels]:
        """Return what viewers show besides `pixels`: (H, W, 3) on white and on black.

        Empty where that is the same: without alpha, or with the same alpha everywhere.
        """
        if not self.has_alpha or np.ptp(self.native[..., -1]) == 0:
            return []
        share = (self.native[..., -1:] / np.iinfo(self.native.dtype).max).astype(np.float32)
        return [
            np.rint(self.pixels * share + ground * (1 - share)).astype(np.uint8)
            for ground in (255, 0)
        ]


def sniff(head: bytes) -> str | None:
    r"""Return the container by its first bytes (64 are plenty), or None if it is no photo.

    >>> sniff(b"\xff\xd8\xff\xe0"), sniff(b"GIF89a"), sniff(b"hello")
    ('jpeg', 'gif', None)
    """
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    return _sniff_boxes(head) if head[4:8] == b"ftyp" else None


_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def _sniff_boxes(head: bytes) -> str | None:
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12]] + [head[at : at + 4] for at in range(16, end - 3, 4)]
    if any(brand in (b"avif", b"avis") for brand in brands):
        return "avif"
    return "heic" if any(brand in _HEIC_BRANDS for brand in brands) else None
