import io
import random
import struct

import numpy as np
import pytest
from PIL import Image

from moretta.photos.metadata import leftovers
from moretta.photos.wide import tiff


def saved(container, mode="RGB", size=(18, 13), **options):
    samples = np.random.default_rng(4).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(samples).convert(mode).save(written, container, **options)
    return written.getvalue()


def exif():
    tags = Image.Exif()
    tags[0x010F] = "a maker"
    return tags.tobytes()


def box(kind, body):
    return struct.pack(">I4s", len(body) + 8, kind) + body


def with_box_in_meta(planted):
    """Plant a box at the end of meta, and shift the places of what lies behind."""
    data = saved("AVIF")
    at = data.index(b"meta") - 4
    size = struct.unpack_from(">I", data, at)[0]
    grown = data[:at] + struct.pack(">I", size + len(planted)) + data[at + 4 : at + size]
    place = data.index(b"mdat") + 4
    assert grown.count(struct.pack(">I", place)) == 1
    grown = grown.replace(struct.pack(">I", place), struct.pack(">I", place + len(planted)))
    return grown + planted + data[at + size :]


def with_bigger_mdat():
    data = saved("AVIF")
    at = data.index(b"mdat") - 4
    return data[:at] + struct.pack(">I", len(data) - at + 6) + data[at + 4 :] + b"hidden"


def with_tag(tag, code, content):
    plain = tiff(np.zeros((4, 4, 3), np.uint8), None)
    index = struct.unpack_from("<I", plain, 4)[0]
    count = struct.unpack_from("<H", plain, index)[0]
    entries = [plain[index + 2 + 12 * n : index + 14 + 12 * n] for n in range(count)]
    entries.append(struct.pack("<HHI", tag, code, len(content)) + struct.pack("<I", index))
    content += bytes(len(content) % 2)
    head = plain[:4] + struct.pack("<I", index + len(content)) + plain[8:index] + content
    return head + struct.pack("<H", count + 1) + b"".join(sorted(entries)) + bytes(4)


PLANTED = {
    "tiff description": (with_tag(270, 2, b"who is on it\0"), "description"),
    "tiff xmp": (with_tag(700, 7, b"<x/> and more"), "XMP"),
    "tiff iptc": (with_tag(33723, 7, b"name of a person"), "IPTC"),
    "tiff unknown": (with_tag(60001, 7, b"anything at all"), "60001"),
    "tiff software": (saved("TIFF", tiffinfo={305: "a program"}), "software"),
    "tiff resolution": (saved("TIFF", dpi=(72, 72)), "282"),
    "tiff exif": (saved("TIFF", exif=exif()), "camera maker"),
    "tiff profile": (saved("TIFF", icc_profile=b"p" * 200), "profile"),
    "tiff pages": (saved("TIFF", save_all=True, append_images=[Image.new("L", (9, 9))]), "second"),
    "tiff trailer": (saved("TIFF") + b"more", "behind"),
    "big tiff": (saved("TIFF", big_tiff=True), "BigTIFF"),
    "avif exif": (saved("AVIF", exif=exif()), "Exif"),
    "avif xmp": (saved("AVIF", xmp=b"<x/>"), "mime"),
    "avif profile": (saved("AVIF", icc_profile=b"p" * 200), "profile"),
    "avif film": (saved("AVIF", save_all=True, append_images=[Image.new("RGB", (18, 13))]), "moov"),
    "avif user data": (saved("AVIF") + box(b"udta", b"name"), "udta"),
    "avif free": (saved("AVIF") + box(b"free", b"words"), "free"),
    "avif uuid": (with_box_in_meta(box(b"uuid", b"0123456789abcdef!")), "uuid"),
    "avif hidden": (with_bigger_mdat(), "6 bytes"),
    "avif item name": (saved("AVIF").replace(b"av01Color", b"av01Smith"), "name"),
    "avif handler": (saved("AVIF").replace(b"pict" + bytes(8), b"pict" + b"Jane Doe"), "handler"),
    "avif brand": (saved("AVIF").replace(b"MA1B", b"JANE"), "brand"),
    "avif item": (saved("AVIF").replace(b"av01Color", b"uri Color"), "uri"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name):
    data, words = PLANTED[name]
    found = leftovers(data, metadata="none")
    assert any(words in line for line in found), found


@pytest.mark.parametrize("container", ["TIFF", "AVIF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_plain_files_are_clean(container, mode):
    assert leftovers(saved(container, mode), metadata="none") == []


def test_a_large_avif_is_clean():
    assert leftovers(saved("AVIF", size=(700, 300)), metadata="none") == []


@pytest.mark.parametrize("container", ["TIFF", "AVIF"])
def test_a_profile_is_allowed_when_asked_for(container):
    assert leftovers(saved(container, icc_profile=b"p" * 200), metadata="profile") == []


def test_a_message_inside_the_stream_is_found():
    data = saved("AVIF")
    at = data.index(b"mdat") + 4
    assert data[at : at + 2] == b"\x12\x00"  # a temporal delimiter begins the item
    hidden = bytes([5 << 3]) + data[at + 1 :]  # now a metadata OBU without a size
    found = leftovers(data[:at] + hidden, metadata="none")
    assert found == ["OBU of type 5 in the AV1 stream"]


@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF"])
def test_damaged_files_get_an_answer(container):
    dice, whole = random.Random(1), saved(container)  # noqa: S311
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(dice.choice((1, 4))):
            data[dice.randrange(min(len(data), 400))] = dice.randrange(256)
        found = leftovers(
            bytes(data[: dice.randrange(len(data) // 2, len(data) + 1)]), metadata="none"
        )
        assert all(isinstance(line, str) for line in found)


def test_heic_crops_only_what_the_encoder_had_to_add():
    pillow_heif = pytest.importorskip("pillow_heif", reason="an extra")
    for size in ((23, 17), (64, 64), (101, 99), (1, 1), (301, 17)):
        written = io.BytesIO()
        pillow_heif.from_bytes("RGB", size, bytes(size[0] * size[1] * 3)).save(written)
        assert leftovers(written.getvalue(), metadata="none") == [], size
    written = io.BytesIO()
    pillow_heif.from_bytes("RGB", (301, 65), bytes(301 * 65 * 3)).save(written)
    narrower = written.getvalue().replace(struct.pack(">II", 301, 1), struct.pack(">II", 101, 1))
    assert "pixels hidden outside the crop" in leftovers(narrower, metadata="none")


def test_heic_metadata_is_found():
    pillow_heif = pytest.importorskip("pillow_heif", reason="an extra")
    for options in ({"exif": exif()}, {"xmp": b"<x/>"}, {"icc_profile": b"p" * 200}):
        written = io.BytesIO()
        pillow_heif.from_bytes("RGB", (64, 64), bytes(64 * 64 * 3)).save(written, **options)
        assert leftovers(written.getvalue(), metadata="none") != [], options
