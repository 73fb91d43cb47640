"""Ways in which a face could slip out, each found by somebody who tried."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from moretta.errors import UsageError
from moretta.faces.crop import points_of_box
from moretta.photos.files import read_photo
from moretta.pipeline.options import options
from moretta.pipeline.protect import Picture, Protector
from moretta.records import Box, Face, PhotoRecord


@pytest.fixture(scope="module")
def solid() -> Protector:
    return Protector(options({"seed": 1}))


@pytest.fixture(scope="module")
def weak() -> Protector:
    return Protector(options({"method": "blur", "settings": {"sigma": 0.01}, "seed": 1}))


def protected(protector, pixels, **given):
    (result,) = protector.protect([Picture(pixels=pixels, **given)])
    return result


def test_a_face_in_the_alpha_channel_does_not_get_out(tmp_path, small, solid):
    from moretta.photos.files import encode_photo

    dark = np.full_like(small, 20)
    grey = np.asarray(Image.fromarray(small).convert("L"))
    Image.fromarray(np.dstack([dark, 255 - grey])).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    (result,) = solid.protect([Picture(pixels=photo.pixels, looks=photo.looks())])
    assert result.decision == "published"
    assert len(result.faces) >= 1
    (tmp_path / "b.png").write_bytes(encode_photo(photo, result.pixels, result.changed))
    for ground in (255, 0):
        page = Image.new("RGBA", (256, 256), (ground, ground, ground, 255))
        page.alpha_composite(Image.open(tmp_path / "b.png").convert("RGBA"))
        seen = np.asarray(page.convert("RGB"))
        box = Box(*result.faces[0].box)
        assert not [face for face in solid.find(seen) if face.box.overlap(box) > 0.2]


def test_points_far_from_their_box_do_not_blind_the_judge(small, weak):
    (face,) = weak.find(small)
    for shift in (9000.0, -400.0, 120.0):
        astray = replace(face, points=face.points + np.array([shift, shift]))
        result = protected(weak, small, faces=[astray])
        (record,) = result.faces
        assert record.audit["cosine"] is not None or record.method == "solid"
        assert "covered" in record.audit, "a blur this weak must not pass"
        assert any("do not fit" in note for note in record.notes)


def test_a_flat_view_passes_only_where_paint_made_it(small, weak):
    wall = np.full_like(small, 128)
    box = Box(40, 40, 100, 118)
    face = Face(box=box, points=points_of_box(box), score=1, detector="manual")
    (record,) = protected(weak, wall, faces=[face]).faces
    assert record.method == "solid"  # blurred wall looks like wall: covered, not waved through


def test_a_face_outside_the_picture_is_never_published(small, solid):
    box = Box(9000, 9000, 9100, 9120)
    face = Face(box=box, points=points_of_box(box), score=1, detector="manual")
    result = protected(solid, small, faces=[face])
    assert result.decision == "withheld"
    from moretta.api import Anonymizer

    with pytest.raises(UsageError, match="outside the picture"):
        Anonymizer().image(small, faces=[face])


def test_a_small_find_on_a_large_face_brings_no_detail_back(astronaut):
    pixelate = Protector(options({"method": "pixelate", "seed": 1}))
    (large,) = pixelate.find(astronaut)
    alone = protected(pixelate, astronaut, faces=[large])
    middle = large.points[2]
    specks = []
    for offset in (-20, 0, 20):
        box = Box(middle[0] + offset - 6, middle[1] - 8, middle[0] + offset + 6, middle[1] + 8)
        specks.append(Face(box=box, points=points_of_box(box), score=0.99, detector="manual"))
    both = protected(pixelate, astronaut, faces=[*specks, large])
    assert both.decision == "published"
    box = large.box
    left, top, right, bottom = int(box.left), int(box.top), int(box.right), int(box.bottom)
    part = np.s_[top:bottom, left:right]
    if not any("covered" in face.audit for face in both.faces):
        np.testing.assert_array_equal(both.pixels[part], alone.pixels[part])


def test_a_speck_does_not_stop_the_search(small, solid, monkeypatch):
    from moretta.faces.detect.search import Eye, Found, find_faces

    upright = solid._eyes[0]
    sideways = np.ascontiguousarray(np.rot90(small))

    def look(picture, least):
        found = upright.look(picture, least)
        speck = np.array([[3.0, 3, 7, 8]])
        return Found.joined([found, Found(speck, np.zeros((1, 5, 2)), np.array([0.9]))])

    eye = Eye(detector=upright.detector, look=look, least_score=0.5)
    faces = find_faces(sideways, [eye], min_face=12)
    assert any(face.box.side > 20 for face in faces)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_sideways_photo_is_covered(small, solid, turns):
    (face,) = solid.find(small)
    where = np.zeros(small.shape[:2], bool)
    box = face.box
    where[int(box.top) : int(box.bottom), int(box.left) : int(box.right)] = True
    result = protected(solid, np.ascontiguousarray(np.rot90(small, turns)))
    assert result.changed[np.rot90(where, turns)].mean() > 0.9


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_face_in_a_turned_photo_is_found_once(astronaut, solid, turns):
    head = astronaut[:260, 90:360]  # upright it fills the picture; turned it has weak false finds
    (upright,) = solid.find(head)
    (turned,) = solid.find(np.ascontiguousarray(np.rot90(head, turns)))
    assert turned.score > 0.9
    assert turned.box.side == pytest.approx(upright.box.side, rel=0.1)


def test_half_a_face_at_the_border_is_found_once(astronaut, solid):
    middle = int(solid.find(astronaut)[0].points[2, 0])
    (half,) = solid.find(np.ascontiguousarray(astronaut[:, middle - 10 :]))
    assert half.box.left == 0


def test_what_is_overlooked_at_first_is_found_in_the_protected_photo(small, solid, monkeypatch):
    from moretta.pipeline import protect as room

    canvas = np.hstack([small, small])
    real, calls = room.find_faces, []

    def forgetful(photo, eyes, **given):
        faces = real(photo, eyes, **given)
        calls.append(len(faces))
        return faces[:1] if len(calls) == 1 else faces

    monkeypatch.setattr(room, "find_faces", forgetful)
    result = protected(solid, canvas)
    assert result.decision == "published"
    assert len(result.faces) == 2
    assert any("looked at again" in note for note in result.faces[1].notes)
    assert real(result.pixels, solid._eyes, quick=False) == []


@pytest.fixture(scope="module")
def newface() -> Protector:
    pytest.importorskip("torch")
    return Protector(options({"method": "newface", "seed": 1}))


def around(box, times, score):
    """A find of another size about the same middle, with points where they belong."""
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    half = times * box.width / 2, times * box.height / 2
    wide = Box(x - half[0], y - half[1], x + half[0], y + half[1])
    return Face(box=wide, points=points_of_box(wide), score=score, detector="yunet")


def test_a_find_that_holds_a_surer_face_is_covered_not_drawn(astronaut, newface):
    (real,) = newface.find(astronaut)
    alarm = around(real.box, 3, score=real.score - 0.1)
    result = protected(newface, astronaut, found=[real, alarm])
    head, giant = result.faces
    assert (result.decision, giant.method) == ("published", "solid")
    assert "too large" in giant.audit["covered"]["fault"]
    assert "1 covered" in result.reason
    assert not any("soft" in note for note in giant.notes)
    assert head.method == "newface"


def test_an_unsure_find_far_larger_than_the_drawing_is_covered(astronaut, newface):
    large = np.ascontiguousarray(np.kron(astronaut[:250, 100:350], np.ones((8, 8, 1), np.uint8)))
    (face,) = newface.find(large)
    assert face.box.side > 600
    for score, method in ((0.6, "solid"), (face.score, "newface")):
        (record,) = protected(newface, large, found=[replace(face, score=score)]).faces
        assert record.crop_scale > 5
        assert record.method == method
        assert bool(_soft(record)) == (method == "newface")
    assert record.notes == (
        f"the face is {record.crop_scale:.1f} times larger than the drawn crop: soft",
    )


def _soft(face):
    return PhotoRecord(name="a", decision="published", reason="", faces=(face,)).soft


def test_a_poor_find_inside_a_surer_face_spoils_nothing(astronaut, newface):
    large = np.ascontiguousarray(np.kron(astronaut[:250, 100:350], np.ones((16, 16, 1), np.uint8)))
    (face,) = newface.find(large)
    speck = around(face.box, 0.4, score=0.5)
    result = protected(newface, large, found=[face, speck])
    assert {one.audit.get("covered", {}).get("fault", "") for one in result.faces} == {""}


def test_a_face_that_never_goes_away_is_withheld(small, solid, monkeypatch):
    from moretta.pipeline import protect as room

    bare = Box(200, 200, 240, 250)
    ghost = Face(box=bare, points=points_of_box(bare), score=0.9, detector="yunet")
    real = room.find_faces
    monkeypatch.setattr(room, "find_faces", lambda *given, **how: [*real(*given, **how), ghost])
    monkeypatch.setattr(room, "_share", lambda changed, face: 0.0 if face is ghost else 1.0)
    result = protected(solid, small)
    assert result.decision == "withheld"
    assert "still found" in result.reason


def test_a_method_trained_with_the_judge_is_refused(monkeypatch):
    from moretta.pipeline import protect as room

    biased = replace(room.method("blur"), trained_with=("sface",))
    monkeypatch.setattr(room, "method", lambda name: biased)
    with pytest.raises(UsageError, match="may not judge it"):
        Protector(options({"method": "blur"}))


def test_a_whole_photo_of_paint_differs_from_no_photo(solid):
    """Two photos that differ everywhere give the same pixels inside the mask: nothing is left."""
    outputs = []
    for seed in (1, 2):
        noise = np.random.default_rng(seed).integers(0, 256, (160, 160, 3), np.uint8)
        box = Box(50, 40, 100, 105)
        face = Face(box=box, points=points_of_box(box), score=1, detector="manual")
        outputs.append(protected(solid, noise, faces=[face]))
    rows, columns = slice(40, 105), slice(50, 100)
    np.testing.assert_array_equal(
        outputs[0].pixels[rows, columns], outputs[1].pixels[rows, columns]
    )
    assert (outputs[0].pixels[rows, columns] == 0).all()
