"""Faults of other tools, reproduced in facts/peers.md 1c: none may come back here."""

import io

import numpy as np
import pytest
from PIL import Image

from moretta.errors import PhotoError
from moretta.photos.files import encode_photo, read_photo
from moretta.photos.metadata import leftovers

FACE = np.s_[20:60, 30:70]  # where the "face" is, in the upright photo


def drawn(height=96, width=128, dtype=np.uint8):
    y, x = np.mgrid[0:height, 0:width]
    samples = np.stack([x * 2, y * 2, (x + y)], axis=-1) % 256
    return samples.astype(dtype) * (257 if dtype == np.uint16 else 1)


def saved(path, samples, container, mode=None, **options):
    picture = Image.fromarray(samples)
    (picture.convert(mode) if mode else picture).save(path, container, **options)
    return path


def hidden(path, colour=0, **wishes):
    """Read, paint the face one colour, return (photo, finished bytes, mask)."""
    photo = read_photo(path)
    changed = np.zeros(photo.pixels.shape[:2], bool)
    changed[FACE] = True
    edited = photo.pixels.copy()
    edited[changed] = colour
    return photo, encode_photo(photo, edited, changed, **wishes), changed


def test_no_exif_thumbnail_and_no_gps(tmp_path):
    thumbnail = io.BytesIO()
    Image.fromarray(drawn()).resize((40, 30)).save(thumbnail, "JPEG")
    tags = Image.Exif()
    tags.get_ifd(0x8825)[1] = "N"
    tags.get_ifd(0x8825)[2] = (48.0, 8.0, 0.0)
    body = tags.tobytes() + thumbnail.getvalue()
    saved(tmp_path / "a.jpg", drawn(), "JPEG", exif=body)
    assert (tmp_path / "a.jpg").read_bytes().count(b"\xff\xd8\xff") == 2
    _, data, _ = hidden(tmp_path / "a.jpg")
    assert data.count(b"\xff\xd8\xff") == 1
    assert leftovers(data, metadata="none") == []
    assert len(Image.open(io.BytesIO(data)).getexif()) == 0


def test_orientation_six_is_upright_for_every_viewer(tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 6
    saved(tmp_path / "a.jpg", np.rot90(drawn()), "JPEG", exif=tags, quality=95)
    photo, data, _ = hidden(tmp_path / "a.jpg")
    shown = np.asarray(Image.open(io.BytesIO(data)))  # a viewer that ignores EXIF
    assert shown.shape == (96, 128, 3)
    assert shown[FACE].max() < 40
    assert np.abs(photo.pixels.astype(int) - drawn()).mean() < 5


def test_rgba_gets_no_transparent_hole(tmp_path):
    samples = np.dstack([drawn(), np.full((96, 128), 200, np.uint8)])
    photo, data, changed = hidden(saved(tmp_path / "a.png", samples, "PNG"), colour=9)
    again = np.asarray(Image.open(io.BytesIO(data)))
    assert (again[~changed][:, 3] == 200).all()
    assert (again[changed][:, 3] == 255).all()
    assert (again[changed][:, :3] == 9).all()
    assert np.array_equal(again[~changed], photo.native[~changed])


def test_nothing_of_the_face_stays_under_transparency(tmp_path):
    samples = np.dstack([drawn(), np.zeros((96, 128), np.uint8)])
    _, data, changed = hidden(saved(tmp_path / "a.png", samples, "PNG"), colour=9)
    assert (np.asarray(Image.open(io.BytesIO(data)))[changed][:, :3] == 9).all()


@pytest.mark.parametrize(("mode", "container"), [("LA", "PNG"), ("CMYK", "JPEG"), ("P", "PNG")])
def test_unusual_modes_are_handled(tmp_path, mode, container):
    path = saved(tmp_path / "a", drawn(), container, mode)
    _, data, changed = hidden(path)
    again = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert again[changed].max() < 40
    assert leftovers(data, metadata="none") == []


@pytest.mark.parametrize("container", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_for_detectors_and_stays_sixteen(tmp_path, container):
    samples = drawn(dtype=np.uint16)[..., 0] + 3
    photo, data, changed = hidden(saved(tmp_path / "a", samples, container))
    assert np.array_equal(photo.pixels[..., 0], samples >> 8)
    again = np.asarray(Image.open(io.BytesIO(data)))
    assert again.dtype == np.uint16
    assert np.array_equal(again[~changed], samples[~changed])


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bit_colours_stay_sixteen(tmp_path, suffix):
    import cv2

    samples = drawn(dtype=np.uint16) ^ 0x0055
    (tmp_path / f"a{suffix}").write_bytes(cv2.imencode(suffix, samples[..., ::-1])[1].tobytes())
    photo, data, changed = hidden(tmp_path / f"a{suffix}")
    assert np.array_equal(photo.native, samples)
    again = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert np.array_equal(again[~changed], samples[~changed])
    assert not again[changed].any()


@pytest.mark.parametrize("frames", [1, 2])
def test_gif_is_refused_by_name(tmp_path, frames):
    more = [Image.fromarray(255 - drawn())] * (frames - 1)
    path = saved(tmp_path / "a.gif", drawn(), "GIF", save_all=True, append_images=more)
    with pytest.raises(PhotoError, match="GIF") as caught:
        read_photo(path)
    assert "PNG" in caught.value.hint


def test_multi_page_tiff_is_refused_by_name(tmp_path):
    more = [Image.fromarray(drawn())] * 2
    path = saved(tmp_path / "a.tif", drawn(), "TIFF", save_all=True, append_images=more)
    with pytest.raises(PhotoError, match="TIFF with 3 pages"):
        read_photo(path)


def test_a_file_without_extension_is_read(tmp_path):
    photo, _, _ = hidden(saved(tmp_path / "photo", drawn(), "PNG"))
    assert (photo.format, photo.notes) == ("png", ())


@pytest.mark.parametrize("container", ["JPEG", "WEBP", "PNG", "TIFF", "AVIF"])
def test_nothing_rides_along(tmp_path, container):
    options = {"comment": b"Jane Doe"} if container == "JPEG" else {}
    options |= {"icc_profile": b"Jane Doe" * 30, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0Jane Doe"}
    if container == "TIFF":
        options["exif"] = Image.Exif()
        options["exif"][270] = "Jane Doe"
    path = saved(tmp_path / "a", drawn(), container, **options)
    assert b"Jane Doe" in path.read_bytes() or container == "PNG"
    photo, data, _ = hidden(path)
    assert photo.icc is None
    assert b"Jane" not in data
    assert leftovers(data, metadata="none") == []
    assert not {"icc_profile", "exif", "comment", "xmp"} & set(Image.open(io.BytesIO(data)).info)
