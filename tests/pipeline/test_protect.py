"""Ways in which a face could slip out, each found by somebody who tried."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from moretta.errors import UsageError
from moretta.faces import mask as masks
from moretta.faces.crop import points_of_box
from moretta.photos.files import read_photo
from moretta.pipeline.options import options
from moretta.pipeline.protect import SURE, Identities, Picture, Protected, Protector, _shared
from moretta.records import Box, Edited, Face, PhotoRecord


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


@pytest.mark.parametrize("undone", [True, False])
@pytest.mark.parametrize("policy", ["cover", "withhold"])
def test_a_face_near_the_threshold_is_judged_as_the_file_shows_it(
    undone, policy, small, monkeypatch
):
    given = {"method": "blur", "settings": {"sigma": 0.1}, "seed": 1, "on_audit_fail": policy}
    protector = Protector(options(given))
    asked = []

    def written(pixels, changed):
        asked.append(changed.any())
        return small if undone else pixels, b"the file"

    monkeypatch.setattr(protector, "_known", 1.0)  # how like is what passes?
    far = protected(protector, small, written=written)
    (before,) = far.faces
    assert (asked, far.file) == ([], b""), "far below the threshold the file is not looked at"
    protected(protector, small, written=written, rough=True)
    assert asked.pop(), "but where it shows something else"
    monkeypatch.setattr(protector, "_known", before.audit["cosine"] + 0.01)
    result = protected(protector, small, written=written)
    (record,) = result.faces
    assert asked == [True]
    assert result.file == (b"" if undone else b"the file"), "what was judged is what is published"
    if not undone:
        assert (result.decision, record.method, record.notes) == ("published", "blur", before.notes)
        assert record.audit["passed"]
    elif policy == "withhold":
        assert result.decision == "withheld"
        assert "1 of 1 face not protected: the judge knows them" in result.reason
    else:
        assert (result.decision, record.method) == ("published", "solid")
        assert record.audit["passed"]
        assert any("known only as the file shows it" in note for note in record.notes)
        assert "1 covered" in result.reason


def test_a_face_near_the_threshold_is_judged_by_the_points_that_were_found_too(
    poster, newface, monkeypatch
):
    """The points by which a face is drawn are steadier than those that an attacker finds."""
    (face,) = newface.find(poster)
    asked = []

    def known(photo, shown, task):
        asked.append(task.found.points)
        return 0.99

    monkeypatch.setattr(newface, "_cosine_as_found", known)
    monkeypatch.setattr(newface, "_like", 1.0)  # no drawing is thrown away
    monkeypatch.setattr(newface, "_known", 1.0)
    (far,) = protected(newface, poster).faces
    assert (far.method, asked) == ("newface", [])
    monkeypatch.setattr(newface, "_known", far.audit["cosine"] + 0.05)
    (near,) = protected(newface, poster).faces
    assert near.method == "solid"
    assert all((points == face.points).all() for points in asked)
    assert near.audit["covered"]["cosine"] == 0.99


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
    assert not any("covered" in face.audit for face in both.faces)
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
    assert (result.decision, giant.method) == ("published", "pixelate")
    assert "too large" in giant.audit["covered"]["fault"]
    assert giant.audit["passed"]
    assert "1 covered" in result.reason
    assert not any("soft" in note for note in giant.notes)
    assert head.method == "newface"


def test_an_unsure_find_far_larger_than_the_drawing_is_covered(astronaut, newface):
    large = np.ascontiguousarray(np.kron(astronaut[:250, 100:350], np.ones((8, 8, 1), np.uint8)))
    (face,) = newface.find(large)
    assert face.box.side > 600
    for score, method in ((0.7, "pixelate"), (face.score, "newface")):
        (record,) = protected(newface, large, found=[replace(face, score=score)]).faces
        assert record.method == method
        assert bool(_soft(record)) == (method == "newface")
    assert record.crop_scale > 5
    assert record.notes == (
        f"the face is {record.crop_scale:.1f} times larger than the drawn crop: soft",
    )


def test_what_may_be_no_face_is_hidden_below_the_faces_that_are_drawn(poster, newface):
    """A find beside the face reaches into it. Its cells show where nothing was drawn, and only there."""
    (face,) = newface.find(poster)
    doubted = small_in(face, 0.6, 0, times=0.5)
    alone = protected(newface, poster, found=[face])
    both = protected(newface, poster, found=[face, doubted])
    drawn, cells = both.faces
    assert (drawn.method, cells.method) == ("newface", "pixelate")
    assert "too unsurely (score 0.60)" in cells.audit["covered"]["fault"]
    assert cells.settings == {"cells": 5}
    alpha, (left, top, right, bottom) = masks.redraw(face, poster.shape, scale=drawn.mask_scale)
    inside = np.zeros(poster.shape[:2], bool)
    inside[top:bottom, left:right] = alpha >= 1
    assert (both.pixels[inside] == alone.pixels[inside]).all()
    alpha, (left, top, right, bottom) = masks.cover(doubted, poster.shape, scale=1.5)
    hidden = np.zeros_like(inside)
    hidden[top:bottom, left:right] = alpha >= 1
    assert (hidden & inside).any()
    rest = hidden & ~alone.changed
    assert rest.sum() > 1000
    assert both.changed[rest].all()
    assert len(np.unique(both.pixels[rest], axis=0)) < 60, "a few flat cells"


def test_a_face_of_which_one_detector_is_unsure_is_asked_about_and_hidden(
    astronaut, newface, monkeypatch
):
    """A second face with a bar before its eyes, and a YuNet that is harder to please than ours."""
    (whole,) = newface.find(astronaut)
    barred = astronaut.copy()
    top, left = int(whole.box.top), int(whole.box.left)
    barred[top + 15 : top + 60, left - 10 : int(whole.box.right) + 10] = 60
    photo = np.ascontiguousarray(np.concatenate([astronaut, barred], axis=1))
    plain = newface.find(photo)
    assert [face.detector for face in plain] == ["yunet", "yunet"]
    hard = replace(newface._eyes[0], least_score=plain[1].score + 0.01)
    monkeypatch.setattr(newface, "_eyes", [hard])
    assert [face.detector for face in newface.find(photo)] == ["yunet", "centerface"]
    monkeypatch.setitem(SURE, "centerface", 1.0)
    result = protected(newface, photo)
    drawn, hidden = result.faces
    assert (drawn.method, hidden.method) == ("newface", "pixelate")
    assert hidden.audit["passed"]
    box = plain[1].box
    rows, columns = slice(int(box.top), int(box.bottom)), slice(int(box.left), int(box.right))
    assert result.changed[rows, columns].mean() > 0.95
    assert "centerface" in newface.weights(result.faces)
    assert "centerface" not in newface.weights(result.faces[:1])


def test_two_heads_that_touch_share_the_pixels_between_them(newface):
    photo = np.full((200, 300, 3), 128, np.uint8)

    def task(left, width, height=90):
        box = Box(left, 50, left + width, 50 + height)
        face = Face(box=box, points=points_of_box(box), score=0.9, detector="yunet")
        return newface._task(Picture(pixels=photo), face, None, [])

    small, large = task(60, 68), task(140, 72, 95)
    whole = task_alpha(large, photo)
    given = task_alpha(replace_alpha(large, _shared(large, [small])), photo)
    other = task_alpha(small, photo)
    both = np.flatnonzero((whole[95] >= 1) & (other[95] >= 1))
    assert len(both) > 10, "both drawings hold these places"
    assert given[95, both[0]] == 0, "nearer to the smaller face's middle"
    assert given[95, both[-1]] == given[95, 176] == 1
    assert (given[other < 1] == whole[other < 1]).all(), "nothing of the photo shows through"
    assert (given <= whole).all()
    assert ((given >= 1) | (other >= 1))[whole >= 1].all()
    within, speck, far = task(150, 60), task(110, 20, 26), task(0, 40, 60)
    for no_neighbour in (within, speck, far):
        assert (_shared(large, [no_neighbour]) == large.alpha).all()


def task_alpha(task, photo):
    """Return a task's mask, in the size of the photo."""
    left, top, right, bottom = task.bounds
    alpha = np.zeros(photo.shape[:2], np.float32)
    alpha[top:bottom, left:right] = task.alpha
    return alpha


def replace_alpha(task, alpha):
    """Return the same task with another mask."""
    return replace(task, alpha=alpha)


def test_the_judge_has_the_last_word_on_cells(poster, newface, monkeypatch):
    (face,) = newface.find(poster)
    doubted = small_in(face, 0.6, 0, times=0.5)
    monkeypatch.setattr(newface, "_known", -1.0)
    result = protected(newface, poster, found=[doubted])
    record, _ = result.faces  # the real face is found at the second look
    assert (result.decision, record.method) == ("published", "solid")
    assert record.audit["blank"]
    assert record.audit["covered"]["fault"].startswith("found too unsurely")
    box = record.box
    assert not result.pixels[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])].any()


def test_a_face_given_by_hand_is_not_doubted(poster, newface):
    (face,) = newface.find(poster)
    (record,) = protected(newface, poster, faces=[replace(face, score=0.5)]).faces
    assert record.method == "newface"
    assert "covered" not in record.audit


def test_a_second_look_grants_no_further_drawings(poster, newface, monkeypatch):
    monkeypatch.setattr(newface, "_like", -1.0)
    (face,) = newface.find(poster)
    missed = [[small_in(face, 1.2, 0.6, times=0.3, score=0.9)], []]
    monkeypatch.setattr(newface, "_overlooked", lambda result: missed.pop(0))
    edit, seeds = newface._edit, []

    def watched(crops):
        seeds.extend(crop.seed for crop in crops if crop.face.box == face.box)
        return edit(crops)

    monkeypatch.setattr(newface, "_edit", watched)
    first, later = protected(newface, poster, found=[face]).faces
    assert not missed
    assert later.notes
    assert len(seeds) == len(set(seeds)) == 1 + newface.method.redraws
    assert len(first.audit["redrawn"]) == newface.method.redraws


def test_where_a_promise_is_proved_no_cell_mean_is_published(poster):
    exact = Protector(options({"method": "identitydp"}))
    (face,) = exact.find(poster)
    doubted = small_in(face, 0.6, 0, times=0.5)
    result = protected(exact, poster, found=[face, doubted])
    assert result.faces[1].method == "solid"
    assert result.faces[1].audit["passed"]


def test_under_withhold_a_doubted_find_withholds_the_photo(poster):
    strict = Protector(options({"method": "newface", "seed": 1, "on_audit_fail": "withhold"}))
    (face,) = strict.find(poster)
    doubted = small_in(face, 0.6, 0, times=0.5)
    result = protected(strict, poster, found=[face, doubted])
    assert result.decision == "withheld"
    assert "too unsurely" in result.reason


def _soft(face):
    return PhotoRecord(name="a", decision="published", reason="", faces=(face,)).soft


def test_a_poor_find_inside_a_surer_face_spoils_nothing(astronaut, newface):
    large = np.ascontiguousarray(np.kron(astronaut[:250, 100:350], np.ones((16, 16, 1), np.uint8)))
    (face,) = newface.find(large)
    speck = around(face.box, 0.4, score=0.5)
    result = protected(newface, large, found=[face, speck])
    assert {one.audit.get("covered", {}).get("fault", "") for one in result.faces} == {""}


@pytest.fixture(scope="module")
def poster(astronaut) -> np.ndarray:
    """A large face."""
    return np.ascontiguousarray(np.kron(astronaut[:250, 100:350], np.ones((4, 4, 1), np.uint8)))


def small_in(face, x, y, times=0.25, score=0.6):
    """A find at a place of a large face's box, in shares of its sides from the middle."""
    width, height = face.box.width, face.box.height
    speck = around(face.box, times, score)
    shift = np.array([x * width, y * height])
    box = speck.box
    moved = Box(
        box.left + shift[0], box.top + shift[1], box.right + shift[0], box.bottom + shift[1]
    )
    return replace(speck, box=moved, points=speck.points + shift)


def test_a_find_whole_within_a_surer_drawn_face_is_gone_with_it(poster, newface):
    """Without the rule the judge knows a drawn cheek by the old one, and paints it black."""
    (face,) = newface.find(poster)
    specks = [small_in(face, x, y) for x, y in ((0, 0), (-0.2, -0.1), (0.1, 0.2))]
    alone = protected(newface, poster, found=[face])
    result = protected(newface, poster, found=[specks[0], face, *specks[1:]])
    assert (result.decision, result.reason) == ("published", "1 face")
    np.testing.assert_array_equal(result.pixels, alone.pixels)
    assert result.notes == [
        "finds that lie whole within the drawing of a surer face, gone with it: 3"
    ]
    for speck in specks:  # no pixel of it leaves
        box = speck.box
        part = np.s_[int(box.top) : int(box.bottom) + 1, int(box.left) : int(box.right) + 1]
        assert result.changed[part].all()


@pytest.mark.parametrize(
    ("x", "y", "times", "score"),
    [
        (0.65, 0.0, 0.25, 0.6),  # over the rim
        (0.0, 0.62, 0.5, 0.6),  # at the chin, half of it outside
        (0.0, 0.0, 0.25, 0.999),  # surer than the face that holds it
        (0.0, 0.0, 1.1, 0.6),  # as large
    ],
)
def test_a_find_that_merely_overlaps_is_handled(poster, newface, x, y, times, score):
    (face,) = newface.find(poster)
    result = protected(newface, poster, found=[face, small_in(face, x, y, times, score)])
    assert len(result.faces) == 2
    assert result.notes == []


def test_a_second_face_that_covers_part_of_a_first_is_handled(astronaut, newface):
    """A real face, pasted so that it hides a cheek: both are drawn or covered."""
    (face,) = newface.find(astronaut)
    head = astronaut[0:220, 130:320]
    scene = np.ascontiguousarray(np.kron(astronaut[:250, 100:350], np.ones((3, 3, 1), np.uint8)))
    scene[300:520, 60:250] = head
    result = protected(newface, scene)
    where = [(one.box[0] + one.box[2]) / 2 for one in result.faces]
    assert len(result.faces) >= 2
    assert any(60 < x < 250 for x in where)
    assert result.decision == "published"
    assert face.score > 0.9
    assert not [one for one in newface.find(scene) if result.changed[_middle(one)] == 0]


def _middle(face):
    box = face.box
    return int((box.top + box.bottom) / 2), int((box.left + box.right) / 2)


def test_a_find_within_a_drawing_that_failed_is_painted_with_it(poster, newface, monkeypatch):
    (face,) = newface.find(poster)
    speck = small_in(face, 0, 0.1)

    def failing(crops):
        return [Edited(pixels=crop.pixels, fault="no") for crop in crops]

    monkeypatch.setattr(newface, "_edit", failing)
    result = protected(newface, poster, found=[face, speck])
    assert result.decision == "published"
    assert result.faces[0].method == "solid"
    box = speck.box
    assert not result.pixels[int(box.top) : int(box.bottom), int(box.left) : int(box.right)].any()


def test_a_find_left_to_a_drawing_that_is_not_there_is_a_face_again(poster, newface):
    (face,) = newface.find(poster)
    specks = [small_in(face, 0, 0), small_in(face, 0, 0.2)]
    changed = np.zeros(poster.shape[:2], bool)
    changed[: int(specks[0].box.bottom) + 1] = True
    result = Protected(
        pixels=poster, changed=changed, decision="published", reason="", seed=0, within=specks
    )
    assert newface._bared(result) == [specks[1]]
    assert result.within == [specks[0]]


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


def bare_at_first(edit, times, calls):
    """An edit that leaves faces as they are in its first `times` calls."""

    def edited(crops):
        calls.append([crop.seed for crop in crops])
        if len(calls) <= times:
            return [Edited(pixels=crop.pixels) for crop in crops]
        return edit(crops)

    return edited


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_face_that_the_judge_knows_is_drawn_anew_before_it_is_covered(
    astronaut, newface, monkeypatch, times
):
    calls = []
    monkeypatch.setattr(newface, "_edit", bare_at_first(newface._edit, times, calls))
    result = protected(newface, astronaut)
    (face,) = result.faces
    assert result.decision == "published"
    assert face.method == ("newface" if times <= newface.method.redraws else "solid")
    assert ("covered" in face.audit) == (times > newface.method.redraws)
    assert all(cosine > face.audit["threshold"] for cosine in face.audit["redrawn"])
    assert len(face.audit["redrawn"]) == min(times, newface.method.redraws)
    assert len({seed for call in calls for seed in call}) == len(calls)  # other chance each time
    assert face.seed == calls[-1][0]


def test_of_drawings_that_come_near_the_least_like_is_kept(astronaut, newface, monkeypatch):
    """A face nearly known is drawn anew too; all may be published, and the best one is."""
    monkeypatch.setattr(newface, "_like", -1.0)
    calls = []
    monkeypatch.setattr(newface, "_edit", bare_at_first(newface._edit, 0, calls))
    (face,) = protected(newface, astronaut).faces
    assert len(calls) == 1 + newface.method.redraws
    assert len(face.audit["redrawn"]) == newface.method.redraws
    assert face.audit["cosine"] < min(face.audit["redrawn"])
    assert face.audit["passed"]
    chosen = next(i for i, call in enumerate(calls) if call[0] == face.seed)
    monkeypatch.setattr(newface, "_like", 1.0)
    calls.clear()
    (first,) = protected(newface, astronaut).faces
    assert len(calls) == 1
    assert "redrawn" not in first.audit
    assert (first.audit["cosine"] == face.audit["cosine"]) == (chosen == 0)


def test_a_redrawing_that_fails_leaves_the_drawing_before(astronaut, newface, monkeypatch):
    monkeypatch.setattr(newface, "_like", -1.0)
    edit, calls = newface._edit, []

    def once(crops):
        calls.append(len(crops))
        if len(calls) > 1:
            raise RuntimeError("out of luck")
        return edit(crops)

    monkeypatch.setattr(newface, "_edit", once)
    (face,) = protected(newface, astronaut).faces
    assert (face.method, face.audit["passed"]) == ("newface", True)
    assert "covered" not in face.audit


def test_a_shared_face_is_not_drawn_anew(astronaut, newface, monkeypatch):
    calls = []
    monkeypatch.setattr(newface, "_edit", bare_at_first(newface._edit, 1, calls))
    (face,) = protected(newface, astronaut, identities=Identities(everyone=3)).faces
    assert (face.method, len(calls)) == ("solid", 1)
    assert "redrawn" not in face.audit


def test_what_is_not_to_be_covered_is_withheld_after_the_last_drawing(
    astronaut, newface, monkeypatch
):
    calls = []
    monkeypatch.setattr(newface, "_edit", bare_at_first(newface._edit, 9, calls))
    withholding = newface.options.model_copy(update={"on_audit_fail": "withhold"})
    monkeypatch.setattr(newface, "options", withholding)
    assert protected(newface, astronaut).decision == "withheld"
    assert len(calls) == 1 + newface.method.redraws
