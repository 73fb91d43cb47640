import io

import cv2
import numpy as np
import pytest
from PIL import Image

from moretta.photos.wide import png16, read_wide, tiff


def drawn(*shape, dtype=np.uint16):
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


@pytest.mark.parametrize("shape", [(1, 1), (9, 7), (9, 7, 3), (9, 7, 4), (700, 400, 3)])
@pytest.mark.parametrize("write", [png16, tiff])
def test_opencv_reads_what_we_write(write, shape):
    samples = drawn(*shape)
    assert np.array_equal(read_wide(write(samples, None)), samples)


@pytest.mark.parametrize("shape", [(1, 1), (9, 7), (9, 7, 2), (9, 7, 3), (9, 7, 4), (900, 500, 3)])
def test_pillow_reads_our_eight_bit_tiff(shape):
    samples = drawn(*shape, dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(tiff(samples, None)))), samples)


def test_grey_and_transparency_of_sixteen_bits():
    samples = drawn(9, 7, 2)
    assert np.array_equal(read_wide(png16(samples, None))[..., [0, 3]], samples)


@pytest.mark.parametrize("write", [png16, tiff])
def test_the_profile_is_readable(write):
    picture = Image.open(io.BytesIO(write(drawn(4, 4, 3), b"profile" * 9)))
    assert picture.info["icc_profile"] == b"profile" * 9


def test_eight_bits_are_not_wide():
    plain = cv2.imencode(".png", drawn(4, 4, 3, dtype=np.uint8))[1].tobytes()
    for data in (plain, b"nonsense", b""):
        with pytest.raises(ValueError, match=r"."):
            read_wide(data)
