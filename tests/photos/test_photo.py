import io

import pytest
from PIL import Image

from moretta.photos.photo import EXTENSION, HOLDS, SUFFIXES, sniff


@pytest.mark.parametrize("container", ["jpeg", "png", "webp", "tiff", "bmp", "avif", "gif"])
def test_what_pillow_writes_is_recognised(container):
    written = io.BytesIO()
    Image.new("RGB", (9, 5)).save(written, container.upper())
    assert sniff(written.getvalue()[:64]) == container


@pytest.mark.parametrize(
    "head", [b"", b"BM", b"BMW is a car, not a picture", b"%PDF-1.7", b"\0\0\0\x18ftypisom\0\0\0\0"]
)
def test_what_is_no_photo_is_not_recognised(head):
    assert sniff(head) is None


def test_the_tables_know_the_same_containers():
    assert set(EXTENSION) == set(HOLDS)
    assert set(SUFFIXES.values()) == {*EXTENSION, "gif"}
    assert all(SUFFIXES[suffix] == container for container, suffix in EXTENSION.items())
