"""What a sidecar is bound to: exact samples of lossless files, and a hash that finds copies."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from moretta.photos.fingerprint import dhash, exact_samples, lossless, near


def encoded(rgb, container, **options):
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, container, **options)
    return out.getvalue()


def test_lossless_files_of_the_same_samples_are_one(smooth):
    several = [encoded(smooth, "PNG", compress_level=level) for level in (0, 9)]
    several += [
        encoded(smooth, "BMP"),
        encoded(smooth, "TIFF"),
        encoded(smooth, "TIFF", compression="tiff_lzw"),
    ]
    several.append(encoded(smooth, "WEBP", lossless=True))
    for content in several:
        np.testing.assert_array_equal(exact_samples(content), smooth)
    assert all(lossless(content) for content in several[:-1])


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_grey_and_transparent_samples_are_taken_as_they_are(shape):
    samples = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(exact_samples(encoded(samples, "PNG")), samples.reshape(5, 7, -1))


def test_orientation_is_not_applied(smooth):
    exif = Image.Exif()
    exif[274] = 6
    assert exact_samples(encoded(smooth, "PNG", exif=exif)).shape == smooth.shape


def test_what_is_not_exact_has_no_samples(smooth):
    deep = cv2.imencode(".png", smooth.astype(np.uint16) * 257)[1].tobytes()
    deep_tiff = cv2.imencode(".tiff", smooth.astype(np.uint16) * 257)[1].tobytes()
    palette = io.BytesIO()
    Image.fromarray(smooth).quantize(16).save(palette, "PNG")
    for content in (
        encoded(smooth, "JPEG"),
        deep,
        deep_tiff,
        palette.getvalue(),
        b"",
        b"text",
        encoded(smooth, "PNG")[:500],
    ):
        assert exact_samples(content) is None
        assert not lossless(content)
    assert exact_samples(encoded(smooth, "PNG"), max_pixels=1000) is None


def test_copies_are_near_and_others_are_not(astronaut, smooth):
    own = dhash(encoded(astronaut, "PNG"))
    for quality in (95, 75, 50):
        assert near(own, dhash(encoded(astronaut, "JPEG", quality=quality)))
    for factor in (0.5, 0.9):
        small = cv2.resize(astronaut, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        assert near(own, dhash(encoded(small, "PNG")))
    assert not near(own, dhash(encoded(np.ascontiguousarray(astronaut[:, ::-1]), "PNG")))
    assert not near(own, dhash(encoded(smooth, "PNG")))
    assert dhash(b"nothing") is None
