"""Photos that break tools: bad input of many kinds, and one JPEG full of things that tell.

Every case that can show a face shows the same one, so that "no face" is never the reason.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageOps

PLANTED = "KEEPME"  # planted as text in the artist, the XMP packet, the comment and the trailer
Entry = tuple[int, int, int, bytes]  # tag, TIFF type, count, value or four-byte offset


def portrait(photo: Path) -> Image.Image:
    """Upright base picture, 200 x 250, from an LFW photo."""
    return Image.open(photo).convert("RGB").crop((25, 0, 225, 250))


def bad_inputs(folder: Path, base: Image.Image) -> list[Path]:
    """Write one file a case into `folder`; return them in order."""
    folder.mkdir(parents=True)
    jpeg = _jpeg(base)
    grey16 = np.asarray(base.convert("L")).astype(np.uint16) * 257
    colour16 = np.asarray(base)[:, :, ::-1].astype(np.uint16) * 257
    orientation = Image.Exif()
    orientation[0x0112] = 6
    turned = base.transpose(Image.Transpose.ROTATE_90)
    mirrored = ImageOps.mirror(base)
    clear = base.copy()
    clear.putalpha(255)
    cases: dict[str, bytes | Callable[[Path], object]] = {
        "good.jpg": jpeg,
        "empty.jpg": b"",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "text.jpg": b"this is no photo\n" * 40,
        "one-pixel.png": lambda path: Image.new("RGB", (1, 1), "red").save(path),
        "cmyk.jpg": lambda path: base.convert("CMYK").save(path, quality=92),
        "rgba.png": lambda path: clear.save(path),
        "grey-alpha.png": lambda path: clear.convert("LA").save(path),
        "grey-16-bit.png": lambda path: cv2.imwrite(str(path), grey16),
        "colour-16-bit.png": lambda path: cv2.imwrite(str(path), colour16),
        "animated.gif": lambda path: base.save(path, save_all=True, append_images=[mirrored]),
        "two-pages.tiff": lambda path: base.save(path, save_all=True, append_images=[mirrored]),
        "no-extension": jpeg,
        "orientation-6.jpg": lambda path: turned.save(path, quality=92, exif=orientation),
    }
    for name, content in cases.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            content(folder / name)
    return [folder / name for name in cases]


def telling_jpeg(path: Path, base: Image.Image) -> None:
    """A JPEG with a thumbnail of the face, GPS, artist, XMP, ICC-free, a comment and a trailer."""
    photo = base.copy()
    ImageDraw.Draw(photo).rectangle((0, 0, 40, 12), fill="white")  # drawn, so that it differs
    small = photo.copy()
    small.thumbnail((128, 160))
    exif = b"Exif\0\0" + _exif(_jpeg(small))
    xmp = (
        b"http://ns.adobe.com/xap/1.0/\0"
        + (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
            'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
            f'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:City="{PLANTED}-XMP"/>'
            "</rdf:RDF></x:xmpmeta>"
        ).encode()
    )
    comment = f"{PLANTED}-COMMENT".encode()
    segments = _segment(0xE1, exif) + _segment(0xE1, xmp) + _segment(0xFE, comment)
    jpeg = _jpeg(photo)
    path.write_bytes(jpeg[:2] + segments + jpeg[2:] + f"{PLANTED}-TRAILER".encode() * 8)


def _jpeg(picture: Image.Image) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=92)
    return sink.getvalue()


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _exif(thumbnail: bytes) -> bytes:
    """Artist and GPS in the first directory, the thumbnail in the second (TIFF 6, Exif 2.3)."""
    artist = f"{PLANTED}-ARTIST\0".encode()
    degrees = struct.pack("<6I", 52, 1, 31, 1, 12, 1)
    first, gps = 8, 8 + 2 + 12 * 2 + 4
    second = gps + 2 + 12 * 4 + 4
    values = second + 2 + 12 * 3 + 4
    places = [values, values + len(artist), values + len(artist) + 24]
    thumb_at = places[2] + 24
    offset = [struct.pack("<I", place) for place in (*places, gps, thumb_at, len(thumbnail))]
    position = [
        (1, 2, 2, b"N\0\0\0"),
        (2, 5, 3, offset[1]),
        (3, 2, 2, b"E\0\0\0"),
        (4, 5, 3, offset[2]),
    ]
    return b"".join(
        (
            b"II*\0" + struct.pack("<I", first),
            _directory([(0x013B, 2, len(artist), offset[0]), (0x8825, 4, 1, offset[3])], second),
            _directory(position, 0),
            _directory(
                [(0x0103, 3, 1, b"\6\0\0\0"), (0x0201, 4, 1, offset[4]), (0x0202, 4, 1, offset[5])],
                0,
            ),
            artist + degrees + degrees + thumbnail,
        )
    )


def _directory(entries: list[Entry], following: int) -> bytes:
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return struct.pack("<H", len(entries)) + body + struct.pack("<I", following)
