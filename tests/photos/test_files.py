import errno
import io
import os
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moretta.errors import DiskFull, PhotoError
from moretta.photos import PART
from moretta.photos.files import encode_photo, read_photo, write_whole


def drawn(height=24, width=32):
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(path: Path, container: str, **options) -> bytes:
    written = io.BytesIO()
    Image.fromarray(drawn()).save(written, container, **options)
    path.write_bytes(written.getvalue())
    return written.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def test_content_decides_and_a_wrong_suffix_is_noted(tmp_path):
    saved(tmp_path / "a.png", "JPEG")
    photo = read_photo(tmp_path / "a.png")
    assert photo.format == "jpeg"
    assert photo.notes == ("the name says PNG, the content is JPEG",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"hello, this is a letter\n" * 30, "text"),
        (b"\x07\x01" * 50, "not a photo"),
    ],
)
def test_no_photo_is_refused_with_a_hint(tmp_path, content, words):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(PhotoError, match=words) as caught:
        read_photo(tmp_path / "a.jpg")
    assert caught.value.fault.startswith("a.jpg: ")
    assert caught.value.hint


def test_missing_folder_pipe_and_forbidden_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(PhotoError, match="no such file"):
        read_photo(tmp_path / "gone.jpg")
    with pytest.raises(PhotoError, match="folder"):
        read_photo(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PhotoError, match="regular"):
        read_photo(tmp_path / "pipe.jpg")
    saved(tmp_path / "a.jpg", "JPEG")

    def forbidden(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)  # root may read everything, so chmod proves nothing
    with pytest.raises(PhotoError, match="may not be read"):
        read_photo(tmp_path / "a.jpg")


@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
def test_a_cut_off_file_is_refused(tmp_path, container, share):
    whole = saved(tmp_path / "a", container)
    (tmp_path / "a").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(PhotoError, match=r"cut off|damaged") as caught:
        read_photo(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_a_jpeg_without_its_last_two_bytes_is_cut_off(tmp_path):
    (tmp_path / "a.jpg").write_bytes(saved(tmp_path / "a.jpg", "JPEG")[:-2])
    with pytest.raises(PhotoError, match="cut off"):
        read_photo(tmp_path / "a.jpg")


def test_a_decompression_bomb_is_refused_at_once(tmp_path):
    header = (30_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6)))
    )
    (tmp_path / "a.png").write_bytes(bomb + chunk(b"IEND", b""))
    begun = time.thread_time()
    with pytest.raises(PhotoError, match="30000 x 30000") as caught:
        read_photo(tmp_path / "a.png")
    assert time.thread_time() - begun < 1
    assert "--max-pixels" in caught.value.hint


@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_the_limit_is_inclusive(tmp_path, container):
    saved(tmp_path / "a", container)
    assert read_photo(tmp_path / "a", max_pixels=24 * 32).pixels.shape == (24, 32, 3)
    with pytest.raises(PhotoError, match="32 x 24"):
        read_photo(tmp_path / "a", max_pixels=24 * 32 - 1)


def test_the_limit_is_ours_not_pillows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for container in ("JPEG", "TIFF", "WEBP"):
        saved(tmp_path / "a", container)
        assert read_photo(tmp_path / "a").pixels.shape == (24, 32, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_write_then_read(tmp_path):
    saved(tmp_path / "a.png", "PNG")
    photo = read_photo(tmp_path / "a.png")
    nothing = np.zeros((24, 32), bool)
    write_whole(tmp_path / "b.png", encode_photo(photo, photo.pixels, nothing), mtime=86400.0)
    assert np.array_equal(read_photo(tmp_path / "b.png").native, photo.native)
    assert (tmp_path / "b.png").stat().st_mtime == 86400.0
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_written_file_gets_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_whole(tmp_path / "ours", b"content")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFull),
        (OSError(errno.EIO, "Input/output error"), PhotoError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, raised, expected
):
    (tmp_path / "a").write_bytes(b"old")
    parts = []

    def failing(handle):
        parts.extend(item.name for item in tmp_path.iterdir() if item.name.startswith(PART))
        raise raised

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(expected) as caught:
        write_whole(tmp_path / "a", b"new")
    assert type(caught.value) is expected
    assert len(parts) == 1  # it was being written beside its place
    assert [item.name for item in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_place_that_cannot_be_written_is_a_photo_error(tmp_path):
    with pytest.raises(PhotoError, match="cannot be written"):
        write_whole(tmp_path / "no such folder" / "a.png", b"x")
    (tmp_path / "taken").mkdir()
    with pytest.raises(PhotoError, match="cannot be written"):
        write_whole(tmp_path / "taken", b"x")
    assert [item.name for item in tmp_path.iterdir()] == ["taken"]
