"""Folders that mirror each other and those that do not; labels, and their faults."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from moretta.errors import UsageError
from moretta.evaluation.pairs import paired, perceptual_hash, read_pixels


@pytest.fixture
def put_all(tmp_path):
    def write(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
        return tmp_path / "before", tmp_path / "after"

    return write


def test_any_suffix_and_defaces_names_match(put_all):
    before, after = put_all(
        "before/a/1.jpg",
        "before/a/2.jpg",
        "before/b/1.jpg",
        "before/b/2.jpg",
        "after/a/1.png",
        "after/a/2_anonymized.jpg",
        "after/b/1.jpg",
    )
    found = paired(before, after)
    assert [(p.name, p.person, p.released and p.released.name) for p in found.pairs] == [
        ("a/1.jpg", "a", "1.png"),
        ("a/2.jpg", "a", "2_anonymized.jpg"),
        ("b/1.jpg", "b", "1.jpg"),
        ("b/2.jpg", "b", None),
    ]
    assert found.strangers == 0


def test_labels_from_a_file(put_all, tmp_path):
    before, after = put_all("before/1.jpg", "before/2.jpg", "before/3.jpg", "after/1.jpg")
    labels = tmp_path / "who.csv"
    labels.write_text("file,person,part\n1.jpg,x,B\n2.jpg,y,\ngone.jpg,z,\n")
    found = paired(before, after, labels)
    assert {p.name: p.person for p in found.pairs} == {"1.jpg": "x", "2.jpg": "y"}
    assert found.excluded == {"label_without_photo": 1, "no_label": 1}
    assert found.reserved == {"x"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name,who\n1.jpg,x\n", "has the columns name, who"),
        ("", "has the columns none"),
        ("file,person\n1.jpg,\n", "line 2 has no file or no person"),
        ("file,person\n1.jpg,x\n1.jpg,y\n", "line 3: 1.jpg has two people"),
        ("file,person\nnowhere.jpg,x\n", "none of its 1 file"),
        (b"file,person\n\xff\xfe,x\n", "cannot be read as labels"),
        (None, "cannot be read: No such file"),
    ],
)
def test_labels_that_cannot_be_used(put_all, tmp_path, text, fault):
    before, after = put_all("before/1.jpg", "after/1.jpg")
    labels = tmp_path / "who.csv"
    if text is not None:
        labels.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=fault):
        paired(before, after, labels)


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["before/a/1.jpg", "after/x/9.jpg"], "do not mirror each other"),
        (["before/a/1.jpg", "after/a/1.png", "after/a/1.webp"], "2 released photos"),
        (["before/1.jpg", "after/1.jpg"], "no photo of .* lies in a folder"),
        (["before/a/1.jpg"], "no folder"),
    ],
)
def test_folders_that_do_not_fit(put_all, names, fault):
    before, after = put_all(*names)
    with pytest.raises(UsageError, match=fault):
        paired(before, after)


def test_empty_and_equal_folders(put_all, tmp_path):
    before, _ = put_all("before/a/1.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no photos in"):
        paired(before, tmp_path / "empty")
    with pytest.raises(UsageError, match="the same folder"):
        paired(before, before)


def test_a_damaged_photo_is_none(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 and no more")
    assert read_pixels(path) is None


def test_near_duplicates_share_their_hash():
    rng = np.random.default_rng(0)
    import cv2

    photo = cv2.resize(rng.integers(0, 256, (12, 12, 3), np.uint8), (200, 200))
    darker = (photo * 0.8).astype(np.uint8)
    smaller = cv2.resize(photo, (90, 90), interpolation=cv2.INTER_AREA)
    other = cv2.resize(rng.integers(0, 256, (12, 12, 3), np.uint8), (200, 200))

    def apart(a, b):
        return (perceptual_hash(a) ^ perceptual_hash(b)).bit_count()

    assert apart(photo, darker) <= 4
    assert apart(photo, smaller) <= 8
    assert apart(photo, other) > 16
