import io
import random
import struct

import numpy as np
import pytest
from PIL import Image

from moretta.errors import PhotoError
from moretta.photos.decode import decode, turn_upright
from moretta.photos.photo import Photo
from moretta.photos.wide import png16, tiff

TURNS = {  # what a viewer does for each EXIF orientation, in Pillow's words
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read(data, metadata="none") -> Photo:
    return decode(data, name="a", metadata=metadata, max_pixels=10**6)


def drawn(*shape, dtype=np.uint8):
    return np.random.default_rng(3).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def saved(picture, container, **options):
    written = io.BytesIO()
    picture.save(written, container, **options)
    return written.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def upright(samples, orientation):
    if orientation == 1:
        return samples
    turned = [np.asarray(Image.fromarray(plane).transpose(TURNS[orientation])) for plane in samples]
    return np.stack(turned)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("container", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_every_orientation_is_turned_upright(container, orientation):
    samples = np.kron(drawn(3, 4, 3), np.ones((16, 16, 1), np.uint8))
    options = {"lossless": True} if container == "WEBP" else {}
    if container in ("JPEG", "AVIF"):
        options = {"quality": 100, "subsampling": "4:4:4"}
    if container == "TIFF":
        data = saved(Image.fromarray(samples), container, tiffinfo={0x0112: orientation})
    else:
        data = saved(Image.fromarray(samples), container, exif=exif(orientation), **options)
    photo = read(data)
    expected = np.moveaxis(upright(np.moveaxis(samples, 2, 0), orientation), 0, 2)
    assert photo.pixels.shape == expected.shape
    worst = np.abs(photo.pixels.astype(int) - expected).max()
    assert worst <= (12 if container in ("JPEG", "AVIF") else 0)
    assert any("turned upright" in note for note in photo.notes) == (orientation > 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_arrays_of_every_kind_are_turned(orientation, channels, dtype):
    samples = drawn(5, 7, channels, dtype=dtype)
    samples = samples[..., 0] if channels == 1 else samples
    planes = samples[None] if channels == 1 else np.moveaxis(samples, 2, 0)
    expected = upright(planes, orientation)
    turned = turn_upright(samples, orientation)
    assert turned.dtype == dtype
    assert np.array_equal(turned[None] if channels == 1 else np.moveaxis(turned, 2, 0), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bit_tiff_is_turned(orientation):
    samples = drawn(5, 7, 3, dtype=np.uint16)
    plain = tiff(samples, None)
    index = struct.unpack_from("<I", plain, 4)[0]
    count = struct.unpack_from("<H", plain, index)[0]
    entries = [plain[index + 2 + 12 * n : index + 14 + 12 * n] for n in range(count)]
    entries.append(struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0))
    new = struct.pack("<H", count + 1) + b"".join(sorted(entries)) + bytes(4)
    photo = read(plain[:index] + new)
    expected = np.moveaxis(upright(np.moveaxis(samples, 2, 0), orientation), 0, 2)
    assert np.array_equal(photo.native, expected)


@pytest.mark.parametrize(
    ("mode", "container", "kind"),
    [
        ("1", "PNG", "grey"),
        ("L", "PNG", "grey"),
        ("L", "JPEG", "grey"),
        ("LA", "PNG", "grey+alpha"),
        ("LA", "TIFF", "grey+alpha"),
        ("P", "PNG", "rgb"),
        ("P", "TIFF", "rgb"),
        ("PA", "TIFF", "rgba"),
        ("RGB", "BMP", "rgb"),
        ("RGBA", "PNG", "rgba"),
        ("RGBA", "TIFF", "rgba"),
        ("RGBA", "WEBP", "rgba"),
        ("RGBA", "AVIF", "rgba"),
        ("CMYK", "JPEG", "rgb"),
        ("CMYK", "TIFF", "rgb"),
        ("YCbCr", "TIFF", "rgb"),
    ],
)
def test_every_mode_has_its_kind(mode, container, kind):
    picture = Image.fromarray(drawn(6, 8, 3)).convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.fromarray(drawn(6, 8)))
    photo = read(saved(picture, container))
    channels = {"grey": (), "grey+alpha": (2,), "rgb": (3,), "rgba": (4,)}[kind]
    assert (photo.kind, photo.depth) == (kind, 8)
    assert photo.native.shape == (6, 8, *channels)
    assert photo.pixels.shape == (6, 8, 3)
    assert photo.pixels.dtype == np.uint8
    assert not photo.pixels.flags.writeable
    assert not photo.native.flags.writeable


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_unusual_modes_are_refused(mode):
    with pytest.raises(PhotoError, match=f"mode {mode} is not supported"):
        read(saved(Image.new(mode, (4, 4)), "TIFF"))


def test_plain_rgb_is_not_copied():
    photo = read(saved(Image.fromarray(drawn(6, 8, 3)), "PNG"))
    assert photo.native is photo.pixels


def test_colours_under_full_transparency_stay_visible_to_detectors():
    samples = drawn(6, 8, 4)
    samples[..., 3] = 0
    photo = read(saved(Image.fromarray(samples), "PNG"))
    assert np.array_equal(photo.pixels, samples[..., :3])


def test_a_palette_with_transparency_becomes_rgba():
    picture = Image.fromarray(drawn(6, 8, 3)).quantize(16)
    photo = read(saved(picture, "PNG", transparency=3))
    assert photo.kind == "rgba"
    assert np.array_equal(photo.native[..., 3] == 0, np.asarray(picture) == 3)
    assert "palette expanded to RGB" in photo.notes


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_grey_of_few_bits_is_found(depth):
    import zlib

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    row = int("".join(f"{n % 2**depth:0{depth}b}" for n in range(8)), 2).to_bytes(depth, "big")
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 1, depth, 0, 0, 0, 0))
    data += (
        chunk(b"tRNS", b"\0\1") + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    )
    photo = read(data)
    assert (photo.native[0, :, 1] == 0).tolist() == [n % 2**depth == 1 for n in range(8)]


def test_sixteen_bit_grey_with_white_as_zero_is_inverted():
    samples = drawn(5, 7, dtype=np.uint16)
    data = bytearray(tiff(samples, None))
    at = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    data[at] = 0
    assert np.array_equal(read(bytes(data)).native, 65535 - samples)


def test_sixteen_bit_cmyk_is_refused_not_cut():
    data = bytearray(tiff(drawn(5, 7, 4, dtype=np.uint16), None))
    data[data.index(struct.pack("<HHI", 262, 3, 1)) + 8] = 5
    at = data.index(struct.pack("<HHI", 338, 3, 1))
    data[at : at + 10] = struct.pack("<HHIH", 339, 3, 1, 1)  # the fourth is ink, not transparency
    with pytest.raises(PhotoError, match="16 bits a sample"):
        read(bytes(data))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpeg_subsampling_is_seen(subsampling):
    data = saved(Image.fromarray(drawn(16, 16, 3)), "JPEG", subsampling=subsampling)
    assert read(data).subsampling == subsampling


def test_webp_knows_whether_it_is_lossless():
    picture = Image.fromarray(drawn(16, 16, 3))
    assert read(saved(picture, "WEBP", lossless=True)).lossless
    assert not read(saved(picture, "WEBP")).lossless


def test_one_pixel_is_a_photo():
    for container in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF"):
        assert read(saved(Image.new("RGB", (1, 1)), container)).pixels.shape == (1, 1, 3)


@pytest.mark.parametrize("container", ["WEBP", "PNG", "TIFF", "AVIF"])
def test_several_pictures_are_refused(container):
    pictures = [Image.fromarray(drawn(8, 8, 3)), Image.fromarray(255 - drawn(8, 8, 3))]
    data = saved(pictures[0], container, save_all=True, append_images=pictures[1:])
    with pytest.raises(PhotoError, match=rf"{container} with 2 (pages|pictures)"):
        read(data)


def test_a_multi_picture_jpeg_is_read_as_its_first_picture():
    pictures = [Image.fromarray(drawn(16, 16, 3)), Image.fromarray(255 - drawn(16, 16, 3))]
    data = saved(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
    photo = read(data)
    assert photo.format == "jpeg"
    assert "only the first picture" in photo.notes[0]
    assert np.array_equal(photo.pixels, np.asarray(Image.open(io.BytesIO(data))))


def test_a_film_behind_a_jpeg_is_dropped_and_noted():
    data = saved(Image.fromarray(drawn(16, 16, 3)), "JPEG") + b"\0\0\0\x18ftypmp42" + bytes(100)
    assert read(data).notes == ("a film (MP4) behind the picture dropped",)


def test_broken_exif_counts_as_upright():
    data = saved(Image.fromarray(drawn(8, 8, 3)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert read(data).pixels.shape == (8, 8, 3)


def test_heic_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(PhotoError) as caught:
        read(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    assert caught.value.hint == 'pip install "moretta[heic]"'


def hostile():
    """Valid files of every container: the ground that is then damaged."""
    small = Image.fromarray(drawn(12, 16, 3))
    for container in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF"):
        yield saved(small, container)
    yield saved(small, "JPEG", progressive=True, exif=exif(6), comment=b"hello")
    yield saved(small.quantize(8), "PNG", transparency=1)
    yield saved(small.convert("CMYK"), "JPEG")
    yield saved(small, "WEBP", lossless=True, exif=exif(5))
    yield saved(small, "TIFF", compression="tiff_lzw", tiffinfo={0x0112: 6})
    yield png16(drawn(6, 8, 4, dtype=np.uint16), None)
    yield tiff(drawn(6, 8, 3, dtype=np.uint16), None)


def test_damaged_files_are_photos_or_photo_errors():
    dice, tried, refused = random.Random(5), 0, 0  # noqa: S311
    for whole in hostile():
        for _ in range(400):
            data = bytearray(whole)
            for _ in range(dice.choice((1, 1, 3, 20))):
                data[dice.randrange(min(len(data), dice.choice((64, 10**6))))] = dice.randrange(256)
            if dice.random() < 0.3:
                data = data[: dice.randrange(len(data))]
            tried += 1
            try:
                assert isinstance(read(bytes(data)), Photo)
            except PhotoError:
                refused += 1
    assert tried == 13 * 400
    assert 0 < refused < tried
