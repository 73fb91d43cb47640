import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from moretta.errors import PhotoError
from moretta.photos.decode import decode
from moretta.photos.encode import encode_photo
from moretta.photos.metadata import leftovers
from moretta.photos.wide import png16


def profile(matrix, gamma):
    """A small ICC version 2 matrix profile; matrix (3, 3) holds XYZ of red, green, blue in rows."""

    def fixed(*numbers):
        return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    def xyz(numbers):
        return b"XYZ \0\0\0\0" + fixed(*numbers)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    title = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + bytes(79)
    tags = {
        b"desc": title,
        b"wtpt": xyz((0.9642, 1.0, 0.8249)),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
    }
    tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(xyz, matrix), strict=True))
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, place = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(body), len(content))
        body += padded
    size = place + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


WIDE = profile([(0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)], 2.2)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def drawn(*shape, dtype=np.uint8):
    return np.random.default_rng(2).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def saved(samples, container="PNG", **options):
    written = io.BytesIO()
    Image.fromarray(samples).save(written, container, **options)
    return written.getvalue()


def read(data, metadata="none"):
    return decode(data, name="a", metadata=metadata, max_pixels=10**6)


def test_srgb_is_dropped_and_pixels_stay():
    samples = drawn(8, 8, 3)
    photo = read(saved(samples, icc_profile=SRGB))
    assert np.array_equal(photo.native, samples)
    assert (photo.icc, photo.notes) == (None, ())


@pytest.mark.parametrize("channels", [3, 4])
def test_another_profile_is_converted_as_littlecms_does(channels):
    samples = drawn(8, 8, channels)
    photo = read(saved(samples, icc_profile=WIDE))
    expected = ImageCms.profileToProfile(
        Image.fromarray(samples[..., :3].copy()),
        ImageCms.ImageCmsProfile(io.BytesIO(WIDE)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert photo.notes == ("colour profile converted to sRGB",)
    assert np.array_equal(photo.pixels, np.asarray(expected))
    assert np.array_equal(photo.native[..., 3:], samples[..., 3:])
    assert np.abs(photo.pixels.astype(int) - samples[..., :3]).max() > 20  # it mattered


@pytest.mark.parametrize("container", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_kept_profile_survives_and_is_allowed_only_when_asked_for(container):
    photo = read(saved(drawn(8, 8, 3), container, icc_profile=WIDE), "profile")
    assert photo.icc == WIDE
    data = encode_photo(photo, photo.pixels, np.zeros((8, 8), bool), metadata="profile")
    assert Image.open(io.BytesIO(data)).info["icc_profile"] == WIDE
    assert leftovers(data, metadata="profile") == []
    assert leftovers(data, metadata="none") != []
    with pytest.raises(ValueError, match="profile"):
        encode_photo(photo, photo.pixels, np.zeros((8, 8), bool), metadata="none")


@pytest.mark.parametrize("container", ["png", "tiff"])
def test_sixteen_bits_keep_their_profile_or_are_refused(container):
    samples = drawn(8, 8, 3, dtype=np.uint16)
    data = png16(samples, WIDE)
    with pytest.raises(PhotoError, match="16-bit") as caught:
        read(data)
    assert "--metadata profile" in caught.value.hint
    photo = read(data, "profile")
    nothing = np.zeros((8, 8), bool)
    again = encode_photo(photo, photo.pixels, nothing, format=container, metadata="profile")
    assert np.array_equal(read(again, "profile").native, samples)
    assert read(again, "profile").icc == WIDE


def test_bmp_cannot_hold_a_profile():
    photo = read(saved(drawn(8, 8, 3), icc_profile=WIDE), "profile")
    nothing = np.zeros((8, 8), bool)
    with pytest.raises(PhotoError, match="profile"):
        encode_photo(photo, photo.pixels, nothing, format="bmp", metadata="profile")


@pytest.mark.parametrize("metadata", ["none", "profile"])
def test_a_broken_profile_is_noted_and_ignored(metadata):
    samples = drawn(8, 8, 3)
    photo = read(saved(samples, icc_profile=b"not a profile" * 20), metadata)
    assert photo.notes == ("the colour profile is broken and was ignored",)
    assert np.array_equal(photo.native, samples)
    assert photo.icc is None


def test_grey_with_a_colour_profile_stays_grey():
    photo = read(saved(drawn(8, 8), icc_profile=WIDE))
    assert (photo.kind, photo.native.shape) == ("grey", (8, 8))
    assert len(photo.notes) == 1


def test_cmyk_without_a_profile_uses_the_plain_formula():
    cmyk = drawn(8, 8, 4)
    written = io.BytesIO()
    Image.fromarray(cmyk, "CMYK").save(written, "TIFF")
    photo = read(written.getvalue())
    ink = 255 - cmyk.astype(float)
    expected = ink[..., :3] * ink[..., 3:] / 255
    assert np.abs(photo.pixels - expected).max() <= 1.5
    assert photo.notes == ("CMYK without a profile converted by the plain formula",)
