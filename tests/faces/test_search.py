"""Pyramid, tiles, turns and the joining of finds, with a detector made of colour."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.faces.detect import detector
from moretta.faces.detect.search import (
    OVERLAP,
    TILE,
    Detector,
    Eye,
    Found,
    find_faces,
    levels,
    look_at,
    look_at_border,
    tiles,
)


def look_for_red(picture: np.ndarray, least: float) -> Found:
    """Find one red rectangle; its points are its corners and its middle."""
    ys, xs = np.nonzero((picture[..., 0] > 150) & (picture[..., 1] < 100))
    if not len(xs):
        return Found.joined([])
    left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    points = [[left, top], [right, top], [(left + right) / 2, (top + bottom) / 2]]
    points += [[left, bottom], [right, bottom]]
    return Found(
        np.array([[left, top, right, bottom]], float), np.array([points], float), np.array([0.9])
    )


RED = Detector(
    name="red",
    summary="a test's own",
    build=lambda d, t: look_for_red,
    least_score=0.5,
    largest=250,
)
EYE = Eye(detector=RED, look=look_for_red, least_score=0.5)


def with_red(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    photo = np.full((height, width, 3), 128, np.uint8)
    left, top, right, bottom = box
    photo[top:bottom, left:right] = (255, 0, 0)
    return photo


@settings(max_examples=40, deadline=None)
@given(
    turns=st.integers(0, 3),
    left=st.integers(0, 300),
    top=st.integers(0, 150),
    side=st.integers(20, 90),
)
def test_boxes_and_points_survive_turns(turns: int, left: int, top: int, side: int):
    photo = with_red(260, 400, (left, top, left + side, top + side))
    finds = look_at(photo, EYE, turns, 12)
    want = [left, top, left + side, top + side]
    assert len(finds.boxes) >= 1
    np.testing.assert_allclose(finds.boxes[0], want, atol=2)
    middle = finds.points[0, 2]
    np.testing.assert_allclose(middle, [left + side / 2, top + side / 2], atol=2)


@given(height=st.integers(1, 9000), width=st.integers(1, 9000))
def test_tiles_cover_every_pixel_and_overlap(height: int, width: int):
    picture = np.lib.stride_tricks.as_strided(
        np.zeros((1, 1, 3), np.uint8), (height, width, 3), (0, 0, 1)
    )
    rows, columns = np.zeros(height, bool), np.zeros(width, bool)
    for tile, (left, top) in tiles(picture):
        assert tile.shape[0] * tile.shape[1] <= max(4_000_000, TILE * TILE)
        rows[int(top) : int(top) + tile.shape[0]] = True
        columns[int(left) : int(left) + tile.shape[1]] = True
    assert rows.all()
    assert columns.all()
    starts = sorted({left for _, (left, _) in tiles(picture)})
    assert all(b - a <= TILE - OVERLAP + 1 for a, b in pairwise(starts))


@pytest.mark.parametrize("size", [(1, 1), (20, 4000), (250, 250), (3000, 4000), (700, 500)])
@pytest.mark.parametrize("min_face", [12, 60])
def test_levels_see_every_size(size: tuple[int, int], min_face: float):
    height, width = size
    photo = np.zeros((height, width, 3), np.uint8)
    scales = [scale for _, scale in levels(photo, 250, min_face)]
    for picture, (x, y) in levels(photo, 250, min_face):
        assert picture.shape[1] / width == pytest.approx(x)
        assert picture.shape[0] / height == pytest.approx(y)
    longest = max(size)
    for face in np.geomspace(max(min_face, 2), longest, 40):
        seen = [face * max(x, y) for x, y in scales]
        if face >= 12 or longest >= 160:
            assert any(10 <= s <= 250 for s in seen), (face, seen)


def test_two_detectors_are_joined_and_the_first_ones_points_stay():
    photo = with_red(300, 300, (100, 100, 160, 160))
    other = Eye(
        detector=Detector(
            name="blue",
            summary="another",
            build=lambda d, t: look_for_red,
            least_score=0.5,
            largest=250,
        ),
        look=lambda p, s: Found(
            np.array([[102.0, 98, 165, 160], [10, 10, 40, 40]]),
            np.zeros((2, 5, 2)),
            np.array([0.99, 0.6]),
        ),
        least_score=0.5,
    )
    faces = find_faces(photo, [EYE, other])
    names = sorted(face.detector for face in faces)
    assert names.count("red") == 1
    assert names.count("blue") >= 1
    red = next(face for face in faces if face.detector == "red")
    np.testing.assert_allclose([red.box.left, red.box.top], [100, 100], atol=1)


def test_min_face_drops_smaller_ones():
    photo = with_red(300, 300, (100, 100, 130, 130))
    assert find_faces(photo, [EYE], min_face=20)
    assert not find_faces(photo, [EYE], min_face=60)


def test_the_fallback_is_built_only_when_nothing_is_found():
    asked = []

    def fallback() -> list[Eye]:
        asked.append(1)
        return []

    find_faces(with_red(300, 300, (100, 100, 130, 130)), [EYE], fallback=fallback)
    assert asked == []
    find_faces(np.full((300, 300, 3), 128, np.uint8), [EYE], fallback=fallback)
    assert asked == [1]


def shy(score, views=None):
    """A detector that finds red and is only so sure; `views` gets the sizes of what it is shown."""

    def look(picture: np.ndarray, least: float) -> Found:
        if views is not None:
            views.append(picture.shape[:2])
        finds = look_for_red(picture, least)
        found = Found(finds.boxes, finds.points, np.full(len(finds.boxes), score))
        return found.kept(found.scores >= least)

    return look


@pytest.mark.parametrize("box", [(100, 100, 130, 140), (0, 300, 60, 380), (700, 500, 712, 515)])
@pytest.mark.parametrize(
    ("first", "second", "seen"), [(0.3, 0.9, True), (0.1, 0.9, False), (0.3, 0.1, False)]
)
def test_what_one_detector_is_unsure_of_another_is_shown(box, first, second, seen):
    views: list[tuple[int, int]] = []
    unsure = Eye(detector=replace(RED, unsure_from=0.2), look=shy(first), least_score=0.5)
    other = Eye(detector=replace(RED, name="other"), look=shy(second, views), least_score=0.4)
    photo = with_red(600, 800, box)
    found = find_faces(photo, [unsure], quick=False, fallback=lambda: [other])
    assert bool(views) == (first == 0.3)
    assert all(max(view) < 6.2 * 96 for view in views)  # the place alone, not the whole photo
    assert [(face.detector, face.score) for face in found] == [("other", 0.9)] * seen
    for face in found:
        near = [face.box.left, face.box.top, face.box.right, face.box.bottom]
        np.testing.assert_allclose(near, box, atol=2)
        across = 10 if box[0] == 0 else np.mean(box[::2])  # seen from -40 on: half a side of mirror
        np.testing.assert_allclose(face.points[2], [across, np.mean(box[1::2])], atol=2)
    assert not find_faces(photo, [unsure], quick=False)


def whole_only(score=0.9, views=None):
    """A detector that finds red where it is about as wide as it is high, as a whole face is."""

    def look(picture: np.ndarray, least: float) -> Found:
        if views is not None:
            views.append(picture.shape[0] * picture.shape[1])
        finds = look_for_red(picture, least)
        sides = finds.boxes[:, 2:] - finds.boxes[:, :2]
        found = Found(finds.boxes, finds.points, np.full(len(sides), score))
        return found.kept((np.abs(sides[:, 0] / sides[:, 1] - 1) < 0.3) & (found.scores >= least))

    return look


@pytest.mark.parametrize("size", [(250, 230), (1000, 1400)])
@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_half_a_face_at_the_border_is_whole_in_its_mirror(size, side):
    height, width = size
    box = {
        "left": (0, 90, 24, 140),
        "top": (90, 0, 140, 24),
        "right": (width - 24, 90, width, 140),
        "bottom": (90, height - 24, 140, height),
    }[side]
    photo = with_red(height, width, box)
    eye = Eye(detector=RED, look=whole_only(), least_score=0.5)
    assert not find_faces(photo, [eye], quick=False)
    (face,) = find_faces(photo, [eye])
    near = [face.box.left, face.box.top, face.box.right, face.box.bottom]
    np.testing.assert_allclose(near, box, atol=2)


def test_of_a_large_photo_only_the_edges_are_looked_at_with_a_mirror():
    views: list[int] = []
    photo = np.full((2400, 3200, 3), 128, np.uint8)
    look_at_border(photo, Eye(detector=RED, look=whole_only(views=views), least_score=0.5), 12, 0.2)
    assert sum(views) < 0.35 * photo.shape[0] * photo.shape[1]


@pytest.mark.parametrize(("score", "found"), [(0.75, True), (0.6, False)])
def test_a_large_half_face_must_be_surer(score, found):
    """It is seen whole only where the photo is a quarter of its side."""
    photo = with_red(1000, 1000, (0, 300, 150, 600))
    eye = Eye(detector=RED, look=whole_only(score), least_score=0.5)
    assert bool(find_faces(photo, [eye])) == found


def test_nobody_is_asked_about_a_face_that_is_known():
    """The unsure find is a part of a face that is handled anyway."""
    views: list[tuple[int, int]] = []

    def look(picture: np.ndarray, least: float) -> Found:
        found = Found(
            np.array([(40.0, 40.0, 140.0, 140.0), (50.0, 50.0, 100.0, 100.0)]),
            np.zeros((2, 5, 2)),
            np.array([0.9, 0.3]),
        )
        return found.kept(found.scores >= least)

    eye = Eye(detector=replace(RED, unsure_from=0.2), look=look, least_score=0.5)
    other = Eye(detector=replace(RED, name="other"), look=shy(0.9, views), least_score=0.4)
    photo = with_red(170, 170, (50, 50, 100, 100))  # seen at one scale
    assert len(find_faces(photo, [eye], quick=False, fallback=lambda: [other])) == 1
    assert not views


def test_a_face_that_the_border_cuts(astronaut):
    """YuNet is unsure of it (0.42), CenterFace sees it (0.5)."""
    eyes = [
        Eye(detector=each, look=each.build("cpu", 1), least_score=each.least_score)
        for each in (detector("yunet"), detector("centerface"))
    ]
    (whole,) = find_faces(astronaut, eyes[:1])
    from_column = int(whole.box.left + 0.65 * whole.box.width)
    cut = np.ascontiguousarray(astronaut[:, from_column:])
    assert not find_faces(cut, eyes[:1], quick=False)
    (found,) = find_faces(cut, eyes[:1], quick=False, fallback=lambda: eyes[1:])
    assert found.detector == "centerface"
    inside = [found.box.right + from_column, found.box.top, found.box.bottom]
    seen = [whole.box.right, whole.box.top, whole.box.bottom]
    np.testing.assert_allclose(inside, seen, atol=0.2 * whole.box.height)


@pytest.mark.parametrize("given", [{}, {"thorough": True}])
@pytest.mark.parametrize("first", [1, -1])
def test_a_detector_in_use_is_asked_about_what_another_is_unsure_of(given, first):
    """More detectors, in any order, find no less: one in use sees the place close up, too."""
    unsure = Eye(detector=replace(RED, unsure_from=0.2), look=shy(0.3), least_score=0.5)

    def near(
        picture, least
    ):  # the place close up has 180 px; the photo 300, or a part or more of it
        close = 150 < max(picture.shape) < 250
        return shy(0.9 if close else 0.0)(picture, least)

    other = Eye(detector=replace(RED, name="other"), look=near, least_score=0.4)
    photo = with_red(300, 300, (100, 100, 130, 130))
    alone = find_faces(photo, [unsure], quick=False, fallback=lambda: [other])
    eyes = [unsure, other][::first]
    both = find_faces(photo, eyes, quick=False, fallback=list, **given)
    assert [face.detector for face in alone] == ["other"]
    assert [face.box for face in both] == [face.box for face in alone]
    assert not find_faces(photo, eyes, quick=False, **given)


@pytest.mark.parametrize(
    ("box", "score", "kept"),
    [
        ((90, 90, 150, 150), 0.6, 1),  # a part of the face, seen in a turned photo alone
        ((40, 40, 260, 260), 0.6, 1),  # a frame about it
        ((300, 60, 360, 120), 0.6, 2),  # another face
        ((175, 80, 255, 200), 0.6, 2),  # one that it hides less than half of
        ((90, 90, 150, 150), 0.95, 2),  # a surer face upon it: both are covered
    ],
)
def test_thorough_finds_more_faces_and_no_face_twice(box, score, kept):
    photo = np.full((400, 400, 3), 128, np.uint8)
    photo[0, 0] = 255  # in the corner that tells how it is turned
    face = ((80, 70, 200, 210), 0.9)

    def look(picture, least):
        shown = []
        if picture.shape[:2] == (400, 400):
            if picture[0, 0, 0] == 255:
                shown = [face]
            elif picture[-1, 0, 0] == 255:  # turned by 90 degrees, against the clock
                left, top, right, bottom = box
                shown = [((top, 400 - right, bottom, 400 - left), score)]
        boxes = np.array([one for one, _ in shown], float).reshape(-1, 4)
        points = np.repeat(boxes[:, None, :2], 5, 1)
        return Found(boxes, points, np.array([one for _, one in shown], float))

    eye = Eye(detector=replace(RED, largest=1000), look=look, least_score=0.5)
    assert len(find_faces(photo, [eye], quick=False)) == 1
    found = find_faces(photo, [eye], quick=False, thorough=True)
    assert len(found) == kept
    assert face[0] in [(f.box.left, f.box.top, f.box.right, f.box.bottom) for f in found]


def test_the_quick_looks_are_the_quick_detectors_whatever_stands_first():
    turned = np.ascontiguousarray(np.rot90(with_red(190, 190, (60, 40, 100, 80))))
    shown: dict[str, int] = {"quick": 0, "slow": 0}

    def counting(name):
        def look(picture, least):
            shown[name] += 1
            return EYE.look(picture, 2.0)  # nothing is ever found

        return look

    eyes = [
        Eye(
            detector=replace(RED, name=name, quick=name == "quick"),
            look=counting(name),
            least_score=0.5,
        )
        for name in ("slow", "quick")
    ]
    find_faces(turned, eyes)
    assert shown["quick"] > shown["slow"]


WHOLE = (300.0, 300.0, 900.0, 900.0)  # a face, seen a level down
PART = (400.0, 400.0, 800.0, 800.0)  # what is taken for one where the face is too large


@pytest.mark.parametrize(
    ("part", "score", "whole", "sure", "counts"),
    [
        (PART, 0.6, WHOLE, 0.75, False),
        (PART, 0.8, WHOLE, 0.75, True),  # sure by itself
        (PART, 0.6, WHOLE, 0.0, True),  # a detector of which nobody knows how sure it must be
        (PART, 0.6, (1000.0, 1000.0, 1400.0, 1400.0), 0.75, True),  # alone
        (PART, 0.6, (500.0, 500.0, 600.0, 600.0), 0.75, True),  # holds a smaller face
        (PART, 0.6, (620.0, 300.0, 1220.0, 900.0), 0.75, True),  # half hidden by a surer one
        ((500.0, 500.0, 700.0, 700.0), 0.6, WHOLE, 0.75, True),  # of a size that it sees well
    ],
)
def test_part_of_a_surer_face_seen_where_that_is_too_large_does_not_count(
    part, score, whole, sure, counts
):
    def look(picture: np.ndarray, least: float) -> Found:
        here = {1500: (part, score, 1.0), 375: (whole, 0.9, 0.25)}.get(picture.shape[1])
        if here is None:
            return Found.joined([])
        box, said, scale = here
        return Found(np.array([box]) * scale, np.zeros((1, 5, 2)), np.array([said]))

    photo = np.zeros((1500, 1500, 3), np.uint8)
    eye = Eye(detector=replace(RED, sure_if_larger=sure), look=look, least_score=0.5)
    found = look_at(photo, eye, 0, 12)
    assert [tuple(box) for box in found.boxes] == [part, whole][1 - counts :]


def test_at_the_last_level_every_find_counts():
    photo = np.zeros((300, 300, 3), np.uint8)
    last = [picture.shape for picture, _ in levels(photo, 30, 12)][-1]

    def look(picture: np.ndarray, least: float) -> Found:
        if picture.shape != last:
            return Found.joined([])
        boxes = np.array([[0.0, 0, 40, 40], [5, 5, 45, 45]])
        return Found(boxes, np.zeros((2, 5, 2)), np.array([0.9, 0.6]))

    small = Detector(
        name="small",
        summary="a test's own",
        build=lambda device, threads: look,
        least_score=0.5,
        largest=30,
        sure_if_larger=0.75,
    )
    eye = Eye(detector=small, look=look, least_score=0.5)
    found = look_at(photo, eye, 0, 12)
    assert found.scores.tolist() == [0.9, 0.6]  # there is no level further down
