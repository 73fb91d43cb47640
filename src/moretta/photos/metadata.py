"""What is in these bytes beyond what shows the pixels? An allow-list: the unknown is a leftover.

Promise   `leftovers` names every segment, chunk, box, tag or stray byte that is not needed.
Not here  what the pixels themselves show, and what a profile says when profiles are kept.
Sources   ITU T.81 annex B (JPEG), PNG third edition, RFC 9649 (WebP), the BMP header as documented.
          TIFF, AVIF and HEIC are in containers.py.
Checked   tests/photos/test_metadata.py plants each thing and expects it to be found.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import TYPE_CHECKING

from moretta.errors import count_of
from moretta.photos.containers import box_leftovers, tiff_leftovers
from moretta.photos.photo import sniff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moretta.photos.photo import Metadata

STRAY = -1  # "marker" of bytes between JPEG segments
SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive


def leftovers(data: bytes, *, metadata: Metadata) -> list[str]:
    r"""Return, in words, everything in `data` that is not needed to show its pixels.

    With metadata "profile" one colour profile is allowed. An empty list means clean.

    >>> leftovers(b"hello", metadata="none")
    ['not a photo: unknown container']
    """
    walk = _WALKS.get(sniff(data[:512]) or "")
    if walk is None:
        return ["not a photo: unknown container"]
    try:
        return list(walk(data, metadata == "profile"))
    except (struct.error, IndexError, ValueError, OverflowError, zlib.error) as fault:
        return [f"structure broken: {fault}"]


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment's body up to the first EOI, stray bytes as STRAY.

    The body of SOS is its header; the scan behind it is skipped. Raises ValueError if `data` ends
    before EOI.
    """
    place = 0
    while True:
        found = data.find(b"\xff", place)
        while found >= 0 and data[found + 1 : found + 2] in (b"\xff", b"\x00"):
            found = data.find(b"\xff", found + 1)
        if found < 0 or found + 1 >= len(data):
            raise ValueError("cut off: no end-of-image marker")
        if found > place:
            yield STRAY, place, found
        marker, place = data[found + 1], found + 2
        if marker in (SOI, EOI, 0x01) or 0xD0 <= marker <= 0xD7:
            yield marker, place, place
            if marker == EOI:
                return
            continue
        end = place + int.from_bytes(data[place : place + 2], "big")
        if end > len(data) or end < place + 2:
            raise ValueError("cut off inside a segment")
        yield marker, place + 2, end
        place = end
        if marker == SOS:
            behind = _SCAN_END.search(data, place)
            if behind is None:
                raise ValueError("cut off: no end-of-image marker")
            place = behind.start()


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of each chunk's body up to IEND.

    Raises ValueError if `data` ends before IEND or a checksum is wrong.
    """
    place = 8
    while True:
        if place + 12 > len(data):
            raise ValueError("cut off: no IEND chunk")
        size, kind = struct.unpack_from(">I4s", data, place)
        start, end = place + 8, place + 8 + size
        if end + 4 > len(data):
            raise ValueError("cut off inside a chunk")
        if zlib.crc32(memoryview(data)[place + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"checksum of {_name(kind)} is wrong")
        yield kind, start, end
        place = end + 4
        if kind == b"IEND":
            return


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of each chunk of a WebP. Raises ValueError if it is cut off."""
    stop = 8 + int.from_bytes(data[4:8], "little")
    if stop > len(data):
        raise ValueError("cut off")
    place = 12
    while place < stop:
        kind, size = struct.unpack_from("<4sI", data, place)
        start, end = place + 8, place + 8 + size
        if end > stop:
            raise ValueError("cut off inside a chunk")
        yield kind, start, end
        place = end + size % 2


def _jpeg(data: bytes, profile: bool) -> Iterator[str]:
    frames, last = 0, 0
    for marker, start, end in jpeg_segments(data):
        body = data[start:end]
        last = end
        if marker == STRAY:
            yield f"{count_of(end - start, 'stray byte')} between segments"
        elif marker == 0xE0 and body[:5] == b"JFIF\0":
            if len(body) != 14 or body[12:14] != b"\0\0":
                yield "JFIF thumbnail"
        elif marker == 0xE2 and body[:12] == b"ICC_PROFILE\0":
            if not profile:
                yield "colour profile"
        elif marker in _FRAMES:
            frames += 1
            if frames > 1:
                yield "a second picture"
            if len(body) != 6 + 3 * body[5]:
                yield "extra bytes in the frame header"
        elif marker == SOI:
            if start != 2:
                yield "a second picture"
        elif marker in _JPEG_EXACT:
            if not _JPEG_EXACT[marker](body):
                yield f"extra bytes in segment {marker:02X}"
        elif marker != EOI:
            yield _jpeg_words(marker, body)
    if last < len(data):
        yield f"{count_of(len(data) - last, 'byte')} behind the picture"


def _jpeg_words(marker: int, body: bytes) -> str:
    if marker == 0xFE:
        return "comment"
    if marker == 0xE1:
        return "EXIF" if body[:4] == b"Exif" else "XMP" if b"xap" in body[:40] else "APP1 segment"
    if marker == 0xE2 and body[:4] == b"MPF\0":
        return "multi-picture index (MPF)"
    return f"APP{marker - 0xE0} segment" if 0xE0 <= marker <= 0xEF else f"segment {marker:02X}"


def _dqt_exact(body: bytes) -> bool:
    place = 0
    while place < len(body):
        place += 65 if body[place] < 16 else 129
    return place == len(body)


def _dht_exact(body: bytes) -> bool:
    place = 0
    while place < len(body):
        place += 17 + sum(body[place + 1 : place + 17])
    return place == len(body)


_JPEG_EXACT: dict[int, Callable[[bytes], bool]] = {  # is every byte of the body accounted for?
    0xC4: _dht_exact,
    0xDB: _dqt_exact,
    0xDD: lambda body: len(body) == 2,  # restart interval
    SOS: lambda body: len(body) == 4 + 2 * body[0],
    0xEE: lambda body: len(body) == 12 and body[:5] == b"Adobe",
}


def _png(data: bytes, profile: bool) -> Iterator[str]:
    seen: list[bytes] = []
    packed: list[memoryview] = []
    last = 8
    for kind, start, end in png_chunks(data):
        size, last = end - start, end + 4
        if kind == b"IDAT":
            packed.append(memoryview(data)[start:end])
        elif kind in seen:
            yield f"a second {_name(kind)} chunk"
        elif kind == b"iCCP" and profile:
            if not _pure_iccp(data[start:end]):
                yield "iCCP chunk holds more than a profile"
        elif not _png_needs(kind, size, data[25]):
            yield _PNG_WORDS.get(kind, f"{_name(kind)} chunk")
        seen.append(kind)
    if last < len(data):
        yield f"{count_of(len(data) - last, 'byte')} behind the picture"
    if _png_surplus(packed, _png_raw_size(data)):
        yield "bytes hidden behind the compressed pixels"


def _png_needs(kind: bytes, size: int, colour_type: int) -> bool:
    if kind == b"PLTE":
        return colour_type == 3 and 3 <= size <= 768 and size % 3 == 0
    if kind == b"tRNS":
        return size <= {0: 2, 2: 6, 3: 256}.get(colour_type, 0)
    return size == {b"IHDR": 13, b"IEND": 0, b"sRGB": 1, b"gAMA": 4}.get(kind)


_PNG_WORDS = {
    b"tEXt": "text (tEXt)",
    b"zTXt": "text (zTXt)",
    b"iTXt": "text or XMP (iTXt)",
    b"eXIf": "EXIF (eXIf)",
    b"iCCP": "colour profile (iCCP)",
    b"tIME": "time (tIME)",
    b"acTL": "animation (acTL)",
}


def _pure_iccp(body: bytes) -> bool:
    opened = zlib.decompressobj()
    opened.decompress(body[13:])
    return body[:13] == b"ICC Profile\0\0" and opened.eof and not opened.unused_data


def _png_raw_size(data: bytes) -> int:
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 4)
    if not interlaced:
        return int(height * (1 + (width * bits + 7) // 8))
    total = 0
    for left, top, across, down in _ADAM7:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        total += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
    return total


_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def _png_surplus(packed: list[memoryview], expected: int) -> bool:
    opened, length = zlib.decompressobj(), 0
    for part in packed:
        waiting: bytes | memoryview = part
        while waiting and length <= expected:
            if opened.eof:
                return True
            length += len(opened.decompress(waiting, 1 << 20))
            waiting = opened.unconsumed_tail
    while not opened.eof and length <= expected:
        more = len(opened.decompress(opened.unconsumed_tail, 1 << 20))
        if not more:
            raise ValueError("compressed pixels are cut off")
        length += more
    return length != expected or bool(opened.unused_data)


def _webp(data: bytes, profile: bool) -> Iterator[str]:
    pictures, last = 0, 12
    for kind, start, end in riff_chunks(data):
        last = end + (end - start) % 2
        if any(data[end:last]):
            yield "a padding byte that is not zero"
        if kind in (b"VP8 ", b"VP8L"):
            pictures += 1
            if pictures > 1:
                yield "a second picture"
        elif kind == b"VP8X":
            if (
                end - start != 10
                or data[start] & ~(0x30 if profile else 0x10)
                or any(data[start + 1 : start + 4])
            ):
                yield "header announces metadata"
        elif kind == b"ICCP":
            if not profile:
                yield "colour profile"
        elif kind != b"ALPH":
            yield f"{_name(kind)} chunk"
    if last != len(data):
        yield f"{count_of(len(data) - last, 'byte')} behind the picture"


def _bmp(data: bytes, profile: bool) -> Iterator[str]:
    size, reserved, offset, header = struct.unpack_from("<IIII", data, 2)
    width, height, _, bits, packing = struct.unpack_from("<iiHHI", data, 18)
    colours = struct.unpack_from("<I", data, 46)[0]
    if size != len(data) or reserved:
        yield "size in the header is not the file's size"
    if header != 40 or packing:
        raise ValueError("unknown kind of BMP")
    palette = 4 * (colours or 2**bits) if bits <= 8 else 0
    if offset != 54 + palette:
        yield "bytes between header and pixels"
    used, stride = (width * bits + 7) // 8, (width * bits + 31) // 32 * 4
    if len(data) > offset + stride * abs(height):
        yield f"{count_of(len(data) - offset - stride * abs(height), 'byte')} behind the picture"
    if any(any(data[at + used : at + stride]) for at in range(offset, len(data), stride or 1)):
        yield "bytes hidden at the ends of rows"
    if bits == 32 and any(data[offset + 3 :: 4]):
        yield "a hidden fourth channel"


def _name(kind: bytes) -> str:
    return kind.decode("latin-1").strip()


_WALKS = {
    "jpeg": _jpeg,
    "png": _png,
    "webp": _webp,
    "bmp": _bmp,
    "tiff": tiff_leftovers,
    "avif": box_leftovers,
    "heic": box_leftovers,
}
