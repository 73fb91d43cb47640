"""Which face is meant, whether it was changed, and what the tool left."""

from __future__ import annotations

import ctypes
import dataclasses
import io
import os
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from moretta.evaluation import embed, faces
from moretta.faces.crop import points_of_box
from moretta.faces.detect import search
from moretta.records import Box, Face
from moretta.weights import load


def face(left, top, side):
    box = Box(left, top, left + side, top + side * 1.25)
    return Face(box=box, points=points_of_box(box), score=0.9, detector="test")


@pytest.fixture
def textured():
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (60, 60, 3), np.uint8), (240, 240))


def jpeg(photo, quality):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def test_the_labelled_face():
    middle, large = face(90, 80, 50), face(0, 0, 90)
    assert faces.labelled([large, middle], (240, 240), "centre") is middle
    assert faces.labelled([middle, large], (240, 240), "largest") is large
    assert faces.labelled([], (240, 240), "centre") is None


@pytest.mark.parametrize("quality", [95, 75, 40])
def test_encoding_again_is_no_change(textured, quality):
    assert not faces.was_changed(textured, jpeg(textured, quality), face(90, 70, 60))
    assert not faces.was_changed(textured, textured, face(90, 70, 60))


def test_a_blurred_face_is_a_change_even_after_encoding(textured):
    anon = textured.copy()
    anon[60:160, 80:160] = cv2.GaussianBlur(textured, (0, 0), 6)[60:160, 80:160]
    for quality in (95, 75):
        assert faces.was_changed(textured, jpeg(anon, quality), face(90, 70, 60))


def test_a_change_of_another_face_only_is_no_change(textured):
    anon = textured.copy()
    anon[:60, :60] = 0
    assert not faces.was_changed(textured, jpeg(anon, 95), face(120, 100, 60))


def test_a_changed_face_among_other_changed_faces_is_a_change(textured):
    """Group photos: 23 of 1,534 pixelated faces of LFW were called untouched."""
    anon = textured.copy()
    anon[60:170, 80:160] = cv2.blur(textured, (25, 25))[60:170, 80:160]
    anon[:, :60] = 0
    anon[:, 180:] = 255
    assert faces.was_changed(textured, anon, face(90, 70, 60))


def test_a_box_that_covers_most_of_the_photo_is_a_change_and_no_new_colour(textured):
    """Half of the photos under a black box twice as large as the face were called untouched."""
    anon = textured.copy()
    anon[4:-4, 4:-4] = 0
    assert faces.was_changed(textured, jpeg(anon, 90), face(90, 70, 60))


@pytest.mark.parametrize(
    "recolour",
    [
        lambda p: np.clip(p * 0.7 + 70, 0, 255).astype(np.uint8),
        lambda p: np.repeat(p.mean(2, keepdims=True), 3, axis=2).astype(np.uint8),
        lambda p: p[..., ::-1].copy(),
    ],
    ids=["brighter", "grey", "channels"],
)
def test_new_colours_for_the_whole_photo_protect_nobody(textured, recolour):
    anon = recolour(textured)
    assert np.abs(anon.astype(int) - textured).mean() > faces.BEYOND_ENCODING
    assert not faces.was_changed(textured, jpeg(anon, 90), face(90, 70, 60))
    anon[60:170, 80:160] = cv2.GaussianBlur(anon, (0, 0), 8)[60:170, 80:160]
    assert faces.was_changed(textured, jpeg(anon, 90), face(90, 70, 60))


def test_one_picture_under_two_names_is_dropped_only_if_it_shows_one_face(people_on_disk):
    """Near in their hash: the judge decides."""
    from moretta.evaluation.pairs import paired

    from .conftest import Knowing

    before, after = people_on_disk(lambda picture: picture, people=3)
    copy = np.asarray(Image.open(before / "person 0" / "0.png")).copy()
    copy[0, 0] ^= 1
    for folder in (before, after):
        Image.fromarray(copy).save(folder / "person 1" / "9.png")
    pairs = paired(before, after).pairs
    finder = Knowing("yunet", None)
    kept = [
        faces.samples(pairs, finder, same_person=lambda *_, answer=answer: answer)[1]
        for answer in (True, False)
    ]
    assert kept[0].excluded == {"near_duplicate": 2}
    assert kept[1].excluded == {}


def test_the_changed_area_is_what_was_painted(textured):
    anon = textured.copy()
    anon[50:180, 70:170] = 0
    area = faces.changed_area(textured, anon, face(90, 70, 60))
    truth = np.zeros(area.shape, bool)
    truth[50:180, 70:170] = True
    assert (area & truth).sum() / (area | truth).sum() > 0.9


def test_patches_that_kept_their_colour_are_not_surroundings(textured):
    anon = textured.copy()
    rng = np.random.default_rng(3)
    cells = rng.uniform(size=(13, 10)) < 0.4
    patchy = np.kron(cells, np.ones((10, 10))) > 0
    anon[50:180, 70:170][patchy] ^= 128
    anon[:20, :20] = 0  # another face, far away
    area = faces.changed_area(textured, anon, face(90, 70, 60))
    assert area[65:165, 85:155].mean() > 0.97
    assert area[:20, :20].all()
    assert not area[:20, 30:60].any()


def test_where_nothing_changed_the_ellipse_stands_for_the_face(textured):
    area = faces.changed_area(textured, textured, face(90, 70, 60))
    assert 0.05 < area.mean() < 0.5
    assert area[107, 120]
    assert not area[2, 2]


def test_surroundings_do_not_see_the_blanked_face(textured):
    seen = np.ones((240, 240), bool)
    seen[60:180, 60:180] = False
    other = textured.copy()
    other[60:180, 60:180] = 255 - other[60:180, 60:180]
    np.testing.assert_allclose(
        faces.ring_features(textured, seen), faces.ring_features(other, seen), atol=1e-12
    )
    everything = np.ones((240, 240), bool)
    assert (
        np.abs(
            faces.ring_features(textured, everything) - faces.ring_features(other, everything)
        ).max()
        > 0.01
    )


def test_the_cache_gives_back_what_it_was_given(tmp_path):
    first = embed.Cache(tmp_path)
    rng = np.random.default_rng(1)
    values = {bytes([i] * 32): rng.normal(size=i).astype(np.float32) for i in range(5)}
    for key, value in values.items():
        first.put("kind", key, value)
    first.save()
    second = embed.Cache(tmp_path)
    for found, value in zip(second.get("kind", list(values)), values.values(), strict=True):
        np.testing.assert_array_equal(found, value)
    assert second.get("kind", [b"x" * 32]) == [None]
    assert not second.damaged


@pytest.mark.parametrize("spoil", ["cut", "flip", "other"])
def test_a_damaged_cache_is_noticed(tmp_path, spoil):
    cache = embed.Cache(tmp_path)
    cache.put("kind", b"k" * 32, np.arange(100, dtype=np.float32))
    cache.save()
    path = tmp_path / "kind.npz"
    data = bytearray(path.read_bytes())
    if spoil == "cut":
        data = data[:-50]
    elif spoil == "flip":
        data[len(data) // 3] ^= 1
    else:
        data = bytearray(b"hello")
    path.write_bytes(data)
    again = embed.Cache(tmp_path)
    assert again.get("kind", [b"k" * 32]) == [None]
    assert again.damaged == ["kind.npz"]


class Counting:
    name, template, side, sha256 = "count", "tight", 4, "a" * 64

    def __init__(self):
        self.seen = 0

    def raw(self, crops):
        self.seen += len(crops)
        return crops.reshape(len(crops), -1).astype(np.float32)


def test_vectors_are_made_once_a_picture():
    crops = np.random.default_rng(2).integers(1, 255, (6, 4, 4, 3), np.uint8)
    crops[3] = crops[0]
    network, cache = Counting(), embed.Cache(None)
    first = embed.vectors(network, crops, cache=cache)
    assert network.seen == 5
    np.testing.assert_array_equal(embed.vectors(network, crops, cache=cache), first)
    assert network.seen == 5
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1)
    embed.vectors(network, crops, cache=cache, flip=True)
    assert network.seen == 15


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="only there is it asked for",
)
def test_freed_memory_goes_back_to_the_system():
    """In a process of its own: here other tests have left holes in which what is kept may lie."""
    script = (
        "import os\n"
        "from pathlib import Path\n"
        "from moretta.evaluation import faces\n"
        "def resident():\n"
        "    pages = int(Path('/proc/self/statm').read_text().split()[1])\n"
        "    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20\n"
        "kept, freed = [], []\n"
        "for _ in range(3000):\n"
        "    freed.append(bytearray(100_000))\n"
        "    kept.append(bytearray(600))  # it lies above, and lives on\n"
        "freed.clear()\n"
        "before = resident()\n"
        "faces.give_back()\n"
        "assert len(kept) == 3000\n"
        "print(before - resident())\n"
    )
    plain = {key: value for key, value in os.environ.items() if "MALLOC" not in key}
    plain = {key: value for key, value in plain.items() if key != "GLIBC_TUNABLES"}
    said = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=plain
    )
    assert float(said.stdout) > 150


def test_finds_of_another_network_or_search_are_not_used(textured, monkeypatch):
    searched = []

    def find_faces(photo, eyes, **_):
        searched.append(len(searched))
        return [face(10, 10, 40 + len(searched))]

    monkeypatch.setattr(faces, "find_faces", find_faces)
    cache, key = embed.Cache(None), faces.content_key(textured)

    def side():
        return faces.Finder("yunet", cache).find(textured, key)[0].box.width

    assert [side(), side()] == [41, 41]
    monkeypatch.setattr(search, "VERSION", search.VERSION + 1)
    assert [side(), side()] == [42, 42]
    other = dataclasses.replace(load.entry("yunet"), sha256="f" * 64)
    monkeypatch.setattr(faces, "load", SimpleNamespace(entry=lambda name: other))
    assert [side(), side()] == [43, 43]
