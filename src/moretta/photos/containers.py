"""What is in a TIFF, an AVIF or a HEIC beyond what shows the pixels?

Both formats point to their contents, so besides the allow-list every byte must be pointed to.
Sources   TIFF 6.0; ISO/IEC 14496-12 (boxes), 23008-12 (items); AV1 bitstream 5.3 (OBUs);
          ISO/IEC 14496-15 (HEVC in boxes).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moretta.errors import count_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIFF_TAGS = {
    256,
    257,
    258,
    259,
    262,
    266,
    273,
    277,
    278,
    279,
    284,
    317,
    320,
    322,
    323,
    324,
    325,
    338,
    339,
}
_TIFF_WORDS = {
    254: "picture kind",
    270: "description",
    271: "camera maker",
    272: "camera model",
    274: "orientation",
    305: "software",
    306: "time",
    315: "artist",
    330: "sub-pictures",
    700: "XMP",
    33432: "copyright",
    33723: "IPTC",
    34377: "Photoshop block",
    34665: "EXIF",
    34675: "colour profile",
    34853: "GPS",
}
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}


def tiff_leftovers(data: bytes, profile: bool) -> Iterator[str]:
    """Yield in words what a TIFF holds beyond its one picture. Raises ValueError if broken."""
    order = "<" if data[:2] == b"II" else ">"
    if struct.unpack_from(order + "H", data, 2)[0] != 42:
        raise ValueError("BigTIFF")
    index = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, index)[0]
    end = index + 2 + 12 * count
    spans = [(0, 8), (index, end + 4)]
    numbers: dict[int, tuple[int, ...]] = {}
    for at in range(index + 2, end, 12):
        tag, code, length = struct.unpack_from(order + "HHI", data, at)
        if tag not in _TIFF_TAGS and not (profile and tag == 34675):
            yield f"TIFF tag {tag} ({_TIFF_WORDS.get(tag, 'unknown')})"
        if tag in numbers:
            yield f"TIFF tag {tag} twice"
        size = _TIFF_SIZES.get(code, 0) * length
        place = at + 8
        if size > 4:
            place = struct.unpack_from(order + "I", data, place)[0]
            spans.append((place, place + size))
        elif any(data[at + 8 + size : at + 12]):
            yield f"bytes hidden behind the value of TIFF tag {tag}"
        letter = {3: "H", 4: "I"}.get(code)
        numbers[tag] = struct.unpack_from(f"{order}{length}{letter}", data, place) if letter else ()
    if struct.unpack_from(order + "I", data, end)[0]:
        yield "a second picture"
    for starts, lengths in ((273, 279), (324, 325)):
        pairs = zip(numbers.get(starts, ()), numbers.get(lengths, ()), strict=True)
        spans += [(start, start + length) for start, length in pairs]
    yield from _unpointed(data, 0, len(data), spans)


def _unpointed(data: bytes, start: int, stop: int, spans: list[tuple[int, int]]) -> Iterator[str]:
    place = start
    for first, last in sorted(spans):
        if last > stop or first < start:
            raise ValueError("cut off")
        if first > place and (first - place > 1 or data[place]):  # one zero byte may align
            yield f"{count_of(first - place, 'byte')} that nothing points to"
        place = max(place, last)
    if place < stop:
        yield f"{count_of(stop - place, 'byte')} behind the picture"


_BRANDS = {
    b"avif", b"mif1", b"miaf", b"MA1A", b"MA1B", b"heic", b"heix", b"mif2", b"1pic"
}  # fmt: skip
_PROPERTIES = {
    b"ispe",
    b"pixi",
    b"av1C",
    b"hvcC",
    b"auxC",
    b"irot",
    b"imir",
    b"pasp",
    b"colr",
    b"clap",
}
_ALPHA = {b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"}
_PICTURES = {b"av01", b"hvc1", b"grid"}


@dataclass
class _Items:
    """What a meta box says, gathered while walking it."""

    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    extents: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)  # method, from, to
    references: list[tuple[bytes, int, list[int]]] = field(default_factory=list)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    has: dict[int, list[int]] = field(default_factory=dict)  # item -> indices of properties, from 1
    inner: tuple[int, int] = (0, 0)  # the idat box


def box_leftovers(data: bytes, profile: bool) -> Iterator[str]:
    """Yield in words what an AVIF or HEIC holds beyond its picture. Raises ValueError if broken."""
    payloads: list[tuple[int, int]] = []
    items = None
    for number, (kind, start, end) in enumerate(boxes(data, 0, len(data))):
        if kind == b"ftyp" and number == 0:
            brands = {data[at : at + 4] for at in (start, *range(start + 8, end, 4))}
            if brands - _BRANDS or any(data[start + 4 : start + 8]):
                yield "unknown brand"
        elif kind == b"meta" and items is None:
            items = _Items()
            yield from _meta(data, start + 4, end, items)
        elif kind == b"mdat":
            payloads.append((start, end))
        elif kind != b"free" or any(data[start:end]):
            yield f"box {_name(kind)}"
    if items is None:
        raise ValueError("no meta box")
    yield from _property_leftovers(items, profile)
    yield from _item_leftovers(data, items)
    spans = [extent for extents in items.extents.values() for extent in extents]
    for start, end in payloads:
        within = [(a, b) for method, a, b in spans if method == 0 and start <= a < end]
        yield from _unpointed(data, start, end, within)
    start, end = items.inner
    within = [(start + a, start + b) for method, a, b in spans if method == 1]
    yield from _unpointed(data, start, end, within)


def boxes(data: bytes, place: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of each box's body in data[place:stop]. Raises ValueError if cut."""
    while place < stop:
        size, kind = struct.unpack_from(">I4s", data, place)
        start = place + 8
        if size == 1:
            size, start = struct.unpack_from(">Q", data, start)[0], start + 8
        end = stop if size == 0 else place + size
        if end > stop or end < start:
            raise ValueError("cut off inside a box")
        yield kind, start, end
        place = end


def _meta(data: bytes, start: int, stop: int, items: _Items) -> Iterator[str]:
    for kind, at, end in boxes(data, start, stop):
        if kind == b"hdlr":
            if (
                data[at + 8 : at + 12] != b"pict"
                or any(data[at : at + 8])
                or any(data[at + 12 : end])
            ):
                yield "a named handler"
        elif kind == b"pitm":
            items.primary = int.from_bytes(data[at + 4 : end], "big")
        elif kind == b"iloc":
            _iloc(data, at, items)
        elif kind == b"iinf":
            skip = 6 if data[at] == 0 else 8
            for inner, first, last in boxes(data, at + skip, end):
                yield from _infe(data, inner, first, last, items)
        elif kind == b"iref":
            wide = 4 if data[at] else 2
            for inner, first, last in boxes(data, at + 4, end):
                numbers = [
                    int.from_bytes(data[n : n + wide], "big")
                    for n in range(first + wide + 2, last, wide)
                ]
                source = int.from_bytes(data[first : first + wide], "big")
                items.references.append((inner, source, numbers))
        elif kind == b"iprp":
            for inner, first, last in boxes(data, at, end):
                if inner == b"ipco":
                    for name, body, behind in boxes(data, first, last):
                        items.properties.append((name, data[body:behind]))
                elif inner == b"ipma":
                    _ipma(data, first, items)
                else:
                    yield f"box {_name(inner)}"
        elif kind == b"idat":
            items.inner = (at, end)
        else:
            yield f"box {_name(kind)}"


def _infe(data: bytes, kind: bytes, at: int, end: int, items: _Items) -> Iterator[str]:
    version = data[at]
    if kind != b"infe" or version not in (2, 3):
        raise ValueError("unknown item entry")
    wide = 2 if version == 2 else 4
    number = int.from_bytes(data[at + 4 : at + 4 + wide], "big")
    place = at + 6 + wide
    items.kinds[number] = data[place : place + 4]
    if data[place + 4 : end].rstrip(b"\0") not in (b"", b"Color", b"Alpha"):
        yield "an item with a name of its own"


def _iloc(data: bytes, at: int, items: _Items) -> None:
    version = data[at]
    sizes = data[at + 4] >> 4, data[at + 4] & 15, data[at + 5] >> 4, data[at + 5] & 15
    place = at + 6

    def number(width: int) -> int:
        nonlocal place
        place += width
        if place > len(data):
            raise ValueError("cut off")
        return int.from_bytes(data[place - width : place], "big")

    wide = 4 if version == 2 else 2
    for _ in range(number(wide)):
        item = number(wide)
        method = number(2) & 15 if version else 0
        if number(2) or method > 1:
            raise ValueError("an item outside the file")
        base = number(sizes[2])
        found = items.extents.setdefault(item, [])
        for _ in range(number(2)):
            number(sizes[3] if version else 0)
            start = base + number(sizes[0])
            found.append((method, start, start + number(sizes[1])))


def _ipma(data: bytes, at: int, items: _Items) -> None:
    version, flags = data[at], data[at + 3]
    wide = 4 if version else 2
    count, place = struct.unpack_from(">I", data, at + 4)[0], at + 8
    for _ in range(count):
        item = int.from_bytes(data[place : place + wide], "big")
        many, place = data[place + wide], place + wide + 1
        step = 2 if flags & 1 else 1
        mask = 0x7FFF if flags & 1 else 0x7F
        found = range(place, place + many * step, step)
        items.has[item] = [int.from_bytes(data[n : n + step], "big") & mask for n in found]
        place += many * step


def _property_leftovers(items: _Items, profile: bool) -> Iterator[str]:
    for kind, body in items.properties:
        if kind not in _PROPERTIES:
            yield f"property {_name(kind)}"
        elif kind == b"colr" and body[:4] != b"nclx" and not profile:
            yield "colour profile"
        elif kind == b"auxC" and body[4:].rstrip(b"\0") not in _ALPHA:
            yield "an auxiliary picture that is not transparency"
        elif kind == b"av1C":
            yield from _obu_leftovers(body[4:])
        elif kind == b"hvcC":
            yield from _hvcc_leftovers(body)


def _item_leftovers(data: bytes, items: _Items) -> Iterator[str]:
    for kind, _, _ in items.references:
        if kind not in (b"auxl", b"dimg", b"prem"):
            yield f"item reference {_name(kind)}"
    needed = {items.primary}
    needed |= {
        item for kind, item, to in items.references if kind == b"auxl" and items.primary in to
    }
    needed |= {
        n for kind, item, to in items.references if kind == b"dimg" and item in needed for n in to
    }
    for item in items.extents.keys() | items.kinds.keys():
        kind = items.kinds.get(item, b"none")
        if kind not in _PICTURES:
            yield f"item of type {_name(kind)}"
        elif item not in needed:
            yield "another picture"
        parts = []
        for method, start, end in items.extents.get(item, []):
            shift = items.inner[0] if method else 0
            parts.append(data[shift + start : shift + end])
        if _crops(items, item):
            yield "pixels hidden outside the crop"
        if kind == b"av01":
            yield from _obu_leftovers(b"".join(parts))
        elif kind == b"hvc1":
            yield from _nal_leftovers(b"".join(parts), _nal_width(items, item))


def _crops(items: _Items, item: int) -> bool:
    """Whether more is cut away than an encoder had to add: to even sizes, or to 64 pixels."""
    mine = dict(items.properties[index - 1] for index in items.has.get(item, []) if index)
    if b"clap" not in mine:
        return False
    sizes = struct.unpack_from(">II", mine[b"ispe"], 4) if b"ispe" in mine else (0, 0)
    clap = struct.unpack(">8i", mine[b"clap"])
    for axis, size in enumerate(sizes):
        shown, over, shift, under = *clap[2 * axis : 2 * axis + 2], *clap[2 * axis + 4 :][:2]
        hidden = size - shown
        if over != 1 or hidden < 0 or (hidden > 1 and size != 64):
            return True
        if 2 * shift != -hidden * under:  # what shows must begin at the top left
            return True
    return False


def _obu_leftovers(stream: bytes) -> Iterator[str]:
    place = 0
    while place < len(stream):
        head = stream[place]
        kind, place = head >> 3 & 15, place + 1 + (head >> 2 & 1)
        size = len(stream) - place
        if head & 2:
            size, shift = 0, 0
            while True:
                byte = stream[place]
                size, shift, place = size | (byte & 127) << shift, shift + 7, place + 1
                if byte < 128:
                    break
        place += size
        if place > len(stream):
            raise ValueError("cut off inside an OBU")
        if kind not in (1, 2, 3, 4, 6):  # sequence, delimiter, frame header, tiles, frame
            yield f"OBU of type {kind} in the AV1 stream"


def _nal_width(items: _Items, item: int) -> int:
    for index in items.has.get(item, []):
        kind, body = items.properties[index - 1]
        if kind == b"hvcC":
            return (body[21] & 3) + 1
    raise ValueError("no hvcC property")


def _nal_leftovers(stream: bytes, width: int) -> Iterator[str]:
    place = 0
    while place < len(stream):
        size = int.from_bytes(stream[place : place + width], "big")
        kind = stream[place + width] >> 1 & 63
        place += width + size
        if place > len(stream):
            raise ValueError("cut off inside a NAL unit")
        if kind > 34:  # 32..34 are parameter sets; 39 and 40 carry messages
            yield f"NAL unit of type {kind} in the HEVC stream"


def _hvcc_leftovers(body: bytes) -> Iterator[str]:
    place = 23
    for _ in range(body[22]):
        kind, count, place = (
            body[place] & 63,
            int.from_bytes(body[place + 1 : place + 3], "big"),
            place + 3,
        )
        if kind not in (32, 33, 34):
            yield f"NAL unit of type {kind} in the HEVC header"
        for _ in range(count):
            place += 2 + int.from_bytes(body[place : place + 2], "big")
    if place != len(body):
        yield "extra bytes in the HEVC header"


def _name(kind: bytes) -> str:
    return kind.decode("latin-1").strip()
