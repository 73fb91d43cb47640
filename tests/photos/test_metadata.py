import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from moretta.photos.metadata import leftovers


def saved(container, mode="RGB", **options):
    samples = np.random.default_rng(4).integers(0, 256, (13, 18, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(samples).convert(mode).save(written, container, **options)
    return written.getvalue()


def exif():
    tags = Image.Exif()
    tags[0x010F] = "a maker"
    return tags.tobytes()


def segment(marker, body):
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def in_jpeg(planted, jpeg=None):
    jpeg = jpeg or saved("JPEG")
    return jpeg[:2] + planted + jpeg[2:]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def in_png(planted, png=None):
    png = png or saved("PNG")
    return png[:33] + planted + png[33:]


def in_webp(kind, body):
    webp = saved("WEBP")
    planted = webp + kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return planted[:4] + struct.pack("<I", len(planted) - 8) + planted[8:]


def in_bmp(at, planted):
    bmp = bytearray(saved("BMP"))
    bmp[at : at + len(planted)] = planted
    return bytes(bmp)


def more_idat():
    png, packed = saved("PNG"), zlib.compress(bytes(13 * 55 + 200))
    return png[:33] + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


THUMBNAIL = b"JFIF\0\1\1\0\0\1\0\1\1\1" + b"rgb"
PLANTED = {
    "comment": (in_jpeg(segment(0xFE, b"a person's name")), "comment"),
    "exif": (saved("JPEG", exif=exif()), "EXIF"),
    "xmp": (in_jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")), "XMP"),
    "mpf": (in_jpeg(segment(0xE2, b"MPF\0MM\0*\0\0\0\x08")), "MPF"),
    "iptc": (in_jpeg(segment(0xED, b"Photoshop 3.0\0")), "APP13"),
    "unknown app": (in_jpeg(segment(0xE7, b"depth")), "APP7"),
    "jfif thumbnail": (in_jpeg(segment(0xE0, THUMBNAIL)), "thumbnail"),
    "jpeg profile": (saved("JPEG", icc_profile=b"p" * 200), "profile"),
    "jpeg trailer": (saved("JPEG") + b"\0\0\0\x18ftypmp42", "behind"),
    "jpeg in jpeg": (in_jpeg(saved("JPEG")[:-2]), "second picture"),
    "stray bytes": (saved("JPEG")[:20] + b"hidden words" + saved("JPEG")[20:], "stray"),
    "long table": (in_jpeg(segment(0xDD, b"\0\0 and more")), "extra bytes"),
    "cut jpeg": (saved("JPEG")[:-2], "broken"),
    "png text": (in_png(chunk(b"tEXt", b"Author\0somebody")), "text"),
    "png xmp": (in_png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")), "XMP"),
    "png exif": (saved("PNG", exif=exif()), "EXIF"),
    "png time": (in_png(chunk(b"tIME", bytes(7))), "time"),
    "png private": (in_png(chunk(b"prVt", b"anything")), "prVt"),
    "png profile": (saved("PNG", icc_profile=b"p" * 200), "profile"),
    "png palette": (in_png(chunk(b"PLTE", b"abcdef")), "PLTE"),
    "png trailer": (saved("PNG") + b"more", "4 bytes behind"),
    "png checksum": (saved("PNG")[:-1] + b"\0", "checksum"),
    "png surplus": (more_idat(), "compressed"),
    "png animation": (
        saved("PNG", save_all=True, append_images=[Image.new("L", (18, 13))]),
        "acTL",
    ),
    "webp exif": (saved("WEBP", exif=exif()), "EXIF"),
    "webp xmp": (saved("WEBP", xmp=b"<x/>"), "XMP"),
    "webp profile": (saved("WEBP", icc_profile=b"p" * 200), "profile"),
    "webp private": (in_webp(b"JUNK", b"anything"), "JUNK"),
    "webp twice": (in_webp(b"VP8L", b"anything"), "second picture"),
    "webp trailer": (saved("WEBP") + b"more", "4 bytes behind"),
    "bmp trailer": (saved("BMP") + b"more", "size"),
    "bmp counted trailer": (
        in_bmp(2, struct.pack("<I", 54 + 56 * 13 + 4)) + b"more",
        "4 bytes behind",
    ),
    "bmp row ends": (in_bmp(54 + 54, b"hi"), "ends of rows"),
    "bmp reserved": (in_bmp(6, b"hi"), "size"),
    "bmp gap": (in_bmp(10, struct.pack("<I", 60)), "between"),
    "gif": (saved("GIF"), "unknown"),
    "letter": (b"dear reader", "unknown"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name):
    data, words = PLANTED[name]
    found = leftovers(data, metadata="none")
    assert any(words in line for line in found), found


@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P"])
def test_plain_files_are_clean(container, mode):
    if container == "JPEG" and mode in ("RGBA", "P"):
        mode = "CMYK"
    if container == "BMP" and mode == "RGBA":
        mode = "RGB"
    assert leftovers(saved(container, mode), metadata="none") == []


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_blocks": 1}, {"subsampling": 0}]
)
def test_every_kind_of_plain_jpeg_is_clean(options):
    assert leftovers(saved("JPEG", **options), metadata="none") == []


@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP"])
def test_a_profile_is_allowed_when_asked_for_and_nothing_else(container):
    data = saved(container, icc_profile=b"p" * 200)
    assert leftovers(data, metadata="profile") == []
    data = saved(container, icc_profile=b"p" * 200, exif=exif())
    assert leftovers(data, metadata="profile") != []


def test_words_behind_a_png_profile_are_found():
    body = b"ICC Profile\0\0" + zlib.compress(b"p" * 200) + b"hidden"
    assert leftovers(in_png(chunk(b"iCCP", body)), metadata="profile") != []
    body = b"somebody's name\0\0" + zlib.compress(b"p" * 200)
    assert leftovers(in_png(chunk(b"iCCP", body)), metadata="profile") != []


def test_an_interlaced_png_is_measured_rightly():
    filtered = b"".join(
        b"\0" + bytes(columns * 3)
        for columns, rows in ((2, 1), (1, 1), (3, 1), (2, 2), (5, 2), (5, 4), (10, 3))
        for _ in range(rows)
    )  # Adam7 of 10 x 7
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 10, 7, 8, 2, 0, 0, 1))
    png = (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(filtered)) + chunk(b"IEND", b"")
    )
    Image.open(io.BytesIO(png)).load()
    assert leftovers(png, metadata="none") == []


def test_text_written_by_pillow_is_found():
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "who is on it", zip=True)
    assert leftovers(saved("PNG", pnginfo=text), metadata="none") == ["text (zTXt)"]
